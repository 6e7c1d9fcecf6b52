"""UV position maps (Feng et al., PRNet, ECCV 2018): the face's points laid out as an image over its UV coordinates."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jointface.geometry.camera import is_mirrored
from jointface.geometry.full_precision import full_precision
from jointface.geometry.morphable_model import MorphableModel, mirror_points

BLOCK = 2048  # points


class PositionMap(nn.Module):
    """Vertices to a size x size map and back, over one model's UV layout.

    Pixel (row r, column c) is the surface point at u = c / (size - 1), v = 1 - r / (size - 1). Only the P pixels that
    the mesh covers carry a point; `pixels` lists them in reading order. The points can be made from vertices (a sparse
    gather) or, faster, straight from coefficients: one matrix product with the basis sampled into UV space.

    Args:
        model: the morphable model whose UV layout, topology and basis are used.
        size: side of the map in pixels.
    """

    pixels: Int[Tensor, "points"]
    corners: Int[Tensor, "points 3"]
    barycentric: Float[Tensor, "points 3"]
    mirror: Int[Tensor, "points"]
    vertex_points: Int[Tensor, "vertices 4"]
    vertex_weights: Float[Tensor, "vertices 4"]
    mean_blocks: Float[Tensor, "blocks xyz_of_block"]
    basis_blocks: Float[Tensor, "blocks coefficients xyz_of_block"]
    centre_mean: Float[Tensor, "3"]
    centre_basis: Float[Tensor, "3 coefficients"]

    def __init__(self, model: MorphableModel, size: int) -> None:
        super().__init__()
        self.size = size
        grid = uv_to_pixels(model.uv, size)
        pixels, triangle, barycentric = rasterise_uv(grid, model.triangles, size)
        vertex_points, vertex_weights = _bilinear_points(grid, pixels, size)
        self._register("pixels", pixels)
        self._register("corners", model.triangles[triangle])
        self._register("barycentric", barycentric)
        self._register("mirror", _mirror_points(pixels, size))
        self._register("vertex_points", vertex_points)
        self._register("vertex_weights", vertex_weights)
        self._register("mean_blocks", _blocks(self.sample(model.mean[None])[0].mT[None])[:, 0])
        self._register("basis_blocks", _blocks(self.sample(model.basis).permute(2, 0, 1)))
        # The mean of all vertices, which crop space takes as the origin of z, is linear in the coefficients too.
        self._register("centre_mean", model.mean.mean(0))
        self._register("centre_basis", model.basis.mean(1))

    def _register(self, name: str, value: Tensor) -> None:
        # Derived from the morphable model, so checkpoints do not repeat it.
        self.register_buffer(name, value, persistent=False)

    @property
    def num_points(self) -> int:
        """P, the covered pixels."""
        return len(self.pixels)

    def sample(self, vertices: Float[Tensor, "batch vertices channels"]) -> Float[Tensor, "batch points channels"]:
        """Vertices (or anything given per vertex) to the covered pixels, by barycentric interpolation."""
        return (vertices[:, self.corners] * self.barycentric[..., None]).sum(2)

    @full_precision
    def project(
        self, coefficients: Float[Tensor, "batch coefficients"], camera: Float[Tensor, "batch 3 4"]
    ) -> Float[Tensor, "batch points 3"]:
        """Points of faces in crop space, straight from coefficients (identity then expression) and cameras.

        z is relative to the mean of the face's vertices; a mirroring camera gives the mirrored face, as in
        `MorphableModel.project`.
        """
        centre = self.centre_mean + coefficients @ self.centre_basis.T
        depth_of_centre = (camera[:, 2:, :3] @ centre[..., None]).squeeze(-1)
        camera = torch.cat(
            [camera[:, :, :3], torch.cat([camera[:, :2, 3], -depth_of_centre], dim=1)[..., None]], dim=-1
        )
        points = coefficients.new_empty(len(coefficients), 3, len(self.mean_blocks) * BLOCK)
        blocks = zip(points.split(BLOCK, dim=-1), self.mean_blocks, self.basis_blocks, strict=True)
        for block, mean, basis in blocks:
            faces = torch.addmm(mean, coefficients, basis).unflatten(-1, (3, -1))
            block.copy_(torch.baddbmm(camera[:, :, 3:], camera[:, :, :3], faces))
        return mirror_points(points[..., : self.num_points].mT, is_mirrored(camera), self.mirror)

    def to_map(self, points: Float[Tensor, "batch points channels"]) -> Float[Tensor, "batch channels size size"]:
        """Points laid out as an image; pixels that the mesh does not cover are zero."""
        image = points.new_zeros(len(points), points.shape[-1], self.size * self.size)
        return image.index_copy(2, self.pixels, points.mT).unflatten(-1, (self.size, self.size))

    def from_map(self, image: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch points channels"]:
        """The covered pixels of a map, in the order of `pixels`."""
        return image.flatten(2).index_select(2, self.pixels).mT

    def to_vertices(self, points: Float[Tensor, "batch points channels"]) -> Float[Tensor, "batch vertices channels"]:
        """Points back to vertices, by bilinear interpolation at each vertex's UV among the covered pixels."""
        return (points[:, self.vertex_points] * self.vertex_weights[..., None]).sum(2)


