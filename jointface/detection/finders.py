"""Finders of faces, all with one interface: a photo in, boxes in this package's framing out."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.detection.boxes import decode_likely, suppress
from jointface.detection.finder_network import to_input
from jointface.detection.finder_weights import load_finder
from jointface.errors import ConfigError
from jointface.geometry.framing import CROP_MARGIN, FaceBox

AREA = 640 * 480  # pixels of a photo when its faces are sought first
LARGE_FACES = 1 / 4  # scale of the last look, for faces that fill the picture
FINER = 2.0  # scale of each further look, for small faces in large photos
SMALL_PHOTO = 160  # pixels; photos whose longer side is less are enlarged to it
MEMORY = 24 * 2**20  # bytes, above what a look at AREA occupies
LARGEST = 160.0  # pixels of a picture; larger faces are left to a coarser look
GREY = 127  # beyond the photo's border
# Chosen in docs/detection.md. THRESHOLD: lowest score of a face. The doubt 1 - score grows by up to SMALL_DOUBT for a
# face smaller than SMALL pixels in the searched picture, and by up to LESSER_DOUBT for one smaller than the largest.
THRESHOLD, SMALL, SMALL_DOUBT, LESSER_DOUBT = 0.45, 24.0, 0.5, 0.4
LOWEST = 0.1  # score of what may be a face

Image = UInt8[np.ndarray, "_ _ 3"]


class FoundFace(NamedTuple):
    """A face in a photo.

    box: in pixels of the photo, in this package's framing: centre and size of the 68 landmarks. score: how sure the
    finder is, 0 ... 1.
    """

    box: FaceBox
    score: float


@runtime_checkable
class FaceFinder(Protocol):
    """Finds the faces in a photo (RGB, upright), in any order. Threads may share a finder."""

    def __call__(self, photo: Image) -> Iterable[Any]: ...


class Search(NamedTuple):
    """What a finder says of a photo. faces: the largest first. best_score: of the likeliest place for a face, also if
    it is below the finder's threshold; 0 without such a place."""

    faces: list[FoundFace]
    best_score: float


class PyramidFinder(ABC):
    """A finder that looks at a photo at several scales.

    Args:
        threshold: lowest score of a face.
        finer: how many further looks large photos get, each at twice the scale and four times the cost of the one
            before; every one halves the size of the smallest face that is found.
    """

    def __init__(self, threshold: float, finer: int) -> None:
        if not 0 < threshold <= 1:
            raise ConfigError(f"lowest score of a face: {threshold}, expected one above 0 and up to 1")
        self.threshold, self.finer = threshold, finer

    def __call__(self, photo: Image) -> list[FoundFace]:
        return self.search(photo).faces

    def search(self, photo: Image) -> Search:
        """The faces, and the score of the likeliest place for one."""
        pictures = pyramid(photo, self.finer)
        looks = [self._look(picture) for picture in pictures]
        if self._may_be_larger(looks[-1]):
            pictures.append(_resized(pictures[-1], LARGE_FACES))
            looks.append(self._look(pictures[-1]))
        looks = [*(look[look[:, 2] <= LARGEST] for look in looks[:-1]), looks[-1]]
        found = torch.cat([_to_photo(look, picture, photo) for look, picture in zip(looks, pictures, strict=True)])
        height, width = photo.shape[:2]
        found = found[(found[:, :2] > -0.5).all(1) & (found[:, 0] < width - 0.5) & (found[:, 1] < height - 0.5)]
        best = suppress(found, self.threshold).tolist()
        faces = largest_first(FoundFace(FaceBox(x, y, size), score) for x, y, size, score in best)
        return Search(faces, found[:, 3].max().item() if len(found) else 0.0)

    def _may_be_larger(self, look: Float[Tensor, "faces 4"]) -> bool:
        """Whether a picture may show a face above LARGEST: one was found, or none at all."""
        sizes = look[look[:, 3] >= self.threshold, 2]
        return not len(sizes) or sizes.max().item() > LARGEST

    @abstractmethod
    def _look(self, picture: Image) -> Float[Tensor, "faces 4"]:
        """x, y, size and score of what may be a face, in pixels of the picture."""


