"""Alignment of points and surfaces, and distances between surfaces with different topologies.

All computations are in float64. A motion is a (3, 4) affine map.
"""

from typing import NamedTuple

import numpy as np
import roma
import small_gicp
import torch
from jaxtyping import Float, Float64
from scipy.spatial import KDTree
from torch import Tensor

ICP_POINTS = 5000  # approximate number of target points; more change the result by hundredths of a millimetre
ICP_REACH = 20.0  # mm, the largest distance between corresponding points
ICP_ROUNDS = 50
ICP_PRECISION = 1e-6  # stop when the scale changes less: 0.1 µm at the border of the face
NEIGHBOURS = 10  # number of points used to estimate a tangent plane

Points = Float[Tensor, "*#batch points 3"]
Motion = Float[Tensor, "*#batch 3 4"]
Array = Float64[np.ndarray, "points 3"]
Matrix = Float64[np.ndarray, "4 4"]


class SurfaceErrors(NamedTuple):
    """Distances from the points of one surface to another surface."""

    point_to_point: Float64[Tensor, "points"]  # to the nearest vertex of the other surface
    # From that vertex to the point's tangent plane: independent of how densely the other surface is sampled.
    point_to_plane: Float64[Tensor, "points"]


def fit_similarity(source: Points, target: Points) -> Float64[Tensor, "*batch 3 4"]:
    """The similarity (scale, rotation, shift; no reflection) that maps source to target with the least squared error
    (Umeyama, TPAMI 1991)."""
    rotation, shift, scale = roma.rigid_points_registration(source.double(), target.double(), compute_scaling=True)
    return torch.cat([scale[..., None, None] * rotation, shift[..., None]], dim=-1)


def fit_rigid(source: Points, target: Points) -> Float64[Tensor, "*batch 3 4"]:
    """Like `fit_similarity`, without scale."""
    rotation, shift = roma.rigid_points_registration(source.double(), target.double())
    return torch.cat([rotation, shift[..., None]], dim=-1)


def move(motion: Motion, points: Points) -> Tensor:
    """Applies a motion to points; returns (*batch, points, 3)."""
    return points.double() @ motion[..., :3].double().mT + motion[..., 3].double().unsqueeze(-2)


def refine_by_icp(
    source: Float[Tensor, "vertices 3"], target: Float[Tensor, "points 3"], start: Float[Tensor, "3 4"]
) -> Float64[Tensor, "3 4"]:
    """Refines the similarity `start` so that source aligns with target, by iterative closest points.

    Each round finds rotation and shift by generalized ICP (Segal, Haehnel, Thrun, RSS 2009, in small_gicp), then the
    scale by linear least squares of the distances along the normals. Plane-to-plane distances let the surfaces slide
    over each other; with point-to-point distances, dense vertices lock in place half a millimetre off.

    Target points are matched to source vertices, not the reverse: a predicted face extends beyond a cropped scan, and
    its vertices without a counterpart would shrink it.

    Args:
        source: in any unit; must cover the target. target: in millimetres.
        start: from the source's space to the target's; at most about 10 degrees, 10 mm and 10 % off.
    """
    vertices = move(start, source).numpy()
    points = target.double()[:: -(-len(target) // ICP_POINTS)].numpy()
    surface, tree = _cloud(vertices)
    normals, neighbours = surface.normals()[:, :3], KDTree(vertices)
    motion = np.eye(4)  # from the points to the vertices
    for _ in range(ICP_ROUNDS):
        moved = _moved(motion, points)
        rigid = small_gicp.align(
            surface, _cloud(moved)[0], tree, registration_type="GICP", max_correspondence_distance=ICP_REACH,
            num_threads=1,
        ).T_target_source  # fmt: skip
        moved = _moved(rigid, moved)
        nearest = neighbours.query(moved)[1]
        rescaling = _rescaling(moved, vertices[nearest], normals[nearest])
        motion = rescaling @ rigid @ motion
        if abs(rescaling[0, 0] - 1) < ICP_PRECISION:
            break
    inverse = torch.from_numpy(np.linalg.inv(motion))
    return inverse[:3] @ torch.cat([start.double(), inverse.new_tensor([[0, 0, 0, 1]])])


def _cloud(points: Array) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
    cloud = small_gicp.PointCloud(points)
    tree = small_gicp.KdTree(cloud, num_threads=1)
    small_gicp.estimate_normals_covariances(cloud, tree, num_neighbors=NEIGHBOURS, num_threads=1)
    return cloud, tree


def _moved(motion: Matrix, points: Array) -> Array:
    return points @ motion[:3, :3].T + motion[:3, 3]


def _rescaling(points: Array, counterparts: Array, normals: Array) -> Matrix:
    """The scale and shift that bring points nearest to their counterparts' tangent planes."""
    centre = points.mean(0)
    outwards = ((points - centre) * normals).sum(1)
    distances = ((counterparts - points) * normals).sum(1)
    step, *_ = np.linalg.lstsq(np.column_stack([outwards, normals]), distances, rcond=None)
    # Bounded, so that a prediction that is not a face gets a large error instead of being mirrored.
    scale = np.clip(1 + step[0], 0.8, 1.25)
    motion = np.diag([scale, scale, scale, 1.0])
    motion[:3, 3] = (1 - scale) * centre + step[1:]
    return motion


def surface_errors(
    points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"], surface: Float[Tensor, "vertices 3"]
) -> SurfaceErrors:
    """Distances from points with unit normals to a surface given by its vertices."""
    points = points.double()
    distances, nearest = KDTree(surface.double().numpy()).query(points.numpy())
    offsets = surface.double()[torch.from_numpy(nearest)] - points
    return SurfaceErrors(torch.from_numpy(distances), (offsets * normals).sum(-1).abs())
