"""Perspective jitter: random homographies of crops, which move pixels and landmarks alike.

Points are in units in which the crop is the square from -1 to 1, edges of pixels included. A map takes a place in the
new crop to the place in the old crop that is shown there.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Maps = Float[Tensor, "batch 3 3"]
SQUARE = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])  # the corners of a crop


def sample_perspectives(count: int, largest: float) -> Maps:
    """Random maps: each corner of the new crop lies at most `largest` from that of the old one, along x and along y,
    as a fraction of the crop."""
    corners = SQUARE + 2 * largest * (2 * torch.rand(count, 4, 2) - 1)
    return map_of_corners(corners)


def map_of_corners(corners: Float[Tensor, "batch 4 2"]) -> Maps:
    """The homographies that take the corners of the square to these places, in the order of `SQUARE`."""
    return _frame(corners) @ torch.linalg.inv(_frame(SQUARE.to(corners)[None]))


def _frame(corners: Float[Tensor, "batch 4 2"]) -> Maps:
    """The homographies that take the points (1, 0, 0), (0, 1, 0), (0, 0, 1) and (1, 1, 1) to the corners."""
    points = F.pad(corners, (0, 1), value=1.0).mT
    first = points[..., :3]
    return first * torch.linalg.solve(first, points[..., 3:]).mT


def map_points(maps: Maps, points: Float[Tensor, "batch *points 2"]) -> Float[Tensor, "batch *points 2"]:
    """Where homographies take points."""
    moved = F.pad(points.flatten(1, -2), (0, 1), value=1.0) @ maps.mT
    return (moved[..., :2] / moved[..., 2:]).view_as(points)


def move_landmarks(landmarks: Float[Tensor, "batch 68 dims"], maps: Maps, size: int) -> Float[Tensor, "batch 68 dims"]:
    """Landmarks of the old crop, in pixels, in the new one.

    x and y are exact. A homography says nothing of depth: z is scaled as the picture is in the middle of the crop.
    """
    back = torch.linalg.inv(maps)
    plane = (2 * landmarks[..., :2] + 1) / size - 1
    plane = ((map_points(back, plane) + 1) * size - 1) / 2
    scale = (torch.linalg.det(back) / back[:, 2, 2] ** 3).abs().sqrt()
    return torch.cat([plane, scale[:, None, None] * landmarks[..., 2:]], dim=-1)
