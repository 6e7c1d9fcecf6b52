"""Evaluates landmarks, dense shape and head pose on AFLW2000-3D by its usual protocols.

Data set and yaw bins: Zhu, Lei, Liu, Shi, Li, "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from jointface.datamodules.aflw2000 import AFLW2000, ORIGINAL, REANNOTATED, Reannotation
from jointface.datamodules.fitted_face import FITS, read_fit
from jointface.datamodules.on_disk import labels_beside
from jointface.evaluation import shape_errors
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.methods import LabelMethod, MeanFaceMethod, PredictedFace, ShapeMethod
from jointface.evaluation.participants import require_different
from jointface.evaluation.published_figures import quoted_rows, with_quoted
from jointface.evaluation.shape_errors import BIN_NAMES, BY_YAW, POSE_ERRORS, KnownFace, yaw_bins
from jointface.geometry.morphable_model import MorphableModel

PER_BIN = 232  # faces from each bin in the balanced subset, 696 in all
MAX_ANGLE = 99.0  # degrees

ERRORS = ("nme_2d_68", "nme_2d_68_reannotated", "nme_3d_68", "nme_3d_dense")
NORMALISED = (
    "Mean distance over the points in per cent of sqrt(width x height) of the ground-truth landmark box (Zhu et al., "
    "CVPR 2016)"
)
AS_IN_PAPERS = (
    f"by |yaw| of the fitted face in degrees; {BY_YAW}, as the 3DDFA line of papers reports them (Zhu et al., TPAMI "
    "2019; Guo et al., 3DDFA-V2, ECCV 2020; Wu et al., SynergyNet, 3DV 2021); all is over all photos"
)
FRAMED = "Our crops are framed by the ground-truth landmark box"


def landmarks_and_pose(
    methods: Sequence[ShapeMethod], dataset: AFLW2000, morphable_model: MorphableModel, seed: int = 0
) -> BenchmarkResult:
    """Evaluates methods on AFLW2000-3D.

    Metrics are fractions of the face box (`nme_*`) and degrees (`*_error`), tables in per cent and degrees:

        nme_2d_68               68 landmarks in 2D, also /yaw_0_30, /yaw_30_60, /yaw_60_90, their /mean and /std, and
                                /balanced over the balanced subset
        nme_2d_68_reannotated   the same with LS3D-W's points, if they are on disk
        nme_3d_68               68 landmarks with z
        nme_3d_dense            vertices without the neck, for methods that predict the vertices of `morphable_model`
        yaw_error, pitch_error, roll_error, pose_error      mean absolute errors and their mean

    In 3D, z is relative to the mean z of the compared points. The last bin includes the few faces beyond 90 degrees, as
    in 3DDFA's benchmark_aflw2000.py. Two references are added: the labelled coefficients, which give a lower bound, and
    the mean face looking straight ahead, which shows how good a prediction from the face box alone is.

    Args:
        dataset: AFLW2000-3D with either annotation; both are reported if both are on disk.
        morphable_model: the model of the labels. seed: for the balanced subset.

    Raises:
        ConfigError: two methods share a name. DataError: a photo, a label or a prediction is damaged.
    """
    references = (LabelMethod(morphable_model), MeanFaceMethod(morphable_model))
    methods = [*methods, *references]
    require_different([method.name for method in methods])
    reannotation = dataset.reannotation or _reannotation(dataset.root)
    faces = _known_faces(dataset, morphable_model, reannotation)
    per_image = shape_errors.measure_errors(methods, dataset, faces, [*ERRORS, *POSE_ERRORS])
    balanced = balanced_subset(per_image.drop_duplicates("index").set_index("index")["yaw"], seed)
    missing, notes = shape_errors.note_missing(per_image, per_image["has_prediction"])
    notes += _notes(per_image, balanced, reannotation, seed)
    per_image = per_image.drop(columns=["has_prediction", "counts_for_pose"])
    tables = _tables(per_image, balanced)
    for table in tables:
        table.reference = tuple(reference.name for reference in references)
    metrics = _metrics(per_image, balanced)
    return BenchmarkResult("aflw2000", metrics, tables, per_image, notes=notes, missing=missing)


def balanced_subset(yaw: pd.Series, seed: int = 0, per_bin: int = PER_BIN) -> Int[np.ndarray, "chosen"] | None:
    """A random sample of `per_bin` photos from each bin of yaw in degrees, as sorted labels of the index; None if a bin
    has too few."""
    random = np.random.default_rng(seed)
    members = [yaw.index[yaw_bins(yaw) == name].to_numpy() for name in BIN_NAMES]
    if min(map(len, members)) < per_bin:
        return None
    return np.sort(np.concatenate([random.choice(of_bin, per_bin, replace=False) for of_bin in members]))


# Measuring


def _reannotation(root: Path) -> Reannotation | None:
    """The re-annotated points, None if they are not on disk."""
    folders = (root, root.absolute().parent)
    there = all(any((folder / name).is_file() for folder in folders) for name in (ORIGINAL, REANNOTATED))
    return Reannotation(root) if there else None


def _known_faces(dataset: AFLW2000, model: MorphableModel, reannotation: Reannotation | None) -> Iterator[KnownFace]:
    labels = LabelMethod(model)
    for index in range(len(dataset)):
        path = dataset.path(index)
        sample = dataset.reader.read(path, with_landmarks=True)  # always the original landmarks
        truth = labels.truth(sample)
        reannotated = None if reannotation is None else reannotation.find(sample.labels["landmarks68"], path)
        angles = read_fit(labels_beside(path, FITS), ["Pose_Para"])["Pose_Para"].ravel()[:3]
        pose = torch.from_numpy(np.rad2deg(angles)).double()
        counts_for_pose = bool(pose.abs().max() <= MAX_ANGLE)
        truth = replace(truth, pose=pose if counts_for_pose else None)
        facts = {"yaw": pose[1].item(), "counts_for_pose": counts_for_pose}
        errors = partial(_errors, truth=truth, reannotated=reannotated, region=model.face_region)
        yield KnownFace(index, sample, facts, errors)


def _errors(face: PredictedFace, truth: PredictedFace, reannotated: Tensor | None, region: Tensor) -> dict[str, float]:
    errors = shape_errors.face_errors(face, truth, region)
    if face.landmarks68 is not None and reannotated is not None:
        errors["nme_2d_68_reannotated"] = shape_errors.nme(face.landmarks68[:, :2], reannotated, reannotated)
    return errors


# Reporting


def _metrics(per_image: pd.DataFrame, balanced: Int[np.ndarray, "chosen"] | None) -> dict[str, float]:
    metrics = shape_errors.error_metrics(per_image, ERRORS)
    further = {"": _pose(per_image)}
    if balanced is not None:
        further["/balanced"] = shape_errors.means(per_image[per_image["index"].isin(balanced)], ERRORS[:2])
    for part, table in further.items():
        metrics |= {f"{method}/{error}{part}": value for (method, error), value in table.stack().items()}
    return {key: float(value) for key, value in metrics.items() if np.isfinite(value)}


def _pose(per_image: pd.DataFrame) -> pd.DataFrame:
    """Mean absolute errors of yaw, pitch and roll, and their mean, `pose_error`."""
    table = shape_errors.means(per_image, [*POSE_ERRORS])
    return table.assign(pose_error=table.mean(axis=1, skipna=False))


def _tables(per_image: pd.DataFrame, balanced: Int[np.ndarray, "chosen"] | None) -> list[Table]:
    tables = []
    annotations = {"nme_2d_68": ("original points", "")}
    if per_image["nme_2d_68_reannotated"].notna().any():
        whose = " Points of LS3D-W (Bulat and Tzimiropoulos, ICCV 2017)."
        annotations["nme_2d_68_reannotated"] = ("re-annotated points", whose)
    for error, (what, whose) in annotations.items():
        title, normalised = f"AFLW2000-3D, NME 2D, {what}", f"{NORMALISED}, of 68 landmarks in 2D"
        by_yaw = shape_errors.means_by_yaw(per_image, error, 100)
        table = Table(title, f"{normalised}, {AS_IN_PAPERS}.{whose} {FRAMED}.", by_yaw)
        tables.append(with_quoted(table, quoted_rows("aflw2000", error)))
        if balanced is not None:
            caption = (
                f"{normalised}, over {PER_BIN} faces from each bin of |yaw|, {len(balanced)} in all, since some papers "
                f"balance the poses; the random choice is ours.{whose} {FRAMED}."
            )
            by_yaw = shape_errors.means_by_yaw(per_image[per_image["index"].isin(balanced)], error, 100)
            tables.append(Table(f"{title}, balanced", caption, by_yaw.drop(columns="mean")))
    caption = f"{NORMALISED}, of 68 landmarks in 3D, z relative to their mean, {AS_IN_PAPERS}. {FRAMED}."
    in_3d = shape_errors.means_by_yaw(per_image, "nme_3d_68", 100).dropna(how="all")
    tables.append(Table("AFLW2000-3D, NME 3D of 68 landmarks by yaw", caption, in_3d))
    return [*tables, _table_3d(per_image), _table_pose(per_image)]


def _table_3d(per_image: pd.DataFrame) -> Table:
    columns = {"nme_3d_68": "68 landmarks", "nme_3d_dense": "dense"}
    caption = (
        f"{NORMALISED}, in 3D, z relative to the mean of the points: of 68 landmarks, and of the vertices without the "
        "neck for methods with the labels' mesh. After PRNet (Feng et al., ECCV 2018), which compares points that "
        "several meshes share; ours are all vertices of the face, so dense numbers differ from those in papers."
    )
    frame = 100 * shape_errors.means(per_image, [*columns]).rename(columns=columns)
    return Table("AFLW2000-3D, NME 3D", caption, frame.dropna(how="all"))


def _table_pose(per_image: pd.DataFrame) -> Table:
    frame = _pose(per_image).rename(columns={**POSE_ERRORS, "pose_error": "mean"}).dropna(how="all")
    caption = (
        "Mean absolute errors of head pose in degrees against Pose_Para, without the photos that have an angle beyond "
        f"{MAX_ANGLE:.0f} degrees (Ruiz et al., Hopenet, CVPRW 2018, and the papers after it; Wu et al., SynergyNet, "
        "3DV 2021). The mean face looks straight ahead. Angles are relative to each method's own mean face: if it is "
        "tilted against the labels' mean face, this adds a constant error. Angles are compared modulo 360 degrees, and "
        "of the two triples that describe a rotation the nearer counts, which only matters beyond 90 degrees of yaw."
    )
    return with_quoted(Table("AFLW2000-3D, head pose", caption, frame), quoted_rows("aflw2000", "pose"))


def _notes(
    per_image: pd.DataFrame, balanced: Int[np.ndarray, "chosen"] | None, reannotation: Reannotation | None, seed: int
) -> Iterable[str]:
    yield f"{shape_errors.count_by_yaw(per_image, 'photos')}."
    extreme = per_image[~per_image["counts_for_pose"]]["index"].nunique()
    yield (
        f"Photos with an angle beyond {MAX_ANGLE:.0f} degrees, which are customarily left out of head pose: "
        f"{extreme:,}."
    )
    if balanced is None:
        yield f"No balanced subset: a bin has fewer than {PER_BIN} faces."
    else:
        yield f"The balanced subset has {PER_BIN} faces from each bin, chosen at random with seed {seed}."
    if reannotation is None:
        yield f"No re-annotated points: {REANNOTATED} and {ORIGINAL} are not beside the photos."
