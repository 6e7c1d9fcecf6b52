"""From photo to training crop: one similarity moves pixels, camera and landmarks; colours change after it."""

import math
import os
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up on the network at import

import albumentations
import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.geometry.framing import FaceBox, compose, crop_transform, similarity


class Augmentation:
    """Random similarity of the crop, then photometric changes. Draws from torch's random state.

    Args:
        rotation: largest turn to either side, in degrees.
        scale: largest zoom to either side, as a fraction.
        shift: largest shift along x and along y, as a fraction of the crop.
        flip: probability of a left-right flip.
        photometric: albumentations transforms that leave every pixel in its place.
    """

    def __init__(
        self,
        rotation: float = 0.0,
        scale: float = 0.0,
        shift: float = 0.0,
        flip: float = 0.0,
        photometric: list[Any] | None = None,
    ) -> None:
        self.rotation, self.scale, self.shift, self.flip = rotation, scale, shift, flip
        self.photometric = albumentations.Compose(list(photometric or []))

    def sample_similarity(self, size: int) -> Float[Tensor, "2 3"]:
        """A random similarity of the size x size crop."""
        turn, zoom, right, down = (2 * torch.rand(4) - 1).tolist()
        return similarity(
            scale=(1 + self.scale) ** zoom,
            angle=math.radians(self.rotation) * turn,
            shift=(self.shift * right, self.shift * down),
            flip=torch.rand(()).item() < self.flip,
            size=size,
        )

    def change_colours(self, crop: UInt8[np.ndarray, "size size 3"]) -> UInt8[np.ndarray, "size size 3"]:
        """A random photometric change of the crop."""
        # Forked workers would share albumentations' own random state, so it is drawn anew from torch's.
        self.photometric.set_random_seed(int(torch.randint(2**31, ()).item()))
        return self.photometric(image=crop)["image"]


class CropTransform:
    """Cuts the framed face out of a photo.

    Args:
        size: side of the crop in pixels.
        augmentation: how training crops vary; None for evaluation.
    """

    def __init__(self, size: int, augmentation: Augmentation | None = None) -> None:
        self.size = size
        self.augmentation = augmentation

    def __call__(
        self, image: UInt8[np.ndarray, "height width 3"], box: FaceBox
    ) -> tuple[UInt8[Tensor, "3 size size"], Float[Tensor, "2 3"]]:
        """The crop, and the similarity from image space to it, for camera and landmarks."""
        transform = self.sample_transform(box)
        return self.change_colours(warp(image, transform, self.size)), transform

    def sample_transform(self, box: FaceBox) -> Float[Tensor, "2 3"]:
        """The similarity from image space to the crop, random where crops are augmented."""
        transform = crop_transform(box, self.size)
        if self.augmentation is None:
            return transform
        return compose(self.augmentation.sample_similarity(self.size), transform)

    def change_colours(self, crop: UInt8[np.ndarray, "size size 3"]) -> UInt8[Tensor, "3 size size"]:
        """The crop as a tensor, its colours changed where crops are augmented."""
        if self.augmentation is not None:
            crop = self.augmentation.change_colours(crop)
        return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


def warp(
    image: UInt8[np.ndarray, "height width 3"], transform: Float[Tensor, "2 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The image under a similarity, size x size; strong reduction averages first, so that it does not alias."""
    scale = math.sqrt(abs(torch.linalg.det(transform[:, :2]).item()))
    if scale < 0.5:
        height, width = image.shape[:2]
        reduced = (max(1, round(width * 2 * scale)), max(1, round(height * 2 * scale)))
        image = cv2.resize(image, reduced, interpolation=cv2.INTER_AREA)
        transform = compose(transform, _enlargement(width / reduced[0], height / reduced[1]))
    return cv2.warpAffine(
        image, transform.numpy(), (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )


def _enlargement(x: float, y: float) -> Float[Tensor, "2 3"]:
    """Map from a reduced image's pixel centres to the original's."""
    return torch.tensor([[x, 0.0, (x - 1) / 2], [0.0, y, (y - 1) / 2]])
