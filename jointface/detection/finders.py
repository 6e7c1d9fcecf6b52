"""Ways to find the faces in a photo: one interface."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import UInt8

from jointface.errors import ConfigError
from jointface.geometry.framing import CROP_MARGIN, FaceBox


class FoundFace(NamedTuple):
    """A face in a photo: its box in this package's framing, in pixels of the photo, and a score from 0 to 1."""

    box: FaceBox
    score: float


class FaceFinder(Protocol):
    """A function from an RGB photo to its faces, the surest first."""

    def __call__(self, photo: UInt8[np.ndarray, "height width 3"]) -> list[FoundFace]: ...


class GivenBoxes:
    """Boxes that are known already, the same in every photo."""

    def __init__(self, boxes: Sequence[FaceBox]) -> None:
        self.found = [FoundFace(FaceBox(*box), 1.0) for box in boxes]

    def __call__(self, photo: UInt8[np.ndarray, "height width 3"]) -> list[FoundFace]:
        return self.found


class WholePicture:
    """The picture is the crop of one face: a square that fills its shorter side."""

    def __call__(self, photo: UInt8[np.ndarray, "height width 3"]) -> list[FoundFace]:
        height, width = photo.shape[:2]
        return [FoundFace(FaceBox((width - 1) / 2, (height - 1) / 2, min(height, width) / CROP_MARGIN), 1.0)]


def build_finder(name: str) -> FaceFinder:
    """A finder by its name."""
    if name != "none":
        raise ConfigError(f"finder={name}: known is none")
    return WholePicture()
