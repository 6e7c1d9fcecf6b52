"""Figures of 3D faces for papers: error curves, error against yaw, faces beside faces, errors on the mean face."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jointface.geometry.camera import euler_to_rotation
from jointface.geometry.mesh import vertex_normals
from jointface.geometry.morphable_model import MorphableModel
from jointface.geometry.rasteriser import interpolate, rasterise_meshes
from jointface.viz.overlay import draw_landmarks, draw_mesh

COLOURS = matplotlib.color_sequences["tab10"]
LINES = ("-", "--", "-.", ":")
ERROR_COLOURS = "YlOrRd"  # light where errors are small, so that the shading shows the face
OVERLAY_SIZE = 360  # pixels of a face over its photo, about
SIDE_YAW = 60.0  # degrees, of the second view of a mesh
VIEWED = 3  # methods whose meshes the grid shows in two views
YAW_LIMITS = (30, 60)  # degrees, between the bins of AFLW2000-3D's papers
SURFACE = (190.0, 204.0, 230.0)  # of a mesh without colours


@dataclass
class ShownFace:
    """A face to show in a photo's pixels (x right, y down, z towards the viewer).

    landmarks68: (68, 2) or (68, 3). vertices: (V, 3) with triangles (F, 3). pose: pitch, yaw, roll in degrees, which
    the views of the mesh take back; None takes the face as it is.
    """

    landmarks68: Float[np.ndarray, "68 dims"] | None = None
    vertices: Float[np.ndarray, "vertices 3"] | None = None
    triangles: Int[np.ndarray, "triangles 3"] | None = None
    pose: Float[np.ndarray, "3"] | None = None


@dataclass
class ShownPhoto:
    """A row of the grid: a square photo, the faces that methods see in it by name, the true face where it is known,
    whose landmarks are those that methods are judged by."""

    name: str
    photo: UInt8[np.ndarray, "size size 3"]
    faces: Mapping[str, ShownFace | None]
    truth: ShownFace | None = None


def area_under_curve(errors: Float[np.ndarray, "images"], limit: float) -> float:
    """Area under the cumulative error distribution from 0 to `limit`, as a fraction of the largest possible one.

    The integral of the share of images below each error, which is the mean of 1 - error / limit over the images, those
    beyond the limit at 0. Images without a prediction, whose error is NaN, are left out, as they are of means.
    """
    known = np.asarray(errors, dtype=np.float64)
    known = known[~np.isnan(known)]
    return float(np.clip(1 - known / limit, 0, 1).mean()) if len(known) else float("nan")


def cumulative_errors(errors: Mapping[str, Float[np.ndarray, "images"]], limit: float, label: str) -> Figure:
    """Share of images below each error, a curve for each method, the largest area under the curve first.

    Args:
        errors: of each image, by method; NaN where the method has no prediction, which its curve leaves out.
        limit: largest error shown. label: what the error is, with its unit.
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    areas = {name: area_under_curve(values, limit) for name, values in errors.items()}
    places = {name: place for place, name in enumerate(errors)}  # of colours, as in the other figures
    for name in sorted(errors, key=lambda name: -areas[name]):
        place = places[name]
        below = np.sort(errors[name][~np.isnan(errors[name])])
        few = "" if len(below) == len(errors[name]) else f", {len(below):,} of {len(errors[name]):,} images"
        share = np.arange(1, len(below) + 1) / len(below)
        axis.step(
            np.concatenate([[0], below[np.isfinite(below)], [max([limit, *below[np.isfinite(below)]])]]),
            100 * np.concatenate([[0], share[np.isfinite(below)], [np.isfinite(below).mean()]]),
            where="post", color=COLOURS[place % len(COLOURS)], linestyle=LINES[place // len(COLOURS) % len(LINES)],
            label=f"{name} ({100 * areas[name]:.1f}{few})",
        )  # fmt: skip
    axis.set(xlim=(0, limit), ylim=(0, 100), xlabel=label, ylabel="images below, %")
    axis.grid(color="0.9")
    axis.legend(title=f"method (AUC to {limit:g}, %)", fontsize=8, title_fontsize=8, loc="lower right")
    return figure


def error_against_yaw(
    errors: Mapping[str, Float[np.ndarray, "images"]], yaw: Float[np.ndarray, "images"], label: str, width: float = 10.0
) -> Figure:
    """Each image's error against its yaw, and each method's mean in bins of yaw.

    Args:
        errors: of each image, by method; infinite or NaN ones are left out. yaw: of each image, in degrees.
        label: what the error is, with its unit. width: of a bin, in degrees.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    edges = np.arange(-90, 90 + width, width)
    bins = np.clip(np.digitize(yaw, edges) - 1, 0, len(edges) - 2)
    size = np.clip(2000 / max(len(yaw), 1), 2, 16)
    highest = 0.0
    for place, (name, values) in enumerate(errors.items()):
        colour = COLOURS[place % len(COLOURS)]
        finite = np.isfinite(values)
        counts = np.bincount(bins[finite], minlength=len(edges) - 1)
        means = np.bincount(bins[finite], values[finite], len(edges) - 1) / np.where(counts, counts, np.nan)
        axis.scatter(yaw[finite], values[finite], s=size, color=colour, alpha=0.25, linewidths=0, rasterized=True)
        shown = counts > 0
        axis.plot((edges[:-1] + width / 2)[shown], means[shown], "o-", color=colour, markersize=4, label=name)
        if finite.any():
            highest = max(highest, np.quantile(values[finite], 0.99), np.nanmax(means))
    for limit in (*YAW_LIMITS, *(-limit for limit in YAW_LIMITS)):
        axis.axvline(limit, color="0.85", zorder=0)
    axis.set(xlim=(-90, 90), ylim=(0, 1.1 * highest or 1), xlabel="yaw, degrees", ylabel=label)
    axis.set_xticks(range(-90, 91, 30))
    axis.legend(title=f"mean in bins of {width:g}°", fontsize=8, title_fontsize=8)
    return figure


def qualitative_grid(photos: Sequence[ShownPhoto]) -> Figure:
    """A row for each photo: itself, each method's face, the true face, the true landmarks.

    A method's mesh is shown over the photo and, its pose taken back, from the front and from the side; of methods after
    the first `VIEWED` only over the photo. A face without a mesh is shown by its landmarks. Columns that would be empty
    are left out.
    """
    methods = list(dict.fromkeys(name for photo in photos for name in photo.faces))
    columns: list[tuple[str, Callable[[Axes, ShownPhoto], None]]] = [("photo", _show_photo)]
    for place, name in enumerate(methods):
        columns.append((name, partial(_show_method, name=name)))
        if place < VIEWED and any(_has_mesh(photo.faces.get(name)) for photo in photos):
            columns += [("front", partial(_show_view, name=name, yaw=0.0))]
            columns += [("side", partial(_show_view, name=name, yaw=SIDE_YAW))]
    if any(_has_mesh(photo.truth) for photo in photos):
        columns.append(("truth", _show_truth))
    if any(photo.truth is not None and photo.truth.landmarks68 is not None for photo in photos):
        columns.append(("true landmarks", _show_true_landmarks))
    figure = Figure(figsize=(1.75 * len(columns), 1.85 * len(photos) + 0.3), layout="constrained")
    grid = figure.subplots(len(photos), len(columns), squeeze=False)
    for axes, photo in zip(grid, photos, strict=True):
        for axis, (title, show) in zip(axes, columns, strict=True):
            axis.set_axis_off()
            show(axis, photo)
            if axis in grid[0]:
                axis.set_title(title, fontsize=9, wrap=True)
    return figure


def _has_mesh(face: ShownFace | None) -> bool:
    return face is not None and face.vertices is not None and face.triangles is not None


def _show_photo(axis: Axes, photo: ShownPhoto) -> None:
    axis.imshow(photo.photo)
    axis.text(0, -0.03, photo.name, transform=axis.transAxes, fontsize=6, va="top")


def _show_method(axis: Axes, photo: ShownPhoto, name: str) -> None:
    _show_over(axis, photo.photo, photo.faces.get(name))


def _show_view(axis: Axes, photo: ShownPhoto, name: str, yaw: float) -> None:
    face = photo.faces.get(name)
    if face is not None and face.vertices is not None and face.triangles is not None:
        axis.imshow(draw_view(face.vertices, face.triangles, face.pose, yaw))


def _show_truth(axis: Axes, photo: ShownPhoto) -> None:
    _show_over(axis, photo.photo, photo.truth)


def _show_true_landmarks(axis: Axes, photo: ShownPhoto) -> None:
    truth = photo.truth
    _show_over(axis, photo.photo, None if truth is None else ShownFace(landmarks68=truth.landmarks68))


def _show_over(axis: Axes, photo: UInt8[np.ndarray, "size size 3"], face: ShownFace | None) -> None:
    if face is None:
        axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color="0.5", fontsize=8)
        return
    picture = photo
    if face.vertices is not None and face.triangles is not None:
        picture = draw_mesh(photo, face.vertices, face.triangles, enlargement=max(1, round(OVERLAY_SIZE / len(photo))))
    axis.imshow(picture, extent=(-0.5, photo.shape[1] - 0.5, photo.shape[0] - 0.5, -0.5))
    if picture is photo and face.landmarks68 is not None:
        draw_landmarks(axis, face.landmarks68)
        axis.set(xlim=(-0.5, photo.shape[1] - 0.5), ylim=(photo.shape[0] - 0.5, -0.5))


def draw_view(
    vertices: Float[np.ndarray, "vertices 3"],
    triangles: Int[np.ndarray, "triangles 3"],
    pose: Float[np.ndarray, "3"] | None = None,
    yaw: float = 0.0,
    colours: Float[np.ndarray, "vertices 3"] | None = None,
    size: int = 360,
) -> UInt8[np.ndarray, "size size 3"]:
    """A shaded mesh on white that fills the picture.

    Args:
        vertices: x right, y down, z towards the viewer. triangles: of them, counter-clockwise seen from outside.
        pose: pitch, yaw, roll in degrees that is taken back first. yaw: then turned by, in degrees.
        colours: RGB of each vertex, 0 to 255; None is one colour. size: of the picture's sides, in pixels.
    """
    canvas = np.full((size, size, 3), 255, np.uint8)
    if not np.isfinite(vertices).all():
        return canvas
    flip = np.array([1.0, -1.0, 1.0])  # rotations are those of model space, whose y is up
    back, turn = (_rotation(angles) for angles in (np.zeros(3) if pose is None else pose, np.array([0.0, yaw, 0.0])))
    turned = ((vertices * flip) @ (turn @ back.T).T) * flip
    low, high = turned.min(0), turned.max(0)
    scale = 0.94 * (size - 1) / (high - low)[:2].max()
    points = (turned - (low + high) / 2) * scale + [(size - 1) / 2, (size - 1) / 2, 0]
    mesh = torch.from_numpy(np.ascontiguousarray(triangles))
    fragments = rasterise_meshes(torch.from_numpy(points).float()[None], mesh, size, size)
    normals = -vertex_normals(torch.from_numpy(points), mesh)  # y down turns the winding around
    colours = np.broadcast_to(SURFACE, points.shape) if colours is None else colours
    values = np.concatenate([normals.numpy(), colours], 1)
    drawn = interpolate(fragments, mesh, torch.from_numpy(values).float())[0].numpy()
    seen = (fragments.triangle[0] >= 0).numpy()
    # The inside of a face seen from the side is turned away; it is shaded like the outside, only darker.
    facing = drawn[seen][:, :3] @ np.array([0.25, -0.35, 0.9])
    light = 0.35 + 0.65 * np.clip(np.abs(facing), 0, 1) * np.where(facing > 0, 1, 0.6)
    canvas[seen] = np.clip(light[:, None] * drawn[seen][:, 3:], 0, 255)
    return canvas


def _rotation(pose: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    return euler_to_rotation(torch.from_numpy(np.asarray(pose, dtype=np.float64)).deg2rad()).numpy()


def error_heat_map(
    model: MorphableModel, errors: Mapping[str, Float[np.ndarray, "vertices"]], label: str, highest: float | None = None
) -> Figure:
    """The mean error of each vertex, as colour on the mean face, from the front and from the side; a row each method.

    Args:
        model: whose vertices these are. errors: by method; NaN vertices, such as the neck's, stay grey.
        label: what the error is, with its unit. highest: end of the colour scale; None takes the 99 % quantile.
    """
    finite = np.concatenate([values[np.isfinite(values)] for values in errors.values()])
    norm = Normalize(0, highest or (float(np.quantile(finite, 0.99)) if len(finite) else 1.0) or 1.0)
    colour_map = matplotlib.colormaps[ERROR_COLOURS]
    vertices = model.mean.cpu().numpy() * [1.0, -1.0, 1.0]
    triangles = model.triangles.cpu().numpy()
    figure = Figure(figsize=(5.6, 2.7 * len(errors)), layout="constrained")
    axes = figure.subplots(len(errors), 2, squeeze=False)
    for row, (name, values) in zip(axes, errors.items(), strict=True):
        known = np.isfinite(values)
        colours = np.where(known[:, None], 255 * colour_map(norm(np.nan_to_num(values)))[:, :3], 200.0)
        for axis, yaw in zip(row, (0.0, SIDE_YAW), strict=True):
            axis.imshow(draw_view(vertices, triangles, yaw=yaw, colours=colours))
            axis.set_axis_off()
        mean = f", mean {values[known].mean():.3g}" if known.any() else ""
        row[0].set_title(f"{name}{mean}", loc="left", fontsize=9)
    figure.colorbar(ScalarMappable(norm, colour_map), ax=axes, label=label, shrink=0.8, extend="max")
    return figure
