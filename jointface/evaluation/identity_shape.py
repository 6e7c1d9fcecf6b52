"""Measures how far predicted neutral faces are from neutral scans, by the protocol of the NoW benchmark."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jointface.datamodules.now import CHALLENGES, NoW
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.methods import PredictedFace, ShapeMethod
from jointface.evaluation.shape_errors import KnownFace, measure_errors, note_missing
from jointface.geometry.closest_point import Surface
from jointface.metrics.alignment import fit_similarity
from jointface.metrics.scan_alignment import closest_after_icp

log = logging.getLogger(__name__)

SEVEN = (36, 39, 42, 45, 33, 48, 54)  # iBUG's landmarks that NoW marks on its scans, in its order
FACE_CENTRE, FACE_RADIUS = 0.3, 1.4  # of the way from the nose's base to the eyes; of the mean of two distances
ERRORS = {"median_mm": "median", "mean_mm": "mean", "std_mm": "std"}
PROTOCOL = (
    "NoW, validation part (Sanyal et al., CVPR 2019): distance in mm from each scan vertex of the face to the "
    "predicted surface. The face is aligned by a similarity of seven landmarks, then by the similarity that minimises "
    "the squared distances. The scan is cut to a ball around a point above the nose's base, whose radius is 1.4 times "
    "the mean of the outer eye distance and the nose's height. Faces are neutral, as the scans are, where a method "
    "predicts identity coefficients"
)


@dataclass
class _Truth:
    """A person's scan, cut to the face, and its seven points, in mm."""

    points: Float64[Tensor, "points 3"]
    landmarks: Float64[Tensor, "7 3"]


def identity_shape(methods: Sequence[ShapeMethod], dataset: NoW) -> BenchmarkResult:
    """Evaluates methods on the photos of NoW.

    Metrics are `method/median_mm`, `method/mean_mm` and `method/std_mm` over the distances of all photos together, as
    the benchmark reports them, and the same over those of a challenge, `.../multiview_neutral` and so on. A photo's own
    are in per_image.
    """
    errors = [*ERRORS, "distances"]
    per_image = measure_errors(methods, dataset, _known_faces(dataset), errors)
    missing, notes = note_missing(per_image, per_image["median_mm"].notna())
    groups: dict[str, pd.DataFrame] = {"": _pooled(per_image)}
    for challenge in CHALLENGES:
        if (rows := per_image["challenge"] == challenge).any():
            groups[f"/{challenge}"] = _pooled(per_image[rows])
    metrics = {
        f"{method}/{error}{group}": float(value)
        for group, table in groups.items()
        for (method, error), value in table.stack().items()
    }
    per_image = per_image.drop(columns=["has_prediction", "distances"])
    return BenchmarkResult("now", metrics, _tables(groups), per_image, notes=notes, missing=missing)


def _known_faces(dataset: NoW) -> Iterator[KnownFace]:
    truths: dict[str, _Truth] = {}
    for index in range(len(dataset)):
        subject = dataset.subject(index)
        if subject not in truths:
            truths[subject] = _truth(dataset, index)
        facts = {"yaw": np.nan, "subject": subject, "challenge": dataset.challenge(index)}
        yield KnownFace(index, dataset.read(index), facts, partial(distances_to_scan, truth=truths[subject]))


def _truth(dataset: NoW, index: int) -> _Truth:
    vertices, landmarks = dataset.scan(index)[0].double(), dataset.landmarks(index).double()
    return _Truth(vertices[face_region(vertices, landmarks)], landmarks)


def face_region(vertices: Float[Tensor, "vertices 3"], landmarks: Float[Tensor, "7 3"]) -> Tensor:
    """The scan vertices on which NoW measures, (vertices,) bool."""
    base, bridge = landmarks[4], landmarks[1:3].mean(0)
    centre = base + FACE_CENTRE * (bridge - base)
    radius = FACE_RADIUS * ((landmarks[0] - landmarks[3]).norm() + (bridge - base).norm()) / 2
    return (vertices - centre).norm(dim=1) <= radius


def distances_to_scan(face: PredictedFace, truth: _Truth) -> dict[str, float]:
    """The errors of a face, and its `distances`; empty if it has no surface or no landmarks in 3D."""
    if face.neutral is not None:
        vertices, landmarks = face.neutral()
    elif face.vertices is not None and face.landmarks68 is not None and face.landmarks68.shape[1] == 3:
        y_up = torch.tensor([1.0, -1.0, 1.0])
        vertices, landmarks = face.vertices * y_up, face.landmarks68 * y_up
    else:
        return {}
    assert face.triangles is not None
    surface = Surface(vertices, face.triangles)
    start = fit_similarity(landmarks[list(SEVEN)], truth.landmarks)
    closest = closest_after_icp(surface, truth.points, start)
    distances = (closest - truth.points).norm(dim=1).numpy()
    return {**_statistics(distances), "distances": distances.astype(np.float32)}


def _statistics(distances: np.ndarray) -> dict[str, float]:
    values = (np.median(distances), distances.mean(), distances.std())
    return dict(zip(ERRORS, map(float, values), strict=True))


def _pooled(per_image: pd.DataFrame) -> pd.DataFrame:
    """The statistics over the distances of all photos together, a row for each method."""
    measured = per_image.dropna(subset="median_mm").groupby("method", sort=False)["distances"]
    rows = {method: _statistics(np.concatenate([*distances])) for method, distances in measured}
    return pd.DataFrame.from_dict(rows, "index", columns=[*ERRORS])


def _tables(groups: dict[str, pd.DataFrame]) -> list[Table]:
    caption = f"{PROTOCOL}. Over the distances of all photos together."
    tables = [Table("NoW, distance in mm", caption, groups[""].rename(columns=ERRORS), sort_by="median")]
    medians = {group[1:].replace("_", " "): table["median_mm"] for group, table in groups.items() if group}
    frame = pd.DataFrame({**medians, "all": groups[""]["median_mm"]}).reindex(groups[""].index)
    return [*tables, Table("NoW, median distance in mm by challenge", f"{PROTOCOL}.", frame)]