def _blocks(values: Float[Tensor, "rows 3 points"]) -> Float[Tensor, "blocks rows xyz_of_block"]:
    """Points cut into blocks that stay in the processor's cache between the product and the camera."""
    blocks = -(-values.shape[-1] // BLOCK)
    padded = torch.nn.functional.pad(values, (0, blocks * BLOCK - values.shape[-1]))
    return padded.unflatten(-1, (blocks, BLOCK)).permute(2, 0, 1, 3).flatten(2).contiguous()


def uv_to_pixels(uv: Float[Tensor, "vertices 2"], size: int) -> Float[Tensor, "vertices 2"]:
    """UV coordinates (v up) as (column, row) of a size x size map, pixel centres at integers."""
    return torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=1) * (size - 1)


def rasterise_uv(
    grid: Float[Tensor, "vertices 2"], triangles: Int[Tensor, "triangles 3"], size: int
) -> tuple[Int[Tensor, "points"], Int[Tensor, "points"], Float[Tensor, "points 3"]]:
    """Covered pixels, the triangle that covers each and the barycentric coordinates in it.

    Every triangle is paired with the pixels of its bounding box in one flat list, and the pairs that lie inside are
    kept. A pixel on a shared edge goes to the lower triangle index.
    """
    corners = grid.double()[triangles]
    low = corners.amin(1).ceil().long().clamp(0, size - 1)
    high = corners.amax(1).floor().long().clamp(0, size - 1)
    extent = (high - low + 1).clamp(min=0)
    count = extent.prod(1)
    triangle = torch.arange(len(triangles), device=grid.device).repeat_interleave(count)
    within = torch.arange(len(triangle), device=grid.device) - (count.cumsum(0) - count)[triangle]
    column = low[triangle, 0] + within % extent[triangle, 0]
    row = low[triangle, 1] + within // extent[triangle, 0]
    barycentric = _barycentric(torch.stack([column, row], dim=1).double(), corners[triangle])
    inside = (barycentric >= -1e-9).all(1)
    pixel, triangle, barycentric = (row * size + column)[inside], triangle[inside], barycentric[inside]
    first = torch.full((size * size,), len(triangles), device=grid.device).scatter_reduce(0, pixel, triangle, "amin")
    chosen = triangle == first[pixel]
    pixel, triangle, barycentric = pixel[chosen], triangle[chosen], barycentric[chosen]
    order = pixel.argsort()
    return pixel[order], triangle[order], barycentric[order].float()


def _barycentric(points: Float[Tensor, "points 2"], corners: Float[Tensor, "points 3 2"]) -> Float[Tensor, "points 3"]:
    """Barycentric coordinates of 2D points; a triangle without area gets NaN, which is inside nothing."""
    a, b, c = (corners - points[:, None]).unbind(1)

    def cross(p: Tensor, q: Tensor) -> Tensor:
        return p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]

    areas = torch.stack([cross(b, c), cross(c, a), cross(a, b)], dim=1)
    return areas / areas.sum(1, keepdim=True)


def _bilinear_points(
    grid: Float[Tensor, "vertices 2"], pixels: Int[Tensor, "points"], size: int
) -> tuple[Int[Tensor, "vertices 4"], Float[Tensor, "vertices 4"]]:
    """For each vertex the points of the four pixels around it and their weights; uncovered pixels weigh nothing, and a
    vertex with none around it takes the nearest covered pixel."""
    point_of_pixel = torch.full((size * size,), -1, device=grid.device)
    point_of_pixel[pixels] = torch.arange(len(pixels), device=grid.device)
    base = grid.floor().clamp(0, max(size - 2, 0))
    fraction = grid - base
    offsets = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=grid.device)
    weights = torch.where(offsets[None] == 1, fraction[:, None], 1 - fraction[:, None]).prod(-1)
    neighbours = base.long()[:, None] + offsets
    points = point_of_pixel[neighbours[..., 1] * size + neighbours[..., 0]]
    weights = torch.where(points >= 0, weights, 0)
    lost = weights.sum(1) < 1e-6
    covered = torch.stack([pixels % size, pixels // size], dim=1).float()
    nearest = torch.cdist(grid[lost], covered).argmin(1) if lost.any() else points.new_zeros(0)
    points[lost, 0], weights[lost, 0] = nearest, 1.0
    return points.clamp(min=0), weights / weights.sum(1, keepdim=True)


def _mirror_points(pixels: Int[Tensor, "points"], size: int) -> Int[Tensor, "points"]:
    """The point in the mirrored column of each covered pixel; itself where the mesh leaves that pixel open."""
    point_of_pixel = torch.full((size * size,), -1, device=pixels.device)
    itself = torch.arange(len(pixels), device=pixels.device)
    point_of_pixel[pixels] = itself
    mirrored = point_of_pixel[(pixels // size) * size + (size - 1 - pixels % size)]
    return torch.where(mirrored >= 0, mirrored, itself)
