"""Fits a morphable model to the surface of a scan, to find the landmarks of the person, which a scan does not name."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from jointface.errors import DataError

FIT_RADIUS = 95.0  # mm around the nose tip: brows, eyes, nose, mouth, cheeks and chin
FIT_POINTS = 3000  # about how many vertices of the model are fitted
ROUNDS = 30
FIRST_REACH, LAST_REACH = 25.0, 10.0  # mm between counterparts, in the first round and from the sixth on
STEP = 3.0  # mm by which the reach shrinks in a round
PRECISION = 1e-5  # of the last step: radians, millimetres, and of the scale
PRIOR = 0.01  # variance of the distances over that of the motion by a coefficient
MIN_SHARE = 0.1  # of the model's points that must find the surface

Array = Float64[np.ndarray, "..."]


class _Face(NamedTuple):
    """Face x = A (mean + basis c) + t in the surface's space."""

    linear: Float64[np.ndarray, "3 3"]
    shift: Float64[np.ndarray, "3"]
    coefficients: Float64[np.ndarray, "coefficients"]

    def points(self, mean: Array, basis: Array) -> Float64[np.ndarray, "points 3"]:
        return (mean + basis @ self.coefficients) @ self.linear.T + self.shift


def fit_to_surface(
    points: Float[Tensor, "points 3"],
    normals: Float[Tensor, "points 3"],
    mean: Float[Tensor, "vertices 3"],
    basis: Float[Tensor, "vertices 3 coefficients"],
    start: Float[Tensor, "3 4"],
) -> Float[Tensor, "vertices 3"]:
    """The face of a morphable model that is nearest to a surface, in the surface's space.

    Fits pose, scale and identity coefficients in turn with the counterparts (Amberg, Knothe, Vetter, "Expression
    invariant 3D face recognition with a morphable model", FG 2008): each round finds the point of the surface nearest
    to each vertex, and solves the linearised least squares of the distances along the surface's normals. Coefficients
    are penalised by how far they move the face, so that a hole or a beard does not bend it.

    Args:
        points, normals: of the surface, in millimetres; unit normals, or zero where a point has none.
        mean, basis: in millimetres, relative to the mean face's nose tip; vertices within 95 mm of it are fitted.
        start: the rigid motion from there to the surface's space, off by some 10 mm and degrees at most.

    Raises:
        DataError: fewer than a tenth of those vertices have a counterpart.
    """
    near = (mean.norm(dim=1) < FIT_RADIUS).nonzero().flatten()
    near = near[:: max(1, len(near) // FIT_POINTS)]
    all_mean, all_basis = mean.double().numpy(), basis.double().numpy()
    some_mean, some_basis = all_mean[near], all_basis[near]
    surface = points[normals.any(1)].double().numpy()
    upright, tree = normals[normals.any(1)].double().numpy(), KDTree(surface)
    face = _Face(start[:, :3].double().numpy(), start[:, 3].double().numpy(), np.zeros(basis.shape[-1]))
    for number in range(ROUNDS):
        moved = face.points(some_mean, some_basis)
        distances, nearest = tree.query(moved)
        found = distances < max(LAST_REACH, FIRST_REACH - STEP * number)
        if found.mean() < MIN_SHARE:
            raise DataError(f"only {found.sum()} of {len(found)} vertices of the mean face come to lie on the scan")
        target, along = surface[nearest[found]], upright[nearest[found]]
        face, step = _improved(face, moved[found], some_basis[found], target, along)
        if step < PRECISION:
            break
    return torch.from_numpy(face.points(all_mean, all_basis)).float()


def _improved(face: _Face, moved: Array, basis: Array, target: Array, normals: Array) -> tuple[_Face, float]:
    """The face after a Gauss-Newton step, and the largest component of the step in pose and scale."""
    centre = moved.mean(0)
    arms = moved - centre
    by_shape = np.einsum("pi,ij,pjk->pk", normals, face.linear, basis, optimize=True)
    columns = np.column_stack([np.cross(arms, normals), normals, (arms * normals).sum(1), by_shape])
    prior = np.zeros(columns.shape[1])
    prior[7:] = PRIOR * (basis**2).sum((0, 1))
    held = prior * np.concatenate([np.zeros(7), face.coefficients])
    distances = ((target - moved) * normals).sum(1)
    step = np.linalg.solve(columns.T @ columns + np.diag(prior), columns.T @ distances - held)
    turn = (1 + step[6]) * Rotation.from_rotvec(step[:3]).as_matrix()
    shift = turn @ (face.shift - centre) + centre + step[3:6]
    return _Face(turn @ face.linear, shift, face.coefficients + step[7:]), float(np.abs(step[:7]).max())
