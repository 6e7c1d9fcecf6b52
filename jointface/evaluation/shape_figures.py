"""Figures shared by all protocols for 3D faces: error curves, faces side by side, errors on the mean face."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from matplotlib.figure import Figure
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, evenly_spaced
from jointface.datamodules.packed import fingerprint
from jointface.evaluation.benchmark_result import BenchmarkResult
from jointface.evaluation.methods import LabelMethod, NetworkMethod, PredictedFace, ShapeMethod
from jointface.geometry.framing import warp_points
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.nme import box_size
from jointface.viz.error_curves import area_under_curve, cumulative_errors, error_against_yaw
from jointface.viz.heat_map import error_heat_map
from jointface.viz.image_grid import image_grid
from jointface.viz.mesh_view import SIDE_YAW, view_mesh
from jointface.viz.overlay import overlay_landmarks, overlay_mesh

GRID_FACES = 6
GRID_SIZE = 256  # pixels of a photo in the grid
VIEWED = 3  # methods whose meshes the grid shows from two sides
HEAT_MAP_FACES = 100
CHUNK = 16  # photos in memory at a time

Picture = UInt8[np.ndarray, "height width 3"]


def add_shape_figures(
    result: BenchmarkResult,
    methods: Sequence[ShapeMethod],
    dataset: FaceDataset,
    model: MorphableModel,
    curves: Sequence[Mapping[str, Any]],
) -> None:
    """Adds figures with captions, the areas under the error curves, and a note on methods with another topology.

    Args:
        result: the protocol's result. methods: the evaluated methods without references. model: the labels' model.
        curves: describes error curves and plots of error against yaw. Each entry has `error`, a column of per_image,
            `scale`, a factor, `limit`, the largest error shown, and `label`.
    """
    images = result.per_image.drop_duplicates("index").set_index("index").sort_index()
    for curve in curves:
        _add_curves(result, images["yaw"], **curve)
    by_yaw = images["yaw"].abs().sort_values(kind="stable").index
    result.figures["faces"] = faces_figure(methods, dataset, _spread(by_yaw, GRID_FACES), model)
    others = "" if len(methods) <= VIEWED else f"; methods after the first {VIEWED} over the photo only"
    result.captions["faces"] = (
        "Faces, evenly spaced by yaw where it is known. For each method, the mesh over the photo and, without its "
        f"pose, from two sides{others}; landmarks if it has no mesh. On the right the ground truth, where the images "
        "show it: its mesh, its 68 landmarks."
    )
    indices = _spread(images.index, HEAT_MAP_FACES)
    if errors := vertex_errors(methods, dataset, indices, model):
        mean_face = model.mean.cpu().numpy() * np.array([1, -1, 1], np.float32)
        label = "mean error, % of the face box"
        heat_map = error_heat_map(mean_face, model.triangles.cpu().numpy(), errors, label)
        result.figures["errors_on_the_mean_face"] = heat_map
        result.captions["errors_on_the_mean_face"] = (
            f"The mean 3D error of each vertex over {len(indices)} images, shown on the mean face of {model.name}, in "
            "per cent of sqrt(width x height) of the true landmark box; z relative to the mean."
        )
    if "nme_3d_dense" in result.per_image:
        result.notes += [
            f"{method.name} predicts the vertices of another morphable model than {model.name}: it is compared by "
            "landmarks and pose, but not by dense errors."
            for method in methods
            if isinstance(method, NetworkMethod) and method.topology != fingerprint(model)
        ]


def _spread(indices: pd.Index, count: int) -> list[int]:
    return indices[evenly_spaced(len(indices), count)].tolist()


def _add_curves(result: BenchmarkResult, yaw: pd.Series, error: str, scale: float, limit: float, label: str) -> None:
    """Adds the two figures of an error and the area under its curve, unless only references have the error."""
    errors = {name: scale * values for name, values in errors_by_method(result.per_image, error).items()}
    if not errors.keys() - result.references:
        return
    result.metrics |= {f"{name}/{error}/auc": area_under_curve(values, limit) for name, values in errors.items()}
    result.figures[f"{error}_curve"] = cumulative_errors(errors, limit, label)
    result.captions[f"{error}_curve"] = (
        f"Cumulative error distribution of {label}: the fraction of images below each error, and the area under the "
        "curve, both over the images for which the method has a prediction."
    )
    if yaw.isna().all():
        return
    result.figures[f"{error}_by_yaw"] = error_against_yaw(errors, yaw.to_numpy(np.float64), label)
    result.captions[f"{error}_by_yaw"] = f"{label}, of each image against its yaw, and its mean by yaw."


def errors_by_method(per_image: pd.DataFrame, error: str) -> dict[str, Float[np.ndarray, "images"]]:
    """The errors of all images by method, ordered by `index`; NaN if a method has no prediction. Methods without any
    error are left out."""
    if error not in per_image:
        return {}
    table = per_image.pivot(index="index", columns="method", values=error).dropna(axis=1, how="all")
    names = [name for name in per_image["method"].unique() if name in table]
    return {name: table[name].to_numpy(np.float64) for name in names}


# Faces side by side


def faces_figure(
    methods: Sequence[ShapeMethod], dataset: FaceDataset, indices: Sequence[int], model: MorphableModel
) -> Figure:
    """A figure with a row for each photo: the photo, each method's face, the true face, the true landmarks.

    A method's mesh is shown over the photo and, without its pose, from the front and from the side. Methods after the
    first `VIEWED` are shown only over the photo. Faces without a mesh are shown by their landmarks.
    """
    transform = CropTransform(GRID_SIZE)
    samples, names = [dataset.read(index) for index in indices], [dataset.name(index) for index in indices]
    crops, to_crops = zip(*(transform(sample.image, sample.box) for sample in samples), strict=True)
    photos = [crop.permute(1, 2, 0).numpy() for crop in crops]

    def over_photos(faces: Sequence[PredictedFace | None]) -> list[Picture | None]:
        parts = zip(faces, photos, to_crops, strict=True)
        return [_over(face, photo, to_crop) if face else None for face, photo, to_crop in parts]

    columns: list[tuple[str, Sequence[Picture | None]]] = [("photo", photos)]
    for place, method in enumerate(methods):
        faces = method.predict(samples, names)
        views = {"front": [_view(face) for face in faces], "side": [_view(face, SIDE_YAW) for face in faces]}
        columns += [(method.name, over_photos(faces)), *(_seen(views) if place < VIEWED else ())]
    truths = [_truth(dataset, index, sample, model) for index, sample in zip(indices, samples, strict=True)]
    bare = [face and replace(face, vertices=None) for face in truths]
    return image_grid([*columns, *_seen({"truth": over_photos(truths), "true landmarks": over_photos(bare)})], names)


def _seen(columns: Mapping[str, Sequence[Picture | None]]) -> list[tuple[str, Sequence[Picture | None]]]:
    return [column for column in columns.items() if any(picture is not None for picture in column[1])]


def _truth(dataset: FaceDataset, index: int, sample: FaceSample, model: MorphableModel) -> PredictedFace | None:
    if (surface := dataset.image_surface(index)) is not None:
        return PredictedFace(vertices=surface[0], triangles=surface[1])
    return LabelMethod(model).truth(sample) if "camera" in sample.labels else None


def _over(face: PredictedFace, photo: Picture, to_crop: Float[Tensor, "2 3"]) -> Picture | None:
    """Plots the mesh or the landmarks of a face over the crop."""
    if face.vertices is not None and face.triangles is not None:
        vertices = warp_points(to_crop, face.vertices.float())
        return overlay_mesh(photo, vertices.numpy(), face.triangles.numpy(), enlargement=1)
    if (landmarks := face.landmarks68) is None:
        return None
    in_3d = torch.nn.functional.pad(landmarks.float(), (0, 3 - landmarks.shape[1]))
    return overlay_landmarks(photo, warp_points(to_crop, in_3d).numpy())


def _view(face: PredictedFace | None, yaw: float = 0.0) -> Picture | None:
    if face is None or face.vertices is None or face.triangles is None:
        return None
    pose = None if face.pose is None else face.pose.numpy()
    return view_mesh(face.vertices.numpy(), face.triangles.numpy(), pose, yaw)


# Errors on the mean face


def vertex_errors(
    methods: Sequence[ShapeMethod], dataset: FaceDataset, indices: Sequence[int], model: MorphableModel
) -> dict[str, Float[np.ndarray, "vertices"]]:
    """For each method, the mean error of each vertex over some photos, in per cent of sqrt(width x height) of the true
    landmark box; NaN for the neck. z is relative to its mean over the face.

    Methods that predict other vertices than the model's are left out; without labelled coefficients, all are.
    """
    if not dataset.has_shape:
        return {}
    labels, region = LabelMethod(model), model.face_region.cpu()
    errors: dict[str, list[Tensor]] = defaultdict(list)
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        samples, names = [dataset.read(index) for index in chunk], [dataset.name(index) for index in chunk]
        truths = [labels.truth(sample) for sample in samples]
        for method in methods:
            for face, truth in zip(method.predict(samples, names), truths, strict=True):
                if face is None or face.vertices is None or face.topology != truth.topology:
                    continue
                assert truth.vertices is not None
                assert truth.landmarks68 is not None
                offsets = face.vertices.double() - truth.vertices.double()
                offsets[:, 2] -= offsets[region, 2].mean()
                errors[method.name].append(offsets.norm(dim=1) / box_size(truth.landmarks68.double()))
    means = {name: 100 * torch.stack(of_method).mean(0) for name, of_method in errors.items()}
    return {name: mean.where(region, torch.nan).numpy() for name, mean in means.items()}
