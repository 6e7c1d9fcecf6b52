"""Figures that need predictions once more, of a few photos: faces beside faces, and where on the face errors lie."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.datamodules.florence import Florence
from jointface.datamodules.packed import fingerprint
from jointface.evaluation.methods import LabelMethod, PredictedFace, ShapeMethod
from jointface.geometry.camera import apply_camera
from jointface.geometry.framing import warp_points
from jointface.geometry.morphable_model import MorphableModel
from jointface.viz.shape_figures import ShownFace, ShownPhoto, error_heat_map, qualitative_grid

GRID_SIZE = 256  # pixels of a photo in the grid
CHUNK = 16  # photos in memory at a time


def faces_figure(
    methods: Sequence[ShapeMethod],
    dataset: FaceDataset,
    indices: Sequence[int],
    stems: Sequence[str],
    model: MorphableModel,
) -> Figure:
    """The qualitative grid of some photos of a data set.

    Args:
        methods: who is shown. dataset: of the photos.
        indices: which photos. stems: what methods know them by. model: what the data set's labels refer to.
    """
    transform = CropTransform(GRID_SIZE)
    samples = [dataset.read(index) for index in indices]
    truths = [_truth(dataset, index, sample, model) for index, sample in zip(indices, samples, strict=True)]
    faces = {method.name: method.predict(samples, stems) for method in methods}
    photos = []
    for place, (sample, stem) in enumerate(zip(samples, stems, strict=True)):
        crop, to_crop = transform(sample.image, sample.box)
        shown = {name: _shown(of_method[place], to_crop) for name, of_method in faces.items()}
        photos.append(ShownPhoto(stem, crop.permute(1, 2, 0).numpy(), shown, _shown(truths[place], to_crop)))
    return qualitative_grid(photos)


def _truth(dataset: FaceDataset, index: int, sample: FaceSample, model: MorphableModel) -> PredictedFace | None:
    if isinstance(dataset, Florence):
        scan = dataset.scan(index)
        vertices = apply_camera(dataset.view_camera(index)[None], scan.vertices[None])[0]
        return PredictedFace(vertices=vertices, triangles=scan.triangles)
    face = LabelMethod(model).predict([sample], [""])[0]
    if face is not None and "landmarks68" in sample.labels:  # what methods are judged by, where labels bring them
        face.landmarks68 = sample.labels["landmarks68"]
    return face


def _shown(face: PredictedFace | None, to_crop: Float[Tensor, "2 3"]) -> ShownFace | None:
    if face is None:
        return None
    landmarks, vertices = face.landmarks68, face.vertices
    if landmarks is not None:
        landmarks = torch.nn.functional.pad(landmarks, (0, 3 - landmarks.shape[1]))  # flat ones have no z
    return ShownFace(
        landmarks68=None if landmarks is None else warp_points(to_crop, landmarks.float()).numpy(),
        vertices=None if vertices is None else warp_points(to_crop, vertices.float()).numpy(),
        triangles=None if face.triangles is None else face.triangles.cpu().numpy(),
        pose=None if face.pose is None else face.pose.numpy(),
    )


def heat_map_figure(
    methods: Sequence[ShapeMethod],
    dataset: FaceDataset,
    indices: Sequence[int],
    stems: Sequence[str],
    model: MorphableModel,
) -> Figure | None:
    """The mean error of each vertex over some photos, in per cent of sqrt(width x height) of the true landmark box.

    Methods whose vertices are not those of the model are left out; None where that leaves no method or no label.

    Args:
        methods: who is judged. dataset: with coefficients. indices, stems: which photos, and what methods know them by.
        model: what the data set's labels refer to.
    """
    if not dataset.has_shape:
        return None
    labels, topology = LabelMethod(model), fingerprint(model)
    sums = {method.name: torch.zeros(len(model.mean), dtype=torch.float64) for method in methods}
    counts = dict.fromkeys(sums, 0)
    for start in range(0, len(indices), CHUNK):
        samples = [dataset.read(index) for index in indices[start : start + CHUNK]]
        names = stems[start : start + CHUNK]
        truths = labels.predict(samples, names)
        for method in methods:
            for face, truth, sample in zip(method.predict(samples, names), truths, samples, strict=True):
                if face is None or face.vertices is None or face.topology != topology or truth is None:
                    continue
                assert truth.vertices is not None
                landmarks = sample.labels.get("landmarks68", truth.vertices[model.landmarks68])
                sums[method.name] += _vertex_errors(face.vertices, truth.vertices, landmarks, model)
                counts[method.name] += 1
    neck = ~model.face_region.cpu().numpy()
    errors = {name: np.where(neck, np.nan, 100 * sums[name].numpy() / count) for name, count in counts.items() if count}
    return error_heat_map(model, errors, "mean error, % of the face box") if errors else None


def _vertex_errors(
    predicted: Float[Tensor, "vertices 3"],
    truth: Float[Tensor, "vertices 3"],
    true_landmarks: Float[Tensor, "68 dims"],
    model: MorphableModel,
) -> Float[Tensor, "vertices"]:
    """Distance of each vertex as a fraction of the true landmark box; z relative to the mean of the face."""
    face = model.face_region
    landmarks = true_landmarks[:, :2].double()
    box = (landmarks.amax(0) - landmarks.amin(0)).prod().sqrt()
    depth = torch.zeros(3, dtype=torch.float64)
    depth[2] = (predicted[face, 2].double() - truth[face, 2].double()).mean()
    return (predicted.double() - truth.double() - depth).norm(dim=1) / box
