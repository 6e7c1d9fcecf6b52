"""UV position maps (PRNet; Feng et al., ECCV 2018): the points of a face stored as an image over UV coordinates."""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jointface.geometry.camera import is_mirrored
from jointface.geometry.full_precision import full_precision
from jointface.geometry.morphable_model import MorphableModel, mirror_points

BLOCK = 2048  # points per block, so that matrix product and projection stay in the CPU cache

Pixels = Int[Tensor, "points"]
Grid = Float[Tensor, "vertices 2"]


class UVLayout(nn.Module):
    """The surface points at the pixels of a size x size map over the model's UV layout.

    Pixel (row r, column c) is the surface point at u = c / (size - 1), v = 1 - r / (size - 1). Only the P pixels that
    the mesh covers hold a point; `pixels` lists them in reading order.
    """

    def __init__(self, model: MorphableModel, size: int) -> None:
        super().__init__()
        self.size = size
        pixels, triangle, barycentric = rasterise_uv(uv_to_pixels(model.uv, size), model.triangles, size)
        derived = partial(nn.Buffer, persistent=False)  # not in checkpoints: follows from the morphable model
        self.pixels: Pixels = derived(pixels)
        self.corners: Int[Tensor, "points 3"] = derived(model.triangles[triangle])
        self.barycentric: Float[Tensor, "points 3"] = derived(barycentric)

    def sample(self, vertices: Float[Tensor, "batch vertices channels"]) -> Float[Tensor, "batch points channels"]:
        """Interpolates per-vertex values at the covered pixels."""
        return (vertices[:, self.corners] * self.barycentric[..., None]).sum(2)


