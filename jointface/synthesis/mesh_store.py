"""What heads can wear, laid out one after the other on the device that draws it: a batch of dressed heads is put
together by index alone."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from jointface.synthesis.makehuman import Proxy

TEXTURE_SIZE = 256


@dataclass(frozen=True)
class Piece:
    """Something worn. picture: which of the batch. material: what it is made of. mesh: its row of the store."""

    picture: int
    material: int
    mesh: int


class Dressed(NamedTuple):
    """The meshes of all pieces of a batch, one after the other; triangles count points from the first piece's first."""

    points: Float[Tensor, "points 3"]  # model space
    picture: Int[Tensor, "points"]  # of each point
    uv: Float[Tensor, "points 2"]
    triangles: Int[Tensor, "triangles 3"]
    triangle_picture: Int[Tensor, "triangles"]
    material: Int[Tensor, "triangles"]
    texture: Int[Tensor, "triangles"]  # row of the store's textures


class _Joined(NamedTuple):
    """All meshes: per point, per triangle (rows of its own mesh's points), per mesh."""

    corners: Int[Tensor, "points 3"]
    weights: Float[Tensor, "points 3 1"]
    offsets: Float[Tensor, "points 3"]
    uv: Float[Tensor, "points 2"]
    triangles: Int[Tensor, "triangles 3"]
    scale_ends: Int[Tensor, "meshes 3 2"]  # as numbers of the head's flattened points
    scale_reference: Float[Tensor, "meshes 3"]
    textures: UInt8[Tensor, "textures rows columns 4"]
    alpha: UInt8[Tensor, "textures rows columns"]


class MeshStore:
    """The proxies that were asked for so far, and textures.

    Args:
        textures: the first rows of the textures, which belong to no proxy.
        device: where all of it is.
    """

    def __init__(self, textures: list[UInt8[Tensor, "size size 4"]], device: torch.device) -> None:
        self.device = device
        self._proxies: list[Proxy] = []
        self._rows: dict[int, int] = {}  # of proxies, by identity; those in the list stay alive
        self._textures = list(textures)
        self._texture_rows: dict[int, int] = {}  # by identity of a proxy's texture
        self._texture: list[int] = []  # row of each proxy's texture
        self._joined: _Joined | None = None

    def row(self, proxy: Proxy) -> int:
        """Row of the proxy, which is added if it is new."""
        if id(proxy) not in self._rows:
            self._rows[id(proxy)] = len(self._proxies)
            self._proxies.append(proxy)
            if id(proxy.texture) not in self._texture_rows:
                self._texture_rows[id(proxy.texture)] = len(self._textures)
                self._textures.append(_resized(proxy.texture))
            self._texture.append(self._texture_rows[id(proxy.texture)])
            if self.device.type == "cuda":  # no stream may still be reading what is given up now
                torch.cuda.synchronize(self.device)
            self._joined = None
        return self._rows[id(proxy)]

    @property
    def textures(self) -> UInt8[Tensor, "textures rows columns 4"]:
        """All textures."""
        return self._all().textures

    @property
    def alpha(self) -> UInt8[Tensor, "textures rows columns"]:
        """The alpha planes of all textures."""
        return self._all().alpha

    def dress(self, pieces: list[Piece], heads: Float[Tensor, "batch base 3"]) -> Dressed:
        """The pieces as they sit on the heads of a batch, see `Proxy.fit`."""
        joined, base = self._all(), heads.shape[1]
        table = _Table.of(pieces, self._proxies, self._texture)
        mesh, picture, material, texture, *rows = table.numbers.to(self.device).unbind(1)
        points, point_shift, triangles, triangle_shift, first_point = rows
        of_piece, row = _rows(points, point_shift, table.num_points)
        of_triangle, face = _rows(triangles, triangle_shift, table.num_triangles)
        ends = heads.flatten(1)[picture[:, None, None], joined.scale_ends.index_select(0, mesh)]
        scale = (ends[..., 0] - ends[..., 1]).abs() / joined.scale_reference.index_select(0, mesh)
        of_point = picture.index_select(0, of_piece)
        corners = joined.corners.index_select(0, row) + (of_point * base)[:, None]
        surface = heads.flatten(0, 1).index_select(0, corners.flatten()).view(-1, 3, 3)
        surface = (surface * joined.weights.index_select(0, row)).sum(dim=1)
        first = first_point.int().index_select(0, of_triangle)
        return Dressed(
            points=surface + scale.index_select(0, of_piece) * joined.offsets.index_select(0, row),
            picture=of_point,
            uv=joined.uv.index_select(0, row),
            triangles=joined.triangles.index_select(0, face) + first[:, None],
            triangle_picture=picture.int().index_select(0, of_triangle),
            material=material.int().index_select(0, of_triangle),
            texture=texture.int().index_select(0, of_triangle),
        )

    def _all(self) -> _Joined:
        if self._joined is None:
            proxies, textures = self._proxies, torch.stack(self._textures)
            axes = torch.arange(3)[:, None]
            joined = _Joined(
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
            self._joined = _Joined(*(tensor.to(self.device) for tensor in joined))
        return self._joined


class _Table(NamedTuple):
    """The pieces of a batch in numbers, a row each: mesh, picture, material, texture; points, and how far its mesh's
    points lie behind its own ones; triangles, likewise; its first point. They go to the device in one copy."""

    numbers: Int[Tensor, "pieces 9"]
    num_points: int
    num_triangles: int

    @classmethod
    def of(cls, pieces: Sequence[Piece], proxies: Sequence[Proxy], textures: Sequence[int]) -> "_Table":
        """The table. proxies, textures: of all meshes of the store."""
        points, triangles = ([len(getattr(p, name)) for p in proxies] for name in ("uv", "triangles"))
        begin_points, begin_triangles = _starts(points), _starts(triangles)
        rows, point, triangle = [], 0, 0
        for piece in pieces:
            mesh = piece.mesh
            of_points = points[mesh], begin_points[mesh] - point
            of_triangles = triangles[mesh], begin_triangles[mesh] - triangle
            rows.append((mesh, piece.picture, piece.material, textures[mesh], *of_points, *of_triangles, point))
            point, triangle = point + points[mesh], triangle + triangles[mesh]
        return cls(torch.tensor(rows, dtype=torch.int64).view(-1, 9), point, triangle)


def _rows(
    counts: Int[Tensor, "pieces"], shift: Int[Tensor, "pieces"], total: int
) -> tuple[Int[Tensor, "rows"], Int[Tensor, "rows"]]:
    """For each row of the pieces' meshes together the piece, and the row among those of all meshes."""
    numbers = torch.arange(len(counts), device=counts.device)
    of_piece = torch.repeat_interleave(numbers, counts, output_size=total)
    return of_piece, torch.arange(total, device=counts.device) + shift.index_select(0, of_piece)


def _starts(counts: list[int]) -> list[int]:
    """Where each of some parts begins that lie one after the other."""
    return [0, *itertools.accumulate(counts)][: len(counts)]


def _cat(parts: list[Tensor], empty: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.cat([torch.empty(empty, dtype=dtype), *(part.to(dtype) for part in parts)])


def _resized(texture: UInt8[Tensor, "rows columns 4"]) -> UInt8[Tensor, "size size 4"]:
    """All textures have one size, so that they can be stacked."""
    if texture.shape[0] == texture.shape[1] == TEXTURE_SIZE:
        return texture
    image = texture.movedim(-1, 0)[None].float()
    return torch.nn.functional.interpolate(image, size=(TEXTURE_SIZE, TEXTURE_SIZE))[0].movedim(0, -1).to(torch.uint8)