class OwnFinder(PyramidFinder):
    """The package's own finder. It finds faces from about 1/100 of the photo's side, the square root of its area, to
    those that fill it. Small faces are doubted more, see SMALL_DOUBT; their scores are lowered accordingly.

    Args:
        weights: of another finder: best.ckpt of a training, or a file that `save_weights` wrote.
        threshold, finer: see `PyramidFinder`.
    """

    def __init__(self, weights: str | Path | None = None, threshold: float = THRESHOLD, finer: int = 1) -> None:
        super().__init__(threshold, finer)
        self.network = load_finder(weights)
        # glibc returns large freed blocks to the system until one of this size is freed; from then on it keeps them.
        # Without this, each search takes a third longer.
        torch.empty(MEMORY // 4)

    def search(self, photo: Image) -> Search:
        """See `PyramidFinder`."""
        faces, best_score = super().search(photo)
        doubted = [
            face._replace(score=_doubted(face.score, LESSER_DOUBT * (1 - face.box.size / faces[0].box.size)))
            for face in faces
        ]
        return Search([face for face in doubted if face.score >= self.threshold], best_score)

    @torch.inference_mode()
    def _look(self, picture: Image) -> Float[Tensor, "faces 4"]:
        below, beside = (-side % 32 for side in picture.shape[:2])
        padded = cv2.copyMakeBorder(picture, 0, below, 0, beside, cv2.BORDER_CONSTANT, value=(GREY, GREY, GREY))
        images, lowest = torch.from_numpy(padded)[None].permute(0, 3, 1, 2), min(LOWEST, self.threshold)
        found = decode_likely(self.network(to_input(images)), lowest)
        found[:, 3] = _doubted(found[:, 3], SMALL_DOUBT * (1 - found[:, 2] / SMALL).clamp(min=0))
        return found[found[:, 3] >= lowest]


class YuNet(PyramidFinder):
    """OpenCV's YuNet (Wu, Peng and Yu, Machine Intelligence Research 2023), with its boxes brought to this package's
    framing.

    Args:
        file: face_detection_yunet_2023mar.onnx. None downloads it once from OpenCV's model zoo.
        threshold, finer: see `PyramidFinder`.

    Raises:
        ConfigError: there is no such file, it is another one, or it cannot be downloaded.
    """

    def __init__(self, file: str | Path | None = None, threshold: float = 0.6, finer: int = 1) -> None:
        from jointface.detection.yunet import YuNetModel

        super().__init__(threshold, finer)
        self.model = YuNetModel(file, min(LOWEST, threshold))

    def _look(self, picture: Image) -> Float[Tensor, "faces 4"]:
        return self.model(picture)


class GivenBoxes:
    """Boxes that are known. box: centre and size of the 68 landmarks, in pixels of every photo."""

    def __init__(self, boxes: Sequence[FaceBox]) -> None:
        self.boxes = [FaceBox(*box) for box in boxes]
        if any(not np.isfinite(box).all() or box.size <= 0 for box in self.boxes):
            raise ConfigError(f"boxes={self.boxes}: expected x, y and a size above 0, in pixels")

    def __call__(self, photo: Image) -> list[FoundFace]:
        return [FoundFace(box, 1.0) for box in self.boxes]


class WholePicture:
    """For pictures that are crops already: one face, framed by the picture as by a crop of this package."""

    def __call__(self, photo: Image) -> list[FoundFace]:
        height, width = photo.shape[:2]
        return [FoundFace(FaceBox((width - 1) / 2, (height - 1) / 2, min(height, width) / CROP_MARGIN), 1.0)]


def build_finder(name: str, min_score: float | None = None) -> FaceFinder:
    """The finder of a name.

    Args:
        name: "finder", the package's own, or the path of other weights of it, FILE.ckpt or FILE.safetensors; "yunet",
            or the path of its file, FILE.onnx; "none", for pictures that are crops already.
        min_score: lowest score of a face; None is the finder's own.

    Raises:
        ConfigError: there is no such finder, its file is missing, or the score makes no sense. CheckpointError: its
            weights are damaged.
    """
    threshold: dict[str, Any] = {} if min_score is None else {"threshold": min_score}
    if name == "finder" or name.endswith((".ckpt", ".safetensors")):
        return OwnFinder(None if name == "finder" else name, **threshold)
    if name == "yunet" or name.endswith(".onnx"):
        return YuNet(None if name == "yunet" else name, **threshold)
    if name == "none":
        return WholePicture()
    raise ConfigError(
        f"finder={name}: choose from finder, yunet, none, or a path: FILE.ckpt, FILE.safetensors, YuNet's FILE.onnx"
    )


def search(finder: FaceFinder, photo: Image) -> Search:
    """The faces that any finder finds in a photo: the largest first, those of `GivenBoxes` in their order.

    Raises:
        ConfigError: the finder, a function of the user, returns something else than faces or boxes.
    """
    if isinstance(finder, PyramidFinder):
        return finder.search(photo)
    found = finder(photo)
    try:
        faces = [_found_face(one) for one in found]
    except (TypeError, ValueError):
        raise ConfigError(
            f"the finder returned {' '.join(repr(found).split())[:200]}: expected a list of FoundFace(box, score), or "
            "of x, y, size (of the 68 landmarks, in pixels) and, where it is known, a score from 0 to 1"
        ) from None
    faces = faces if isinstance(finder, GivenBoxes) else largest_first(faces)
    return Search(faces, max((face.score for face in faces), default=0.0))


def largest_face(name: str = "finder") -> Callable[[Image], FaceBox | None]:
    """A function that gives the box of the largest face in a photo, None without a face; by a finder of this name."""
    finder = build_finder(name)

    def find(photo: Image) -> FaceBox | None:
        return next((face.box for face in search(finder, photo).faces), None)

    return find


def pyramid(photo: Image, finer: int) -> list[Image]:
    """The photo at the scales at which faces are sought first: from the finest to the coarsest."""
    height, width = photo.shape[:2]
    enlarged = max(1.0, SMALL_PHOTO / max(height, width))
    base = min((AREA / (height * width)) ** 0.5, enlarged)
    scales = [min(1.0, base * FINER**level) for level in range(finer, 0, -1) if base < 1]
    scales = [scale for scale, coarser in pairwise([*scales, base]) if scale > 1.2 * coarser]
    picture, pictures = photo, []
    for scale in (*scales, base):
        picture = _resized(picture, scale * width / picture.shape[1])
        pictures.append(picture)
    return pictures


def _resized(picture: Image, scale: float) -> Image:
    width, height = (max(1, round(side * scale)) for side in picture.shape[1::-1])
    if (width, height) == picture.shape[1::-1]:
        return picture
    return cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _to_photo(found: Float[Tensor, "faces 4"], picture: Image, photo: Image) -> Float[Tensor, "faces 4"]:
    """Boxes of a resized picture in pixels of the photo; pixel centres stay at integers."""
    x, y = (whole / part for whole, part in zip(photo.shape[1::-1], picture.shape[1::-1], strict=True))
    scale = found.new_tensor([x, y, (x + y) / 2, 1.0])
    shift = found.new_tensor([0.5, 0.5, 0.0, 0.0])
    return (found + shift) * scale - shift


def _found_face(found: Any) -> FoundFace:
    """A face that a user's function found. Raises a TypeError or a ValueError if it is none."""
    *box, score = (*found[0], found[1]) if isinstance(found, FoundFace) else (*found, *[1.0] * (len(found) == 3))
    face = FoundFace(FaceBox(*(float(value) for value in box)), float(score))
    if not (np.isfinite(face.box).all() and face.box.size > 0 and 0 <= face.score <= 1):
        raise ValueError(face)
    return face


def _doubted(score: Any, doubt: Any) -> Any:
    """A score whose distance from 1 grows by a share."""
    return 1 - (1 - score) * (1 + doubt)


def largest_first(faces: Iterable[FoundFace]) -> list[FoundFace]:
    """The faces in the order of their size."""
    return sorted(faces, key=lambda face: -face.box.size)
