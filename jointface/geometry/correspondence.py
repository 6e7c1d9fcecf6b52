"""Dense correspondence between two morphable models: where each vertex of one lies on the surface of the other."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import roma
import scipy.sparse
import torch
import trimesh
from filelock import FileLock
from jaxtyping import Bool, Float, Float64, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from scipy.interpolate import RBFInterpolator
from scipy.sparse.linalg import splu
from scipy.spatial import KDTree
from torch import Tensor

from jointface.errors import DataError
from jointface.files import cache_folder, write_atomically
from jointface.geometry.mesh import vertex_normals
from jointface.geometry.morphable_model import MorphableModel
from jointface.geometry.regions import NECK

FORMAT = 1  # version of the cached file and of how it is computed, part of its name
EYE_CORNERS = (36, 45)  # the outer ones
EYE_DISTANCE = 90.0  # mm between them on every mean face: models come in different units
STIFFNESS = (100.0, 30.0, 10.0, 3.0, 1.0)  # of the registration, beside the weight 1 of a vertex, from coarse to fine
ROUNDS = 3  # at each stiffness
LANDMARK_WEIGHT = 10.0
REACH = 10.0  # mm: a vertex further from the other surface does not pull
AGREEMENT = 2.0  # mm: a vertex further from the other surface, after the registration, has no counterpart
FACING = 0.5  # cosine between the normals of counterparts, at least
CANDIDATES = 24  # triangles among which the closest point is searched
NORMAL = 10.0  # mm: a candidate counts as this much further away if its normal is perpendicular

Points = Float64[np.ndarray, "points 3"]


class Correspondence(NamedTuple):
    """For each of V vertices a point of another mesh.

    corners, weights: three vertices of the other mesh, and their weights, which sum to 1. mask: whether the vertex has
    a counterpart; without one, its corners and weights mean nothing.
    """

    corners: Int[Tensor, "vertices 3"]
    weights: Float[Tensor, "vertices 3"]
    mask: Bool[Tensor, "vertices"]

    def carry(self, values: Float[Tensor, "*batch others channels"]) -> Float[Tensor, "*batch vertices channels"]:
        """Interpolates values of the other mesh's vertices at the counterparts."""
        return (values[..., self.corners, :] * self.weights[..., None]).sum(-2)


def correspondence(model: MorphableModel, other: MorphableModel, cache_dir: Path | None = None) -> Correspondence:
    """Where the vertices of `model`'s face region lie on the surface of `other`, see `register`.

    Takes seconds, so the result is kept in `cache_dir`, by default `cache_folder()`, under the hashes of both models.

    Raises:
        DataError: the kept file is damaged, or the folder is not writable.
    """
    folder = cache_folder() if cache_dir is None else cache_dir
    hashes = "-".join(one.content_hash()[:16] for one in (model, other))
    path = folder / f"correspondence-{hashes}-{FORMAT}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                write_atomically(path, save(register(model, other)._asdict()))
        return Correspondence(**load_file(path))
    except OSError as error:
        raise DataError(
            f"{folder}: cannot keep the correspondence of morphable models there ({error.strerror}); set "
            "XDG_CACHE_HOME to a folder that can be written to"
        ) from error
    except (SafetensorError, TypeError) as error:
        raise DataError(f"{path}: not a whole file ({error}); delete it, and it is made anew") from error


def carry_model(model: MorphableModel, onto: MorphableModel, found: Correspondence | None = None) -> MorphableModel:
    """`model` on the vertices of `onto`: coefficients and space are those of `model`, the topology is that of `onto`.

    Vertices without a counterpart stay at the origin and belong to no triangle. Their region is NECK, which no error
    counts.

    Args:
        found: where the vertices of `onto` lie on `model`; None takes `correspondence`.
    """
    found = correspondence(onto, model) if found is None else found
    mean, basis = (found.carry(values) * found.mask[:, None] for values in (model.mean.cpu(), model.basis.cpu()))
    basis = basis.transpose(0, 1)
    return MorphableModel(
        f"{model.name} on {onto.name}",
        mean=mean,
        shape_basis=basis[..., : model.num_shape],
        expression_basis=basis[..., model.num_shape :],
        triangles=onto.triangles.cpu()[found.mask[onto.triangles.cpu()].all(1)],
        uv=onto.uv.cpu(),
        landmarks68=onto.landmarks68.cpu(),
        mirror=onto.mirror.cpu(),
        regions=torch.where(found.mask, onto.regions.cpu(), NECK),
    )


def register(model: MorphableModel, other: MorphableModel) -> Correspondence:
    """Registers two mean faces and reads off the counterpart of each vertex of `model`.

    The mesh with fewer vertices is brought onto the other one, so that both directions agree. Landmarks correspond to
    landmarks. A vertex has no counterpart outside the face region, where the other mesh ends, where the registered
    surfaces are 2 mm apart or face elsewhere, and where its mirror vertex has none.
    """
    if len(model.mean) <= len(other.mean):
        points, surface = _registered(model, other), _Surface(_millimetres(other), other)
    else:
        points, surface = _millimetres(model), _Surface(_registered(other, model), other)
    rows = model.face_region.nonzero()[:, 0].cpu()
    found = surface.closest(points[rows], _normals(points, model)[rows])
    corners, weights = torch.zeros(len(points), 3, dtype=torch.long), torch.zeros(len(points), 3)
    mask = torch.zeros(len(points), dtype=torch.bool)
    corners[rows], weights[rows] = torch.from_numpy(found.corners), torch.from_numpy(found.weights).float()
    mask[rows] = torch.from_numpy(found.agrees(AGREEMENT))
    landmarks = model.landmarks68.cpu()
    corners[landmarks] = other.landmarks68.cpu()[:, None]
    weights[landmarks], mask[landmarks] = torch.tensor([1.0, 0.0, 0.0]), True
    return Correspondence(corners, weights, mask & mask[model.mirror.cpu()])


