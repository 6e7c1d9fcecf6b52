"""The linear face model, its mirror map and its regions."""

from pathlib import Path

import pytest
import torch

from jointface.geometry import (
    FACE,
    LANDMARKS,
    MIRROR68,
    NECK,
    ORGANS,
    MorphableModel,
    apply_camera,
    camera_from_pose,
    crop_camera,
    load_bfm_3ddfa,
    similarity,
)
from jointface.geometry.regions import PRNET_WEIGHTS
from tests.data.bfm_3ddfa import data as bfm_data

CAMERA = camera_from_pose(torch.tensor([[0.1, 0.5, -0.1, 60.0, 70.0, -30.0, 5e-4]] * 2), 128)
FLIP = similarity(1, 0, (0, 0), True, 128)


def random_coefficients(model: MorphableModel, faces: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = torch.randn(faces, model.num_shape, generator=generator) * 4e4
    return shape, torch.randn(faces, model.num_expression, generator=generator)


def test_a_face_is_the_mean_plus_the_weighted_basis(tiny_model: MorphableModel) -> None:
    shape, expression = random_coefficients(tiny_model, 3)
    expected = (
        tiny_model.mean.double()
        + torch.einsum("vck,bk->bvc", tiny_model.shape_basis.double(), shape.double())
        + torch.einsum("vck,bk->bvc", tiny_model.expression_basis.double(), expression.double())
    )
    torch.testing.assert_close(tiny_model(shape, expression).double(), expected, atol=0.5, rtol=1e-5)  # micrometres


def test_mirror_map_of_a_symmetric_mesh_is_an_involution(tiny_model: MorphableModel) -> None:
    assert torch.equal(tiny_model.mirror[tiny_model.mirror], torch.arange(len(tiny_model.mirror)))


def test_mirror_map_mirrors_the_mean_face(bfm: MorphableModel) -> None:
    unpaired = bfm.mirror[bfm.mirror] != torch.arange(len(bfm.mirror))
    assert unpaired.sum() < 20  # of 53,215: at one corner of the mouth the mesh has more vertices
    distance = (bfm.mean[bfm.mirror] * torch.tensor([-1.0, 1, 1]) - bfm.mean).norm(dim=1)
    assert distance.median() < 1e3  # micrometres, on a face 150,000 wide
    assert distance.max() < 3e3


def test_mirror_map_pairs_the_landmarks_by_name(bfm: MorphableModel, tiny_model: MorphableModel) -> None:
    for model in (bfm, tiny_model):
        assert torch.equal(model.mirror[model.landmarks68], model.landmarks68[list(MIRROR68)])


def test_a_flipped_face_is_the_plain_face_flipped_with_the_right_names(tiny_model: MorphableModel) -> None:
    shape, expression = random_coefficients(tiny_model, 2)
    plain = tiny_model.project(shape, expression, CAMERA)[:, tiny_model.landmarks68]
    flipped = tiny_model.project(shape, expression, crop_camera(CAMERA, FLIP))[:, tiny_model.landmarks68]
    expected = plain[:, list(MIRROR68)] * torch.tensor([-1.0, 1, 1]) + torch.tensor([127.0, 0, 0])
    torch.testing.assert_close(flipped, expected, atol=1e-3, rtol=0)


def test_flipping_the_camera_twice_gives_the_same_face(bfm: MorphableModel) -> None:
    shape, expression = random_coefficients(bfm, 2)
    twice = bfm.project(shape, expression, crop_camera(crop_camera(CAMERA, FLIP), FLIP))
    torch.testing.assert_close(twice, bfm.project(shape, expression, CAMERA), atol=1e-3, rtol=0)


def test_a_batch_may_mix_flipped_and_plain_faces(tiny_model: MorphableModel) -> None:
    shape, expression = random_coefficients(tiny_model, 2)
    cameras = torch.cat([CAMERA[:1], crop_camera(CAMERA[:1], FLIP)])
    together = tiny_model.project(shape, expression, cameras)
    alone = [tiny_model.project(shape[i : i + 1], expression[i : i + 1], cameras[i : i + 1])[0] for i in range(2)]
    torch.testing.assert_close(together, torch.stack(alone), atol=1e-3, rtol=0)
    landmarks = tiny_model.project_landmarks(shape, expression, cameras)
    torch.testing.assert_close(landmarks, together[:, tiny_model.landmarks68], atol=1e-3, rtol=0)


def test_projection_is_the_camera_after_the_model(tiny_model: MorphableModel) -> None:
    shape, expression = random_coefficients(tiny_model, 2)
    expected = apply_camera(CAMERA, tiny_model(shape, expression))
    torch.testing.assert_close(tiny_model.project(shape, expression, CAMERA), expected)


def test_triangles_face_outwards(bfm: MorphableModel, tiny_model: MorphableModel) -> None:
    for model in (bfm, tiny_model):
        a, b, c = model.mean[model.triangles].unbind(1)
        towards_viewer = torch.linalg.cross(b - a, c - a)[:, 2]
        assert (towards_viewer > 0).double().mean() > 0.8


@pytest.mark.parametrize("model_name", ["bfm", "tiny_model"])
def test_regions_are_where_their_names_say(model_name: str, request: pytest.FixtureRequest) -> None:
    model: MorphableModel = request.getfixturevalue(model_name)
    marks = model.mean[model.landmarks68]

    def region_near(place: torch.Tensor) -> int:
        distance = (model.mean - place).norm(dim=1)
        distance[model.landmarks68] = torch.inf
        return int(model.regions[distance.argmin()])

    assert (model.regions[model.landmarks68] == LANDMARKS).all()
    assert region_near(marks[36:42].mean(0)) == ORGANS
    assert region_near(marks[51:58:6].mean(0)) == ORGANS
    assert region_near((marks[19] + marks[24]) / 2 + torch.tensor([0, 15e3, 0])) == FACE
    cheek = (marks[2] + marks[31]) / 2
    assert region_near(cheek) == FACE
    neck = model.mean[model.regions == NECK]
    assert (neck[:, 1] < marks[3, 1]).all()


def test_region_weights_are_prnets(tiny_model: MorphableModel) -> None:
    weights = tiny_model.region_weights(**PRNET_WEIGHTS)
    for region, weight in {LANDMARKS: 16, ORGANS: 4, FACE: 3, NECK: 0}.items():
        assert (weights[tiny_model.regions == region] == weight).all()


def test_hash_tells_models_apart(tiny_data: Path, tmp_path: Path) -> None:
    model = load_bfm_3ddfa(str(tiny_data / "bfm_3ddfa"))
    same = load_bfm_3ddfa(str(bfm_data.write(tmp_path / "same")))
    other = load_bfm_3ddfa(str(bfm_data.write(tmp_path / "other", seed=1)))
    assert model.content_hash() == same.content_hash() != other.content_hash()
