"""Reads photos: finds their faces and says what a network says of each."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from jointface.attributes import calibrated_probability
from jointface.detection.finders import FaceFinder, FoundFace, build_finder
from jointface.errors import ConfigError, InputError
from jointface.geometry.framing import FaceBox, face_box
from jointface.inference.backends import Network, NetworkOutput, TorchNetwork
from jointface.inference.crops import cut_crop, to_photo
from jointface.inference.face import Face, Pose
from jointface.inference.photos import Photo, Source, open_photo
from jointface.metrics.pose import rotation_from_vertices

MAX_PIXELS = 50_000_000  # of photos that are in memory together
MAX_CHANGE = 4.0  # of the face's size, and of its place in sizes, from the finder's box to the second pass


class Reading(NamedTuple):
    """A photo that was read, or the error that says why it was not; then it has no faces."""

    source: Any
    photo: Photo | None
    faces: list[Face]
    error: InputError | None = None


@dataclass(frozen=True)
class _Crop:
    """A face whose box may still change. output: of the network, in the pixels of the crop."""

    photo: Photo
    box: FaceBox
    score: float
    transform: Float64[np.ndarray, "2 3"] | None = None
    output: NetworkOutput | None = None


class FaceReader:
    """Finds the faces in photos and reads shape, pose and attributes of each. Threads may share a reader.

    Args:
        network: reads crops.
        finder: finds faces.
        two_passes: whether each face is read twice, the second time in a crop framed by the landmarks of the first,
            which makes up for an inexact box.
        batch_size: crops that the network reads together.
        max_faces: of a photo, those with the highest score; None takes all.
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
        checkpoint: str | Path,
        finder: str | FaceFinder = "finder",
        two_passes: bool = True,
        device: str = "auto",
        batch_size: int = 32,
        backend: str = "torch",
        max_faces: int | None = None,
    ) -> Self:
        """A reader with the network of a checkpoint.

        Args:
            checkpoint: a file that jointface.train wrote.
            finder: "finder" (the package's own), "yunet", "none" (each photo is the crop of one face), or any function
                from a photo to its faces.
            device: of torch; "auto" is a GPU where there is one.
            backend: what runs the network.
            two_passes, batch_size, max_faces: see the class.

        Raises:
            CheckpointError: the file is missing or broken. ConfigError: a setting makes no sense here.
        """
        if backend != "torch":
            raise ConfigError(f"backend={backend}: known is torch")
        network = TorchNetwork.load(checkpoint, device)
        find = build_finder(finder) if isinstance(finder, str) else finder
        return cls(network, find, two_passes, batch_size, max_faces)

    def __call__(self, source: Source | Sequence[Source]) -> Any:
        """The faces of a photo, the surest first; of a list of photos a list of lists.

        Args:
            source: a path, the bytes of a file, a PIL image, an array or tensor in RGB, or a list of these.

        Raises:
            InputError: a photo cannot be read. `read` goes on with the others instead.
        """
        several = isinstance(source, list | tuple)
        readings = list(self.read(source if several else [source]))
        for reading in readings:
            if reading.error is not None:
                raise reading.error
        return [reading.faces for reading in readings] if several else readings[0].faces

    def read(self, sources: Iterable[Source]) -> Iterator[Reading]:
        """Reads many photos one after the other, in their order, as they are asked for.

        Only few photos are in memory at a time. Faces of several photos share a batch. A photo that cannot be read has
        an error in its reading; the others are read nevertheless.
        """
        readings: list[Reading] = []
        crops: list[list[_Crop]] = []
        for source in sources:
            reading, found = self._open(source)
            readings.append(reading)
            crops.append(found)
            pixels = sum(reading.photo.image.size // 3 for reading in readings if reading.photo is not None)
            if sum(map(len, crops)) >= self.batch_size or pixels >= MAX_PIXELS or len(crops) >= self.batch_size:
                yield from self._finish(readings, crops)
                readings, crops = [], []
        yield from self._finish(readings, crops)

    def _open(self, source: Source) -> tuple[Reading, list[_Crop]]:
        try:
            photo = open_photo(source)
        except InputError as error:
            return Reading(source, None, [], error), []
        found: list[FoundFace] = self.finder(photo.image)
        return Reading(source, photo, []), [_Crop(photo, face.box, face.score) for face in found[: self.max_faces]]

    def _finish(self, readings: list[Reading], crops: list[list[_Crop]]) -> Iterator[Reading]:
        flat = self._predict([crop for of_photo in crops for crop in of_photo])
        if self.two_passes and self.facts.mesh is not None:
            flat = self._predict([self._reframe(crop) for crop in flat])
        faces = iter([self._face(crop) for crop in flat])
        for reading, of_photo in zip(readings, crops, strict=True):
            yield reading._replace(faces=[next(faces) for _ in of_photo])

    def _predict(self, crops: list[_Crop]) -> list[_Crop]:
        """The crops with what the network says of them."""
        done = []
        for start in range(0, len(crops), self.batch_size):
            part = crops[start : start + self.batch_size]
            cut = [cut_crop(crop.photo.image, crop.box, self.facts.image_size) for crop in part]
            images: UInt8[np.ndarray, "batch size size 3"] = np.stack([image for image, _ in cut])
            output = self.network(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
            for row, (crop, (_, transform)) in enumerate(zip(part, cut, strict=True)):
                own = NetworkOutput(*(None if values is None else values[row] for values in output))
                done.append(replace(crop, transform=transform, output=own))
        return done

    def _reframe(self, crop: _Crop) -> _Crop:
        """The face in the box of its own landmarks, unless these are far from where it was found."""
        vertices = self._vertices(crop)
        box = face_box(torch.from_numpy(vertices[self.facts.mesh.landmarks68]))
        change = max(abs(box.x - crop.box.x), abs(box.y - crop.box.y), box.size, crop.box.size**2 / max(box.size, 1e-9))
        return replace(crop, box=box) if change <= MAX_CHANGE * crop.box.size else crop  # false for NaN

    def _vertices(self, crop: _Crop) -> Float64[np.ndarray, "vertices 3"]:
        """The face in pixels of the photo, z relative to the mean of the vertices."""
        vertices = to_photo(crop.output.vertices, crop.transform)
        vertices[:, 2] -= vertices[:, 2].mean()
        return vertices

    def _face(self, crop: _Crop) -> Face:
        facts, output = self.facts, crop.output
        face = Face(crop.photo, crop.box, crop.score, attributes=self._attributes(output))
        if facts.mesh is None:
            return face
        mesh, vertices, rotation = facts.mesh, self._vertices(crop), output.rotation
        if rotation is None:
            compared = torch.from_numpy(vertices[mesh.face_region])
            rotation = rotation_from_vertices(compared, torch.from_numpy(mesh.mean[mesh.face_region])).numpy()
        vertices = vertices.astype(np.float32)
        landmarks = vertices[mesh.landmarks68]
        return replace(
            face,
            box=face_box(torch.from_numpy(landmarks)),
            vertices=vertices,
            triangles=mesh.triangles,
            uv=mesh.uv,
            landmarks=landmarks,
            pose=Pose.from_matrix(rotation),
        )

    def _attributes(self, output: NetworkOutput) -> dict[str, float]:
        if output.logits is None:
            return {}
        logits, alpha = torch.from_numpy(output.logits), torch.from_numpy(self.facts.alpha)
        return dict(zip(self.facts.attributes, calibrated_probability(logits, alpha).tolist(), strict=True))
