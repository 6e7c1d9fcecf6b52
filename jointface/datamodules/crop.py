"""From photo to training crop: one similarity frames the face and applies to pixels, camera and landmarks."""

import math
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.datamodules.augmentation import Augmentation
from jointface.errors import DataError
from jointface.geometry.framing import CROP_MARGIN, FaceBox


class CropTransform:
    """Crops the framed face from a photo to `size` x `size` pixels. Training crops vary by the `augmentation`.

    A crop with a `border` shows so many pixels more on each side.
    """

    def __init__(self, size: int, augmentation: Augmentation | None = None, border: int = 0) -> None:
        self.size, self.augmentation, self.border = size, augmentation, border
        self.side = size + 2 * border

    def __call__(
        self, image: UInt8[np.ndarray, "height width 3"], box: FaceBox
    ) -> tuple[UInt8[Tensor, "3 side side"], Float[Tensor, "2 3"]]:
        """The crop, and the similarity from image space to crop space, which camera and landmarks need."""
        transform = self.to_crop(box, self.sample_similarities(1)[0].numpy())
        crops = np.empty((1, self.side, self.side, 3), np.uint8)
        warp(image, transform, crops[0])
        return self.change_colours(crops)[0], torch.from_numpy(transform)

    def sample_similarities(self, count: int) -> Float[Tensor, "count 2 3"]:
        """Similarities that modify `count` plain crops: random ones if crops are augmented, else identities."""
        if self.augmentation is None:
            return torch.eye(2, 3).repeat(count, 1, 1)
        return self.augmentation.sample_similarities(count, self.side)

    def to_crop(self, box: FaceBox, similarity: Float[np.ndarray, "2 3"]) -> Float[np.ndarray, "2 3"]:
        """`crop_transform` of the face box, followed by a similarity. NumPy is faster than torch for a single crop."""
        scale, centre = self.size / (CROP_MARGIN * box.size), (self.side - 1) / 2
        transform = similarity * np.array((scale, scale, 1), similarity.dtype)
        transform[:, 2] += similarity[:, :2] @ np.array(
            (centre - scale * box.x, centre - scale * box.y), similarity.dtype
        )
        return transform

    def change_colours(self, crops: UInt8[np.ndarray, "count size size 3"]) -> UInt8[Tensor, "count 3 size size"]:
        """The crops as a tensor, channels-last in memory. If crops are augmented, it changes their colours in place."""
        if self.augmentation is not None:
            self.augmentation.change_crops(crops)
        return torch.from_numpy(crops).permute(0, 3, 1, 2)


def box_in_copy(box: FaceBox, published: tuple[int, int], size: tuple[int, int], photo: Path) -> FaceBox:
    """The face box of an image of the `published` width and height in a scaled copy of this size; pixel centres stay at
    integers.

    Raises:
        DataError: the proportions differ by more than a pixel, so the photo is no scaled copy but another crop.
    """
    (width, height), (x, y) = size, (size[0] / published[0], size[1] / published[1])
    if abs(x / y - 1) > 1 / width + 1 / height:
        raise DataError(
            f"{photo}: has {width} x {height} pixels, the published images have {published[0]} x {published[1]} or are "
            "scaled copies of that; another crop shows the face in another place: use the published images"
        )
    return FaceBox((box.x + 0.5) * x - 0.5, (box.y + 0.5) * y - 0.5, box.size * (x + y) / 2)


def warp(
    image: UInt8[np.ndarray, "height width 3"],
    transform: Float[np.ndarray, "2 3"],
    crop: UInt8[np.ndarray, "size size 3"],
) -> None:
    """Warps the image into the crop by a similarity. If it shrinks strongly, pixels are averaged first, to avoid
    aliasing."""
    size = len(crop)
    scale = math.hypot(transform[0, 0], transform[1, 0])
    if scale < 0.5:
        height, width = image.shape[:2]
        reduced = (max(1, round(width * 2 * scale)), max(1, round(height * 2 * scale)))
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        x, y = width / reduced[0], height / reduced[1]  # pixel centres stay at integers
        transform = transform @ np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]], transform.dtype)
    # OpenCV warps four channels more than twice as fast as three.
    four = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA)
    four = cv2.warpAffine(four, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    cv2.cvtColor(four, cv2.COLOR_RGBA2RGB, dst=crop)
