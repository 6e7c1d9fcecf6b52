"""Faces without a common topology: laying one surface on another, and how far apart they are then.

Everything is in float64. A motion is a (3, 4) affine map.
"""

from typing import NamedTuple

import numpy as np
import small_gicp
import torch
from jaxtyping import Float, Float64
from scipy.spatial import KDTree
from torch import Tensor

from jointface.metrics.pose import fit_similarity

ICP_POINTS = 5000  # of the target, about, that take part in ICP: more change its result by hundredths of a millimetre
ICP_REACH = 20.0  # mm between points that ICP takes for counterparts
ICP_ROUNDS = 50
ICP_PRECISION = 1e-6  # of the scale: 0.1 µm at the face's border
NEIGHBOURS = 10  # that a point's tangent plane is estimated from


class SurfaceErrors(NamedTuple):
    """Of each point of a surface, its distance to another surface.

    point_to_point: to the nearest vertex of the other. point_to_plane: that vertex' distance to the point's tangent
    plane, which does not depend on how densely the other surface is sampled.
    """

    point_to_point: Float64[Tensor, "points"]
    point_to_plane: Float64[Tensor, "points"]


def fit_rigid(
    source: Float[Tensor, "*#batch points 3"], target: Float[Tensor, "*#batch points 3"]
) -> Float64[Tensor, "*batch 3 4"]:
    """As `fit_similarity`, without scale: the best rotation is the same (Umeyama, TPAMI 1991)."""
    linear = fit_similarity(source, target)[..., :3]
    rotation = linear / torch.linalg.det(linear)[..., None, None] ** (1 / 3)
    shift = target.double().mean(-2, keepdim=True).mT - rotation @ source.double().mean(-2, keepdim=True).mT
    return torch.cat([rotation, shift], dim=-1)


def move(motion: Float[Tensor, "*#batch 3 4"], points: Float[Tensor, "*#batch points 3"]) -> Tensor:
    """The moved points (*batch, points, 3)."""
    return points.double() @ motion[..., :3].double().mT + motion[..., 3].double().unsqueeze(-2)


def refine_by_icp(
    source: Float[Tensor, "vertices 3"], target: Float[Tensor, "points 3"], start: Float[Tensor, "3 4"]
) -> Float64[Tensor, "3 4"]:
    """The similarity near `start` that lays a source on a target which it covers, by iterative closest points.

    Rotation and shift by generalized ICP (Segal, Haehnel, Thrun, RSS 2009; small_gicp's), in turn with the scale, by
    linear least squares of the distances along the normals. Distances between tangent planes let the surfaces slide
    over each other; with those between points (Besl and McKay, PAMI 1992) vertices that are laid out densely lock into
    each other half a millimetre off.

    Points of the target look for their nearest vertex of the source, not the reverse: a predicted face reaches beyond a
    cropped scan, and vertices out there, without a counterpart, would shrink it.

    Args:
        source: vertices, in any unit. target: points in millimetres.
        start: from the source's space to the target's; off by some 10 degrees, 10 mm and 10 % at most.
    """
    vertices = move(start, source).numpy()
    points = target.double()[:: -(-len(target) // ICP_POINTS)].numpy()
    surface, tree = _with_planes(vertices)
    normals, neighbours = surface.normals()[:, :3], KDTree(vertices)
    motion = np.eye(4)  # of the points to the vertices
    for _ in range(ICP_ROUNDS):
        moved = _moved(motion, points)
        rigid = small_gicp.align(
            surface, _with_planes(moved)[0], tree, registration_type="GICP", max_correspondence_distance=ICP_REACH,
            num_threads=1,
        ).T_target_source  # fmt: skip
        moved = _moved(rigid, moved)
        nearest = neighbours.query(moved)[1]
        growth = _growth(moved, vertices[nearest], normals[nearest])
        motion = growth @ rigid @ motion
        if abs(growth[0, 0] - 1) < ICP_PRECISION:
            break
    inverse = torch.from_numpy(np.linalg.inv(motion))
    return inverse[:3] @ torch.cat([start.double(), inverse.new_tensor([[0, 0, 0, 1]])])


def _with_planes(points: Float64[np.ndarray, "points 3"]) -> tuple[small_gicp.PointCloud, small_gicp.KdTree]:
    cloud = small_gicp.PointCloud(points)
    tree = small_gicp.KdTree(cloud, num_threads=1)
    small_gicp.estimate_normals_covariances(cloud, tree, num_neighbors=NEIGHBOURS, num_threads=1)
    return cloud, tree


def _moved(motion: Float64[np.ndarray, "4 4"], points: Float64[np.ndarray, "points 3"]) -> np.ndarray:
    return points @ motion[:3, :3].T + motion[:3, 3]


def _growth(
    points: Float64[np.ndarray, "points 3"],
    counterparts: Float64[np.ndarray, "points 3"],
    normals: Float64[np.ndarray, "points 3"],
) -> Float64[np.ndarray, "4 4"]:
    """The scale, and the shift that it entails, that bring points nearest to their counterparts' planes."""
    centre = points.mean(0)
    outwards = ((points - centre) * normals).sum(1)
    distances = ((counterparts - points) * normals).sum(1)
    step, *_ = np.linalg.lstsq(np.column_stack([outwards, normals]), distances, rcond=None)
    # Bounded, so that a prediction that is no face at all gives a large error, not a mirrored face.
    scale = np.clip(1 + step[0], 0.8, 1.25)
    motion = np.diag([scale, scale, scale, 1.0])
    motion[:3, 3] = (1 - scale) * centre + step[1:]
    return motion


def surface_errors(
    points: Float[Tensor, "points 3"], normals: Float[Tensor, "points 3"], surface: Float[Tensor, "vertices 3"]
) -> SurfaceErrors:
    """How far a surface, given by its vertices, is from points with unit normals."""
    points = points.double()
    distances, nearest = KDTree(surface.double().numpy()).query(points.numpy())
    offsets = surface.double()[torch.from_numpy(nearest)] - points
    return SurfaceErrors(torch.from_numpy(distances), (offsets * normals).sum(-1).abs())
