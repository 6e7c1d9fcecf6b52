"""Alignment of surfaces and their distances, in closed form and against an independent implementation."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from jointface.geometry import MorphableModel
from jointface.geometry.mesh import vertex_normals
from jointface.metrics.alignment import SurfaceErrors, fit_rigid, fit_similarity, move, refine_by_icp, surface_errors


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def similarity(scale: float, degrees: float, shift: tuple[float, float, float]) -> Tensor:
    """(3, 4), turning about a skew axis."""
    rotation = Rotation.from_rotvec(np.radians(degrees) * np.array([0.6, 0.64, 0.48])).as_matrix()
    return torch.cat([scale * torch.from_numpy(rotation), torch.tensor(shift)[:, None].double()], dim=1)


def inverse(motion: Tensor) -> Tensor:
    linear = torch.linalg.inv(motion[:, :3].double())
    return torch.cat([linear, -linear @ motion[:, 3:].double()], dim=1)


def bowl(side: int = 90, spacing: float = 2.0) -> tuple[Tensor, Tensor]:
    """Vertices in mm and triangles of a face-sized surface without symmetries, facing +z."""
    x, y = torch.meshgrid(*[torch.arange(side).double() * spacing - side * spacing / 2] * 2, indexing="ij")
    z = 60 - 0.006 * x**2 - 0.004 * y**2 + 20 * torch.exp(-((x - 8) ** 2 + y**2) / 300) + 4 * torch.sin(y / 15)
    corner = (torch.arange(side - 1)[:, None] * side + torch.arange(side - 1)).flatten()
    triangles = torch.cat(
        [
            torch.stack([corner, corner + side, corner + 1], 1),
            torch.stack([corner + side, corner + side + 1, corner + 1], 1),
        ]
    )
    return torch.stack([x, y, z], dim=-1).flatten(0, 1), triangles


def middle(vertices: Tensor, radius: float = 60.0) -> Tensor:
    """Which vertices a crop keeps."""
    return vertices[:, :2].norm(dim=1) < radius


def umeyama(source: np.ndarray, target: np.ndarray, with_scale: bool) -> np.ndarray:
    """Independent: rotation by SciPy, scale as the ratio that minimises the squared error."""
    a, b = source - source.mean(0), target - target.mean(0)
    rotation = Rotation.align_vectors(b, a)[0].as_matrix()
    scale = (b * (a @ rotation.T)).sum() / (a**2).sum() if with_scale else 1.0
    linear = scale * rotation
    return np.concatenate([linear, (target.mean(0) - linear @ source.mean(0))[:, None]], axis=1)


class Scanned(NamedTuple):
    """A surface, and the part of it that a scan shows."""

    vertices: Tensor
    triangles: Tensor
    kept: Tensor  # which vertices the scan has
    normals: Tensor  # of the whole surface

    @property
    def scan(self) -> Tensor:
        return self.vertices[self.kept]

    def errors(self, aligned: Tensor) -> SurfaceErrors:
        return surface_errors(self.scan, self.normals[self.kept], aligned)


@pytest.fixture(scope="module")
def scanned() -> Scanned:
    vertices, triangles = bowl()
    return Scanned(vertices, triangles, middle(vertices), vertex_normals(vertices, triangles))


def aligned(surface: Tensor, scan: Tensor) -> Tensor:
    """The surface laid on the scan by ICP, from where it is."""
    return move(refine_by_icp(surface, scan, torch.eye(3, 4)), surface)


@pytest.mark.parametrize("with_scale", [True, False])
def test_a_moved_copy_gives_its_motion(with_scale: bool) -> None:
    source = torch.randn(40, 3, generator=generator(), dtype=torch.float64)
    motion = similarity(2.5 if with_scale else 1.0, 130, (3.0, -4.0, 100.0))
    fitted = (fit_similarity if with_scale else fit_rigid)(source, move(motion, source))
    torch.testing.assert_close(fitted, motion, atol=1e-10, rtol=0)


@pytest.mark.parametrize("with_scale", [True, False])
def test_noisy_copies_are_fitted_as_by_an_independent_implementation(with_scale: bool) -> None:
    source = torch.randn(5, 30, 3, generator=generator())
    noise = 0.5 * torch.randn(5, 30, 3, generator=generator(1))
    target = move(similarity(3.0, 50, (1.0, 2.0, 3.0)), source).float() + noise
    fitted = (fit_similarity if with_scale else fit_rigid)(source, target)
    assert fitted.dtype == torch.float64
    for n in range(5):
        expected = umeyama(source[n].double().numpy(), target[n].double().numpy(), with_scale)
        np.testing.assert_allclose(fitted[n], expected, atol=1e-9)


def test_a_mirrored_copy_is_turned_and_never_mirrored() -> None:
    source = torch.randn(30, 3, generator=generator(), dtype=torch.float64)
    for fit in (fit_similarity, fit_rigid):
        assert torch.linalg.det(fit(source, source * torch.tensor([-1.0, 1, 1]))[:, :3]) > 0


def test_rigid_alignment_keeps_the_size() -> None:
    source = torch.randn(3, 30, 3, generator=generator())
    torch.testing.assert_close(
        torch.linalg.det(fit_rigid(source, 7 * source)[..., :3]), torch.ones(3, dtype=torch.float64)
    )


def test_normals_of_a_surface_are_those_of_its_formula() -> None:
    vertices, triangles = bowl(spacing=1.0)
    x, y, _ = vertices.unbind(1)
    bump = 20 * torch.exp(-((x - 8) ** 2 + y**2) / 300)
    slope_x, slope_y = (
        -0.012 * x - bump * (x - 8) / 150,
        -0.008 * y - bump * y / 150 + 4 / 15 * torch.cos(y / 15),
    )
    expected = torch.nn.functional.normalize(torch.stack([-slope_x, -slope_y, torch.ones_like(x)], 1), dim=1)
    inside = middle(vertices, 40)
    torch.testing.assert_close(vertex_normals(vertices, triangles)[inside], expected[inside], atol=3e-3, rtol=0)
    lonely = torch.cat([vertices, torch.zeros(1, 3)])
    assert not vertex_normals(lonely, triangles)[-1].any()


def test_distances_between_parallel_planes_are_known() -> None:
    """Grids of spacing 1, half a cell and 3 apart: sqrt(3^2 + 1/2) from vertex to vertex, 3 from plane to vertex."""
    grid = torch.cartesian_prod(torch.arange(20.0), torch.arange(20.0), torch.zeros(1))
    normals = torch.tensor([0.0, 0, 1]).expand(400, 3)
    errors = surface_errors(grid, normals, grid + torch.tensor([0.5, 0.5, -3.0]))
    torch.testing.assert_close(errors.point_to_plane, torch.full((400,), 3.0).double())
    inner = (grid[:, :2] > 0).all(1)
    torch.testing.assert_close(errors.point_to_point[inner], torch.full((int(inner.sum()),), math.sqrt(9.5)).double())


def test_distances_are_those_of_an_independent_implementation() -> None:
    points, surface = (50 * torch.rand(200, 3, generator=generator(n)) for n in range(2))
    normals = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator(2)), dim=1)
    errors = surface_errors(points, normals, surface)
    offsets = surface.double().numpy()[None] - points.double().numpy()[:, None]
    nearest = (offsets**2).sum(-1).argmin(1)
    between = offsets[np.arange(200), nearest]
    np.testing.assert_allclose(errors.point_to_point, np.sqrt((between**2).sum(1)))
    np.testing.assert_allclose(errors.point_to_plane, np.abs((between * normals.double().numpy()).sum(1)))


@pytest.mark.parametrize(("scale", "degrees", "shift"), [(1.0, 0.0, 0.0), (1.03, 5.0, 3.0), (0.93, 10.0, -5.0)])
def test_an_exact_copy_has_no_error(scanned: Scanned, scale: float, degrees: float, shift: float) -> None:
    moved = move(inverse(similarity(scale, degrees, (shift, -shift / 2, shift))), scanned.vertices)
    assert all(error.max() < 1e-3 for error in scanned.errors(aligned(moved, scanned.scan)))


def test_errors_do_not_depend_on_the_space_of_the_prediction(scanned: Scanned) -> None:
    """The same surface under similarities, turned and in other units, from the same start on the scan."""
    vertices = scanned.vertices
    other = vertices + torch.stack([torch.zeros(len(vertices))] * 2 + [1.5 * torch.sin(vertices[:, 0] / 12)], 1)
    means = []
    for scale, degrees in ((1.0, 0.0), (300.0, 170.0), (0.01, 80.0)):
        motion = similarity(scale, degrees, (10.0, 20.0, 30.0))
        start = fit_similarity(move(motion, vertices), move(similarity(1.02, 3, (1.0, 2.0, -1.0)), vertices))
        moved = move(motion, other)
        errors = scanned.errors(move(refine_by_icp(moved, scanned.scan, start), moved))
        means.append(torch.stack([error.mean() for error in errors]))
    assert means[0][1] > 0.3
    torch.testing.assert_close(torch.stack(means), means[0].expand(3, 2), rtol=1e-5, atol=0)


@pytest.mark.parametrize("sigma", [0.1, 0.5])
def test_noise_along_the_normals_is_the_error(scanned: Scanned, sigma: float) -> None:
    """Turned, scaled, shifted and noised by sigma: the point-to-plane RMSE is sigma within a few per cent."""
    noise = sigma * torch.randn(len(scanned.vertices), 1, generator=generator(), dtype=torch.float64)
    noised = scanned.vertices + noise * scanned.normals
    moved = move(inverse(similarity(1.02, 3, (2.0, -1.0, 1.0))), noised)
    errors = scanned.errors(aligned(moved, scanned.scan))
    assert errors.point_to_plane.square().mean().sqrt().item() == pytest.approx(sigma, rel=0.05)


def test_parts_of_the_face_beyond_the_scan_do_not_shrink_it(scanned: Scanned) -> None:
    scan = scanned.vertices[middle(scanned.vertices, 40)]
    moved = move(inverse(similarity(1.02, 3, (1.0, 1.0, 1.0))), scanned.vertices)
    motion = refine_by_icp(moved, scan, torch.eye(3, 4))
    assert torch.linalg.det(motion[:, :3]).item() == pytest.approx(1.02**3, rel=2e-3)


def test_a_hole_in_the_scan_changes_nothing_elsewhere(scanned: Scanned) -> None:
    hole = (scanned.vertices[:, :2] - torch.tensor([20.0, 20.0])).norm(dim=1) < 12
    holed = scanned._replace(kept=scanned.kept & ~hole)
    moved = move(inverse(similarity(1.02, 3, (2.0, 1.0, 1.0))), scanned.vertices)
    assert holed.errors(aligned(moved, holed.scan)).point_to_point.max() < 1e-3


@pytest.mark.parametrize("every", [4, 17])
def test_a_real_face_scanned_elsewhere_is_found_to_a_twentieth_of_a_millimetre(bfm: MorphableModel, every: int) -> None:
    """The scan's points lie anywhere on the face's triangles, dense where these are."""
    vertices = (bfm.mean / 1000).double()
    weights = torch.rand(len(bfm.triangles), 3, generator=generator(), dtype=torch.float64)
    anywhere = (vertices[bfm.triangles] * (weights / weights.sum(1, keepdim=True))[..., None]).sum(1)
    scan = anywhere[(anywhere - vertices[bfm.landmarks68[30]]).norm(dim=1) < 95][::every]
    moved = move(inverse(similarity(1.05, 8, (5.0, -3.0, 3.0))), vertices)
    assert (aligned(moved, scan) - vertices).norm(dim=1).square().mean().sqrt() < 0.05
