"""Figures that all protocols of 3D faces share: error curves, faces side by side, errors on the mean face."""

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
from jointface.evaluation.methods import LabelMethod, NetworkMethod, PredictedFace, ShapeMethod
from jointface.evaluation.result import BenchmarkResult
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


def add_shape_figures(
    result: BenchmarkResult,
    methods: Sequence[ShapeMethod],
    dataset: FaceDataset,
    model: MorphableModel,
    curves: Sequence[Mapping[str, Any]],
) -> None:
    """Adds figures with captions, the areas under the error curves, and a note on methods with another topology.

    Args:
        result: of the protocol; it knows which methods are references.
        methods: under evaluation, without references.
        dataset: the photos.
        model: the morphable model of the labels.
        curves: the columns of per_image that get an error curve and a figure of error against yaw; each has `error`,
            the column, `scale`, a factor, `limit`, the largest error shown, and `label`.
    """
    images = result.per_image.drop_duplicates("index").set_index("index").sort_index()
    for curve in curves:
        _add_curves(result, images["yaw"], **curve)
    by_yaw = images["yaw"].abs().sort_values(kind="stable").index
    result.figures["faces"] = faces_figure(methods, dataset, _spread(by_yaw, GRID_FACES), model)
    others = "" if len(methods) <= VIEWED else f"; of methods after the first {VIEWED} over the photo only"
    result.captions["faces"] = (
        "Faces, evenly spaced by yaw. Of each method, the mesh over the photo and from two sides, its pose undone"
        f"{others}; landmarks where it has no mesh. On the right the ground truth: its mesh, its 68 landmarks."
    )
    indices = _spread(images.index, HEAT_MAP_FACES)
    if errors := vertex_errors(methods, dataset, indices, model):
        mean_face = model.mean.cpu().numpy() * np.array([1, -1, 1], np.float32)
        label = "mean error, % of the face box"
        heat_map = error_heat_map(mean_face, model.triangles.cpu().numpy(), errors, label)
        result.figures["errors_on_the_mean_face"] = heat_map
        result.captions["errors_on_the_mean_face"] = (
            f"Where errors lie: the mean 3D error of each vertex over {len(indices)} images, on the mean face of "
            f"{model.name}, in per cent of sqrt(width x height) of the true landmark box; z relative to the mean."
        )
    if "nme_3d_dense" in result.per_image:
        result.notes += [
            f"{method.name} predicts the vertices of another morphable model than {model.name}: it takes part where "
            "landmarks and pose are compared, not in dense errors."
            for method in methods
            if isinstance(method, NetworkMethod) and method.topology != fingerprint(model)
        ]


def _spread(indices: pd.Index, count: int) -> list[int]:
    return indices[evenly_spaced(len(indices), count)].tolist()


def _add_curves(result: BenchmarkResult, yaw: pd.Series, error: str, scale: float, limit: float, label: str) -> None:
    """Nothing where only references have the error."""
    errors = {name: scale * values for name, values in errors_by_method(result.per_image, error).items()}
    if not errors.keys() - result.references:
        return
    result.metrics |= {f"{name}/{error}/auc": area_under_curve(values, limit) for name, values in errors.items()}
    result.figures[f"{error}_curve"] = cumulative_errors(errors, limit, label)
    result.captions[f"{error}_curve"] = (
        f"Cumulative error distribution of {label}: the share of images below each error, and the area under the "
        "curve, both over the images that the method has a prediction for."
    )
    result.figures[f"{error}_by_yaw"] = error_against_yaw(errors, yaw.to_numpy(np.float64), label)
    result.captions[f"{error}_by_yaw"] = f"{label}, of each image against its yaw, and its mean by yaw."


def errors_by_method(per_image: pd.DataFrame, error: str) -> dict[str, Float[np.ndarray, "images"]]:
    """Errors of each image by method, in the order of their `index`, NaN where a method has no prediction; without
    methods that have none at all."""
    if error not in per_image:
        return {}
    table = per_image.pivot(index="index", columns="method", values=error).dropna(axis=1, how="all")
    names = [name for name in per_image["method"].unique() if name in table]
    return {name: table[name].to_numpy(np.float64) for name in names}


# Faces side by side


