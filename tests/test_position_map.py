"""UV position maps: from vertices, from coefficients, and back."""

import pytest
import torch

from jointface.geometry import MorphableModel, PositionMap, camera_from_pose, center_depth, crop_camera, similarity
from jointface.geometry.position_map import rasterise_uv, uv_to_pixels
from tests.test_morphable_model import random_coefficients

FLIP = similarity(1, 0, (0, 0), True, 96)
CAMERA = camera_from_pose(torch.tensor([0.1, 0.5, -0.1, 48.0, 48.0, -30.0, 4e-4]), 96)
SQUARE = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]])


@pytest.fixture(scope="module")
def tiny_map(tiny_model: MorphableModel) -> PositionMap:
    return PositionMap(tiny_model, 64)


def test_uv_corners_are_pixel_centres() -> None:
    uv = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5]])
    torch.testing.assert_close(uv_to_pixels(uv, 101), torch.tensor([[0.0, 0.0], [100.0, 100.0], [50.0, 50.0]]))


def test_a_triangle_covers_the_pixels_inside_it() -> None:
    pixels, triangle, barycentric = rasterise_uv(SQUARE, torch.tensor([[0, 1, 2]]), size=5)
    assert pixels.tolist() == [5 * row + column for row in range(5) for column in range(5 - row)]
    assert triangle.unique().tolist() == [0]
    places = (barycentric[..., None] * SQUARE[:3]).sum(1)
    torch.testing.assert_close(places, torch.stack([pixels % 5, pixels // 5], dim=1).float())


def test_a_pixel_on_a_shared_edge_is_covered_by_the_first_triangle() -> None:
    pixels, triangle, _ = rasterise_uv(SQUARE, torch.tensor([[0, 1, 2], [1, 3, 2]]), size=5)
    assert pixels.tolist() == list(range(25))
    assert (triangle == 0).sum() == 15


def test_a_triangle_without_area_covers_nothing() -> None:
    line = torch.tensor([[0.0, 0.0], [4.0, 4.0], [2.0, 2.0]])
    assert len(rasterise_uv(line, torch.tensor([[0, 1, 2]]), size=5)[0]) == 0


def test_sampling_uv_itself_gives_the_pixel_grid(tiny_model: MorphableModel, tiny_map: PositionMap) -> None:
    grid = tiny_map.sample(uv_to_pixels(tiny_model.uv, 64)[None])[0]
    expected = torch.cartesian_prod(torch.arange(64.0), torch.arange(64.0)).flip(1)  # the tiny mesh fills the map
    torch.testing.assert_close(grid, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("flip", [False, True])
def test_coefficients_and_vertices_give_the_same_map(
    tiny_model: MorphableModel, tiny_map: PositionMap, flip: bool
) -> None:
    shape, expression = random_coefficients(tiny_model, 4)
    cameras = (crop_camera(CAMERA, FLIP) if flip else CAMERA).repeat(4, 1, 1)
    vertices = center_depth(tiny_model.project(shape, expression, cameras))
    points = tiny_map.project(torch.cat([shape, expression], dim=1), cameras)
    difference = (points - tiny_map.sample(vertices)).abs()
    # A flipped map is sampled along the other diagonals of the tiny mesh's coarse quads.
    assert difference.mean() < (0.02 if flip else 1e-4)
    assert difference.max() < (1.0 if flip else 1e-3)


def test_flipping_the_camera_twice_gives_the_same_map(tiny_model: MorphableModel, tiny_map: PositionMap) -> None:
    coefficients = torch.cat(random_coefficients(tiny_model, 2), dim=1)
    camera = CAMERA.repeat(2, 1, 1)
    twice = tiny_map.project(coefficients, crop_camera(crop_camera(camera, FLIP), FLIP))
    torch.testing.assert_close(twice, tiny_map.project(coefficients, camera), atol=1e-3, rtol=0)


def test_points_are_the_covered_pixels_of_an_image_in_reading_order(tiny_map: PositionMap) -> None:
    image = torch.randn(2, 3, 64, 64)
    points, (row, column) = tiny_map.from_map(image), divmod(int(tiny_map.pixels[70]), 64)
    assert torch.equal(points[1, 70], image[1, :, row, column])


def test_vertices_come_back_from_the_map(bfm: MorphableModel) -> None:
    """On the real face at the paper's size the round trip costs less than a tenth of a pixel on average."""
    position_map = PositionMap(bfm, 256)
    shape, expression = random_coefficients(bfm, 2)
    camera = camera_from_pose(torch.tensor([[0.1, 0.5, -0.1, 128.0, 128.0, -60.0, 1e-3]] * 2), 256)
    vertices = center_depth(bfm.project(shape, expression, camera))
    back = position_map.to_vertices(position_map.sample(vertices))
    error = (back - vertices).norm(dim=-1)[:, bfm.face_region]
    assert error.mean() < 0.05
    assert error.quantile(0.99) < 0.5


def test_the_real_map_is_nearly_full_and_holds_each_landmark(bfm: MorphableModel) -> None:
    position_map = PositionMap(bfm, 128)
    assert len(position_map.pixels) > 0.99 * 128 * 128
    mean = position_map.sample(bfm.mean[None])
    landmarks = position_map.to_vertices(mean)[0, bfm.landmarks68]
    assert (landmarks - bfm.mean[bfm.landmarks68]).norm(dim=1).max() < 2.5e3  # micrometres
