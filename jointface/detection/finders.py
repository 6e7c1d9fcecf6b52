"""Finders of faces, all with one interface: a photo in, boxes in this package's framing out."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.detection.boxes import decode, suppress
from jointface.detection.finder_network import to_input
from jointface.detection.finder_weights import load_finder
from jointface.errors import ConfigError
from jointface.geometry.framing import CROP_MARGIN, FaceBox

AREA = 640 * 480  # pixels of a photo when its faces are sought first
LARGE_FACES = 1 / 4  # scale of the second look, for faces that fill the picture
FINER = 2.0  # scale of each further look, for small faces in large photos
SMALL_PHOTO = 160  # pixels; photos whose longer side is less are enlarged to it
MEMORY = 24 * 2**20  # bytes, above what a look at AREA occupies
LARGEST = 160.0  # pixels of a picture; larger faces are left to the coarser looks
GREY = 127  # beyond the photo's border
THRESHOLD = 0.5  # score of a face, chosen in docs/detection.md
SMALL, SMALL_MARGIN = 24.0, 0.15  # faces below so many pixels of a picture need so much more, see docs/detection.md

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
    """Finds the faces in a photo (RGB, upright), the surest first. Threads may share a finder."""

    def __call__(self, photo: Image) -> list[FoundFace]: ...


class OwnFinder:
    """The package's own finder, which looks at a photo at several scales.

    It finds faces from about 1/100 of the photo's side, the square root of its area, to those that fill it.

    Args:
        weights: of another finder: best.ckpt of a training, or a file that `save_weights` wrote.
        threshold: lowest score of a face; small ones need more, see SMALL_MARGIN.
        finer: how many further looks large photos get, each at twice the scale and four times the cost of the one
            before; every one halves the size of the smallest face that is found.
    """

    def __init__(self, weights: str | Path | None = None, threshold: float = THRESHOLD, finer: int = 1) -> None:
        _require_score(threshold)
        self.threshold, self.finer, self.network = threshold, finer, load_finder(weights)
        # The C library keeps freed memory once as much was freed at once; without that looks take a third longer.
        torch.empty(MEMORY // 4)

    def __call__(self, photo: Image) -> list[FoundFace]:
        *finer, coarsest = pyramid(photo, self.finer)
        found = [self._look(photo, picture, LARGEST) for picture in finer] + [self._look(photo, coarsest)]
        return _faces(torch.cat(found), photo, self.threshold)

    @torch.inference_mode()
    def _look(self, photo: Image, picture: Image, largest: float = float("inf")) -> Float[Tensor, "faces 4"]:
        height, width = picture.shape[:2]
        padded = np.full((-(-height // 32) * 32, -(-width // 32) * 32, 3), GREY, np.uint8)
        padded[:height, :width] = picture
        images = torch.from_numpy(padded)[None].permute(0, 3, 1, 2)
        found = decode(self.network(to_input(images)))[0]
        needed = self.threshold + SMALL_MARGIN * (found[:, 2] < SMALL)
        return _to_photo(found[(found[:, 3] >= needed) & (found[:, 2] <= largest)], picture, photo)


class YuNet:
    """OpenCV's YuNet (Wu, Peng and Yu, Machine Intelligence Research 2023), with its boxes brought to this package's
    framing.

    Args:
        file: face_detection_yunet_2023mar.onnx. None downloads it once from OpenCV's model zoo.
        threshold: lowest score of a face.
        finer: as of `OwnFinder`.

    Raises:
        ConfigError: there is no such file, it is another one, or it cannot be downloaded.
    """

    def __init__(self, file: str | Path | None = None, threshold: float = 0.6, finer: int = 1) -> None:
        from jointface.detection.yunet import YuNetModel

        _require_score(threshold)
        self.threshold, self.finer, self.model = threshold, finer, YuNetModel(file, threshold)

    def __call__(self, photo: Image) -> list[FoundFace]:
        found = [_to_photo(self.model(picture), picture, photo) for picture in pyramid(photo, self.finer)]
        return _faces(torch.cat(found), photo, self.threshold)


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


def largest_face(name: str = "finder") -> Callable[[Image], FaceBox | None]:
    """A function that gives the box of the largest face in a photo, None without a face; by a finder of this name."""
    finder = build_finder(name)

    def find(photo: Image) -> FaceBox | None:
        return max((face.box for face in finder(photo)), key=lambda box: box.size, default=None)

    return find


def pyramid(photo: Image, finer: int) -> list[Image]:
    """The photo at the scales at which faces are sought: from the finest to the coarsest."""
    height, width = photo.shape[:2]
    enlarged = max(1.0, SMALL_PHOTO / max(height, width))
    base = min((AREA / (height * width)) ** 0.5, enlarged)
    scales = [min(1.0, base * FINER**level) for level in range(finer, 0, -1) if base < 1]
    scales = [scale for scale, coarser in pairwise([*scales, base]) if scale > 1.2 * coarser]
    picture, pictures = photo, []
    for scale in (*scales, base, base * LARGE_FACES):
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        if size != picture.shape[1::-1]:
            shrinks = size[0] <= picture.shape[1]
            picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        pictures.append(picture)
    return pictures


def _to_photo(found: Float[Tensor, "faces 4"], picture: Image, photo: Image) -> Float[Tensor, "faces 4"]:
    """Boxes of a resized picture in pixels of the photo; pixel centres stay at integers."""
    x, y = (whole / part for whole, part in zip(photo.shape[1::-1], picture.shape[1::-1], strict=True))
    scale = found.new_tensor([x, y, (x + y) / 2, 1.0])
    shift = found.new_tensor([0.5, 0.5, 0.0, 0.0])
    return (found + shift) * scale - shift


def _faces(found: Float[Tensor, "faces 4"], photo: Image, threshold: float) -> list[FoundFace]:
    """The best of each group of boxes, if its centre is in the photo."""
    height, width = photo.shape[:2]
    inside = (found[:, :2] > -0.5).all(1) & (found[:, 0] < width - 0.5) & (found[:, 1] < height - 0.5)
    best = suppress(found[inside], threshold).tolist()
    return [FoundFace(FaceBox(x, y, size), score) for x, y, size, score in best]


def _require_score(threshold: float) -> None:
    if not 0 < threshold <= 1:
        raise ConfigError(f"lowest score of a face: {threshold}, expected one above 0 and up to 1")
