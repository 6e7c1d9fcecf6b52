"""How well landmarks, dense shape and head pose are predicted in AFLW2000-3D, by its usual protocols.

Zhu, Lei, Liu, Shi, Li, "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016, made the data set and the bins.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from jointface.datamodules.aflw2000 import AFLW2000, ORIGINAL, REANNOTATED, Reannotation
from jointface.datamodules.face_dataset import FaceSample
from jointface.datamodules.fitted_face import read_fit
from jointface.datamodules.packed import fingerprint
from jointface.evaluation.methods import LabelMethod, MeanFaceMethod, PredictedFace, ShapeMethod
from jointface.evaluation.participants import require_different
from jointface.evaluation.published_figures import quoted_rows, with_quoted
from jointface.evaluation.result import BenchmarkResult, Table
from jointface.evaluation.shape_errors import BIN_NAMES, BY_YAW, POSE_ERRORS, KnownFace, ShapeErrors, yaw_bins
from jointface.geometry.camera import center_depth
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.nme import normalised_mean_error
from jointface.metrics.pose import pose_errors

CHUNK = 32  # photos in memory at a time
PER_BIN = 232  # faces of each bin in the balanced subset: 696 in all
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

        nme_2d_68               68 landmarks in the picture, also /yaw_0_30, /yaw_30_60, /yaw_60_90, their /mean and
                                /std, and /balanced over the balanced subset
        nme_2d_68_reannotated   the same with LS3D-W's points, where they are on disk
        nme_3d_68               68 landmarks with z
        nme_3d_dense            vertices without the neck, for methods with the vertices of `morphable_model`
        yaw_error, pitch_error, roll_error, pose_error      mean absolute errors and their mean

    In 3D, z is relative to the mean z of the points compared. The last bin also holds the few faces beyond 90 degrees,
    as in 3DDFA's benchmark_aflw2000.py. Two references are added: the labels' own coefficients, which are the lower
    bound, and the mean face looking straight ahead, which shows what knowing the face box alone is worth.

    Args:
        methods: under evaluation.
        dataset: AFLW2000-3D, with either annotation; both are reported where both are on disk.
        morphable_model: the model of the dataset.
        seed: of the balanced subset.

    Raises:
        ConfigError: two methods share a name.
        DataError: a photo, a label or a prediction is damaged.
    """
    references = (LabelMethod(morphable_model), MeanFaceMethod(morphable_model))
    methods = [*methods, *references]
    require_different([method.name for method in methods])
    reannotation = dataset.reannotation or _reannotation(dataset.root)
    faces = _known_faces(dataset, morphable_model, reannotation)
    errors = ShapeErrors.measure(methods, dataset, faces, [*ERRORS, *POSE_ERRORS])
    per_image = errors.per_image
    balanced = balanced_subset(per_image.drop_duplicates("index").set_index("index")["yaw"], seed)
    missing, notes = errors.missing(per_image["has_prediction"])
    notes += _notes(errors, balanced, reannotation, seed)
    per_image = per_image.drop(columns=["has_prediction", "counts_for_pose"])
    tables = _tables(errors, balanced)
    for table in tables:
        table.reference = tuple(reference.name for reference in references)
    return BenchmarkResult("aflw2000", _metrics(errors, balanced), tables, per_image, notes=notes, missing=missing)


def balanced_subset(yaw: pd.Series, seed: int = 0, per_bin: int = PER_BIN) -> Int[np.ndarray, "chosen"] | None:
    """A random sample of `per_bin` photos from each bin of yaw in degrees, as sorted labels of the index; None where a
    bin has too few."""
    random = np.random.default_rng(seed)
    members = [yaw.index[yaw_bins(yaw) == name].to_numpy() for name in BIN_NAMES]
    if min(map(len, members)) < per_bin:
        return None
    return np.sort(np.concatenate([random.choice(of_bin, per_bin, replace=False) for of_bin in members]))


# Measuring


def _reannotation(root: Path) -> Reannotation | None:
    """The re-annotated points where they are on disk."""
    folders = (root, root.absolute().parent)
    there = all(any((folder / name).is_file() for folder in folders) for name in (ORIGINAL, REANNOTATED))
    return Reannotation(root) if there else None


