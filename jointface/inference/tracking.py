"""Follows faces through a video: every person keeps a number, and what is read of a still head is still."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from roma import special_procrustes
from scipy.optimize import linear_sum_assignment

from jointface.detection.boxes import distinct, overlaps
from jointface.detection.finders import FoundFace, search
from jointface.geometry.framing import FaceBox, face_box
from jointface.inference.crops import cut_crop
from jointface.inference.face import Face, Pose
from jointface.inference.one_euro import OneEuroFilter
from jointface.inference.reader import FaceReader
from jointface.settings import require_whole_number

PATIENCE = 2.0  # seconds for which a face that is not seen is waited for
REACH, SPREAD = 1.0, 2.0  # sizes that a face may be from where it is expected, and more for each second unseen
LOOK_SIDE, LOOK_WEIGHT = 8, 5.0  # of a face's look: pixels, and what it counts beside the distance in sizes
HABIT = 0.1  # weight of the newest look
MAX_UNLIKE = 0.1  # of a face's look from one picture to the next, where black and white differ by 1
MAX_MOVE, MAX_GROWTH = 0.3, 1.4  # of a box from where it is expected, in sizes and times; beyond it is not trusted
INERTIA = 0.7  # weight of the speed before the last picture

Image = UInt8[np.ndarray, "height width 3"]


class TrackedFace(NamedTuple):
    """A face in a picture, and the number of its person, from 1."""

    person: int
    face: Face


class FaceTracker:
    """Reads the faces in the pictures of one video, in their order.

    A face is read where its last landmarks and its speed lead to expect it. The finder looks at the first picture, then
    at every `look_every`-th, and at each one in which a face is lost, jumps, looks unlike before or is near to another.
    What it finds goes to the persons whose place and look are nearest. A person who is not seen is waited for PATIENCE
    seconds.

    Args:
        reader: of the faces. Its `max_faces` are those of a picture.
        look_every: pictures after which somebody new is noticed at the latest.
        smooth: whether mesh, landmarks, pose and attributes pass a one-euro filter.

    Raises:
        ConfigError: `look_every` is below 1.
    """

    def __init__(self, reader: FaceReader, look_every: int = 10, smooth: bool = True) -> None:
        require_whole_number("look_every", look_every, 1)
        self.smooth = smooth
        self._finder, self._max_faces = reader.finder, reader.max_faces
        self._has_shape = reader.facts.mesh is not None  # otherwise only the finder knows where a face is
        self.look_every = look_every if self._has_shape else 1
        self._two_passes = reader.two_passes and self._has_shape
        self._reader = FaceReader(reader.network, reader.finder, False, reader.batch_size)
        self._tracks: list[_Track] = []
        self._people = 0
        self._since_look = self.look_every

    def __call__(self, image: Image, time: float) -> list[TrackedFace]:
        """The faces in the next picture, by their numbers.

        Args:
            image: RGB, upright. time: of the picture, in seconds.
        """
        seen = [track for track in self._tracks if not track.hidden and self._has_shape]
        read = dict(zip(seen, self._read(image, [track.frame(time) for track in seen]), strict=True))
        self._since_look += 1
        if self._since_look >= self.look_every or self._must_look(image, time, read):
            read = self._look(image, time, read)
        known = dict.fromkeys([*self._tracks, *read])
        self._tracks = [track for track in known if track in read or time - track.time <= PATIENCE]
        alone = [track for track in read if not _touches(read[track].box, [read[other].box for other in read])]
        tracked = []
        for track in self._tracks:
            track.hidden = track not in read
            if not track.hidden:
                look = _look_of(image, read[track].box) if track in alone else None
                tracked.append(TrackedFace(track.person, track.follow(read[track], time, look)))
        return sorted(tracked, key=lambda one: one.person)

    def _must_look(self, image: Image, time: float, read: "dict[_Track, Face]") -> bool:
        height, width = image.shape[:2]
        boxes = [face.box for face in read.values()]
        steady = all(
            _is_near(track.expected(time), box)
            and (0 <= box.x < width and 0 <= box.y < height)
            and track.unlike(_look_of(image, box)) < MAX_UNLIKE
            for track, box in zip(read, boxes, strict=True)
        )
        return not steady or len(read) < len(self._tracks) or any(_touches(box, boxes) for box in boxes)

    def _look(self, image: Image, time: float, read: "dict[_Track, Face]") -> "dict[_Track, Face]":
        """The faces that the finder confirms or adds; one that was read elsewhere is read anew where it was found."""
        self._since_look = 0
        found = search(self._finder, image).faces[: self._max_faces]
        looks = [_look_of(image, one.box) for one in found]
        owners = self._assign(found, looks, time)
        kept: dict[_Track, Face] = {}
        anew: dict[_Track, FaceBox] = {}
        for number, (one, look) in enumerate(zip(found, looks, strict=True)):
            track = owners.get(number) or _Track(one, look, time, self.smooth)
            track.score = one.score
            if track in read and _is_near(one.box, read[track].box):
                kept[track] = read[track]
            else:
                anew[track] = one.box
        faces = self._read(image, [*anew.values()])
        if self._two_passes:
            better = {
                track: face.box for track, face in zip(anew, faces, strict=True) if _is_near(anew[track], face.box)
            }
            anew |= better
            faces = self._read(image, [*anew.values()])
        for (track, frame), face in zip(anew.items(), faces, strict=True):
            if _touches(frame, [frame, face.box]):  # false for NaN
                track.anchor(frame, face.box)
                kept[track] = face
        tracks = [*kept]
        chosen = [tracks[row] for row in distinct(torch.tensor([kept[track].box for track in tracks]).view(-1, 3))]
        for track in chosen:
            if not track.person:
                self._people += 1
                track.person = self._people
        return {track: kept[track] for track in chosen}

    def _read(self, image: Image, boxes: Sequence[FaceBox]) -> list[Face]:
        return self._reader(image, boxes) if boxes else []

    def _assign(
        self, found: Sequence[FoundFace], looks: Sequence[Float[np.ndarray, "_"]], time: float
    ) -> "dict[int, _Track]":
        """The person of each face that was found, by its row, where there is one within reach."""
        costs = np.array(
            [
                [track.cost(one.box, look, time) for one, look in zip(found, looks, strict=True)]
                for track in self._tracks
            ]
        ).reshape(len(self._tracks), len(found))
        far = ~np.isfinite(costs)
        rows, columns = linear_sum_assignment(np.where(far, 1e6, costs))
        return {
            int(column): self._tracks[row] for row, column in zip(rows, columns, strict=True) if not far[row, column]
        }


class _Track:
    """A person: where and how the face was last seen."""

    def __init__(self, found: FoundFace, look: Float[np.ndarray, "_"], time: float, smooth: bool) -> None:
        self.person, self.score, self.box, self.look, self.time = 0, found.score, found.box, look, time
        self.speed = np.zeros(2)  # pixels a second
        self._offset, self._growth = np.zeros(2), 1.0  # from the face's box to that of its crop, in sizes and times
        self.smooth, self.hidden = smooth, True
        self._filters: dict[str, OneEuroFilter] = {}

    def expected(self, time: float) -> FaceBox:
        """Where the face should be now."""
        x, y = np.array(self.box[:2]) + self.speed * (time - self.time)
        return FaceBox(float(x), float(y), self.box.size)

    def frame(self, time: float) -> FaceBox:
        """The box whose crop should show the face as the crop did in which it was first read."""
        x, y, size = self.expected(time)
        return FaceBox(x + self._offset[0] * size, y + self._offset[1] * size, size * self._growth)

    def anchor(self, frame: FaceBox, box: FaceBox) -> None:
        """Remembers how the box that was read lies in the one that framed it, so that errors do not add up."""
        self._offset, self._growth = (np.array(frame[:2]) - box[:2]) / box.size, frame.size / box.size

    def cost(self, box: FaceBox, look: Float[np.ndarray, "_"], time: float) -> float:
        """How unlike this person a face is; infinite if it is out of reach."""
        expected = self.expected(time)
        distance = (
            math.dist(expected[:2], box[:2]) / max(expected.size, box.size) / (REACH + SPREAD * (time - self.time))
        )
        return distance + LOOK_WEIGHT * self.unlike(look) if distance < 1 else math.inf

    def unlike(self, look: Float[np.ndarray, "_"]) -> float:
        """How a look differs from the person's, 0 to 1."""
        return float(np.abs(look - self.look).mean())

    def follow(self, face: Face, time: float, look: Float[np.ndarray, "_"] | None) -> Face:
        """Takes over what was read, and returns it smoothed.

        Args:
            look: None where others may be in it.
        """
        if self.hidden:
            self._filters = {}
        face = replace(face, score=self.score)
        smooth = self._smoothed(face, time) if self.smooth else face
        if not self.hidden and time > self.time:
            speed = (np.array(smooth.box[:2]) - self.box[:2]) / (time - self.time)
            self.speed = INERTIA * self.speed + (1 - INERTIA) * speed
        if look is not None:
            self.look = (1 - HABIT) * self.look + HABIT * look
        self.box, self.time, self.hidden = smooth.box, max(time, self.time), False
        return smooth

    def _smoothed(self, face: Face, time: float) -> Face:
        if face.attributes:
            values = self._filter("attributes", np.array([*face.attributes.values()]), time)
            face = replace(face, attributes=dict(zip(face.attributes, values.tolist(), strict=True)))
        if face.vertices is None or face.landmarks is None or face.pose is None:
            return face
        size = face.box.size
        landmarks = self._filter("landmarks", face.landmarks, time, size)
        rotation = self._filter("rotation", face.pose.matrix, time)
        return replace(
            face,
            vertices=self._filter("vertices", face.vertices, time, size),
            landmarks=landmarks,
            pose=Pose.from_matrix(special_procrustes(torch.from_numpy(rotation)).numpy()),
            box=face_box(torch.from_numpy(landmarks)),
        )

    def _filter(self, name: str, value: np.ndarray, time: float, unit: float = 1.0) -> np.ndarray:
        return self._filters.setdefault(name, OneEuroFilter())(value, time, unit)


def _look_of(image: Image, box: FaceBox) -> Float[np.ndarray, "_"]:
    """The colours of a face, coarse: 0 to 1."""
    return cut_crop(image, box, LOOK_SIDE)[0].ravel() / 255.0


def _is_near(expected: FaceBox, box: FaceBox) -> bool:
    growth = box.size / expected.size
    near = math.dist(expected[:2], box[:2]) <= MAX_MOVE * expected.size
    return near and 1 / MAX_GROWTH <= growth <= MAX_GROWTH  # false for NaN


def _touches(box: FaceBox, boxes: Sequence[FaceBox]) -> bool:
    """Whether a box overlaps another one of `boxes`, which it is one of."""
    return int((overlaps(torch.tensor([box]), torch.tensor(boxes)) > 0).sum()) > 1
