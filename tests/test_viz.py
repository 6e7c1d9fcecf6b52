"""Pictures: faces are where the points are, curves have their closed forms."""

import cv2
import numpy as np
import pytest
from matplotlib.axes import Axes

from jointface.geometry import MorphableModel
from jointface.modules.shape_decoders import frontal_face
from jointface.viz.contact_sheet import contact_sheet
from jointface.viz.error_curves import area_under_curve, cumulative_errors, error_against_yaw
from jointface.viz.heat_map import error_heat_map
from jointface.viz.image_grid import captioned_row, image_grid
from jointface.viz.mesh_view import view_mesh
from jointface.viz.overlay import OUTLINES, enlarge, overlay_circles, overlay_landmarks, overlay_mesh

PHOTO = np.full((64, 80, 3), 10, np.uint8)


@pytest.fixture(scope="module")
def face(tiny_model: MorphableModel) -> np.ndarray:
    return frontal_face(tiny_model, 64).numpy()


@pytest.fixture(scope="module")
def triangles(tiny_model: MorphableModel) -> np.ndarray:
    return tiny_model.triangles.numpy()


def test_a_mesh_covers_the_face_and_leaves_the_corners(
    face: np.ndarray, triangles: np.ndarray, tiny_model: MorphableModel
) -> None:
    picture = overlay_mesh(PHOTO, face, triangles)
    assert picture.shape == (192, 240, 3)
    column, row = enlarge(face, 3)[tiny_model.landmarks68[30], :2].astype(int)
    assert picture[row, column].mean() > 60
    assert (picture[:3, :3] == 10).all()


def test_landmarks_are_marked_where_they_are(face: np.ndarray, tiny_model: MorphableModel) -> None:
    landmarks = face[tiny_model.landmarks68]
    picture = overlay_landmarks(PHOTO, landmarks)
    for column, row in landmarks[:, :2].round().astype(int):
        assert picture[row, column, 0] > 200
    assert (picture == 10).all(2).mean() > 0.5
    assert (PHOTO == 10).all()  # it is left alone
    assert set().union(*map(set, OUTLINES)) == set(range(68))


def test_enlarged_points_stay_on_their_pixels() -> None:
    """The first pixel's centre is the centre of the block of 3 x 3 that it becomes; z takes the scale alone."""
    np.testing.assert_array_equal(enlarge(np.array([[0.0, 1.0, 2.0]]), 3), [[1, 4, 6]])
    np.testing.assert_array_equal(enlarge(np.array([[0.0, 1.0]]), 3), [[1, 4]])


def test_a_view_undoes_the_pose(tiny_model: MorphableModel, triangles: np.ndarray) -> None:
    """A turned face, its pose undone, looks like the frontal one."""
    y_down = [1, -1, 1]
    frontal, pose = tiny_model.mean.numpy() * y_down, np.array([10.0, 35.0, -8.0])
    (sp, sy, sr), (cp, cy, cr) = np.sin(np.deg2rad(pose)), np.cos(np.deg2rad(pose))
    rx, ry = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]]), np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    rz = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    turned = (tiny_model.mean.numpy() @ (rx @ ry @ rz).T) * y_down
    plain, undone = view_mesh(frontal, triangles), view_mesh(turned, triangles, pose)
    assert np.abs(plain.astype(int) - undone).mean() < 2
    assert np.abs(plain.astype(int) - view_mesh(turned, triangles)).mean() > 5


def test_a_mesh_that_is_not_finite_is_left_out(face: np.ndarray, triangles: np.ndarray) -> None:
    assert (view_mesh(face * np.nan, triangles) == 255).all()
    assert (overlay_mesh(PHOTO, face * np.nan, triangles) == 10).all()


