"""The rasteriser: z-buffer, perspective, batches, cutouts, and the processes it runs in."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jointface.errors import InputError
from jointface.geometry import MorphableModel, PositionMap, camera_from_pose, center_depth
from jointface.geometry.rasteriser import (
    Cutout,
    Fragments,
    interpolate,
    load_kernels,
    rasterise,
    rasterise_meshes,
    visible_vertices,
)
from tests.test_morphable_model import random_coefficients

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SQUARE = torch.tensor([[0, 1, 2], [1, 3, 2]])  # of corners in reading order


def one_image(points: Tensor, triangles: Tensor, height: int, width: int, **options: object) -> Fragments:
    image = torch.zeros(len(triangles), dtype=torch.int32)
    return rasterise(points, triangles, image, (1, height, width), **options)  # type: ignore[arg-type]


def random_mesh(seed: int, triangles: int = 20, size: int = 24) -> tuple[Tensor, Tensor]:
    """Triangles of every size and both windings, partly outside of the image."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(3 * triangles, 3, generator=generator) * (1.5 * size) - 0.25 * size
    return points, torch.arange(3 * triangles).view(-1, 3)


def sphere() -> tuple[Tensor, Tensor]:
    """Vertices of a sphere of radius 30 around (32, 32, 0), and its triangles."""
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=30)
    return torch.from_numpy(mesh.vertices).float() + torch.tensor([32.0, 32, 0]), torch.from_numpy(mesh.faces.copy())