def faces_figure(
    methods: Sequence[ShapeMethod], dataset: FaceDataset, indices: Sequence[int], model: MorphableModel
) -> Figure:
    """A row a photo: the photo, each method's face, the true face, the true landmarks.

    A method's mesh is shown over the photo and, its pose undone, from the front and from the side; of methods after the
    first `VIEWED` only over the photo. A face without a mesh is shown by its landmarks. Columns without a mesh or
    without true landmarks are left out.
    """
    transform = CropTransform(GRID_SIZE)
    samples, names = [dataset.read(index) for index in indices], [dataset.name(index) for index in indices]
    crops, to_crops = zip(*(transform(sample.image, sample.box) for sample in samples), strict=True)
    photos = [crop.permute(1, 2, 0).numpy() for crop in crops]

    def in_crops(faces: Sequence[PredictedFace | None]) -> list[PredictedFace | None]:
        return [_in_crop(face, to_crop) if face else None for face, to_crop in zip(faces, to_crops, strict=True)]

    def over_photos(faces: Sequence[PredictedFace | None]) -> list[np.ndarray | None]:
        return [_over(photo, face) if face else None for photo, face in zip(photos, faces, strict=True)]

    columns: list[tuple[str, Sequence[np.ndarray | None]]] = [("photo", photos)]
    for place, method in enumerate(methods):
        faces = in_crops(method.predict(samples, names))
        columns.append((method.name, over_photos(faces)))
        if place < VIEWED and any(face and face.vertices is not None for face in faces):
            columns += [("front", [_view(face) for face in faces]), ("side", [_view(face, SIDE_YAW) for face in faces])]
    truths = in_crops([_truth(dataset, index, sample, model) for index, sample in zip(indices, samples, strict=True)])
    if any(face and face.vertices is not None for face in truths):
        columns.append(("truth", over_photos(truths)))
    if any(face and face.landmarks68 is not None for face in truths):
        bare = [replace(face, vertices=None) if face else None for face in truths]
        columns.append(("true landmarks", over_photos(bare)))
    return image_grid(columns, names)


def _truth(dataset: FaceDataset, index: int, sample: FaceSample, model: MorphableModel) -> PredictedFace | None:
    if (surface := dataset.image_surface(index)) is not None:
        return PredictedFace(vertices=surface[0], triangles=surface[1])
    face = LabelMethod(model).predict([sample], [""])[0]
    if face is not None and "landmarks68" in sample.labels:  # which errors refer to, where labels bring them
        face.landmarks68 = sample.labels["landmarks68"]
    return face


def _in_crop(face: PredictedFace, to_crop: Float[Tensor, "2 3"]) -> PredictedFace:
    landmarks, vertices = face.landmarks68, face.vertices
    if landmarks is not None:
        landmarks = torch.nn.functional.pad(landmarks, (0, 3 - landmarks.shape[1]))  # flat ones have no z
        landmarks = warp_points(to_crop, landmarks.float())
    vertices = None if vertices is None else warp_points(to_crop, vertices.float())
    return replace(face, landmarks68=landmarks, vertices=vertices)


def _over(
    photo: UInt8[np.ndarray, "height width 3"], face: PredictedFace
) -> UInt8[np.ndarray, "height width 3"] | None:
    if face.vertices is not None and face.triangles is not None:
        return overlay_mesh(photo, face.vertices.numpy(), face.triangles.numpy(), enlargement=1)
    return None if face.landmarks68 is None else overlay_landmarks(photo, face.landmarks68.numpy())


def _view(face: PredictedFace | None, yaw: float = 0.0) -> UInt8[np.ndarray, "size size 3"] | None:
    if face is None or face.vertices is None or face.triangles is None:
        return None
    pose = None if face.pose is None else face.pose.numpy()
    return view_mesh(face.vertices.numpy(), face.triangles.numpy(), pose, yaw)


# Errors on the mean face


def vertex_errors(
    methods: Sequence[ShapeMethod], dataset: FaceDataset, indices: Sequence[int], model: MorphableModel
) -> dict[str, Float[np.ndarray, "vertices"]]:
    """The mean error of each vertex over some photos, in per cent of sqrt(width x height) of the true landmark box, by
    method; NaN for the neck. z is relative to its mean over the face.

    Methods whose vertices are not those of the model are left out, and all are where the data set has no coefficients.
    """
    if not dataset.has_shape:
        return {}
    labels, topology, face = LabelMethod(model), fingerprint(model), model.face_region.cpu()
    errors: dict[str, list[Tensor]] = {}
    for start in range(0, len(indices), CHUNK):
        chunk = indices[start : start + CHUNK]
        samples, names = [dataset.read(index) for index in chunk], [dataset.name(index) for index in chunk]
        truths = labels.predict(samples, names)
        for method in methods:
            for predicted, truth, sample in zip(method.predict(samples, names), truths, samples, strict=True):
                if predicted is None or predicted.vertices is None or predicted.topology != topology or truth is None:
                    continue
                assert truth.vertices is not None
                assert truth.landmarks68 is not None
                landmarks = sample.labels.get("landmarks68", truth.landmarks68)
                offsets = predicted.vertices.double() - truth.vertices.double()
                offsets[:, 2] -= offsets[face, 2].mean()
                errors.setdefault(method.name, []).append(offsets.norm(dim=1) / box_size(landmarks.double()))
    means = {name: 100 * torch.stack(of_method).mean(0) for name, of_method in errors.items()}
    return {name: mean.where(face, torch.nan).numpy() for name, mean in means.items()}
