"""Figures of 3D faces: curves in closed form, and meshes drawn where the face is."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from jointface.geometry import MorphableModel
from jointface.modules.shape_decoders import frontal_face
from jointface.viz.shape_figures import (
    ShownFace,
    ShownPhoto,
    area_under_curve,
    cumulative_errors,
    draw_view,
    error_against_yaw,
    error_heat_map,
    qualitative_grid,
)


def test_area_under_the_curve_in_closed_form() -> None:
    assert area_under_curve(np.zeros(3), 10) == 1
    assert area_under_curve(np.full(3, 2.5), 10) == pytest.approx(0.75)
    assert area_under_curve(np.array([5.0, 20.0, np.inf]), 10) == pytest.approx(0.5 / 3)
    assert area_under_curve(np.array([5.0, np.nan]), 10) == 0.5  # over the images that have a prediction
    errors = np.random.default_rng(0).gamma(3, 1, 500)
    grid = np.linspace(0, 8, 20001)
    share = (errors[None] <= grid[:, None]).mean(1)
    assert area_under_curve(errors, 8) == pytest.approx(np.trapezoid(share, grid) / 8, abs=1e-4)


def lines(axis: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_xydata() for line in axis.lines}  # type: ignore[misc]


def test_the_cumulative_curve_is_the_share_of_images_below_each_error() -> None:
    axis = cumulative_errors({"a": np.array([4.0, 1.0, np.inf]), "b": np.zeros(3)}, 10, "NME, %").axes[0]
    curves = lines(axis)
    assert list(curves) == ["b (100.0)", "a (50.0)"]  # the best first
    np.testing.assert_allclose(curves["a (50.0)"], [[0, 0], [1, 100 / 3], [4, 200 / 3], [10, 200 / 3]])
    assert axis.get_xlim() == (0, 10)


def test_errors_against_yaw_have_the_mean_of_each_bin() -> None:
    yaw = np.array([-90.0, -85.0, 3.0, 7.0, 90.0])
    axis = error_against_yaw({"a": np.array([1.0, 3.0, 5.0, np.nan, 2.0])}, yaw, "NME, %").axes[0]
    np.testing.assert_allclose(lines(axis)["a"], [[-85, 2], [5, 5], [85, 2]])
    assert len(axis.collections[0].get_offsets()) == 4


def test_figures_of_no_finite_error_are_drawn(tiny_model: MorphableModel) -> None:
    nothing = {"a": np.array([np.inf, np.nan])}
    by_yaw = error_against_yaw(nothing, np.zeros(2), "NME, %")
    by_yaw.canvas.draw()
    assert not any(len(points.get_offsets()) for points in by_yaw.axes[0].collections)
    curve = cumulative_errors({"a": np.array([np.inf])}, 10, "NME, %")
    curve.canvas.draw()
    np.testing.assert_allclose(lines(curve.axes[0])["a (0.0)"], [[0, 0], [10, 0]])
    error_heat_map(tiny_model, {"a": np.full(len(tiny_model.mean), np.nan)}, "mm").canvas.draw()


def face_of(model: MorphableModel, size: int = 64) -> ShownFace:
    vertices = frontal_face(model, size).numpy()
    return ShownFace(vertices[model.landmarks68], vertices, model.triangles.numpy(), np.zeros(3, np.float32))


def test_the_grid_has_a_row_for_each_photo_and_a_column_for_each_view(tiny_model: MorphableModel) -> None:
    photo = np.full((64, 64, 3), 10, np.uint8)
    face = face_of(tiny_model)
    landmarks_only = ShownFace(landmarks68=face.landmarks68)
    rows = [
        ShownPhoto("one", photo, {"ours": face, "theirs": face, "points": landmarks_only}, face),
        ShownPhoto("two", photo, {"ours": None, "theirs": face, "points": None}, face),
    ]
    axes = np.array(qualitative_grid(rows).axes).reshape(2, 10)
    views = ["front", "side"]
    titles = ["photo", "ours", *views, "theirs", *views, "points", "truth", "true landmarks"]
    assert [axis.get_title() for axis in axes[0]] == titles
    overlay = axes[0, 1].images[0].get_array()
    assert overlay.shape[:2] != photo.shape[:2]  # enlarged, and the face drawn on it
    assert overlay[len(overlay) // 2, len(overlay) // 2].mean() > 60
    assert (overlay[0, 0] == 10).all()
    for view in (2, 3, 5, 6):
        assert len(axes[0, view].images) == 1
    assert len(axes[0, 7].lines) > 5  # landmarks where there is no mesh
    assert not axes[1, 2].images  # no prediction, no views
    assert not axes[0, 8].lines  # the true mesh,
    assert len(axes[0, 9].lines) > 5  # and the true landmarks on the bare photo
    assert axes[0, 9].images[0].get_array().shape == photo.shape
    assert [text.get_text() for text in axes[1, 1].texts] == ["none"]


def test_the_grid_shows_views_of_a_few_methods_only(tiny_model: MorphableModel) -> None:
    face, photo = face_of(tiny_model), np.zeros((16, 16, 3), np.uint8)
    grid = qualitative_grid([ShownPhoto("one", photo, dict.fromkeys("abcd", face))])
    titles = [axis.get_title() for axis in grid.axes]
    assert titles == ["photo", *(part for name in "abc" for part in (name, "front", "side")), "d"]


def test_the_grid_without_truth_or_methods_is_drawn() -> None:
    photo = np.zeros((32, 32, 3), np.uint8)
    grid = qualitative_grid([ShownPhoto("one", photo, {})])
    grid.canvas.draw()
    assert [len(axis.images) for axis in grid.axes] == [1]


def test_a_view_takes_the_pose_back(tiny_model: MorphableModel) -> None:
    """A turned face, its pose taken back, looks as the frontal one."""
    frontal = tiny_model.mean.numpy() * [1, -1, 1]
    triangles = tiny_model.triangles.numpy()
    pose = np.array([10.0, 35.0, -8.0])
    pitch, yaw, roll = np.deg2rad(pose)
    c, s = np.cos, np.sin
    rx = np.array([[1, 0, 0], [0, c(pitch), s(pitch)], [0, -s(pitch), c(pitch)]])
    ry = np.array([[c(yaw), 0, -s(yaw)], [0, 1, 0], [s(yaw), 0, c(yaw)]])
    rz = np.array([[c(roll), s(roll), 0], [-s(roll), c(roll), 0], [0, 0, 1]])
    turned = (tiny_model.mean.numpy() @ (rx @ ry @ rz).T) * [1, -1, 1]
    plain, back = draw_view(frontal, triangles), draw_view(turned, triangles, pose)
    assert np.abs(plain.astype(int) - back).mean() < 2
    assert np.abs(plain.astype(int) - draw_view(turned, triangles)).mean() > 5


def test_a_mesh_that_is_not_finite_is_not_drawn(tiny_model: MorphableModel) -> None:
    vertices = np.full((len(tiny_model.mean), 3), np.nan)
    assert (draw_view(vertices, tiny_model.triangles.numpy()) == 255).all()


def test_the_heat_map_colours_vertices_by_error_and_leaves_unknown_ones_grey(tiny_model: MorphableModel) -> None:
    errors = np.where(tiny_model.mean[:, 0].numpy() > 0, 2.0, 0.0)
    neck = ~tiny_model.face_region.numpy()
    errors[neck] = np.nan
    figure = error_heat_map(tiny_model, {"ours": errors}, "mm", highest=2.0)
    assert figure.axes[0].get_title(loc="left") == f"ours, mean {errors[~neck].mean():.3g}"
    picture = figure.axes[0].images[0].get_array().astype(int)
    height, width = picture.shape[:2]
    left, right = (picture[height // 2 - 20 : height // 2 + 20, column] for column in (width // 3, 2 * width // 3))
    assert left[:, 1].mean() > 100 + right[:, 1].mean()  # light where there is no error, dark red where it is large
