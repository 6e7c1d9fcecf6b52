"""The head's own lashes: their texture, and the texture coordinates of their sheets."""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from jointface.synthesis.head import Head
from jointface.synthesis.textures import TEXTURE_SIZE


def lash_uv(head: Head, lashes: Int[Tensor, "points"]) -> Float[Tensor, "points 2"]:
    """(along the lid, from root to tip) of the points of the lashes, by where they lie relative to their eye."""
    place = head.mean[lashes]
    eyes = head.mean[head.model.landmarks68[36:48]].unflatten(0, (2, 6)).mean(1)
    local = place - eyes[(place[:, 0] > 0).long()]
    return torch.stack([0.5 + 0.5 * (local[:, 0] / 18), local[:, 2] / 9], dim=1).clamp(0, 1)


def lash_texture() -> UInt8[Tensor, "size size 4"]:
    """Lashes that taper from root (v = 0) to tip."""
    middle = (torch.arange(TEXTURE_SIZE) + 0.5) / TEXTURE_SIZE
    inside = ((middle * 44) % 1 - 0.5).abs() < 0.34 * middle[:, None]
    texture = torch.zeros(TEXTURE_SIZE, TEXTURE_SIZE, 4, dtype=torch.uint8)
    texture[..., 3] = inside * 255
    return texture
