"""A morphable model laid on scans of people whose landmarks are known."""

import pytest
import torch
from torch import Tensor

from jointface.datamodules.florence import mean_face, millimetres
from jointface.errors import DataError
from jointface.geometry import MorphableModel, euler_to_rotation
from jointface.geometry.mesh import vertex_normals
from jointface.geometry.model_fit import fit_to_surface
from jointface.synthesis.faces import FaceFactory
from tests.data.florence import data as florence_data

EYES = [36, 45]  # the outer corners, from 0


@pytest.fixture(scope="module")
def stretched(tiny_model: MorphableModel) -> MorphableModel:
    return florence_data.stretched(tiny_model)


def person(model: MorphableModel, coefficients: Tensor) -> Tensor:
    """A face of the model in millimetres."""
    return mean_face(model) + millimetres(model) * model.shape_basis @ coefficients


def laid_on(model: MorphableModel, points: Tensor, triangles: Tensor, start: Tensor | None = None) -> Tensor:
    """The 68 landmarks that the model finds on a scan."""
    basis = millimetres(model) * model.shape_basis
    normals = vertex_normals(points, triangles)
    start = torch.eye(3, 4) if start is None else start
    return fit_to_surface(points, normals, mean_face(model), basis, start)[model.landmarks68]


def width(landmarks: Tensor) -> float:
    right, left = landmarks[EYES]
    return (left - right).norm().item()


@pytest.mark.parametrize("scale", [0.9, 1.0, 1.1])
def test_a_person_of_the_model_is_found_at_any_size_and_pose(stretched: MorphableModel, scale: float) -> None:
    """In closed form: 8 % wider and 5 % shorter than the mean face, then larger or smaller as a whole."""
    mean = mean_face(stretched)
    face = scale * person(stretched, torch.tensor([0.08, -0.05, 0.0]))
    torch.testing.assert_close(face, scale * torch.tensor([1.08, 0.95, 1.0]) * mean, atol=1e-3, rtol=0)
    rotation = euler_to_rotation(torch.tensor([-20.0, 5.0, 3.0]).deg2rad())
    turned = face @ rotation.T + torch.tensor([30.0, -12.0, 5.0])
    rough = euler_to_rotation(torch.tensor([-17.0, 3.0, 0.0]).deg2rad())
    start = torch.cat([rough, torch.tensor([[27.0], [-10.0], [3.0]])], dim=1)
    found = laid_on(stretched, turned, stretched.triangles, start)
    assert (found - turned[stretched.landmarks68]).norm(dim=1).max() < 1.2
    expected = scale * 1.08 * width(mean[stretched.landmarks68])
    assert width(found) == pytest.approx(expected, rel=0.005)


def test_holes_noise_and_stray_points_bend_it_little(bfm: MorphableModel) -> None:
    """A real basis: a person with a hole in the cheek, a scanner's noise, and points nearby without a triangle."""
    each = (millimetres(bfm) * bfm.shape_basis).square().sum(1).mean(0).sqrt()
    face = person(bfm, torch.randn(len(each), generator=torch.Generator().manual_seed(2)) / each)  # 1 mm each
    noisy = face + 0.3 * torch.randn(face.shape, generator=torch.Generator().manual_seed(0))
    hole = (face - torch.tensor([35.0, -20.0, -25.0])).norm(dim=1) < 15
    kept = bfm.triangles[~hole[bfm.triangles].any(1)]
    assert 0 < hole.sum() < len(face)
    found = laid_on(bfm, torch.cat([noisy, face[::50] + 5]), kept)
    true = face[bfm.landmarks68]
    assert (found - true).norm(dim=1)[EYES].mean() < 1
    assert abs(width(found) - width(true)) < 0.25 * abs(width(mean_face(bfm)[bfm.landmarks68]) - width(true))


@pytest.mark.slow
def test_people_of_another_model_differ_as_they_do(bfm: MorphableModel, factory: FaceFactory) -> None:
    """Synthetic heads, whose shape the basis does not hold: the distances between their eyes are told apart all the
    same, where one scale of the mean face would not tell them."""
    head = factory.head.model
    true, found = [], []
    for number in range(8):
        shape = factory.face("test", number).shape[None]
        face = head(shape, torch.zeros(1, head.num_expression))[0]
        face = face - face[head.landmarks68[30]]
        true.append(width(face[head.landmarks68]))
        found.append(width(laid_on(bfm, face, head.triangles)))
    differences = torch.tensor([true, found]) - torch.tensor([true, found]).mean(1, keepdim=True)
    assert torch.corrcoef(differences)[0, 1] > 0.6
    assert differences.diff(dim=0).std() < 3  # mm; the people themselves spread by 4


def test_a_face_that_is_elsewhere_is_no_fit(tiny_model: MorphableModel) -> None:
    face = mean_face(tiny_model)
    with pytest.raises(DataError, match=r"only 0 of \d+ vertices of the mean face have a scan point nearby"):
        laid_on(tiny_model, face + torch.tensor([500.0, 0, 0]), tiny_model.triangles)
