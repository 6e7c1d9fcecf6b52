"""Reads photos: finds their faces, and says what a network says of each."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
import torch
from jaxtyping import Float64

from jointface.attributes import calibrated_probability
from jointface.detection.boxes import distinct
from jointface.detection.finders import FaceFinder, GivenBoxes, build_finder, search
from jointface.errors import CheckpointError, ConfigError, InputError
from jointface.geometry.framing import FaceBox, face_box
from jointface.inference.backends import MeshFacts, Network, NetworkOutput, TorchNetwork
from jointface.inference.crops import cut_crop, to_photo
from jointface.inference.face import Face, Pose
from jointface.inference.hub import HubMixin
from jointface.inference.onnx_network import OnnxNetwork
from jointface.inference.photos import Photo, Source, open_photo
from jointface.metrics.pose import rotation_from_vertices
from jointface.modules.checkpoint import model_path

BACKENDS: dict[str, Callable[[str | Path, str], Network]] = {"torch": TorchNetwork.load, "onnx": OnnxNetwork}
MAX_PIXELS = 50_000_000  # of photos that are in memory together, unless one alone has more
MAX_CHANGE = 4.0  # how many times the face may grow or shrink, and how many sizes it may move, between both passes


class Reading(NamedTuple):
    """A photo that was read, or the error that says why it was not; then it has no faces.

    best_score: of the finder's likeliest place for a face, also if it is below the lowest score of a face; 0 if there
    is none, or the finder does not say.
    """

    source: Source
    photo: Photo | None
    faces: list[Face]
    error: InputError | None = None
    best_score: float = 0.0


class _Framed(NamedTuple):
    """A face to be read."""

    photo: Photo
    box: FaceBox
    score: float


class _Read(NamedTuple):
    """A face that was read. vertices: in pixels of the photo, z relative to their mean. output: of the network. scale:
    pixels of the crop in a pixel of the photo."""

    framed: _Framed
    vertices: Float64[np.ndarray, "vertices 3"] | None
    output: NetworkOutput
    scale: float


class FaceReader(HubMixin):
    """Finds the faces in photos and reads shape, pose and attributes of each. Threads may share a reader.

    Args:
        network: reads crops.
        finder: finds faces.
        two_passes: whether each face is read twice, the second time in a crop framed by the landmarks of the first,
            which makes up for an inexact box.
        batch_size: crops that the network reads together.
        max_faces: of a photo, the largest ones; None takes all.
    """

    def __init__(
        self,
        network: Network,
        finder: FaceFinder,
        two_passes: bool = True,
        batch_size: int = 32,
        max_faces: int | None = None,
    ) -> None:
        if batch_size < 1 or (max_faces is not None and max_faces < 1):
            raise ConfigError(f"batch_size={batch_size}, max_faces={max_faces}: expected whole numbers above 0")
        self.network, self.finder, self.facts = network, finder, network.facts
        self.two_passes, self.batch_size, self.max_faces = two_passes, batch_size, max_faces

    @classmethod
    def load(
        cls,
        checkpoint: str | Path = "free",
        finder: str | FaceFinder = "finder",
        two_passes: bool = True,
        device: str = "auto",
        batch_size: int = 32,
        backend: str = "torch",
        max_faces: int | None = None,
        min_score: float | None = None,
    ) -> "FaceReader":
        """A reader with the network of a checkpoint.

        Args:
            checkpoint: "free", the weights that ship with the package; or a file that jointface.train wrote, or an
                .onnx file or a folder that jointface.export wrote.
            finder: "finder", the package's own; "yunet", or the path of its file; "none" for pictures that are crops
                already; or any function from a photo to its faces or boxes.
            device: of torch; "auto" is a GPU where there is one.
            backend: what runs the network: "torch" or, in any case for FILE.onnx, "onnx".
            min_score: of the faces that a named finder finds; None is the finder's own.
            two_passes, batch_size, max_faces: see the class.

        Raises:
            CheckpointError: the file is missing or broken. ConfigError: a setting makes no sense here.
        """
        if backend not in BACKENDS:
            raise ConfigError(f"backend={backend}: choose from {', '.join(BACKENDS)}")
        checkpoint = model_path(checkpoint)
        network = BACKENDS["onnx" if checkpoint.suffix == ".onnx" else backend](checkpoint, device)
        find = build_finder(finder, min_score) if isinstance(finder, str) else finder
        reader = cls(network, find, two_passes, batch_size, max_faces)
        reader.source = checkpoint
        return reader

    @overload
    def __call__(self, source: Source, boxes: Sequence[FaceBox] | None = None) -> list[Face]: ...
    @overload
    def __call__(self, source: list[Source] | tuple[Source, ...]) -> list[list[Face]]: ...

    def __call__(
        self, source: Source | list[Source] | tuple[Source, ...], boxes: Sequence[FaceBox] | None = None
    ) -> list[Face] | list[list[Face]]:
        """The faces of a photo, the largest first; of a list of photos a list of lists.

        Args:
            source: a path, the bytes of a file, an open binary file, a PIL image, an array or tensor in RGB; or a list
                or tuple of these, or a tensor (B, 3, H, W).
            boxes: where the faces are, instead of the finder's answer: centre and size of their 68 landmarks in pixels.
                The faces have their order.

        Raises:
            InputError: a photo cannot be read (`read` goes on with the others instead), or boxes are given for a list.
        """
        photos, several = _photos(source)
        if boxes is not None and several:
            raise InputError("boxes belong to one photo: call the reader once for each photo and its boxes")
        finder = None if boxes is None else GivenBoxes(boxes)
        faces = []
        for number, reading in enumerate(self.read(photos, finder), 1):
            if reading.error is not None:
                where = f"photo {number}: " if several else ""
                raise InputError(f"{where}{reading.error}") from reading.error
            faces.append(reading.faces)
        return faces if several else faces[0]

    def read(self, sources: Iterable[Source], finder: FaceFinder | None = None) -> Iterator[Reading]:
        """Reads many photos, in their order, as the results are asked for.

        Faces of several photos share a batch, but only some photos are in memory at a time. A photo that cannot be read
        has an error in its reading; the others are read nevertheless.

        Args:
            finder: used instead of the reader's.
        """
        waiting: list[tuple[Reading, list[_Framed]]] = []
        faces = pixels = 0
        for source in sources:
            reading, framed = self._open(source, finder or self.finder)
            waiting.append((reading, framed))
            faces += len(framed)
            pixels += 0 if reading.photo is None else reading.photo.image.size // 3
            if max(faces, len(waiting)) >= self.batch_size or pixels >= MAX_PIXELS:
                yield from self._finish(waiting, finder or self.finder)
                waiting, faces, pixels = [], 0, 0
        yield from self._finish(waiting, finder or self.finder)

    def _open(self, source: Source, finder: FaceFinder) -> tuple[Reading, list[_Framed]]:
        try:
            photo = open_photo(source)
        except InputError as error:
            return Reading(source, None, [], error), []
        found, best_score = search(finder, photo.image)
        framed = [_Framed(photo, face.box, face.score) for face in found[: self.max_faces]]
        return Reading(source, photo, [], best_score=best_score), framed

    def _finish(self, waiting: list[tuple[Reading, list[_Framed]]], finder: FaceFinder) -> Iterator[Reading]:
        read = self._read([framed for _, of_photo in waiting for framed in of_photo])
        if self.two_passes and self.facts.mesh is not None:
            read = self._read([_reframed(one, self.facts.mesh) for one in read])
        faces = iter([self._face(one) for one in read])
        for reading, of_photo in waiting:
            own = [next(faces) for _ in of_photo]
            yield reading._replace(faces=own if isinstance(finder, GivenBoxes) else _distinct_faces(own))

    def _read(self, faces: list[_Framed]) -> list[_Read]:
        """One pass of the network."""
        done = []
        for start in range(0, len(faces), self.batch_size):
            batch = faces[start : start + self.batch_size]
            cut = [cut_crop(face.photo.image, face.box, self.facts.image_size) for face in batch]
            crops = np.stack([crop for crop, _ in cut]).transpose(0, 3, 1, 2)
            outputs = self.network(np.ascontiguousarray(crops))
            if not all(np.isfinite(values).all() for values in outputs if values is not None):
                raise CheckpointError(
                    "the network predicts values that are not finite, as after a training that diverged; use another "
                    "checkpoint"
                )
            for row, (face, (_, transform)) in enumerate(zip(batch, cut, strict=True)):
                output = NetworkOutput(*(None if values is None else values[row : row + 1] for values in outputs))
                vertices = None if output.vertices is None else to_photo(output.vertices[0], transform)
                done.append(_Read(face, vertices, output, transform[0, 0]))
        return done

    def _face(self, read: _Read) -> Face:
        (photo, box, score), vertices, output, scale = read
        attributes = self._attributes(output)
        mesh = self.facts.mesh
        if mesh is None or vertices is None:
            return Face(photo, box, score, attributes=attributes)
        pose = Pose.from_matrix(_rotation(vertices, mesh) if output.rotation is None else output.rotation[0])
        points = vertices.astype(np.float32)
        landmarks = points[mesh.landmarks68]
        own_box = face_box(torch.from_numpy(vertices[mesh.landmarks68]))
        sigma = None if output.landmark_std is None else (output.landmark_std[0] / scale).astype(np.float32)
        return Face(photo, own_box, score, points, mesh.triangles, mesh.uv, landmarks, pose, attributes, sigma)

    def _attributes(self, output: NetworkOutput) -> dict[str, float]:
        if output.logits is None:
            return {}
        logits, alpha = torch.from_numpy(output.logits[0]), torch.from_numpy(self.facts.alpha)
        return dict(zip(self.facts.attributes, calibrated_probability(logits, alpha).tolist(), strict=True))


def _photos(source: Any) -> tuple[Iterable[Source], bool]:
    """The photos of what `FaceReader` is called with, and whether it may hold several."""
    is_batch = isinstance(source, np.ndarray | torch.Tensor) and source.ndim == 4
    return (source, True) if is_batch or isinstance(source, list | tuple) else ([source], False)


def _distinct_faces(faces: list[Face]) -> list[Face]:
    """The largest first; of several boxes of a finder that led to one face, the surest."""
    surest = sorted(faces, key=lambda face: -face.score)
    kept = [surest[row] for row in distinct(torch.tensor([face.box for face in surest]).view(-1, 3))]
    return sorted(kept, key=lambda face: -face.box.size)


def _reframed(read: _Read, mesh: MeshFacts) -> _Framed:
    """The face in the box of its own landmarks, unless these are far from where it was found."""
    framed = read.framed
    if read.vertices is None:
        return framed
    old, new = framed.box, face_box(torch.from_numpy(read.vertices[mesh.landmarks68]))
    moved, grown = max(abs(new.x - old.x), abs(new.y - old.y)) / old.size, new.size / old.size
    near = moved <= MAX_CHANGE and 1 / MAX_CHANGE <= grown <= MAX_CHANGE
    return framed._replace(box=_rounded(new)) if near else framed


def _rounded(box: FaceBox) -> FaceBox:
    """A box in steps of about 1/2000 of its size, so that the last digits of the first pass, in which batches of other
    sizes differ, do not change the crop of the second."""
    step = 2.0 ** round(math.log2(box.size) - 11)
    return FaceBox(*(step * round(value / step) for value in box))


def _rotation(vertices: Float64[np.ndarray, "vertices 3"], mesh: MeshFacts) -> Float64[np.ndarray, "3 3"]:
    """The pose of the mean face where it is nearest to the face, both without the neck."""
    face, mean = (torch.from_numpy(points[mesh.face_region]) for points in (vertices, mesh.mean))
    return rotation_from_vertices(face, mean.double()).numpy()
