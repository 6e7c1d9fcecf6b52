"""The protocols of AFLW2000-3D: landmarks by yaw, 3D landmarks and dense shape, head pose.

Zhu, Lei, Liu, Shi, Li, "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016, made the data set and the bins.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jointface.datamodules.aflw2000 import AFLW2000, ORIGINAL, REANNOTATED, Reannotation
from jointface.datamodules.face_dataset import FaceSample
from jointface.datamodules.fitted_face import read_fit
from jointface.datamodules.packed import fingerprint
from jointface.errors import ConfigError
from jointface.evaluation.methods import (
    LabelMethod,
    MeanFaceMethod,
    PredictedFace,
    ShapeMethod,
    is_finite,
    missing_note,
)
from jointface.evaluation.published_figures import quoted_rows, with_quoted
from jointface.evaluation.result import BenchmarkResult, Table
from jointface.geometry.camera import center_depth
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.nme import YAW_BINS, normalised_mean_error
from jointface.metrics.pose import pose_errors

CHUNK = 32  # photos that are in memory at a time
PER_BIN = 232  # faces of each bin in the balanced subset: 696 in all
MAX_ANGLE = 99.0  # degrees

ERRORS = ("nme_2d_68", "nme_2d_68_reannotated", "nme_3d_68", "nme_3d_dense")
POSE_ERRORS = ("yaw_error", "pitch_error", "roll_error")
BIN_NAMES = tuple(f"{'[' if low == 0 else '('}{low}, {high}]" for low, high in YAW_BINS)

NORMALISED = (
    "Mean distance over the points in per cent of sqrt(width x height) of the ground-truth landmark box (Zhu et al., "
    "CVPR 2016)"
)
BY_YAW = (
    "by |yaw| of the fitted face in degrees; mean and std are of the three bins, the std that of the population, as "
    "the 3DDFA line of papers reports them (Zhu et al., TPAMI 2019; Guo et al., 3DDFA-V2, ECCV 2020; Wu et al., "
    "SynergyNet, 3DV 2021)"
)
FRAMED = "Our crops are framed by the ground-truth landmark box"


def aflw2000(
    methods: Sequence[ShapeMethod], dataset: AFLW2000, morphable_model: MorphableModel, seed: int = 0
) -> BenchmarkResult:
    """Judges methods on AFLW2000-3D by its usual protocols.

    Metrics are fractions of the face box (`nme_*`) and degrees (`*_error`), tables in per cent and degrees:

        nme_2d_68               68 landmarks in the picture, also /yaw_0_30, /yaw_30_60, /yaw_60_90, their /mean and
                                /std, and /balanced over the balanced subset
        nme_2d_68_reannotated   the same with LS3D-W's points, where they are on disk
        nme_3d_68               68 landmarks with z
        nme_3d_dense            vertices without the neck, for methods with the vertices of `morphable_model`
        yaw_error, pitch_error, roll_error, pose_error      mean absolute errors and their mean

    In 3D, z is relative to the mean z of the points compared. The last bin also holds the few faces beyond 90 degrees,
    as in 3DDFA's benchmark_aflw2000.py. The labels' own coefficients and the mean face looking straight ahead are
    judged too: the floor, and what knowing only the face box is worth.

    Args:
        methods: who is judged.
        dataset: AFLW2000-3D, with either annotation: both are reported where both are on disk.
        morphable_model: the model of the dataset.
        seed: of the balanced subset.

    Raises:
        ConfigError: two methods of one name.
        DataError: a photo, a label or a prediction is damaged.
    """
    references: tuple[ShapeMethod, ...] = (LabelMethod(morphable_model), MeanFaceMethod(morphable_model))
    methods = [*methods, *references]
    names = [method.name for method in methods]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two methods are called {repeated[0]!r}: give them different names")
    reannotation = dataset.reannotation or _reannotation(dataset.root)
    per_image = _measure(methods, dataset, morphable_model, reannotation)
    balanced = balanced_subset(_yaw(per_image), seed)
    missing = _missing(per_image, names)
    lacking = [missing_note(name, files, len(dataset)) for name, files in missing.items()]
    notes = [*_not_comparable(per_image, names), *_notes(per_image, balanced, reannotation, seed)]
    per_image = per_image.drop(columns=["has_prediction", "counts_for_pose"])
    return BenchmarkResult(
        name="aflw2000",
        metrics=_metrics(per_image, names, balanced),
        tables=_tables(per_image, names, balanced, tuple(method.name for method in references)),
        per_image=per_image,
        notes=[*lacking, *notes],
        missing=missing,
    )


def balanced_subset(
    yaw: Float[np.ndarray, "photos"], seed: int = 0, per_bin: int = PER_BIN
) -> Int[np.ndarray, "chosen"] | None:
    """Photos with as many of each yaw bin, drawn by the seed, in order; None where a bin has too few."""
    random = np.random.default_rng(seed)
    members = [np.flatnonzero(inside) for inside in yaw_bins(yaw)]
    if min(map(len, members)) < per_bin:
        return None
    return np.sort(np.concatenate([random.choice(bin_members, per_bin, replace=False) for bin_members in members]))


def yaw_bins(yaw: Float[np.ndarray, "photos"]) -> Bool[np.ndarray, "bins photos"]:
    """Which photos are in which bin, by |yaw| in degrees: the bounds count below, the last bin is open."""
    bounds = [high for _, high in YAW_BINS[:-1]]
    return np.digitize(np.abs(yaw), bounds, right=True) == np.arange(len(YAW_BINS))[:, None]


def count_by_yaw(yaw: Float[np.ndarray, "photos"], what: str) -> str:
    """How many there are of what, and in each bin of |yaw| in degrees, in words."""
    counts = yaw_bins(yaw).sum(1).tolist()
    faces = ", ".join(f"{count:,} in {name}" for name, count in zip(BIN_NAMES, counts, strict=True))
    return f"{len(yaw):,} {what}; by |yaw|: {faces}, the last bin with those beyond"


# Measuring


def _reannotation(root: Path) -> Reannotation | None:
    """The re-annotated points where they are on disk."""
    folders = (root, root.absolute().parent)
    there = all(any((folder / name).is_file() for folder in folders) for name in (ORIGINAL, REANNOTATED))
    return Reannotation(root) if there else None


def _measure(
    methods: Sequence[ShapeMethod], dataset: AFLW2000, model: MorphableModel, reannotation: Reannotation | None
) -> pd.DataFrame:
    rows: list[dict[str, object]] = []
    topology = fingerprint(model)
    for start in range(0, len(dataset), CHUNK):
        indices = range(start, min(start + CHUNK, len(dataset)))
        paths = [dataset.path(index) for index in indices]
        samples = [dataset.reader.read(path, with_landmarks=True) for path in paths]  # the original landmarks
        truths = [_truth(sample, path, model, reannotation) for sample, path in zip(samples, paths, strict=True)]
        for method in methods:
            faces = method.predict(samples, [path.stem for path in paths])
            faces = [face if face is not None and is_finite(face) else None for face in faces]
            for index, path, truth, face in zip(indices, paths, truths, faces, strict=True):
                row = {"file": path.name, "index": index, "method": method.name, "yaw": float(truth["pose"][1])}
                row |= {"has_prediction": face is not None, "counts_for_pose": _counts_for_pose(truth)}
                rows.append(row | _errors(face, truth, model, topology))
    return pd.DataFrame(rows)


def _truth(
    sample: FaceSample, path: Path, model: MorphableModel, reannotation: Reannotation | None
) -> Mapping[str, Tensor]:
    labels = sample.labels
    keys = ("shape_coefficients", "expression_coefficients", "camera")
    truth = {
        "landmarks68": labels["landmarks68"],
        "vertices": model.project(*(labels[key][None] for key in keys))[0, model.face_region],
        "pose": torch.from_numpy(
            np.rad2deg(read_fit(path.with_suffix(".mat"), ["Pose_Para"])["Pose_Para"].ravel()[:3])
        ),
    }
    if reannotation is not None:
        truth["reannotated"] = reannotation.find(labels["landmarks68"], path)
    return truth


def _counts_for_pose(truth: Mapping[str, Tensor]) -> bool:
    return bool(truth["pose"].abs().max() <= MAX_ANGLE)


def _errors(
    face: PredictedFace | None, truth: Mapping[str, Tensor], model: MorphableModel, topology: str
) -> dict[str, float]:
    """Errors of one face; NaN for what the method does not predict or the photo does not count for."""
    errors = dict.fromkeys((*ERRORS, *POSE_ERRORS), float("nan"))
    if face is None:
        return errors
    landmarks = truth["landmarks68"]
    if face.landmarks68 is not None:
        predicted = face.landmarks68
        errors["nme_2d_68"] = _nme(predicted[:, :2], landmarks[:, :2], landmarks)
        if "reannotated" in truth:
            errors["nme_2d_68_reannotated"] = _nme(predicted[:, :2], truth["reannotated"], truth["reannotated"])
        if predicted.shape[1] == 3:
            errors["nme_3d_68"] = _nme(center_depth(predicted), center_depth(landmarks), landmarks)
    if face.vertices is not None and face.topology == topology:
        vertices = face.vertices[model.face_region]
        errors["nme_3d_dense"] = _nme(center_depth(vertices), center_depth(truth["vertices"]), landmarks)
    if face.pose is not None and _counts_for_pose(truth):
        pitch, yaw, roll = pose_errors(face.pose.double(), truth["pose"].double()).tolist()
        errors |= {"yaw_error": yaw, "pitch_error": pitch, "roll_error": roll}
    return errors


def _nme(predicted: Tensor, truth: Tensor, landmarks: Tensor) -> float:
    return float(normalised_mean_error(predicted[None].double(), truth[None].double(), landmarks[None].double()))


# Reporting


def _yaw(per_image: pd.DataFrame) -> Float[np.ndarray, "photos"]:
    return per_image.drop_duplicates("index")["yaw"].to_numpy(dtype=np.float64)


def means_by_yaw(errors: pd.Series, yaw: pd.Series) -> dict[str, float]:
    """Mean of each bin, their mean and standard deviation, and the mean over all; NaN where a bin is empty."""
    of_bins = [float(errors[inside].mean()) for inside in yaw_bins(yaw.to_numpy(dtype=np.float64))]
    spread = {"mean": float(np.mean(of_bins)), "std": float(np.std(of_bins))}
    return {**dict(zip(BIN_NAMES, of_bins, strict=True)), **spread, "all": float(errors.mean())}


def _pose(of_method: pd.DataFrame) -> dict[str, float]:
    means = {column: float(of_method[column].mean()) for column in POSE_ERRORS}
    return {**means, "pose_error": float(np.mean([*means.values()]))}


def _metrics(
    per_image: pd.DataFrame, names: Iterable[str], balanced: Int[np.ndarray, "chosen"] | None
) -> dict[str, float]:
    metrics = {}
    parts = dict(zip(BIN_NAMES, (f"yaw_{low}_{high}" for low, high in YAW_BINS), strict=True))
    for name in names:
        rows = per_image[per_image["method"] == name]
        for error in ERRORS:
            metrics[f"{name}/{error}"] = float(rows[error].mean())
        for error in ERRORS:
            by_yaw = means_by_yaw(rows[error], rows["yaw"])
            metrics |= {f"{name}/{error}/{parts.get(part, part)}": by_yaw[part] for part in by_yaw if part != "all"}
            if balanced is not None and error in ERRORS[:2]:
                metrics[f"{name}/{error}/balanced"] = float(rows[error].iloc[balanced].mean())
        metrics |= {f"{name}/{key}": value for key, value in _pose(rows).items()}
    return {key: value for key, value in metrics.items() if np.isfinite(value)}


def _tables(
    per_image: pd.DataFrame,
    names: Sequence[str],
    balanced: Int[np.ndarray, "chosen"] | None,
    references: tuple[str, ...],
) -> list[Table]:
    by_method = {name: per_image[per_image["method"] == name] for name in names}

    def sparse(error: str, photos: Int[np.ndarray, "chosen"] | slice = slice(None)) -> pd.DataFrame:
        chosen = {name: rows.iloc[photos] for name, rows in by_method.items()}
        table = {name: means_by_yaw(100 * rows[error], rows["yaw"]) for name, rows in chosen.items()}
        return pd.DataFrame.from_dict(table, orient="index")

    reannotated = bool(per_image["nme_2d_68_reannotated"].notna().any())
    points = {"nme_2d_68": "original points"} | (
        {"nme_2d_68_reannotated": "re-annotated points"} if reannotated else {}
    )
    tables = []
    for error, what in points.items():
        whose = "" if error == "nme_2d_68" else " Points of LS3D-W (Bulat and Tzimiropoulos, ICCV 2017)."
        caption = f"{NORMALISED}, of 68 landmarks in 2D, {BY_YAW}; all is over all photos.{whose} {FRAMED}."
        table = Table(f"AFLW2000-3D, NME 2D, {what}", caption, sparse(error), reference=references)
        tables.append(with_quoted(table, quoted_rows("aflw2000", error)))
        if balanced is not None:
            caption = (
                f"{NORMALISED}, of 68 landmarks in 2D, over {PER_BIN} faces of each bin of |yaw|, {len(balanced)} in "
                f"all, as tables of some papers balance the poses; the draw is ours.{whose} {FRAMED}."
            )
            title = f"AFLW2000-3D, NME 2D, {what}, balanced"
            tables.append(Table(title, caption, sparse(error, balanced).drop(columns="mean"), reference=references))
    caption = (
        f"{NORMALISED}, of 68 landmarks in 3D, z relative to their mean, {BY_YAW}; all is over all photos. {FRAMED}."
    )
    in_3d = sparse("nme_3d_68").dropna(how="all")
    tables.append(Table("AFLW2000-3D, NME 3D of 68 landmarks by yaw", caption, in_3d, reference=references))
    return [*tables, _table_3d(by_method, references), _table_pose(by_method, references)]


def _table_3d(by_method: Mapping[str, pd.DataFrame], references: tuple[str, ...]) -> Table:
    columns = {"68 landmarks": "nme_3d_68", "dense": "nme_3d_dense"}
    frame = pd.DataFrame.from_dict(
        {
            name: {title: 100 * rows[error].mean() for title, error in columns.items()}
            for name, rows in by_method.items()
        },
        orient="index",
    ).dropna(how="all")
    caption = (
        f"{NORMALISED}, in 3D, z relative to the mean of the points: of 68 landmarks, and of the vertices without the "
        "neck for methods with the labels' mesh. After PRNet (Feng et al., ECCV 2018), which compares points that "
        "several meshes share; ours are all vertices of the face, so that dense numbers are not those of papers."
    )
    return Table("AFLW2000-3D, NME 3D", caption, frame, reference=references)


def _table_pose(by_method: Mapping[str, pd.DataFrame], references: tuple[str, ...]) -> Table:
    titles = {"yaw_error": "yaw", "pitch_error": "pitch", "roll_error": "roll", "pose_error": "mean"}
    poses = {name: _pose(rows) for name, rows in by_method.items()}
    frame = pd.DataFrame.from_dict(poses, orient="index").rename(columns=titles).dropna(how="all")
    caption = (
        "Mean absolute errors of head pose in degrees against Pose_Para, without the photos that have an angle beyond "
        f"{MAX_ANGLE:.0f} degrees (Ruiz et al., Hopenet, CVPRW 2018, and the papers after it; Wu et al., SynergyNet, "
        "3DV 2021). The mean face looks straight ahead. Angles are in the frame of each method's own mean face: one "
        "that is tilted against the labels' adds a constant error. Angles are compared modulo 360 degrees, and of the "
        "two triples that name one rotation the nearer counts, which matters beyond 90 degrees of yaw only."
    )
    table = Table("AFLW2000-3D, head pose", caption, frame, reference=references)
    return with_quoted(table, quoted_rows("aflw2000", "pose"))


def _not_comparable(per_image: pd.DataFrame, names: Iterable[str]) -> list[str]:
    """Methods that predict, but nothing that this benchmark compares."""
    predicts = per_image[per_image["has_prediction"]].groupby("method")[list(ERRORS)].count().sum(axis=1)
    return [
        f"{name} gives neither landmarks68 nor the mesh of the labels' morphable model: nothing of it can be compared."
        for name in names
        if name in predicts.index and not predicts[name]
    ]


def _missing(per_image: pd.DataFrame, names: Iterable[str]) -> dict[str, list[str]]:
    """Files of the photos that a method says nothing of, by method, where there are some."""
    without = per_image[~per_image["has_prediction"]]
    of_method = {name: without.loc[without["method"] == name, "file"].tolist() for name in names}
    return {name: files for name, files in of_method.items() if files}


def _notes(
    per_image: pd.DataFrame,
    balanced: Int[np.ndarray, "chosen"] | None,
    reannotation: Reannotation | None,
    seed: int,
) -> list[str]:
    notes = [f"{count_by_yaw(_yaw(per_image), 'photos')}."]
    extreme = per_image[~per_image["counts_for_pose"]]["index"].nunique()
    notes.append(
        f"Photos with an angle beyond {MAX_ANGLE:.0f} degrees, which head pose leaves out, as is the custom: "
        f"{extreme:,}."
    )
    notes.append(
        f"The balanced subset has {PER_BIN} faces of each bin, drawn with seed {seed}."
        if balanced is not None
        else f"No balanced subset: a bin has fewer than {PER_BIN} faces."
    )
    if reannotation is None:
        notes.append(f"No re-annotated points: {REANNOTATED} and {ORIGINAL} are not beside the photos.")
    return notes
