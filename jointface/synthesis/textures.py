"""Textures of worn pieces: RGBA, first row at v = 1."""

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

TEXTURE_SIZE = 256  # texels along each side of the textures of rendered proxies


def grey_texture(
    luminance: Shaped[np.ndarray, "rows columns"], alpha: Shaped[np.ndarray, "rows columns"] | None = None
) -> UInt8[np.ndarray, "rows columns 4"]:
    """A grey RGBA texture with luminance 0 ... 255, to be coloured. Opaque where `alpha` is true, or everywhere."""
    grey = np.rint(luminance).astype(np.uint8)
    opacity = np.full_like(grey, 255) if alpha is None else np.where(alpha, 255, 0).astype(np.uint8)
    return np.stack([grey, grey, grey, opacity], axis=-1)


def lash_texture() -> UInt8[Tensor, "size size 4"]:
    """A texture of black lashes that taper from root (v = 0) to tip."""
    middle = (torch.arange(TEXTURE_SIZE) + 0.5) / TEXTURE_SIZE
    inside = ((middle * 44) % 1 - 0.5).abs() < 0.34 * middle[:, None]
    black = torch.zeros(TEXTURE_SIZE, TEXTURE_SIZE, 3, dtype=torch.uint8)
    return torch.cat([black, 255 * inside[..., None].to(torch.uint8)], dim=-1)


def bilinear(texture: UInt8[Tensor, "rows columns c"], uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
    """Bilinearly interpolated texels at UV coordinates, 0 ... 255."""
    image = texture.movedim(-1, 0)[None].float()
    grid = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], dim=1)[None, None]
    return torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)[0, :, 0].T


def shrunk(texture: UInt8[Tensor, "rows columns 4"]) -> UInt8[Tensor, "size size 4"]:
    """Shrinks a texture of strands to TEXTURE_SIZE. Colours are weighted by alpha, because clear texels are black.

    A texel becomes opaque if a third of its area is, because thin strands would otherwise be lost.
    """
    image = texture.movedim(-1, 0)[None].float()
    alpha = image[:, 3:] / 255
    pool = torch.nn.functional.adaptive_avg_pool2d
    weight = pool(alpha, TEXTURE_SIZE)
    colour = pool(image[:, :3] * alpha, TEXTURE_SIZE) / weight.clamp(min=1e-3)
    opacity = (weight * 255 * 1.5).clamp(max=255)
    return torch.cat([colour, opacity], dim=1)[0].round().clamp(0, 255).to(torch.uint8).movedim(0, -1).contiguous()
