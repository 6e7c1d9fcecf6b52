"""Where a face lies in its image, and the crop around it: the same rule for every data set."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

CROP_MARGIN = 1.58  # crop side over face box size; PRNet's framing of 300W-LP


class FaceBox(NamedTuple):
    """Square face box in image space: centre (x, y) and size = (width + height) / 2 of the landmarks, in pixels."""

    x: float
    y: float
    size: float


def face_box(landmarks: Float[Tensor, "68 *xyz"]) -> FaceBox:
    """Box of the 68 projected landmarks."""
    low, high = landmarks[:, :2].amin(0), landmarks[:, :2].amax(0)
    (x, y), size = ((low + high) / 2).tolist(), (high - low).mean().item()
    return FaceBox(x, y, size)


def similarity(scale: float, angle: float, shift: tuple[float, float], flip: bool, size: int) -> Float[Tensor, "2 3"]:
    """Similarity of a size x size crop about its centre: flip, then scale and turn (radians, counter-clockwise on
    screen), then shift (fractions of the crop)."""
    centre = (size - 1) / 2
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    mirror = -1.0 if flip else 1.0
    linear = torch.tensor([[mirror * cos, sin], [-mirror * sin, cos]])
    offset = centre + size * torch.tensor(shift) - linear @ torch.full((2,), centre)
    return torch.cat([linear, offset[:, None]], dim=1)


def crop_transform(box: FaceBox, size: int) -> Float[Tensor, "2 3"]:
    """Similarity from image space to the size x size crop of side CROP_MARGIN x box size around the box's centre."""
    scale = size / (CROP_MARGIN * box.size)
    centre = (size - 1) / 2
    return torch.tensor([[scale, 0.0, centre - scale * box.x], [0.0, scale, centre - scale * box.y]])


def compose(outer: Float[Tensor, "2 3"], inner: Float[Tensor, "2 3"]) -> Float[Tensor, "2 3"]:
    """outer after inner."""
    return torch.cat([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2:] + outer[:, 2:]], dim=1)


def warp_points(transform: Float[Tensor, "2 3"], points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """Points (x, y, z) under an image similarity; z takes its scale."""
    plane = points[:, :2] @ transform[:, :2].T + transform[:, 2]
    scale = torch.linalg.det(transform[:, :2]).abs().sqrt()
    return torch.cat([plane, scale * points[:, 2:]], dim=1)
