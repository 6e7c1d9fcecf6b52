"""Soft shadows of the head: closed forms on simple bodies, and what they do to a face."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import trimesh

from jointface.synthesis.appearance import Lights
from jointface.synthesis.faces import FaceFactory
from jointface.synthesis.head import EYE, TEETH, Head
from jointface.synthesis.shadows import Openness, openness, openness_of_head

SIZE = 96

Shares = Callable[..., float]


def of_mesh(mesh: trimesh.Trimesh) -> Openness:
    points = torch.from_numpy(mesh.vertices).float()
    return openness(points, torch.from_numpy(mesh.faces).long(), torch.arange(len(points)))


def test_light_reaches_all_of_a_ball() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3, radius=100)
    found = of_mesh(ball)
    assert found.whole.min() > 0.97
    normals = torch.from_numpy(ball.vertices / 100).float()
    reached = found.of_lights(normals[None, ::40])[0, :, 1:]
    facing = normals @ normals[::40].T > 0.3
    assert reached[facing].min() > 0.93


def test_a_wall_takes_half_the_light_from_its_foot() -> None:
    """The floor is seen from above, x to the right; the wall stands at x = 0, and the point is just to its right."""
    floor = trimesh.creation.box((400, 1, 400))
    wall = trimesh.creation.box((1, 400, 400), trimesh.transformations.translation_matrix((0, 200, 0)))
    spot = trimesh.creation.icosphere(subdivisions=1, radius=0.5)
    spot.apply_translation((6, 1.5, 0))
    found = of_mesh(trimesh.util.concatenate([floor, wall, spot]))
    top = len(floor.vertices) + len(wall.vertices) + int(spot.vertices[:, 1].argmax())
    assert found.whole[top] == pytest.approx(0.5, abs=0.08)
    lights = torch.nn.functional.normalize(torch.tensor([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]), dim=1)
    right, left = found.of_lights(lights[None])[0, top, 1:]
    assert right > 0.8
    assert left < 0.2


def test_hollows_of_the_face_are_darker_than_what_stands_out(head: Head) -> None:
    found, marks = openness_of_head(head), head.model.landmarks68
    tip, under, corner = (found.whole[marks[number]] for number in (30, 33, 39))
    assert tip > 0.95
    assert under < tip - 0.2  # below the nose
    assert corner < tip - 0.2  # the inner corner of the eye
    for values in (found.whole, found.of_direction):
        assert torch.equal(values, values[head.weld])  # no seam is seen
    mirrored = found.whole[: len(head.model.mirror)][head.model.mirror]
    assert (found.whole[: len(mirrored)] - mirrored).abs().mean() < 0.02


def test_what_the_mean_head_hides_is_not_black(head: Head) -> None:
    """Gaze, blinks and an open mouth show it."""
    found = openness_of_head(head)
    assert found.whole.min() > 0.1
    assert found.whole[head.triangles[head.material == EYE]].min() > 0.4
    assert found.whole[head.triangles[head.material == TEETH]].min() == 1


def shares_of_light(factory: FaceFactory, light: tuple[float, float, float], yaw: float = 0.0) -> Shares:
    """Which part of the light is left by shadows around points of a bare neutral face, given its landmarks."""
    face = factory.face("train", 3)
    look = replace(face.appearance, hair=-1, hat=-1, glasses=-1, earrings=-1, beard=0.0, goatee=0.0, moustache=0.0)
    lights = Lights((0.3,) * 3, (0.3,) * 3, (light, (0.0, 0.0, 1.0)), ((0.5,) * 3, (0.0,) * 3))
    expression = torch.zeros_like(face.expression)
    camera = factory.framed_camera(face.shape, expression, torch.tensor([0.0, yaw, 0.0]))
    face = replace(face, appearance=look, lights=lights, expression=expression, camera=camera)
    to_crop = factory.crop_camera(face, SIZE)
    plain, shadowed = (of.render([face], to_crop[None], SIZE)[0].float() for of in (factory, FaceFactory(shadows=True)))
    share = ((shadowed + 1) / (plain + 1)).square().mean(0)
    assert share.max() < 1.02
    marks = factory.landmarks68(face, to_crop)[:, :2]

    def around(*numbers: int, down: int = 0) -> float:
        x, y = marks[list(numbers)].mean(0).round().long().tolist()
        return share[y + down - 2 : y + down + 3, x - 2 : x + 3].mean().item()

    return around


@pytest.mark.usefixtures("quick_factories")
def test_light_from_above_leaves_the_neck_and_not_the_forehead_in_shadow(factory: FaceFactory) -> None:
    share = shares_of_light(factory, (0.0, 0.9, 0.4))
    assert share(27, down=-10) > 0.9
    assert share(8, down=6) < 0.75


@pytest.mark.parametrize("yaw", [-0.4, 0.0, 0.4])
@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.usefixtures("quick_factories")
def test_the_nose_shades_the_cheek_away_from_the_light(side: float, yaw: float, factory: FaceFactory) -> None:
    share = shares_of_light(factory, (0.75 * side, 0.1, 0.65), yaw)
    left, right = share(31, 40), share(35, 47)  # of the picture
    lit, shaded = (right, left) if side > 0 else (left, right)
    assert shaded < lit - 0.03
