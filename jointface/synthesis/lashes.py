"""The head's own lashes: their texture, and the texture coordinates of their sheets."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from jointface.synthesis.head import Head
from jointface.synthesis.textures import TEXTURE_SIZE


def lash_uv(head: Head, lashes: Int[Tensor, "points"]) -> Float[Tensor, "points 2"]:
    """(along the lid, from root to tip) of the points of the lashes, by where they lie relative to their eye."""
    place = head.mean[lashes]
    right = (place[:, 0] > 0).float()
    uv = torch.zeros(len(lashes), 2)
    for side in (0.0, 1.0):
        rows = right == side
        eye = head.mean[head.model.landmarks68[36 + 6 * int(side) : 42 + 6 * int(side)]]
        local = place[rows] - eye.mean(0)
        along = local[:, 0] / 18
        uv[rows] = torch.stack([(0.5 + 0.5 * along).clamp(0, 1), (local[:, 2] / 9).clamp(0, 1)], dim=1)
    return uv


def lash_texture() -> UInt8[Tensor, "size size 4"]:
    """Lashes that taper from root (v = 0) to tip."""
    v = 1 - (torch.arange(TEXTURE_SIZE) + 0.5)[:, None] / TEXTURE_SIZE
    u = (torch.arange(TEXTURE_SIZE) + 0.5)[None] / TEXTURE_SIZE
    inside = ((u * 44) % 1 - 0.5).abs() < 0.34 * (1 - v)
    texture = torch.zeros(TEXTURE_SIZE, TEXTURE_SIZE, 4, dtype=torch.uint8)
    texture[..., 3] = inside * 255
    return texture