def test_a_heat_map_colours_vertices_by_error_and_leaves_unknown_ones_grey(
    tiny_model: MorphableModel, triangles: np.ndarray
) -> None:
    vertices, neck = tiny_model.mean.numpy() * [1, -1, 1], ~tiny_model.face_region.numpy()
    errors = np.where(neck, np.nan, np.where(vertices[:, 0] > 0, 2.0, 0.0))
    figure = error_heat_map(vertices, triangles, {"ours": errors}, "mm", highest=2.0)
    assert figure.axes[0].get_title(loc="left") == f"ours, mean {errors[~neck].mean():.3g}"
    picture = figure.axes[0].images[0].get_array().astype(int)
    height, width = picture.shape[:2]
    left, right = (picture[height // 2 - 20 : height // 2 + 20, column] for column in (width // 3, 2 * width // 3))
    assert left[:, 1].mean() > 100 + right[:, 1].mean()  # light where there is no error, dark red where it is large


@pytest.mark.parametrize("horizontal", [False, True])
def test_a_grid_has_a_titled_line_a_method(horizontal: bool) -> None:
    lines = [("photo", [PHOTO, PHOTO]), ("ours", [PHOTO, None]), ("front", [PHOTO, None])]
    axes = np.array(image_grid(lines, ["one", "two"], horizontal).axes)
    columns = axes.reshape(3, 2) if horizontal else axes.reshape(2, 3).T
    place = "left" if horizontal else "center"
    assert [column[0].get_title(loc=place) for column in columns] == ["photo", "ours", "front"]
    assert [len(axis.images) for axis in columns[1]] == [1, 0]
    assert [text.get_text() for text in columns[1, 1].texts] == ["none"]


def test_captions_stand_beneath_their_pictures() -> None:
    one, two = captioned_row([PHOTO, PHOTO], [[("Male 0.9", "green"), ("not Bald 0.8", "red")], []]).axes
    assert [(text.get_text(), text.get_color()) for text in one.texts] == [
        ("Male 0.9", "green"), ("not Bald 0.8", "red"),
    ]  # fmt: skip
    assert not two.texts


@pytest.mark.parametrize(("pictures", "columns", "rows"), [(1, 1, 1), (8, 8, 1), (9, 8, 2)])
def test_a_contact_sheet_is_as_wide_as_its_pictures(pictures: int, columns: int, rows: int) -> None:
    sheet = contact_sheet([np.zeros((8, 8, 3), np.uint8)] * pictures, [["Male"]] * pictures)
    height, width = cv2.imdecode(np.frombuffer(sheet, np.uint8), cv2.IMREAD_COLOR).shape[:2]
    assert (width, height) == (209 * columns, 264 * rows)


# Error curves


def test_area_under_the_curve_in_closed_form() -> None:
    assert area_under_curve(np.zeros(3), 10) == 1
    assert area_under_curve(np.full(3, 2.5), 10) == pytest.approx(0.75)
    assert area_under_curve(np.array([5.0, 20.0, np.inf]), 10) == pytest.approx(0.5 / 3)
    assert area_under_curve(np.array([5.0, np.nan]), 10) == 0.5  # over the images that have a prediction
    errors = np.random.default_rng(0).gamma(3, 1, 500)
    grid = np.linspace(0, 8, 20001)
    share = (errors[None] <= grid[:, None]).mean(1)
    assert area_under_curve(errors, 8) == pytest.approx(np.trapezoid(share, grid) / 8, abs=1e-4)


def lines_of(axis: Axes) -> dict[str, np.ndarray]:
    return {str(line.get_label()): line.get_xydata() for line in axis.lines}  # type: ignore[misc]


def test_the_cumulative_curve_is_the_share_of_images_below_each_error() -> None:
    errors = {"a": np.array([4.0, 1.0, np.inf]), "b": np.zeros(3), "c": np.array([5.0, np.nan, np.nan])}
    axis = cumulative_errors(errors, 10, "NME, %").axes[0]
    curves = lines_of(axis)
    assert list(curves) == ["b (100.0)", "a (50.0)", "c (50.0, 1 of 3 images)"]  # the best first
    x, share = curves["a (50.0)"].T
    assert share[x <= 1].max() == pytest.approx(1 / 3)
    assert share[x <= 10].max() == pytest.approx(2 / 3)
    assert axis.get_xlim() == (0, 10)


def test_errors_against_yaw_have_the_mean_of_each_bin() -> None:
    yaw = np.array([-90.0, -85.0, 3.0, 7.0, 90.0, 95.0])
    errors = {"a": np.array([1.0, 3.0, 5.0, np.nan, 2.0, 4.0])}
    axis = error_against_yaw(errors, yaw, "NME, %").axes[0]
    np.testing.assert_allclose(lines_of(axis)["a"], [[-85, 2], [5, 5], [85, 3]])
    assert len(axis.collections[0].get_offsets()) == 5


def test_figures_without_a_finite_error_are_plotted(face: np.ndarray, triangles: np.ndarray) -> None:
    by_yaw = error_against_yaw({"a": np.array([np.inf, np.nan])}, np.zeros(2), "NME, %")
    assert not any(len(points.get_offsets()) for points in by_yaw.axes[0].collections)
    curve = cumulative_errors({"a": np.array([np.inf])}, 10, "NME, %")
    heat_map = error_heat_map(face, triangles, {"a": np.full(len(face), np.nan)}, "mm")
    for figure in (by_yaw, curve, heat_map):
        figure.draw_without_rendering()


def test_a_circle_without_bound_is_as_large_as_the_picture() -> None:
    picture, points = np.zeros((8, 8, 3), np.uint8), np.array([[1.0, 1.0]])
    endless, largest = (overlay_circles(picture, points, np.array([radius])) for radius in (np.inf, 8.0))
    assert np.array_equal(endless, largest)
