"""Alignment of predicted faces with scans as NoW and REALY define it; all in float64.

Sanyal, Bolkart, Feng, Black, "Learning to Regress 3D Face Shape and Expression from an Image without 3D Supervision",
CVPR 2019. Chai et al., "REALY: Rethinking the Evaluation of 3D Face Reconstruction", ECCV 2022. Constants are those of
the papers' programs, github.com/soubhiksanyal/now_evaluation and github.com/czh-98/REALY.
"""

import numpy as np
import scipy.sparse
import torch
from jaxtyping import Float, Float64, Int
from scipy.optimize import least_squares
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from jointface.geometry.closest_point import Surface
from jointface.metrics.alignment import fit_rigid, move

RIGID_ROUNDS, RIGID_PRECISION = 100, 1e-6
STIFFNESS, FIRST_STIFFNESS, KEYPOINT_WEIGHT = 50.0, 150.0, 50.0
MOST_STEPS = 11  # of non-rigid alignment at one stiffness

Points = Float[Tensor, "points 3"]
Keypoints = Float[Tensor, "keypoints 3"]
Motion = Float64[Tensor, "3 4"]
Array = Float64[np.ndarray, "..."]


def inverse(motion: Float[Tensor, "3 4"]) -> Motion:
    """The inverse of an affine map."""
    linear = torch.linalg.inv(motion[:, :3].double())
    return torch.cat([linear, -linear @ motion[:, 3:].double()], dim=1)


def align_with_scan(surface: Surface, scan: Points, start: Float[Tensor, "3 4"]) -> Motion:
    """NoW's refinement: the similarity near `start`, from the surface's space to the scan's, that minimises the sum of
    squared distances from each scan point to the surface."""
    points, centre = scan.double(), scan.double().mean(0)
    radius = (points - centre).norm(dim=1).max().item()
    start = start.double()
    seen: dict[bytes, tuple[Tensor, Tensor]] = {}  # the last offsets, which distances and derivatives share

    def motion(parameters: Array) -> Motion:
        scale, turn, shift = np.exp(parameters[0] / radius), parameters[1:4] / radius, parameters[4:]
        linear = torch.from_numpy(scale * Rotation.from_rotvec(turn).as_matrix())
        about = torch.cat([linear, (centre - linear @ centre + torch.from_numpy(shift))[:, None]], dim=1)
        return torch.cat([about[:, :3] @ start[:, :3], (about[:, :3] @ start[:, 3] + about[:, 3])[:, None]], dim=1)

    def offsets(parameters: Array) -> tuple[Tensor, Tensor]:
        """From the closest points to the scan's, and the closest points about the centre."""
        if parameters.tobytes() not in seen:
            seen.clear()
            total = motion(parameters)
            closest = move(total, surface.closest(move(inverse(total), points)))
            seen[parameters.tobytes()] = points - closest, closest - centre - torch.from_numpy(parameters[4:])
        return seen[parameters.tobytes()]

    def distances(parameters: Array) -> Array:
        return offsets(parameters)[0].norm(dim=1).numpy()

    def derivatives(parameters: Array) -> Array:
        offset, arm = offsets(parameters)
        direction = offset / offset.norm(dim=1, keepdim=True).clamp(min=1e-12)
        by_turn = -torch.linalg.cross(arm, direction) / radius
        by_scale = -(direction * arm).sum(1, keepdim=True) / radius
        return torch.cat([by_scale, by_turn, -direction], dim=1).numpy()

    return motion(least_squares(distances, np.zeros(7), derivatives, method="lm", ftol=1e-6, xtol=1e-6).x)


def closest_after_icp(surface: Surface, scan: Points, start: Float[Tensor, "3 4"]) -> Float64[Tensor, "points 3"]:
    """The nearest point to each scan point on the surface, aligned by `align_with_scan`; in the scan's space."""
    motion = align_with_scan(surface, scan, start)
    return move(motion, surface.closest(move(inverse(motion), scan)))