class PositionMap(UVLayout):
    """Converts between vertices and a size x size map over the model's UV layout.

    Points are interpolated from vertices or, faster, computed from coefficients with a basis that was sampled in UV
    space beforehand.
    """

    def __init__(self, model: MorphableModel, size: int) -> None:
        super().__init__(model, size)
        grid, pixels = uv_to_pixels(model.uv, size), self.pixels
        point_at = torch.full((size * size,), -1, device=grid.device)  # -1: not covered by the mesh
        point_at[pixels] = torch.arange(len(pixels), device=grid.device)
        mirrored = point_at.unflatten(0, (size, size)).flip(1).flatten()[pixels]
        vertex_points, vertex_weights = _bilinear_points(grid, pixels, point_at, size)
        derived = partial(nn.Buffer, persistent=False)
        # A pixel whose mirror image is not covered is its own counterpart.
        self.mirror: Int[Tensor, "points"] = derived(torch.where(mirrored >= 0, mirrored, point_at[pixels]))
        self.vertex_points: Int[Tensor, "vertices 4"] = derived(vertex_points)
        self.vertex_weights: Float[Tensor, "vertices 4"] = derived(vertex_weights)
        self.mean_blocks = derived(_blocks(self.sample(model.mean[None])[0].mT[None])[:, 0])
        self.basis_blocks = derived(_blocks(self.sample(model.basis).permute(2, 0, 1)))
        # The mean of all vertices, where crop space has z = 0, is linear in the coefficients too.
        self.centre_mean, self.centre_basis = derived(model.mean.mean(0)), derived(model.basis.mean(1))

    @full_precision
    def project(
        self, coefficients: Float[Tensor, "batch coefficients"], camera: Float[Tensor, "batch 3 4"]
    ) -> Float[Tensor, "batch points 3"]:
        """Computes points in crop space from coefficients (identity, then expression) and cameras.

        z is relative to the mean of the face's vertices. Mirroring cameras are handled as in `MorphableModel.project`.
        """
        centre = self.centre_mean + coefficients @ self.centre_basis.T
        camera = camera.clone()
        camera[:, 2:, 3] = -(camera[:, 2:, :3] @ centre[..., None]).squeeze(-1)
        points = coefficients.new_empty(len(coefficients), 3, len(self.mean_blocks) * BLOCK)
        for block, mean, basis in zip(points.split(BLOCK, dim=-1), self.mean_blocks, self.basis_blocks, strict=True):
            faces = torch.addmm(mean, coefficients, basis).unflatten(-1, (3, -1))
            block.copy_(torch.baddbmm(camera[:, :, 3:], camera[:, :, :3], faces))
        return mirror_points(points[..., : len(self.pixels)].mT, is_mirrored(camera), self.mirror)

    def from_map(self, image: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch points channels"]:
        """Extracts the covered pixels of a map."""
        return image.flatten(2).index_select(2, self.pixels).mT

    def to_vertices(self, points: Float[Tensor, "batch points channels"]) -> Float[Tensor, "batch vertices channels"]:
        """Interpolates points bilinearly at the vertices, from the covered pixels around each vertex's UV."""
        return (points[:, self.vertex_points] * self.vertex_weights[..., None]).sum(2)


def _blocks(values: Float[Tensor, "rows 3 points"]) -> Float[Tensor, "blocks rows xyz_of_block"]:
    """Splits points into blocks of BLOCK points and pads the last one."""
    blocks = -(-values.shape[-1] // BLOCK)
    padded = torch.nn.functional.pad(values, (0, blocks * BLOCK - values.shape[-1]))
    return padded.unflatten(-1, (blocks, BLOCK)).permute(2, 0, 1, 3).flatten(2).contiguous()


def uv_to_pixels(uv: Grid, size: int) -> Grid:
    """Converts UV coordinates (v upwards) to (column, row) in a size x size map with pixel centres at integers."""
    return torch.stack([uv[:, 0], 1 - uv[:, 1]], dim=1) * (size - 1)


def rasterise_uv(
    grid: Grid, triangles: Int[Tensor, "triangles 3"], size: int
) -> tuple[Pixels, Pixels, Float[Tensor, "points 3"]]:
    """Covered pixels in reading order, the triangle that covers each, and the barycentric coordinates in it.

    All triangles are paired with the pixels of their bounding boxes in one flat list. A pixel on a shared edge goes to
    the triangle with the lower index. (The z-buffer in `rasteriser` would have to compile its kernels first.)
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
    a, b, c = (corners[triangle] - torch.stack([column, row], dim=1)[:, None]).unbind(1)
    areas = torch.stack([p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0] for p, q in ((b, c), (c, a), (a, b))], dim=1)
    barycentric = areas / areas.sum(1, keepdim=True)  # NaN, and so not inside, if a triangle has no area
    inside = (barycentric >= -1e-9).all(1).nonzero().squeeze(1)
    pixel, order = (row * size + column)[inside].sort(stable=True)  # stable: keeps triangle order within a pixel
    chosen = inside[order[pixel.diff(prepend=pixel.new_tensor([-1])) > 0]]
    return (row * size + column)[chosen], triangle[chosen], barycentric[chosen].float()


def _bilinear_points(
    grid: Grid, pixels: Pixels, point_at: Int[Tensor, "pixels"], size: int
) -> tuple[Int[Tensor, "vertices 4"], Float[Tensor, "vertices 4"]]:
    """For each vertex, the points of the four pixels around it and their bilinear weights. Uncovered pixels have weight
    0; a vertex without a covered pixel takes the nearest covered one."""
    base = grid.floor().clamp(0, max(size - 2, 0))
    fraction = grid - base
    offsets = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=grid.device)
    weights = torch.where(offsets[None] == 1, fraction[:, None], 1 - fraction[:, None]).prod(-1)
    neighbours = base.long()[:, None] + offsets
    points = point_at[neighbours[..., 1] * size + neighbours[..., 0]]
    weights = torch.where(points >= 0, weights, 0)
    lost = weights.sum(1) < 1e-6
    covered = torch.stack([pixels % size, pixels // size], dim=1).float()
    nearest = torch.cdist(grid[lost], covered).argmin(1) if lost.any() else points.new_zeros(0)
    points[lost, 0], weights[lost, 0] = nearest, 1.0
    return points.clamp(min=0), weights / weights.sum(1, keepdim=True)