def _registered(model: MorphableModel, other: MorphableModel) -> Points:
    """The mean face of `model` brought onto that of `other`, in millimetres.

    First by a similarity and a thin-plate spline through the 68 landmarks; then by iterative closest points with
    falling stiffness, as in Amberg, Romdhani, Vetter, CVPR 2007, but with displacements in place of affine maps: their
    Laplacian is small, so vertices that do not pull follow their neighbours.
    """
    start, goal = _millimetres(model), _millimetres(other)
    marks, targets = model.landmarks68.cpu().numpy(), goal[other.landmarks68.cpu().numpy()]
    rotation, shift, scale = roma.rigid_points_registration(
        torch.from_numpy(start[marks]), torch.from_numpy(targets), compute_scaling=True
    )
    start = scale.item() * start @ rotation.numpy().T + shift.numpy()
    start = start + RBFInterpolator(start[marks], targets - start[marks], smoothing=1.0)(start)
    surface, face = _Surface(goal, other), model.face_region.cpu().numpy()
    laplacian = _laplacian(model.triangles.cpu().numpy(), len(start))
    bending = laplacian.T @ laplacian
    points, wanted, weight = start, np.zeros_like(start), np.zeros(len(start))
    for stiffness in np.repeat(STIFFNESS, ROUNDS):
        found = surface.closest(points[face], _normals(points, model)[face])
        wanted[face], weight[face] = found.points - start[face], found.agrees(REACH)
        wanted[marks], weight[marks] = targets - start[marks], LANDMARK_WEIGHT
        system = stiffness * bending + scipy.sparse.diags(weight + 1e-6)
        points = start + splu(system.tocsc()).solve(weight[:, None] * wanted)
    return points


def _millimetres(model: MorphableModel) -> Points:
    mean = model.mean.double().cpu()
    right, left = mean[model.landmarks68[list(EYE_CORNERS)].cpu()]
    return (mean * (EYE_DISTANCE / (right - left).norm())).numpy()


def _normals(points: Points, model: MorphableModel) -> Points:
    return vertex_normals(torch.from_numpy(points), model.triangles.cpu()).numpy()


def _laplacian(triangles: Int[np.ndarray, "triangles 3"], count: int) -> scipy.sparse.csr_matrix:
    """Maps values of vertices to their differences from the mean of the neighbours."""
    edges = triangles[:, [[0, 1], [1, 2], [2, 0], [1, 0], [2, 1], [0, 2]]].reshape(-1, 2).T
    adjacent = scipy.sparse.csr_matrix((np.ones(edges.shape[1]), edges), shape=(count, count)).sign()
    degree = np.asarray(adjacent.sum(1))[:, 0]
    return scipy.sparse.diags(degree.clip(max=1)) - scipy.sparse.diags(1 / degree.clip(min=1)) @ adjacent


class _Found(NamedTuple):
    """Closest points: the corners of their triangles and the weights, where they are, how far away, the cosine between
    the normals, and whether they lie on the border of the surface."""

    corners: Int[np.ndarray, "points 3"]
    weights: Points
    points: Points
    distance: Float64[np.ndarray, "points"]
    facing: Float64[np.ndarray, "points"]
    at_border: Bool[np.ndarray, "points"]

    def agrees(self, reach: float) -> Bool[np.ndarray, "points"]:
        return (self.distance < reach) & (self.facing > FACING) & ~self.at_border


class _Surface:
    """A mesh that is asked for its closest points. Normals count, so that the lips of a closed mouth stay apart."""

    def __init__(self, points: Points, model: MorphableModel) -> None:
        self.triangles = model.triangles.cpu().numpy()
        self.corners = points[self.triangles]
        self.normals = _normals(points, model)[self.triangles].mean(1)
        self.tree = KDTree(np.hstack([self.corners.mean(1), NORMAL * self.normals]))
        edges = np.sort(self.triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        edges, count = np.unique(edges, axis=0, return_counts=True)
        self.border = np.isin(np.arange(len(points)), edges[count == 1])

    def closest(self, points: Points, normals: Points) -> _Found:
        """The closest point to each point with this normal."""
        candidates = self.tree.query(np.hstack([points, NORMAL * normals]), min(CANDIDATES, len(self.corners)))[1]
        corners = self.corners[candidates]
        nearest = trimesh.triangles.closest_point(
            corners.reshape(-1, 3, 3), points.repeat(candidates.shape[1], axis=0)
        ).reshape(*candidates.shape, 3)
        distance = np.linalg.norm(nearest - points[:, None], axis=2)
        facing = (self.normals[candidates] * normals[:, None]).sum(2)
        best = np.arange(len(points)), (distance - NORMAL * facing).argmin(1)
        weights = trimesh.triangles.points_to_barycentric(corners[best], nearest[best]).clip(0, 1)
        rows = self.triangles[candidates[best]]
        at_border = (self.border[rows] | (weights < 1e-6)).all(1)
        return _Found(rows, weights, nearest[best], distance[best], facing[best], at_border)
