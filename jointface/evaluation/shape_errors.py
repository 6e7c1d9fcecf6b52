"""Shared by the protocols for 3D faces: the errors of each image, and their means by yaw."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.evaluation.benchmark_result import MISSING_FILE
from jointface.evaluation.group_gaps import groups_of_sample
from jointface.evaluation.methods import PredictedFace, ShapeMethod
from jointface.geometry.camera import center_depth
from jointface.metrics.nme import YAW_BINS, normalised_mean_error
from jointface.metrics.pose import pose_errors

BIN_NAMES = tuple(f"{'[' if low == 0 else '('}{low}, {high}]" for low, high in YAW_BINS)
POSE_ERRORS = {"yaw_error": "yaw", "pitch_error": "pitch", "roll_error": "roll"}  # error: column of tables
CHUNK = 32  # photos in memory at a time
BY_YAW = "mean and std are over the three bins (population std)"


@dataclass(frozen=True)
class KnownFace:
    """A sample whose true face is known. facts: columns of per_image, including yaw in degrees. errors: computes those
    errors of a prediction that can be measured."""

    index: int
    sample: FaceSample
    facts: Mapping[str, Any]
    errors: Callable[[PredictedFace], Mapping[str, float]]


def measure_errors(
    methods: Sequence[ShapeMethod], dataset: FaceDataset, faces: Iterable[KnownFace], errors: Sequence[str]
) -> pd.DataFrame:
    """Runs methods on samples of a data set. Predictions that are not finite count as missing.

    Returns:
        A row for each image and method: file, index, method, facts about the image and the groups that its attributes
        tell, whether the method `has_prediction`, and the errors; NaN for errors that cannot be measured.
    """
    rows: list[dict[str, Any]] = []
    facts: dict[str, Any] = {}
    left = iter(faces)
    while chunk := list(islice(left, CHUNK)):
        samples, names = [known.sample for known in chunk], [dataset.name(known.index) for known in chunk]
        for method in methods:
            for known, name, face in zip(chunk, names, method.predict(samples, names), strict=True):
                file = name if dataset.rendered else dataset.path(known.index).name
                values = [] if face is None else [value for value in vars(face).values() if isinstance(value, Tensor)]
                face = face if all(value.isfinite().all() for value in values) else None
                row = {"file": file, "index": known.index, "method": method.name, "has_prediction": face is not None}
                of_image = {**known.facts, **groups_of_sample(known.sample.labels, dataset.label_set)}
                rows.append({**row, **of_image, **(known.errors(face) if face else {})})
                facts |= of_image
    return pd.DataFrame(rows, columns=["file", "index", "method", *facts, "has_prediction", *errors])


def face_errors(face: PredictedFace, truth: PredictedFace, region: Bool[Tensor, "vertices"]) -> dict[str, float]:
    """The errors of a prediction, as far as it can be compared with the truth, which has landmarks and vertices:
    `nme_2d_68`, `nme_3d_68`, `nme_3d_dense` over the vertices of a region if both have the same morphable model, and
    `POSE_ERRORS` in degrees. In 3D, z is relative to the mean z of the compared points.
    """
    assert truth.landmarks68 is not None
    assert truth.vertices is not None
    errors = {}
    if (landmarks := face.landmarks68) is not None:
        errors["nme_2d_68"] = nme(landmarks[:, :2], truth.landmarks68[:, :2], truth.landmarks68)
        if landmarks.shape[1] == 3:
            errors["nme_3d_68"] = nme(center_depth(landmarks), center_depth(truth.landmarks68), truth.landmarks68)
    if face.vertices is not None and face.topology == truth.topology:
        predicted, true = center_depth(face.vertices[region]), center_depth(truth.vertices[region])
        errors["nme_3d_dense"] = nme(predicted, true, truth.landmarks68)
    if face.pose is not None and truth.pose is not None:
        pitch, yaw, roll = pose_errors(face.pose.double(), truth.pose.double()).tolist()
        errors |= {"yaw_error": yaw, "pitch_error": pitch, "roll_error": roll}
    return errors


def nme(predicted: Tensor, truth: Tensor, landmarks: Tensor) -> float:
    """The NME of one face, computed in float64."""
    return float(normalised_mean_error(predicted[None].double(), truth[None].double(), landmarks[None].double()))


def note_missing(per_image: pd.DataFrame, found: pd.Series) -> tuple[dict[str, list[str]], list[str]]:
    """For methods that lack images, the files of the images not `found`, and a note for each method."""
    missing = {str(method): [*files] for method, files in per_image[~found].groupby("method", sort=False)["file"]}
    notes = [
        f"{method} has no prediction for {len(files):,} of {per_image['index'].nunique():,} photos, which its errors "
        f"leave out; {MISSING_FILE} lists them."
        for method, files in missing.items()
    ]
    return missing, notes


def means(per_image: pd.DataFrame, errors: Sequence[str]) -> pd.DataFrame:
    """A table of the mean of each error, with a row for each method."""
    return per_image.groupby("method", sort=False)[[*errors]].mean().rename_axis(None)


def means_by_yaw(per_image: pd.DataFrame, error: str, scale: float = 1) -> pd.DataFrame:
    """A table with a row for each method. Columns: the mean in each bin of |yaw|, the mean and standard deviation of
    these (NaN if a bin is empty), and the mean over all images."""
    scaled, methods = scale * per_image[error], per_image["method"]
    of_bins = scaled.groupby([methods, yaw_bins(per_image["yaw"])], observed=False).mean().unstack()
    table = pd.DataFrame(of_bins.reindex(methods.unique())[[*BIN_NAMES]].to_numpy(), methods.unique(), BIN_NAMES)
    spread = {"mean": table.mean(axis=1, skipna=False), "std": table.std(axis=1, ddof=0, skipna=False)}
    return table.assign(**spread, all=scaled.groupby(methods).mean())


def error_metrics(per_image: pd.DataFrame, errors: Sequence[str]) -> dict[str, float]:
    """The defined ones of `method/error` over all images, and `.../yaw_0_30`, `.../yaw_30_60`, `.../yaw_60_90`,
    `.../mean`, `.../std`, see `means_by_yaw`."""
    parts = {"all": "", "mean": "/mean", "std": "/std"}
    parts |= {name: f"/yaw_{low}_{high}" for name, (low, high) in zip(BIN_NAMES, YAW_BINS, strict=True)}
    return {
        f"{method}/{error}{parts[part]}": float(value)
        for error in errors
        for (method, part), value in means_by_yaw(per_image, error).stack().items()
        if np.isfinite(value)
    }


def count_by_yaw(per_image: pd.DataFrame, what: str) -> str:
    """Words that say how many images there are, in all and in each bin of |yaw|."""
    yaw = per_image.drop_duplicates("index")["yaw"]
    counts = ", ".join(f"{count:,} in {name}" for name, count in yaw_bins(yaw).value_counts(sort=False).items())
    return f"{len(yaw):,} {what}; by |yaw|: {counts}, the last bin including those beyond"


def yaw_bins(yaw: pd.Series) -> pd.Series:
    """The bin of each |yaw| in degrees. Bounds belong to the lower bin, and the last bin is open."""
    return pd.cut(yaw.abs(), [-1, *(high for _, high in YAW_BINS[:-1]), np.inf], labels=BIN_NAMES)