def _known_faces(
    dataset: AFLW2000, model: MorphableModel, reannotation: Reannotation | None
) -> Iterator[list[KnownFace]]:
    topology = fingerprint(model)
    for start in range(0, len(dataset), CHUNK):
        batch = []
        for index in range(start, min(start + CHUNK, len(dataset))):
            path = dataset.path(index)
            sample = dataset.reader.read(path, with_landmarks=True)  # the original landmarks, whichever it has
            truth = _Truth(sample, path, model, topology, reannotation)
            facts = {"yaw": truth.pose[1].item(), "counts_for_pose": truth.counts_for_pose}
            batch.append(KnownFace(index, sample, facts, truth.errors))
        yield batch


class _Truth:
    """The labels of a photo, in its pixels."""

    def __init__(
        self, sample: FaceSample, path: Path, model: MorphableModel, topology: str, reannotation: Reannotation | None
    ) -> None:
        labels, self.model, self.topology = sample.labels, model, topology
        keys = ("shape_coefficients", "expression_coefficients", "camera")
        self.vertices = model.project(*(labels[key][None] for key in keys))[0, model.face_region]
        self.landmarks = labels["landmarks68"]
        self.reannotated = None if reannotation is None else reannotation.find(self.landmarks, path)
        pose = read_fit(path.with_suffix(".mat"), ["Pose_Para"])["Pose_Para"].ravel()[:3]
        self.pose = torch.from_numpy(np.rad2deg(pose)).double()
        self.counts_for_pose = bool(self.pose.abs().max() <= MAX_ANGLE)

    def errors(self, face: PredictedFace) -> dict[str, float]:
        """Those that the prediction allows and the photo counts for."""
        errors: dict[str, float] = {}
        if (predicted := face.landmarks68) is not None:
            errors["nme_2d_68"] = _nme(predicted[:, :2], self.landmarks[:, :2], self.landmarks)
            if self.reannotated is not None:
                errors["nme_2d_68_reannotated"] = _nme(predicted[:, :2], self.reannotated, self.reannotated)
            if predicted.shape[1] == 3:
                errors["nme_3d_68"] = _nme(center_depth(predicted), center_depth(self.landmarks), self.landmarks)
        if face.vertices is not None and face.topology == self.topology:
            vertices = center_depth(face.vertices[self.model.face_region])
            errors["nme_3d_dense"] = _nme(vertices, center_depth(self.vertices), self.landmarks)
        if face.pose is not None and self.counts_for_pose:
            pitch, yaw, roll = pose_errors(face.pose.double(), self.pose).tolist()
            errors |= {"yaw_error": yaw, "pitch_error": pitch, "roll_error": roll}
        return errors


def _nme(predicted: Tensor, truth: Tensor, landmarks: Tensor) -> float:
    return float(normalised_mean_error(predicted[None].double(), truth[None].double(), landmarks[None].double()))


# Reporting


def _metrics(errors: ShapeErrors, balanced: Int[np.ndarray, "chosen"] | None) -> dict[str, float]:
    metrics = errors.metrics(ERRORS)
    further = {"": _pose(errors)}
    if balanced is not None:
        further["/balanced"] = _chosen(errors, balanced).means(ERRORS[:2])
    for part, table in further.items():
        metrics |= {f"{method}/{error}{part}": value for (method, error), value in table.stack().items()}
    return {key: float(value) for key, value in metrics.items() if np.isfinite(value)}


def _chosen(errors: ShapeErrors, photos: Int[np.ndarray, "chosen"]) -> ShapeErrors:
    return ShapeErrors(errors.per_image[errors.per_image["index"].isin(photos)])


def _pose(errors: ShapeErrors) -> pd.DataFrame:
    """Mean absolute errors of yaw, pitch and roll, and their mean, `pose_error`."""
    table = errors.means([*POSE_ERRORS])
    return table.assign(pose_error=table.mean(axis=1, skipna=False))


