"""Training faces turned out of plane: pixels and labels stay together."""

from pathlib import Path

import pytest
import torch

from jointface.datamodules import AFLW2000, CropTransform, FaceTurning
from jointface.geometry import MorphableModel, euler_to_rotation, face_box, pose_from_camera
from jointface.geometry.face_profiling import fill_holes, pixel_grid, relief, splat, turn_faces


@pytest.fixture(scope="module")
def batch(tiny_data: Path, tiny_model: MorphableModel) -> dict[str, torch.Tensor]:
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(96), tiny_model)
    return torch.utils.data.default_collate([dataset[i] for i in range(3)])


def seen(model: MorphableModel, batch: dict[str, torch.Tensor], camera: torch.Tensor) -> torch.Tensor:
    return model.project(batch["shape_coefficients"], batch["expression_coefficients"], camera)


def test_no_turn_changes_nothing(tiny_model: MorphableModel, batch: dict[str, torch.Tensor]) -> None:
    images, camera = batch["image"].float(), batch["camera"]
    turned, turned_camera = turn_faces(
        images, camera, seen(tiny_model, batch, camera), tiny_model.landmarks68, torch.eye(3).expand(3, 3, 3)
    )
    torch.testing.assert_close(turned_camera, camera, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(turned, images, atol=1.0, rtol=0)


def test_the_pose_turns_by_the_asked_angle(tiny_model: MorphableModel, batch: dict[str, torch.Tensor]) -> None:
    """A turn about the vertical of a face that looks at the viewer adds to its yaw."""
    camera = torch.tensor([[5e-4, 0, 0, 48], [0, -5e-4, 0, 48], [0, 0, 5e-4, 0]]).expand(3, 3, 4)
    rotation = euler_to_rotation(torch.tensor([0.0, 0.5, 0.0])).expand(3, 3, 3)
    vertices = seen(tiny_model, batch, camera)
    _, turned = turn_faces(batch["image"].float(), camera, vertices, tiny_model.landmarks68, rotation)
    torch.testing.assert_close(pose_from_camera(turned, 96)[:, 1], torch.full((3,), 0.5), atol=1e-4, rtol=0)


def test_the_framing_stays(tiny_model: MorphableModel, batch: dict[str, torch.Tensor]) -> None:
    rotation = euler_to_rotation(torch.tensor([[0.3, 0.4, 0.0], [-0.4, 0.1, 0.0], [0.0, -0.5, 0.0]]))
    before = seen(tiny_model, batch, batch["camera"])
    _, camera = turn_faces(batch["image"].float(), batch["camera"], before, tiny_model.landmarks68, rotation)
    after = seen(tiny_model, batch, camera)
    for one, other in zip(before, after, strict=True):
        expected = face_box(one[tiny_model.landmarks68])
        assert face_box(other[tiny_model.landmarks68]) == pytest.approx(expected, abs=1e-2)


def test_a_dot_on_the_face_moves_with_its_label(tiny_model: MorphableModel, batch: dict[str, torch.Tensor]) -> None:
    """A bright dot painted at the chin is found at the chin of the turned face."""
    chin = tiny_model.landmarks68[8]
    vertices = seen(tiny_model, batch, batch["camera"])
    distance = (pixel_grid(96, vertices.device) - vertices[:, None, chin, :2]).norm(dim=-1)
    images = (255 * (-((distance / 2) ** 2)).exp()).unflatten(-1, (96, 96))[:, None]
    rotation = euler_to_rotation(torch.tensor([[0.2, 0.3, 0.0], [-0.2, 0.2, 0.0], [0.1, -0.3, 0.0]]))
    turned, camera = turn_faces(images, batch["camera"], vertices, tiny_model.landmarks68, rotation)
    expected = seen(tiny_model, batch, camera)[:, chin, :2]
    weight = turned.flatten(1) / turned.flatten(1).sum(1, keepdim=True)
    found = (weight[..., None] * pixel_grid(96, vertices.device)).sum(1)
    torch.testing.assert_close(found, expected, atol=1.2, rtol=0)


def test_near_points_hide_far_ones() -> None:
    place = torch.tensor([[[2.0, 1.0], [2.0, 1.0], [0.0, 0.0]]])
    values = torch.tensor([[[10.0], [20.0], [30.0]]])
    image, known = splat(values, place, torch.tensor([[0.0, 5.0, 0.0]]), size=4)
    assert image[0, 0, 1, 2] == 20
    assert image[0, 0, 0, 0] == 30
    assert known.sum() == 2


def test_points_outside_are_left_out() -> None:
    _, known = splat(torch.ones(1, 2, 1), torch.tensor([[[-3.0, 1.0], [9.0, 9.0]]]), torch.zeros(1, 2), size=4)
    assert not known.any()


def test_holes_take_their_surroundings_and_known_pixels_stay() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 37, 37, generator=generator)
    known = torch.rand(2, 1, 37, 37, generator=generator) > 0.7
    filled = fill_holes(image * known, known)
    assert torch.equal(filled[known.expand_as(filled)], image[known.expand_as(image)])
    assert filled.min() >= 0
    assert filled.max() <= 1
    constant = fill_holes(torch.full((1, 1, 20, 20), 7.0) * known[:1, :, :20, :20], known[:1, :, :20, :20])
    torch.testing.assert_close(constant, torch.full((1, 1, 20, 20), 7.0))


def test_the_relief_of_a_face_is_highest_at_the_nose(tiny_model: MorphableModel) -> None:
    camera = torch.tensor([[[5e-4, 0, 0, 48], [0, -5e-4, 0, 48], [0, 0, 5e-4, 0]]])
    vertices = tiny_model.project(torch.zeros(1, 40), torch.zeros(1, 10), camera)
    depth = relief(vertices, 96)[0, 0]
    nose = vertices[0, tiny_model.landmarks68[29], :2].round().long()
    row, column = divmod(int(depth.argmax()), 96)
    assert abs(column - nose[0]) <= 2
    assert abs(row - nose[1]) <= 8


def test_a_share_of_the_batch_is_turned(tiny_model: MorphableModel, batch: dict[str, torch.Tensor]) -> None:
    torch.manual_seed(1)
    some = FaceTurning(tiny_model, probability=0.5)(batch)
    turned = (some["camera"] != batch["camera"]).flatten(1).any(1)
    assert 0 < turned.sum() < 3
    assert torch.equal(some["image"][~turned], batch["image"][~turned])
    assert (some["image"][turned] != batch["image"][turned]).flatten(1).any(1).all()
    assert "landmarks68" not in some
    never, always = (FaceTurning(tiny_model, probability=share)(batch) for share in (0.0, 1.0))
    assert torch.equal(never["camera"], batch["camera"])
    assert (always["camera"] != batch["camera"]).flatten(1).any(1).all()
    assert always["image"].dtype == torch.uint8
    assert torch.equal(always["shape_coefficients"], batch["shape_coefficients"])
