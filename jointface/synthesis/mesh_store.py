"""Packs all wearable meshes into one buffer on the device, so that a batch of heads can be dressed by indexing."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from jointface.synthesis.proxy import Proxy


class Dressed(NamedTuple):
    """The meshes of all pieces in a batch, concatenated. Triangles index the concatenated points."""

    points: Float[Tensor, "points 3"]  # model space
    picture: Int[Tensor, "points"]  # of each point
    uv: Float[Tensor, "points 2"]
    triangles: Int[Tensor, "triangles 3"]
    triangle_picture: Int[Tensor, "triangles"]
    material: Int[Tensor, "triangles"]
    texture: Int[Tensor, "triangles"]  # row of the store's textures


class Packed(NamedTuple):
    """All meshes, concatenated: per point, per triangle (rows of its own mesh's points), per mesh."""

    corners: Int[Tensor, "points 3"]
    weights: Float[Tensor, "points 3 1"]
    offsets: Float[Tensor, "points 3"]
    uv: Float[Tensor, "points 2"]
    triangles: Int[Tensor, "triangles 3"]
    scale_ends: Int[Tensor, "meshes 3 2"]  # as rows of the head's flattened points
    scale_reference: Float[Tensor, "meshes 3"]
    textures: UInt8[Tensor, "textures rows columns 4"]
    alpha: UInt8[Tensor, "textures rows columns"]  # of the textures, contiguous


class MeshStore:
    """Stores all proxies requested so far, and their textures after the given ones, which belong to no proxy."""

    def __init__(self, textures: list[UInt8[Tensor, "size size 4"]], device: torch.device) -> None:
        self.device = device
        self._rows: dict[Proxy, int] = {}
        self._textures = {texture: row for row, texture in enumerate(textures)}  # tensors are told apart by identity
        self._packed: Packed | None = None

    def row(self, proxy: Proxy) -> int:
        """Row of the proxy, which is added if new."""
        if proxy not in self._rows:
            self._rows[proxy] = len(self._rows)
            self._textures.setdefault(proxy.texture, len(self._textures))
            if self.device.type == "cuda":  # no stream may still read the buffer that is replaced
                torch.cuda.synchronize(self.device)
            self._packed = None
        return self._rows[proxy]

    def dress(self, pieces: Int[Tensor, "pieces 3"], heads: Float[Tensor, "batch base 3"]) -> Dressed:
        """Fits pieces, (picture, material, row of the proxy) on the CPU, to a batch of heads, like `Proxy.fit`."""
        packed, base, mesh = self.packed, heads.shape[1], pieces[:, 2]
        sizes = [(len(proxy.uv), len(proxy.triangles), self._textures[proxy.texture]) for proxy in self._rows]
        of_mesh = torch.tensor(sizes, dtype=torch.int64).view(-1, 3)
        counts, all_counts = of_mesh[mesh, :2], of_mesh[:, :2]  # points and triangles
        first, all_first = counts.cumsum(0) - counts, all_counts.cumsum(0) - all_counts
        num_points, num_triangles = counts.sum(0).tolist()
        # One copy to the device for all numbers.
        table = torch.cat([pieces, of_mesh[mesh, 2:], counts, all_first[mesh] - first, first[:, :1]], dim=1)
        picture, material, mesh, texture, *rows = table.to(self.device).unbind(1)
        points, triangles, point_shift, triangle_shift, first_point = rows
        of_piece, row = _rows(points, point_shift, num_points)
        of_triangle, face = _rows(triangles, triangle_shift, num_triangles)
        ends = heads.flatten(1)[picture[:, None, None], packed.scale_ends.index_select(0, mesh)]
        scale = (ends[..., 0] - ends[..., 1]).abs() / packed.scale_reference.index_select(0, mesh)
        of_point = picture.index_select(0, of_piece)
        corners = packed.corners.index_select(0, row) + (of_point * base)[:, None]
        surface = heads.flatten(0, 1).index_select(0, corners.flatten()).view(-1, 3, 3)
        surface = (surface * packed.weights.index_select(0, row)).sum(dim=1)
        return Dressed(
            points=surface + scale.index_select(0, of_piece) * packed.offsets.index_select(0, row),
            picture=of_point,
            uv=packed.uv.index_select(0, row),
            triangles=packed.triangles.index_select(0, face) + first_point.int().index_select(0, of_triangle)[:, None],
            triangle_picture=picture.int().index_select(0, of_triangle),
            material=material.int().index_select(0, of_triangle),
            texture=texture.int().index_select(0, of_triangle),
        )

    @property
    def packed(self) -> Packed:
        """All proxies and textures, on the device."""
        if self._packed is None:
            proxies, textures = list(self._rows), torch.stack(list(self._textures))
            axes = torch.arange(3)[:, None]
            packed = Packed(
                corners=_cat([proxy.corners for proxy in proxies], (0, 3), torch.int64),
                weights=_cat([proxy.weights for proxy in proxies], (0, 3), torch.float32)[..., None],
                offsets=_cat([proxy.offsets for proxy in proxies], (0, 3), torch.float32),
                uv=_cat([proxy.uv for proxy in proxies], (0, 2), torch.float32),
                triangles=_cat([proxy.triangles for proxy in proxies], (0, 3), torch.int32),
                scale_ends=_cat([(3 * proxy.scale_points + axes)[None] for proxy in proxies], (0, 3, 2), torch.int64),
                scale_reference=_cat([proxy.scale_reference[None] for proxy in proxies], (0, 3), torch.float32),
                textures=textures,
                alpha=textures[..., 3].contiguous(),
            )
            self._packed = Packed(*(tensor.to(self.device) for tensor in packed))
        return self._packed


def _rows(
    counts: Int[Tensor, "pieces"], shift: Int[Tensor, "pieces"], total: int
) -> tuple[Int[Tensor, "rows"], Int[Tensor, "rows"]]:
    """For each row of the concatenated pieces: its piece, and its row in the store."""
    numbers = torch.arange(len(counts), device=counts.device)
    of_piece = torch.repeat_interleave(numbers, counts, output_size=total)
    return of_piece, torch.arange(total, device=counts.device) + shift.index_select(0, of_piece)


def _cat(parts: list[Tensor], empty: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Concatenates the parts; without parts, returns a tensor of shape `empty`."""
    return torch.cat([torch.empty(empty, dtype=dtype), *(part.to(dtype) for part in parts)])