def rays(points: Tensor, triangles: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """For the ray through each pixel's centre: z on each triangle (-inf where it misses), and its distance in pixels
    from the nearest edge line of each triangle."""
    y, x = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    pixel = torch.stack([x, y], dim=-1)[..., None, None, :]
    corner = points.double()[triangles]
    start, end = corner[:, [1, 2, 0], :2], corner[:, [2, 0, 1], :2]
    along, to_pixel = end - start, pixel - start
    cross = along[..., 0] * to_pixel[..., 1] - along[..., 1] * to_pixel[..., 0]
    weights = cross / cross.sum(-1, keepdim=True)
    z = torch.where((weights >= 0).all(-1), (weights * corner[..., 2]).sum(-1), -torch.inf)
    return z, (cross.abs() / along.norm(dim=-1)).amin(-1)


def assert_same(one: Fragments, other: Fragments) -> None:
    assert torch.equal(one.triangle.cpu(), other.triangle.cpu())
    assert torch.equal(one.barycentric.cpu(), other.barycentric.cpu())
    assert torch.equal(one.depth.cpu(), other.depth.cpu())


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_each_pixel_sees_the_nearest_triangle_that_its_ray_hits(seed: int) -> None:
    points, triangles = random_mesh(seed)
    fragments = one_image(points, triangles, 20, 24)
    z, distance = rays(points, triangles, 20, 24)
    nearest = z.topk(2, dim=-1)
    clear = (distance.amin(-1) > 1e-3) & ~(nearest.values.diff(dim=-1).abs()[..., 0] < 1e-3)
    expected = torch.where(nearest.values[..., 0].isinf(), -1, nearest.indices[..., 0])
    assert clear.float().mean() > 0.8
    assert torch.equal(fragments.triangle[0][clear].long(), expected[clear])
    torch.testing.assert_close(fragments.depth[0][clear].double(), nearest.values[..., 0][clear], atol=1e-3, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_barycentric_weights_lead_back_to_the_pixel(seed: int) -> None:
    points, triangles = random_mesh(seed)
    fragments = one_image(points, triangles, 20, 24)
    place = interpolate(fragments, triangles, points)[0]
    seen = fragments.triangle[0] >= 0
    y, x = seen.nonzero().unbind(1)
    torch.testing.assert_close(place[seen][:, :2], torch.stack([x, y], 1).float(), atol=1e-4, rtol=0)
    torch.testing.assert_close(place[seen][:, 2], fragments.depth[0][seen], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(fragments.barycentric[0][seen].sum(-1), torch.ones(len(x)))


def test_the_background_is_marked_as_such() -> None:
    points = torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [1.0, 2.0, 0.0]])
    fragments = one_image(points, torch.tensor([[0, 1, 2]]), 4, 5)
    assert fragments.triangle.shape == (1, 4, 5)
    background = fragments.triangle < 0
    assert background.sum() == 17
    assert (fragments.triangle[background] == -1).all()
    assert (fragments.barycentric[background] == 0).all()
    assert (fragments.depth[background] == -torch.inf).all()
    assert (interpolate(fragments, torch.tensor([[0, 1, 2]]), torch.ones(3, 2))[background] == 0).all()


def test_no_triangles_leave_the_background() -> None:
    nothing = torch.zeros(0, 3, dtype=torch.int64)
    fragments = one_image(torch.zeros(0, 3), nothing, 4, 5)
    assert (fragments.triangle == -1).all()
    assert (interpolate(fragments, nothing, torch.zeros(0, 2)) == 0).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_mesh_has_no_cracks(seed: int) -> None:
    """A fan around a point whose spokes go through pixels' centres, and one that lies anywhere."""
    generator = torch.Generator().manual_seed(seed)
    rim = [(-3, -3), (8, -3), (19, -3), (19, 8), (19, 19), (8, 19), (-3, 19), (-3, 8)]
    for hub in (torch.tensor([8.0, 8.0, 0.0]), torch.rand(3, generator=generator) * 16):
        points = torch.cat([hub[None], torch.tensor([[x, y, 0.0] for x, y in rim])])
        triangles = torch.tensor([[0, i, i % 8 + 1] for i in range(1, 9)])
        assert (one_image(points, triangles, 17, 17).triangle >= 0).all()


def test_both_windings_are_rendered() -> None:
    points = torch.tensor([[0.0, 0.0, 1.0], [4.0, 0.0, 1.0], [0.0, 4.0, 1.0]])
    one, other = (one_image(points, torch.tensor([corners]), 5, 5) for corners in ([0, 1, 2], [0, 2, 1]))
    assert torch.equal(one.triangle, other.triangle)
    assert (one.triangle >= 0).sum() == 15


def test_of_equal_depths_the_first_triangle_is_seen() -> None:
    points = torch.tensor([[0.0, 0.0, -0.0], [4.0, 0.0, 0.0], [0.0, 4.0, -0.0], [4.0, 4.0, 0.0]])
    triangles = torch.cat([SQUARE, SQUARE, SQUARE.flip(1)])
    fragments = one_image(points, triangles, 5, 5)
    assert fragments.triangle[0].tolist() == [[int(row + column > 4) for column in range(5)] for row in range(5)]


def test_what_cannot_be_rendered_is_left_out() -> None:
    points, triangles = random_mesh(3)
    expected = one_image(points, triangles, 20, 24)
    bad = torch.tensor(
        [
            [[float("nan"), 0, 99], [20, 0, 99], [0, 20, 99]],
            [[0, 0, 99], [20, float("inf"), 99], [0, 20, 99]],
            [[0, 0, float("nan")], [20, 0, 99], [0, 20, 99]],
            [[0, 0, 99], [10, 10, 99], [20, 20, 99]],  # no area
            [[100, 0, 99], [120, 0, 99], [100, 20, 99]],  # outside
            [[-1e30, -1e30, 99], [-2e30, -1e30, 99], [-1e30, -2e30, 99]],
            [[1e30, 1e30, 99], [2e30, 1e30, 99], [1e30, 2e30, 99]],
        ]
    )
    both = torch.cat([points, bad.flatten(0, 1)])
    more = torch.cat([triangles, torch.arange(len(points), len(both)).view(-1, 3)])
    assert_same(one_image(both, more, 20, 24), expected)


def test_a_huge_triangle_is_cut_to_the_image() -> None:
    points = torch.tensor([[-1e9, -1e9, 2.0], [3e9, -1e9, 2.0], [-1e9, 3e9, 2.0]])
    fragments = one_image(points, torch.tensor([[0, 1, 2]]), 7, 9)
    assert (fragments.triangle == 0).all()
    torch.testing.assert_close(fragments.depth, torch.full((1, 7, 9), 2.0))


def tilted_plane(focal: float = 40.0, size: int = 33) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A pinhole camera's view of the plane Z = 4 + X / 2 + Y / 4 (away from the camera) over X, Y in -2 ... 2: points
    with z = -1 / Z, 1 / w, triangles, and the (X, Y) of the plane in each pixel by the closed form."""
    corners = torch.tensor([[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]])
    distance = 4 + corners[:, 0] / 2 + corners[:, 1] / 4
    centre = (size - 1) / 2
    points = torch.cat([focal * corners / distance[:, None] + centre, -1 / distance[:, None]], dim=1)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    ray = torch.stack([x - centre, y - centre], dim=-1) / focal  # X / Z, Y / Z
    plane = 4 * ray / (1 - ray[..., :1] / 2 - ray[..., 1:] / 4)
    return points, 1 / distance, SQUARE, plane


def test_a_tilted_plane_under_a_pinhole_camera_keeps_its_texture() -> None:
    points, inverse_w, triangles, plane = tilted_plane()
    corners = torch.tensor([[-2.0, -2.0], [2.0, -2.0], [-2.0, 2.0], [2.0, 2.0]])
    fragments = one_image(points, triangles, 33, 33, inverse_w=inverse_w)
    seen = fragments.triangle[0] >= 0
    assert seen.sum() > 500
    torch.testing.assert_close(interpolate(fragments, triangles, corners)[0][seen], plane[seen], atol=1e-4, rtol=0)
    distance = 4 + plane[..., 0] / 2 + plane[..., 1] / 4
    torch.testing.assert_close(fragments.depth[0][seen], -1 / distance[seen])


def test_one_distance_for_all_is_an_affine_camera() -> None:
    points, triangles = random_mesh(5)
    far = one_image(points, triangles, 20, 24, inverse_w=torch.full((len(points),), 0.25))
    assert_same(far, one_image(points, triangles, 20, 24))


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_triangle_behind_the_camera_is_left_out(bad: float) -> None:
    points, inverse_w, triangles, _ = tilted_plane()
    inverse_w = torch.where(torch.arange(4) == 3, bad, inverse_w)
    assert one_image(points, triangles, 33, 33, inverse_w=inverse_w).triangle.unique().tolist() == [-1, 0]


def test_a_ragged_batch_is_its_images_one_by_one() -> None:
    meshes = [random_mesh(seed, triangles) for seed, triangles in enumerate((20, 1, 0, 33))]
    offsets = torch.tensor([0, *(len(points) for points, _ in meshes)]).cumsum(0)
    points = torch.cat([points for points, _ in meshes])
    triangles = torch.cat([mesh + offset for (_, mesh), offset in zip(meshes, offsets, strict=False)])
    image = torch.arange(4).repeat_interleave(torch.tensor([len(mesh) for _, mesh in meshes]))
    order = torch.randperm(len(triangles), generator=torch.Generator().manual_seed(0))
    packed = rasterise(points, triangles[order], image[order], (5, 20, 24))  # nothing in the fifth
    rows = torch.full_like(packed.triangle, -1).long()
    for index, (own_points, own) in enumerate(meshes):
        alone = one_image(own_points, own, 20, 24)
        first = sum(len(mesh) for _, mesh in meshes[:index])
        rows[index] = torch.where(alone.triangle[0] >= 0, alone.triangle[0] + first, -1)
        assert torch.equal(packed.depth[index], alone.depth[0])
        assert torch.equal(packed.barycentric[index], alone.barycentric[0])
    found = torch.where(packed.triangle >= 0, order[packed.triangle.long()], -1)
    assert torch.equal(found, rows)


def test_one_mesh_in_several_poses_is_each_pose_alone() -> None:
    vertices = torch.stack([random_mesh(seed)[0] for seed in range(3)])
    triangles = random_mesh(0)[1]
    fragments = rasterise_meshes(vertices, triangles, 20, 24)
    colours = torch.rand(3, len(vertices[0]), 2)
    blended = interpolate(fragments, triangles, colours)
    for index in range(3):
        alone = one_image(vertices[index], triangles, 20, 24)
        assert torch.equal(fragments.triangle[index], alone.triangle[0])
        assert torch.equal(fragments.barycentric[index], alone.barycentric[0])
        assert torch.equal(blended[index], interpolate(alone, triangles, colours[index])[0])


def card(alpha: Tensor) -> Fragments:
    """A square of 8 x 8 pixels with a texture, before a farther opaque one."""
    front = torch.tensor([[-0.5, -0.5, 1.0], [7.5, -0.5, 1.0], [-0.5, 7.5, 1.0], [7.5, 7.5, 1.0]])
    uv = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    points = torch.cat([front, front * torch.tensor([1.0, 1.0, 0.0])])
    cutout = Cutout(uv=uv.repeat(2, 1), texture=torch.tensor([1, 1, -1, -1]).int(), alpha=alpha)
    return one_image(points, torch.cat([SQUARE, SQUARE + 4]), 8, 8, cutout=cutout)


def test_a_cutout_shows_what_is_behind_its_holes() -> None:
    """Plane 1 in the orientation of the picture: its first row is v = 1, which is up here; 128 is opaque."""
    alpha = torch.stack([torch.zeros(8, 8), torch.where(torch.rand(8, 8) < 0.5, 127, 128)]).to(torch.uint8)
    fragments = card(alpha)
    assert torch.equal(fragments.depth[0], (alpha[1] >= 128).float())
    assert torch.equal(fragments.triangle[0] >= 2, alpha[1] < 128)


def test_a_cutout_has_any_size() -> None:
    fragments = card(torch.tensor([[[0, 0]], [[0, 255]]], dtype=torch.uint8))
    assert (fragments.depth[0, :, :4] == 0).all()
    assert (fragments.depth[0, :, 4:] == 1).all()


def test_a_cutout_is_read_in_perspective() -> None:
    """One stripe of the tilted plane, |X| < 1, is kept where the closed form has it."""
    points, inverse_w, triangles, plane = tilted_plane()
    uv = torch.tensor([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    alpha = torch.tensor([[[0, 255, 255, 0]]], dtype=torch.uint8)
    cutout = Cutout(uv=uv, texture=torch.zeros(2, dtype=torch.int32), alpha=alpha)
    whole = one_image(points, triangles, 33, 33, inverse_w=inverse_w).triangle[0] >= 0
    kept = one_image(points, triangles, 33, 33, inverse_w=inverse_w, cutout=cutout).triangle[0] >= 0
    clear = (plane[..., 0].abs() - 1).abs() > 1e-4
    assert torch.equal(kept[clear], (whole & (plane[..., 0].abs() < 1))[clear])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_tensors_of_other_kinds_and_layouts_are_read(dtype: torch.dtype) -> None:
    points, triangles = random_mesh(7)
    points = points.to(dtype).requires_grad_()
    strided = triangles.to(torch.int16).T.contiguous().T
    assert_same(one_image(points, strided, 20, 24), one_image(points.detach().float(), triangles, 20, 24))


def test_a_position_map_renders_like_its_mesh(tiny_model: MorphableModel) -> None:
    """Through a map of finite resolution and back, vertices move a little, and so does the picture."""
    shape, expression = random_coefficients(tiny_model, 3)
    camera = camera_from_pose(torch.tensor([0.1, 0.5, -0.1, 48.0, 48.0, -30.0, 4e-4]), 96).repeat(3, 1, 1)
    vertices = center_depth(tiny_model.project(shape, expression, camera))
    position_map = PositionMap(tiny_model, 128)
    back = position_map.to_vertices(position_map.sample(vertices))
    direct, mapped = (rasterise_meshes(each, tiny_model.triangles, 96, 96).depth for each in (vertices, back))
    seen = direct.isfinite() & mapped.isfinite()
    assert seen.float().mean() > 0.05
    assert (direct.isfinite() != mapped.isfinite()).sum() < 0.05 * seen.sum()
    error = (direct - mapped)[seen].abs()
    assert error.median() < 0.3
    assert error.quantile(0.9) < 1.5


def test_the_front_of_a_sphere_is_visible_and_its_back_is_not() -> None:
    vertices, triangles = sphere()
    visible = visible_vertices(vertices[None], triangles, 64, 64, tolerance=0.1)[0]
    assert visible[vertices[:, 2] > -0.01].all()
    assert not visible[vertices[:, 2] < -0.2].any()


@pytest.mark.parametrize(("gap", "seen"), [(0.5, True), (1.5, False)])
def test_a_vertex_within_the_tolerance_is_visible(gap: float, seen: bool) -> None:
    """A point behind the middle of a triangle that covers no pixel's centre, and not behind its corner's."""
    near = torch.tensor([[2.2, 2.2, gap], [2.8, 2.2, gap], [2.2, 2.8, gap]])
    vertices = torch.cat([near, torch.tensor([[2.4, 2.4, 0.0], [2.7, 2.7, 0.0]])])[None]
    visible = visible_vertices(vertices, torch.tensor([[0, 1, 2]]), 5, 5, tolerance=1.0)
    assert visible.tolist() == [[True, True, True, seen, True]]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_visible_vertices_are_those_that_no_triangle_hides(seed: int) -> None:
    points, triangles = random_mesh(seed)
    visible = visible_vertices(points[None], triangles, 20, 24, tolerance=0.01)[0]
    x, y, _ = points.unbind(-1)
    within = (x >= -0.5) & (x < 23.5) & (y >= -0.5) & (y < 19.5)
    corner = points[triangles].double()
    edge, at = corner[:, [2, 0, 1], :2] - corner[:, [1, 2, 0], :2], points[:, None, None, :2] - corner[:, [1, 2, 0], :2]
    cross = edge[..., 0] * at[..., 1] - edge[..., 1] * at[..., 0]
    weights = cross / cross.sum(-1, keepdim=True)
    gap = (weights * corner[..., 2]).sum(-1) - points[:, None, 2]
    assert torch.equal(visible, within & ~((weights >= 0).all(-1) & (gap > 0.01)).any(1))


def test_the_layout_of_vertices_in_memory_does_not_matter() -> None:
    vertices = torch.stack([random_mesh(seed)[0] for seed in range(3)])
    triangles = random_mesh(0)[1]
    strided = vertices.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    expected = visible_vertices(vertices, triangles, 20, 24)
    assert torch.equal(visible_vertices(strided, triangles, 20, 24), expected)
    assert_same(rasterise_meshes(strided, triangles, 20, 24), rasterise_meshes(vertices, triangles, 20, 24))
    once = vertices[:1].expand(3, -1, -1)
    assert torch.equal(visible_vertices(once, triangles, 20, 24), expected[:1].expand(3, -1))


def test_a_vertex_outside_of_the_image_is_not_visible() -> None:
    vertices = torch.tensor([[[-2.0, 2.0, 0.0], [9.0, 2.0, 0.0], [2.0, 2.2, 5.0], [float("nan"), 0.0, 0.0]]])
    assert visible_vertices(vertices, torch.tensor([[0, 1, 2]]), 5, 5).tolist() == [[False, False, True, False]]


MESH = random_mesh(0, triangles=4)
IMAGE = torch.zeros(4, dtype=torch.int32)
ALPHA = torch.zeros(2, 4, 4, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(((*MESH, IMAGE, size), "size") for size in ((1, 0, 8), (0, 8, 8))),
        ((MESH[0], MESH[1] + 1, IMAGE, (1, 8, 8)), "triangles: expected indices in 0 ... 11"),
        ((MESH[0], MESH[1] - 1, IMAGE, (1, 8, 8)), "triangles: expected indices in 0 ... 11, found -1"),
        ((*MESH, IMAGE + 1, (1, 8, 8)), "image: expected indices in 0 ... 0, found 1 ... 1"),
        ((*MESH, IMAGE - 1, (1, 8, 8)), "image"),
        ((MESH[0], MESH[1], IMAGE.to("meta"), (1, 8, 8)), "image: expected on cpu"),
        ((MESH[0].to("meta"), MESH[1], IMAGE, (1, 8, 8)), "not on meta"),
        ((MESH[0], MESH[1], IMAGE, (1, 8, 8), None, Cutout(torch.zeros(12, 2), IMAGE + 2, ALPHA)), "cutout.texture"),
        ((MESH[0], MESH[1], IMAGE, (1, 8, 8), None, Cutout(torch.zeros(12, 2), IMAGE, ALPHA[:, :0])), "cutout.alpha"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        rasterise(*arguments)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_values_of_another_mesh_are_refused() -> None:
    points, triangles = MESH
    fragments = rasterise_meshes(points[None].repeat(2, 1, 1), triangles, 8, 8)
    with pytest.raises(InputError, match="triangles: expected indices"):
        interpolate(fragments, triangles, points[:5])
    with pytest.raises(InputError, match=r"fragments\.triangle"):
        interpolate(fragments, triangles[:0], points)
    with pytest.raises(InputError, match="values"):
        interpolate(fragments, triangles, points[None].repeat(3, 1, 1))


FRESH = """
import torch
from jointface.errors import InputError
from jointface.geometry.rasteriser import rasterise
points, triangles, image = torch.rand(6, 3) * 9, torch.arange(6).view(2, 3), torch.zeros(2, dtype=torch.int32)
rasterise(points, triangles, image, (1, 8, 8))
bad = [
    (points[:, :2], triangles, image), (points, triangles.T, image), (points, triangles, image[:1]),
    (points.int(), triangles, image), (points, triangles.float(), image), (points, triangles, image, points[:5, 0]),
]
for points, triangles, image, *inverse_w in bad:
    try:
        rasterise(points, triangles, image, (1, 8, 8), *inverse_w)
    except InputError:
        continue
    raise SystemExit("not refused")
"""


def test_a_fresh_interpreter_says_nothing_and_checks_shapes(tmp_path: Path) -> None:
    """Without the import hook of these tests, which checks shapes itself, and with an empty cache of kernels."""
    result = subprocess.run(
        [sys.executable, "-c", FRESH],
        env={**os.environ, "WARP_CACHE_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert list(tmp_path.rglob("*raster_kernels*"))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


class Renders(Dataset[Tensor]):
    """What each pose of a mesh shows."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        points, triangles = random_mesh(index)
        return rasterise_meshes(points[None], triangles, 20, 24).depth[0]


def test_it_works_in_forked_workers_of_a_data_loader() -> None:
    load_kernels("cpu")
    alone = torch.stack([Renders()[index] for index in range(4)])
    loader = DataLoader(Renders(), batch_size=2, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(torch.cat(list(loader)), alone)


@CUDA
def test_cuda_gives_the_same_as_the_cpu() -> None:
    vertices, triangles = sphere()
    points, more = random_mesh(11, triangles=300)
    inverse_w = torch.rand(len(points)) + 0.1
    cutout = Cutout(
        torch.rand(len(points), 2), torch.randint(-1, 2, (300,)).int(), torch.randint(0, 256, (2, 32, 16)).byte()
    )
    image = torch.randint(0, 3, (300,)).int()
    on_cpu = rasterise(points, more, image, (3, 20, 24), inverse_w, cutout)
    moved = Cutout(cutout.uv.cuda(), cutout.texture.cuda(), cutout.alpha.cuda())
    with torch.cuda.stream(torch.cuda.Stream()):
        on_cuda = rasterise(points.cuda(), more.cuda(), image.cuda(), (3, 20, 24), inverse_w.cuda(), moved)
        blended = interpolate(on_cuda, more.cuda(), points.cuda()).cpu()
    assert_same(on_cuda, on_cpu)
    assert torch.equal(blended, interpolate(on_cpu, more, points))
    assert_same(
        rasterise_meshes(vertices[None].cuda(), triangles.cuda(), 64, 64),
        rasterise_meshes(vertices[None], triangles, 64, 64),
    )
