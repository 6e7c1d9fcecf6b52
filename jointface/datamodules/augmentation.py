"""Augmentation of training crops: a similarity for the geometry, a matrix for the colours, albumentations for the rest.
Everything is sampled for a whole batch at once from torch's random state."""

import copy
import math
import os
from dataclasses import dataclass
from itertools import compress
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.errors import ConfigError
from jointface.geometry.framing import similarities

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # keeps albumentations from going online when it is imported

LUMA = torch.tensor([0.299, 0.587, 0.114])  # weights of R, G and B, ITU-R BT.601
GREY = 127.5  # the mid-grey that contrast changes leave unchanged


@dataclass(eq=False)
class Augmentation:
    """Random similarity of the crop, followed by changes that do not move pixels.

    Args:
        rotation: largest rotation in either direction, in degrees.
        scale: largest zoom in or out, as a fraction.
        shift: largest shift along x and along y, as a fraction of the crop.
        flip: probability of a left-right flip.
        perspective: largest shift of each corner along x and along y, as a fraction of the crop, up to 0.15. Needs
            crops in memory. Samples that label a camera stay as they are: a homography moves pixels and landmarks
            exactly, but coefficients with an affine camera cannot follow it.
        brightness, contrast, saturation: largest change up or down, as a fraction; contrast changes about mid-grey.
        hue: largest rotation of the hues in either direction, as a fraction of the colour circle.
        grey: probability of a black-and-white crop.
        blur, noise, compression: probabilities that a crop is blurred, gets noise or is compressed as JPEG. At most one
            of them is applied, so their sum must not exceed 1.
        occlusion: probability that one or two rectangles are blacked out.
        extra: further albumentations transforms that do not move pixels, each applied with its own p.

    Raises a ConfigError for a number that is out of range.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    flip: float = 0.0
    perspective: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    compression: float = 0.0
    occlusion: float = 0.0
    extra: list[Any] | None = None

    def __post_init__(self) -> None:
        shares = {name: value for name, value in vars(self).items() if name not in ("rotation", "extra")}
        shares["blur + noise + compression"] = self.blur + self.noise + self.compression
        if odd := {name: value for name, value in shares.items() if not 0 <= value <= 1}:
            raise ConfigError(f"data.augmentation: {odd} must lie in 0 ... 1")
        if self.perspective > 0.15:  # so that landmarks stay away from the horizon
            raise ConfigError(f"data.augmentation.perspective={self.perspective}: must be at most 0.15")
        self.changes_colours = any((self.brightness, self.contrast, self.saturation, self.hue, self.grey))
        # `change_crops` samples which transforms to apply for a whole batch; a transform that is called always acts.
        self.photometric = [*self._degradations(), *copy.deepcopy(list(self.extra or []))]
        self.chances = torch.tensor([transform.p for transform in self.photometric])
        for transform in self.photometric:
            transform.p = 1.0

    def _degradations(self) -> list[Any]:
        """The albumentations transforms for blur, noise, compression and occlusion."""
        any_of_three = self.blur + self.noise + self.compression
        if not any_of_three and not self.occlusion:
            return []
        import albumentations  # the import takes a second, so it is left to runs that need it

        one_of = [
            albumentations.GaussianBlur(blur_limit=(3, 5), p=self.blur),
            # Noise that all channels share is three times as fast as separate noise for each channel.
            albumentations.GaussNoise(std_range=(0.02, 0.08), per_channel=False, p=self.noise),
            albumentations.ImageCompression(quality_range=(30, 90), p=self.compression),
        ]
        sides = {"hole_height_range": (0.1, 0.3), "hole_width_range": (0.1, 0.3)}
        transforms: list[Any] = [albumentations.OneOf(one_of, p=any_of_three)] if any_of_three else []
        if self.occlusion:
            transforms.append(albumentations.CoarseDropout(num_holes_range=(1, 2), **sides, p=self.occlusion))
        return transforms

    def sample_similarities(self, count: int, size: int) -> Float[Tensor, "batch 2 3"]:
        """Random similarities for crops of size x size pixels."""
        turn, zoom, *shift = (2 * torch.rand(count, 4) - 1).unbind(1)
        return similarities(
            scale=(1 + self.scale) ** zoom,
            angle=math.radians(self.rotation) * turn,
            shift=self.shift * torch.stack(shift, dim=1),
            flip=torch.rand(count) < self.flip,
            size=size,
        )

    def sample_colour_matrices(self, count: int) -> Float[Tensor, "batch 3 4"]:
        """Random matrices that act on colours (R, G, B, 1) in the range 0 ... 255."""
        bright, contrast, saturation, hue = (2 * torch.rand(count, 4) - 1).unbind(1)
        grey = torch.rand(count) < self.grey
        return colour_matrices(
            brightness=1 + self.brightness * bright,
            contrast=1 + self.contrast * contrast,
            saturation=(1 + self.saturation * saturation) * ~grey,
            hue=self.hue * hue,
        )

    def change_crops(self, crops: UInt8[np.ndarray, "batch size size 3"]) -> None:
        """Changes the colours of RGB crops at random, in place."""
        matrices = self.sample_colour_matrices(len(crops)).numpy() if self.changes_colours else None
        chosen = (torch.rand(len(crops), len(self.photometric)) < self.chances).tolist()
        for transform in self.photometric:  # else forked workers would share albumentations' random state
            transform.set_random_seed(int(torch.randint(2**31, ())))
        for number, crop in enumerate(crops):
            if matrices is not None:
                cv2.transform(crop, matrices[number], dst=crop)
            for transform in compress(self.photometric, chosen[number]):
                crop[:] = transform(image=crop)["image"]


def colour_matrices(
    brightness: Float[Tensor, "batch"],
    contrast: Float[Tensor, "batch"],
    saturation: Float[Tensor, "batch"],
    hue: Float[Tensor, "batch"],
) -> Float[Tensor, "batch 3 4"]:
    """Combines brightness, contrast, saturation and hue into one matrix that acts on (R, G, B, 1).

    Brightness and contrast are factors, and contrast scales about mid-grey. Saturation blends with the luma; 0 gives
    black and white. Hue is a fraction of the circle and rotates colours about the grey axis (Rodrigues' formula).
    """
    identity = torch.eye(3)
    blend = saturation[:, None, None] * identity + (1 - saturation)[:, None, None] * LUMA.expand(3, 3)
    angle = (2 * math.pi * hue)[:, None, None]
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    turn = angle.cos() * identity + angle.sin() * across + (1 - angle.cos()) / 3
    linear = turn @ blend * (brightness * contrast)[:, None, None]
    offset = (GREY * (1 - contrast))[:, None, None].expand(-1, 3, 1)
    return torch.cat([linear, offset], dim=2)


def change_colours(
    images: UInt8[Tensor, "batch 3 height width"], matrices: Float[Tensor, "batch 3 4"]
) -> UInt8[Tensor, "batch 3 height width"]:
    """Applies one colour matrix on (R, G, B, 1) to each image, on any device."""
    pixels = torch.baddbmm(matrices[:, :, 3:], matrices[:, :, :3], images.flatten(2).float())
    return pixels.round().clamp(0, 255).to(torch.uint8).view_as(images)