def align_region(
    surface: Surface, scan: Points, keypoints: Keypoints, true_keypoints: Keypoints, share: float = 1.0
) -> Motion:
    """REALY's regional alignment (rICP): the rigid motion of the surface towards a region of the scan and its
    keypoints, found by iterative closest points. `share`: the weight of all keypoints beside that of all scan
    points."""
    repeats = int(share * len(scan) / len(keypoints))
    target = torch.cat([scan, *[true_keypoints] * repeats]).double()
    total, before = torch.eye(3, 4).double(), 0.0
    for _ in range(RIGID_ROUNDS + 1):
        closest = move(total, surface.closest(move(inverse(total), scan)))
        source = torch.cat([closest, *[move(total, keypoints)] * repeats])
        step = fit_rigid(source, target)
        error = (move(step, source) - target).square().sum(1).mean().item()
        if abs(error - before) < RIGID_PRECISION:
            break
        before = error
        total = torch.cat([step[:, :3] @ total[:, :3], (step[:, :3] @ total[:, 3] + step[:, 3])[:, None]], dim=1)
    return total


def deform(
    scan: Points,
    triangles: Int[Tensor, "triangles 3"],
    target: Points,
    keypoints: Int[np.ndarray, "keypoints"] | None = None,
    keypoint_targets: Keypoints | None = None,
) -> Float64[Tensor, "points 3"]:
    """REALY's non-rigid alignment (bICP): deforms a region of the scan towards `target`, points of the prediction.

    Optimal step non-rigid ICP (Amberg, Romdhani, Vetter, CVPR 2007) with falling stiffness. With keypoints, indices of
    scan points, a first stiff step brings only these to their targets, and they keep a fading weight.
    """
    points = scan.double().numpy()
    edges = np.unique(np.sort(triangles.numpy()[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1), axis=0)
    rows = np.repeat(np.arange(len(edges)), 2)
    signs = np.tile([1.0, -1.0], len(edges))
    incidence = scipy.sparse.csr_matrix((signs, (rows, edges.ravel())), shape=(len(edges), len(points)))
    stiff = scipy.sparse.kron(incidence.T @ incidence, np.eye(4)).tocsc()
    tree, goal, count = KDTree(target.double().numpy()), target.double().numpy(), 0
    if keypoints is not None:
        assert keypoint_targets is not None
        first = scipy.sparse.kron(incidence.T @ incidence, np.diag([2.0, 2.0, 3.0, 2.0]) ** 2).tocsc()
        weights, wanted = np.zeros(len(points)), np.zeros_like(points)
        weights[keypoints], wanted[keypoints] = KEYPOINT_WEIGHT**2, keypoint_targets.double().numpy()
        points = _solved(points, FIRST_STIFFNESS**2 * first, weights, weights[:, None] * wanted)
        count = 1
    for stage in range(3):
        affine = np.ones((4 * len(points), 3))
        before, steps = np.zeros_like(affine), 0
        while np.linalg.norm(affine - before) > 0.5**stage and (keypoints is None or steps < MOST_STEPS):
            before = affine
            distances, nearest = tree.query(points)
            weights = (distances < max(2 * distances.mean(), 1.0)).astype(float)
            right = weights[:, None] * goal[nearest]
            if keypoints is not None:
                assert keypoint_targets is not None
                weight = (KEYPOINT_WEIGHT * np.exp(-0.9 * count) / 10) ** 2
                weights[keypoints] += weight
                right[keypoints] += weight * keypoint_targets.double().numpy()
            stiffness = (STIFFNESS * np.exp(-0.5 * stage)) ** 2
            affine = _affine(points, stiffness * stiff, weights, right)
            points = _applied(points, affine)
            count, steps = count + 1, steps + 1
    return torch.from_numpy(points)


def _solved(points: Array, stiff: scipy.sparse.csc_matrix, weights: Array, right: Array) -> Array:
    return _applied(points, _affine(points, stiff, weights, right))


def _affine(points: Array, stiff: scipy.sparse.csc_matrix, weights: Array, right: Array) -> Array:
    """The affine map (4, 3) of each point, one below the other, of the weighted least squares."""
    homogeneous = np.column_stack([points, np.ones(len(points))])
    blocks = weights[:, None, None] * homogeneous[:, :, None] * homogeneous[:, None, :]
    data = scipy.sparse.bsr_matrix((blocks, np.arange(len(points)), np.arange(len(points) + 1))).tocsc()
    ridge = 1e-9 * scipy.sparse.eye(data.shape[0], format="csc")  # for points without triangle
    wanted = (homogeneous[:, :, None] * right[:, None, :]).reshape(-1, 3)
    factors = splu((stiff + data + ridge).tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return factors.solve(wanted)


def _applied(points: Array, affine: Array) -> Array:
    homogeneous = np.column_stack([points, np.ones(len(points))])
    return np.einsum("ph,phx->px", homogeneous, affine.reshape(len(points), 4, 3))
