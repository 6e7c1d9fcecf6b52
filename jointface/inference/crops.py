"""From a photo to the crops of its faces, and from pixels of a crop back to pixels of the photo."""

import math

import numpy as np
from jaxtyping import Float, Float64, UInt8

from jointface.datamodules.crop import CropTransform, warp
from jointface.errors import InputError
from jointface.geometry.framing import FaceBox

FAR = 100  # sides of a photo; OpenCV takes for ever to fill a crop further away with reflections
LARGE = 4_000_000  # pixels of a photo


def cut_crop(
    image: UInt8[np.ndarray, "height width 3"], box: FaceBox, size: int
) -> tuple[UInt8[np.ndarray, "size size 3"], Float64[np.ndarray, "2 3"]]:
    """The crop of a face box, as `CropTransform` cuts it, and the similarity from the photo to it.

    Beyond the photo's border the crop shows its reflection. In a photo of more than LARGE pixels only the part that the
    crop shows is worked on, which saves time for each face. There crops differ from those of `CropTransform` in
    rounding, and, where the photo is shrunk, in which of its pixels are averaged.

    Raises:
        InputError: the box is far outside the photo, or its size is not above 0.
    """
    height, width = image.shape[:2]
    if not (0 < box.size < math.inf and abs(box.x) <= FAR * width and abs(box.y) <= FAR * height):
        raise InputError(f"a face box at {tuple(box)} makes no sense in a photo of {width} x {height} pixels")
    single, crop = CropTransform(size).to_crop(box, np.eye(2, 3, dtype=np.float32)), np.empty((size, size, 3), np.uint8)
    transform = single.astype(np.float64)
    if height * width <= LARGE:
        warp(image, single, crop)
        return crop, transform
    scale = transform[0, 0]
    margin = 2 + 2 / scale
    (left, right), (top, bottom) = (
        _shown((-1 - offset) / scale - margin, (size - offset) / scale + margin, length)
        for offset, length in zip(transform[:, 2], image.shape[1::-1], strict=True)
    )
    within = transform.copy()  # from that part of the photo
    within[:, 2] += scale * np.array([left, top])
    warp(image[top:bottom, left:right], within, crop)
    return crop, transform


def _shown(low: float, high: float, length: int) -> tuple[int, int]:
    """The first pixel, and that after the last, of a row of `length` pixels that low ... high shows or reflects."""
    end = length - 1
    first, last = min(low, 2 * end - high), max(high, -low)
    return min(max(math.floor(first), 0), end), min(max(math.ceil(last), 0), end) + 1


def to_photo(
    points: Float[np.ndarray, "points 3"], transform: Float64[np.ndarray, "2 3"]
) -> Float64[np.ndarray, "points 3"]:
    """Points of a crop in pixels of the photo. z is scaled like x and y, and relative to the mean of the points."""
    return (points - np.append(transform[:, 2], points[:, 2].mean(dtype=np.float64))) / transform[0, 0]


def to_crop(
    points: Float[np.ndarray, "points 3"], transform: Float64[np.ndarray, "2 3"]
) -> Float64[np.ndarray, "points 3"]:
    """The inverse of `to_photo`, for points whose z is relative to their mean."""
    return points * transform[0, 0] + np.append(transform[:, 2], 0.0)
