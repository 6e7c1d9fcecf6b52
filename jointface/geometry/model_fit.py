"""Fits a morphable model to a scanned surface in order to locate its landmarks, which scans do not label."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from jointface.errors import DataError

FIT_RADIUS = 95.0  # mm around the nose tip: brows, eyes, nose, mouth, cheeks and chin
FIT_POINTS = 3000  # approximate number of model vertices used
ROUNDS = 30
FIRST_REACH, LAST_REACH = 25.0, 10.0  # mm: largest distance between counterparts, in the first round and from the sixth
STEP = 3.0  # mm by which the reach shrinks in each round
PRECISION = 1e-5  # stop when a step is smaller, in radians, millimetres and scale
PRIOR = 0.01  # variance of the distances / variance of the vertex motion due to a coefficient
MIN_SHARE = 0.1  # smallest share of the model's points that must have a counterpart

Array = Float64[np.ndarray, "..."]


class _Face(NamedTuple):
    """A face x = A (mean + basis c) + t in the surface's space."""

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
    """Fits a morphable model to a surface and returns the fitted vertices in the surface's space.

    Non-rigid ICP (Amberg, Knothe, Vetter, "Expression invariant 3D face recognition with a morphable model", FG 2008):
    each round finds the surface point nearest to each vertex, then updates pose, scale and identity coefficients by
    linearised least squares of the distances along the surface normals. Coefficients are penalised by how far they
    move the face, so that a hole or a beard does not distort it.

    Args:
        points, normals: of the surface, in millimetres; unit normals, or zero where a point has none.
        mean, basis: in millimetres, relative to the mean face's nose tip; vertices within 95 mm of it are fitted.
        start: rigid motion from the mean face's space to the surface's; at most about 10 mm and 10 degrees off.

    Raises:
        DataError: fewer than a tenth of the vertices to fit have a counterpart.
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
            raise DataError(f"only {found.sum()} of {len(found)} vertices of the mean face have a scan point nearby")
        target, along = surface[nearest[found]], upright[nearest[found]]
        face, step = _gauss_newton_step(face, moved[found], some_basis[found], target, along)
        if step < PRECISION:
            break
    return torch.from_numpy(face.points(all_mean, all_basis)).float()


def _gauss_newton_step(face: _Face, moved: Array, basis: Array, target: Array, normals: Array) -> tuple[_Face, float]:
    """Makes a Gauss-Newton step; returns the new face and the largest change in pose and scale."""
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