def _tables(errors: ShapeErrors, balanced: Int[np.ndarray, "chosen"] | None) -> list[Table]:
    tables = []
    annotations = {"nme_2d_68": ("original points", "")}
    if errors.per_image["nme_2d_68_reannotated"].notna().any():
        whose = " Points of LS3D-W (Bulat and Tzimiropoulos, ICCV 2017)."
        annotations["nme_2d_68_reannotated"] = ("re-annotated points", whose)
    for error, (what, whose) in annotations.items():
        title, normalised = f"AFLW2000-3D, NME 2D, {what}", f"{NORMALISED}, of 68 landmarks in 2D"
        table = Table(title, f"{normalised}, {AS_IN_PAPERS}.{whose} {FRAMED}.", errors.means_by_yaw(error, 100))
        tables.append(with_quoted(table, quoted_rows("aflw2000", error)))
        if balanced is not None:
            frame = _chosen(errors, balanced).means_by_yaw(error, 100).drop(columns="mean")
            caption = (
                f"{normalised}, over {PER_BIN} faces of each bin of |yaw|, {len(balanced)} in all, as tables of some "
                f"papers balance the poses; the random choice is ours.{whose} {FRAMED}."
            )
            tables.append(Table(f"{title}, balanced", caption, frame))
    caption = f"{NORMALISED}, of 68 landmarks in 3D, z relative to their mean, {AS_IN_PAPERS}. {FRAMED}."
    in_3d = errors.means_by_yaw("nme_3d_68", 100).dropna(how="all")
    tables.append(Table("AFLW2000-3D, NME 3D of 68 landmarks by yaw", caption, in_3d))
    return [*tables, _table_3d(errors), _table_pose(errors)]


def _table_3d(errors: ShapeErrors) -> Table:
    columns = {"nme_3d_68": "68 landmarks", "nme_3d_dense": "dense"}
    caption = (
        f"{NORMALISED}, in 3D, z relative to the mean of the points: of 68 landmarks, and of the vertices without the "
        "neck for methods with the labels' mesh. After PRNet (Feng et al., ECCV 2018), which compares points that "
        "several meshes share; ours are all vertices of the face, so that dense numbers are not those of papers."
    )
    frame = 100 * errors.means([*columns]).rename(columns=columns)
    return Table("AFLW2000-3D, NME 3D", caption, frame.dropna(how="all"))


def _table_pose(errors: ShapeErrors) -> Table:
    frame = _pose(errors).rename(columns={**POSE_ERRORS, "pose_error": "mean"}).dropna(how="all")
    caption = (
        "Mean absolute errors of head pose in degrees against Pose_Para, without the photos that have an angle beyond "
        f"{MAX_ANGLE:.0f} degrees (Ruiz et al., Hopenet, CVPRW 2018, and the papers after it; Wu et al., SynergyNet, "
        "3DV 2021). The mean face looks straight ahead. Angles are in the frame of each method's own mean face: one "
        "that is tilted against the labels' adds a constant error. Angles are compared modulo 360 degrees, and of the "
        "two triples that name one rotation the nearer counts, which matters beyond 90 degrees of yaw only."
    )
    return with_quoted(Table("AFLW2000-3D, head pose", caption, frame), quoted_rows("aflw2000", "pose"))


def _notes(
    errors: ShapeErrors, balanced: Int[np.ndarray, "chosen"] | None, reannotation: Reannotation | None, seed: int
) -> Iterable[str]:
    per_image = errors.per_image
    predicts = per_image[per_image["has_prediction"]].groupby("method", sort=False)[[*ERRORS]].count().sum(axis=1)
    for method in predicts.index[predicts == 0]:
        yield f"{method} gives neither landmarks68 nor the mesh of the labels' morphable model: it cannot be compared."
    yield f"{errors.count_by_yaw('photos')}."
    extreme = per_image[~per_image["counts_for_pose"]]["index"].nunique()
    yield (
        f"Photos with an angle beyond {MAX_ANGLE:.0f} degrees, which head pose leaves out, as is the custom: "
        f"{extreme:,}."
    )
    if balanced is None:
        yield f"No balanced subset: a bin has fewer than {PER_BIN} faces."
    else:
        yield f"The balanced subset has {PER_BIN} faces of each bin, chosen at random with seed {seed}."
    if reannotation is None:
        yield f"No re-annotated points: {REANNOTATED} and {ORIGINAL} are not beside the photos."
