"""How training crops vary: one similarity moves everything, one matrix changes the colours, albumentations does the
rest. All is sampled for a whole batch at once from torch's random state."""

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

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # no look-up on the network when albumentations is imported

LUMA = torch.tensor([0.299, 0.587, 0.114])  # of RGB, ITU-R BT.601
GREY = 127.5  # contrast changes about it


@dataclass(eq=False)
class Augmentation:
    """Random similarity of the crop, then changes that leave every pixel in its place.

    Args:
        rotation: largest turn to either side, in degrees.
        scale: largest zoom to either side, as a fraction.
        shift: largest shift along x and along y, as a fraction of the crop.
        flip: probability of a left-right flip.
        brightness, contrast, saturation: largest change to either side, as a fraction; contrast about mid-grey.
        hue: largest turn of the hues to either side, as a fraction of the circle.
        grey: probability of a black-and-white crop.
        blur, noise, compression: probabilities that a crop is blurred, noisy or compressed as JPEG; at most one of
            them happens, so their sum must not exceed 1.
        occlusion: probability that one or two rectangles are blacked out.
        extra: further albumentations transforms that leave every pixel in its place, each applied with its own p.

    Raises a ConfigError for a number that is out of its range.
    """

    rotation: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    flip: float = 0.0
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
        self.changes_colours = any((self.brightness, self.contrast, self.saturation, self.hue, self.grey))
        # The chances are sampled here for a batch at once; a transform that is called is applied.
        self.photometric = [*self._degradations(), *copy.deepcopy(list(self.extra or []))]
        self.chances = torch.tensor([transform.p for transform in self.photometric])
        for transform in self.photometric:
            transform.p = 1.0

    def _degradations(self) -> list[Any]:
        """The transforms of albumentations behind blur, noise, compression and occlusion."""
        some = self.blur + self.noise + self.compression
        if not some and not self.occlusion:
            return []
        import albumentations  # which takes a second that others need not wait for

        one_of = [
            albumentations.GaussianBlur(blur_limit=(3, 5), p=self.blur),
            # Noise of the brightness alone is three times as fast as of each channel.
            albumentations.GaussNoise(std_range=(0.02, 0.08), per_channel=False, p=self.noise),
            albumentations.ImageCompression(quality_range=(30, 90), p=self.compression),
        ]
        sides = {"hole_height_range": (0.1, 0.3), "hole_width_range": (0.1, 0.3)}
        transforms: list[Any] = [albumentations.OneOf(one_of, p=some)] if some else []
        if self.occlusion:
            transforms.append(albumentations.CoarseDropout(num_holes_range=(1, 2), **sides, p=self.occlusion))
        return transforms

    def sample_similarities(self, count: int, size: int) -> Float[Tensor, "batch 2 3"]:
        """Random similarities of size x size crops."""
        turn, zoom, *shift = (2 * torch.rand(count, 4) - 1).unbind(1)
        return similarities(
            scale=(1 + self.scale) ** zoom,
            angle=math.radians(self.rotation) * turn,
            shift=self.shift * torch.stack(shift, dim=1),
            flip=torch.rand(count) < self.flip,
            size=size,
        )

    def sample_colour_matrices(self, count: int) -> Float[Tensor, "batch 3 4"]:
        """Random matrices on colours (R, G, B, 1) of 0 ... 255."""
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
        for transform in self.photometric:  # forked workers would share albumentations' own random state
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
    """Brightness, contrast, saturation and hue as one matrix on (R, G, B, 1).

    Brightness and contrast multiply, contrast about mid-grey. Saturation blends with the luma, 0 is black and white.
    Hue, a fraction of the circle, turns colours about the grey axis (Rodrigues' formula).
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
    """Images with their colours (R, G, B, 1) changed by a matrix each, on any device."""
    pixels = torch.baddbmm(matrices[:, :, 3:], matrices[:, :, :3], images.flatten(2).float())
    return pixels.round().clamp(0, 255).to(torch.uint8).view_as(images)
