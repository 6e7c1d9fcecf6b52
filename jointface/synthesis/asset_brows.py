"""Paints MakeHuman's eyebrows on the skin of the mean head and measures them like procedural brows."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.geometry.rasteriser import interpolate, rasterise
from jointface.synthesis.face_fields import brow_place
from jointface.synthesis.head import Head
from jointface.synthesis.proxy import Proxy
from jointface.synthesis.textures import bilinear

BROW_LEFT, BROW_TOP, BROW_STEP = -72.0, 76.0, 0.5  # mm: upper left corner of brow images, size of their pixels
BROW_ROWS, BROW_COLUMNS = 92, 288


@dataclass(frozen=True)
class Brow:
    """A pair of brows painted on the skin.

    shape: coverage seen from the front of the mean head, 255 at its core; pixels of size BROW_STEP to the right of and
        below the corner (BROW_LEFT, BROW_TOP). thickness, density, arch: the `Appearance` values of procedural brows
        with equal coverage, density and rise.
    """

    shape: UInt8[Tensor, "rows columns"]
    thickness: float
    density: float
    arch: float


def paint_brow(head: Head, proxy: Proxy) -> Brow:
    """Paints a pair of brows, moved up or down onto the landmarks of the brows, and measures it."""
    rows, columns = torch.meshgrid(torch.arange(BROW_ROWS), torch.arange(BROW_COLUMNS), indexing="ij")
    x, y = BROW_LEFT + BROW_STEP * (columns + 0.5), BROW_TOP - BROW_STEP * (rows + 0.5)
    along, across, length = brow_place(head, x.flatten(), y.flatten())
    along_brow = ((along > 0) & (along < 1)).float()
    points = proxy.fit(head.mean[None])[0]
    weight = _coverage(points, proxy).flatten() * along_brow
    points[:, 1] -= (weight * across).sum() / weight.sum().clamp(min=1e-6)
    coverage = _coverage(points, proxy)
    weight = coverage.flatten() * along_brow
    total = weight.sum().clamp(min=1e-6)
    core = float((weight * coverage.flatten()).sum() / total)  # mean opacity of the hair
    width = float(total) * BROW_STEP**2 / (2 * length) / max(core, 1e-6)
    # With thickness t, `materials.brow_shape` is 0.752 t + 0.7 wide on average; its opacity is about 0.9 x density.
    return Brow(
        shape=(coverage / max(core, 1e-6)).clamp(0, 1).mul(255).round().to(torch.uint8),
        thickness=float(np.clip((width - 0.7) / 0.752, 1.0, 8.0)),
        density=float(np.clip(core / 0.9, 0.2, 1.0)),
        arch=_arch(along, across, weight),
    )


def _coverage(points: Float[Tensor, "points 3"], proxy: Proxy) -> Float[Tensor, "rows columns"]:
    """Share of each pixel that the proxy's opaque texels cover, with the proxy's points at these places."""
    fine = 4
    x, y, z = points.T
    scale = fine / BROW_STEP
    pixels = torch.stack([(x - BROW_LEFT) * scale - 0.5, (BROW_TOP - y) * scale - 0.5, z], dim=1)
    image = torch.zeros(len(proxy.triangles), dtype=torch.int32)
    fragments = rasterise(pixels, proxy.triangles, image, (1, BROW_ROWS * fine, BROW_COLUMNS * fine))
    uv = interpolate(fragments, proxy.triangles, proxy.uv)[0]
    alpha = bilinear(proxy.texture[..., 3:], uv.flatten(0, 1)).view(uv.shape[:2]) / 255
    alpha = torch.where(fragments.triangle[0] >= 0, alpha, 0.0)
    return torch.nn.functional.avg_pool2d(alpha[None], fine)[0]


def _arch(along: Float[Tensor, "n"], across: Float[Tensor, "n"], weight: Float[Tensor, "n"]) -> float:
    """How far the brow rises above the line between its ends, in mm, at the place where procedural brows peak."""
    seen = weight > 0.1
    if not seen.any():
        return 0.0
    inner, outer = along[seen].quantile(torch.tensor([0.02, 0.98])).tolist()
    part = ((along - inner) / max(outer - inner, 1e-6) * 8).floor()

    def height(*parts: int) -> float:
        share = weight * torch.isin(part, torch.tensor(parts))
        return float((share * across).sum() / share.sum().clamp(min=1e-6))

    low, high = height(0), height(7)
    return height(4, 5) - (low + (high - low) * 5 / 7)
