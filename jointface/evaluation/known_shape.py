"""Synthetic faces: every vertex, the identity and the pose are known exactly."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.face_dataset import FaceSample
from jointface.datamodules.packed import fingerprint
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.errors import ConfigError
from jointface.evaluation.landmarks_and_pose import count_by_yaw, means_by_yaw
from jointface.evaluation.methods import PredictedFace, ShapeMethod, is_finite, missing_note
from jointface.evaluation.result import BenchmarkResult, Table
from jointface.geometry.camera import center_depth, pose_from_camera
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.alignment import fit_rigid, move
from jointface.metrics.nme import YAW_BINS, normalised_mean_error
from jointface.metrics.pose import fit_similarity, pose_errors
from jointface.modules.joint_module import true_face

DRAWN_AT_ONCE = 64  # faces whose pictures are in memory
ERRORS = {  # column of the per-image errors: header of the main table
    "nme_2d_68": "NME-2D-68, %",
    "nme_3d_dense": "dense, % of the box",
    "dense_mm": "dense, mm",
    "identity_mm": "identity, mm",
    "identity_scaled_mm": "identity without size, mm",
    "pose_error": "pose, °",
}
NEEDED = {  # what a method has to predict for them
    "nme_2d_68": "no landmarks", "nme_3d_dense": "no vertices of this morphable model",
    "dense_mm": "no vertices of this morphable model", "identity_mm": "no shape coefficients of this morphable model",
    "identity_scaled_mm": "no shape coefficients of this morphable model", "pose_error": "no pose",
}  # fmt: skip
ANGLES = {"yaw_error": "yaw", "pitch_error": "pitch", "roll_error": "roll"}
PROTOCOL = "Synthetic faces (anny's head), split test; this package's own protocol, exact labels"
CAPTION = (
    f"{PROTOCOL}. NME-2D-68: mean distance of the 68 landmarks in 2D, and dense: of the vertices without the neck in "
    "3D, depth relative to their mean, both over the root of width x height of the true landmarks' box (Zhu et "
    "al., CVPR 2016); in mm by the camera's scale. Identity: mean distance of the vertices of the neutral faces of the "
    "shape coefficients, so without pose and expression, rigidly aligned; without size: with the best scale too, for a "
    "single view does not show it (as NoW, Sanyal et al., CVPR 2019; with size, Zielonka et al., ECCV 2022). Pose: "
    "mean absolute error of yaw, pitch and roll"
)


BY_YAW = (
    "By |yaw| in degrees; mean and std are of the three bins, the std that of the population, all is over all faces"
)


def synthetic(methods: Sequence[ShapeMethod], dataset: SyntheticFaces) -> BenchmarkResult:
    """Judges the 3D faces of methods by synthetic faces.

    Metrics are means over the faces: `method/nme_2d_68` and `method/nme_3d_dense` as fractions of the face box,
    `method/dense_mm`, `method/identity_mm`, `method/identity_scaled_mm`, in degrees `method/yaw_error`,
    `method/pitch_error`, `method/roll_error` and their mean `method/pose_error`, and by absolute yaw `.../yaw_0_30` and
    so on. Dense and identity errors need a method with the vertices of the same morphable model, the identity also its
    shape coefficients. Methods are asked for the files that `face_name` names.

    Raises:
        ConfigError: the data set labels no shape, or no method predicts anything.
    """
    if not dataset.has_shape:
        raise ConfigError("synthetic: the faces are read without their shape; set labels=both or labels=shape")
    model = dataset.factory.head.model
    topology = fingerprint(model)
    rows: list[dict] = []
    missing: dict[str, list[str]] = {method.name: [] for method in methods}
    for start in range(0, len(dataset), DRAWN_AT_ONCE):
        indices = range(start, min(start + DRAWN_AT_ONCE, len(dataset)))
        samples, files = [dataset.read(index) for index in indices], [face_name(dataset, index) for index in indices]
        predictions = {method.name: method.predict(samples, files) for method in methods}
        for place, (index, file, sample) in enumerate(zip(indices, files, samples, strict=True)):
            truth = _Truth(model, topology, sample)
            for name, faces in predictions.items():
                face = faces[place]
                if face is None or not is_finite(face):
                    missing[name].append(file)
                else:
                    row = {"file": file, "index": index, "method": name, "yaw": truth.pose[1].item()}
                    rows.append(row | truth.errors(face))
    if not rows:
        raise ConfigError("synthetic: no method predicts a 3D face; give a checkpoint with a shape decoder")
    frame = pd.DataFrame(rows, columns=["file", "index", "method", "yaw", *ERRORS, *ANGLES])
    missing = {name: files for name, files in missing.items() if files}
    notes = [missing_note(name, files, len(dataset)) for name, files in missing.items()] + _notes(frame)
    return BenchmarkResult("synthetic", _metrics(frame), _tables(frame), frame, notes=notes, missing=missing)


def face_name(dataset: SyntheticFaces, index: int) -> str:
    """The name of a face, which has no file: synthetic_test_000012."""
    return f"synthetic_{dataset.split}_{dataset.first + index:06d}"


class _Truth:
    """A face's labels, in the pixels of its picture."""

    def __init__(self, model: MorphableModel, topology: str, sample: FaceSample) -> None:
        self.model, self.topology = model, topology
        labels = {key: value[None] for key, value in sample.labels.items()}
        self.landmarks, self.vertices = true_face(model, labels)
        self.shape = sample.labels["shape_coefficients"]
        camera = sample.labels["camera"]
        self.pose = pose_from_camera(camera, 0)[:3].rad2deg()
        self.pixels_per_mm = camera[:, :3].norm(dim=1).mean()  # anny's unit is the millimetre

    def errors(self, face: PredictedFace) -> dict[str, float]:
        """The errors of a prediction, those that it allows."""
        errors = {}
        if face.landmarks68 is not None:
            landmarks = face.landmarks68[None, :, :2]
            errors["nme_2d_68"] = normalised_mean_error(landmarks, self.landmarks[..., :2], self.landmarks)
        if face.topology == self.topology and face.vertices is not None:
            region = self.model.face_region
            # Depth is relative to the points judged: the neck's is not trained.
            predicted, true = center_depth(face.vertices[None, region]), center_depth(self.vertices[:, region])
            errors["nme_3d_dense"] = normalised_mean_error(predicted, true, self.landmarks)
            errors["dense_mm"] = (predicted - true).norm(dim=-1).mean() / self.pixels_per_mm
        if face.topology == self.topology and face.shape_coefficients is not None:
            errors["identity_mm"] = identity_error(self.model, face.shape_coefficients, self.shape)
            errors["identity_scaled_mm"] = identity_error(self.model, face.shape_coefficients, self.shape, scaled=True)
        if face.pose is not None:
            pitch, yaw, roll = angles = pose_errors(face.pose, self.pose)
            errors |= {"pose_error": angles.mean(), "yaw_error": yaw, "pitch_error": pitch, "roll_error": roll}
        return {name: error.item() for name, error in errors.items()}


def identity_error(
    model: MorphableModel, predicted: Float[Tensor, "shape"], truth: Float[Tensor, "shape"], scaled: bool = False
) -> Float[Tensor, ""]:
    """Mean distance of the vertices of two neutral faces without the neck, rigidly aligned, in the model's unit; where
    `scaled`, the predicted one also takes the best size."""
    coefficients = torch.stack([predicted, truth])
    faces = model(coefficients, coefficients.new_zeros(2, model.num_expression))[:, model.face_region]
    motion = (fit_similarity if scaled else fit_rigid)(faces[0], faces[1])
    return (move(motion, faces[0]) - faces[1]).norm(dim=-1).mean()


def _tables(frame: pd.DataFrame) -> list[Table]:
    shown = frame.assign(nme_2d_68=100 * frame["nme_2d_68"], nme_3d_dense=100 * frame["nme_3d_dense"])
    names = list(frame["method"].unique())
    means = shown.groupby("method")[[*ERRORS, *ANGLES]].mean().reindex(names)
    tables = [Table("Synthetic faces", f"{CAPTION}.", means[[*ERRORS]].rename(columns=ERRORS))]
    counts = _count_by_yaw(frame)
    for error in ("nme_2d_68", "nme_3d_dense", "dense_mm"):
        title = f"Synthetic faces by absolute yaw: {ERRORS[error]}"
        tables.append(Table(title, f"{CAPTION}. {BY_YAW}; {counts}.", _by_yaw(shown, error)))
    pose = means[[*ANGLES, "pose_error"]].rename(columns={**ANGLES, "pose_error": "mean"})
    caption = f"{PROTOCOL}. Mean absolute error in degrees, the convention of 300W-LP (Zhu et al., CVPR 2016)."
    return [*tables, Table("Synthetic faces, head pose", caption, pose)]


def _by_yaw(frame: pd.DataFrame, error: str) -> pd.DataFrame:
    rows = {method: means_by_yaw(rows[error], rows["yaw"]) for method, rows in frame.groupby("method", sort=False)}
    return pd.DataFrame.from_dict(rows, orient="index")


def _count_by_yaw(frame: pd.DataFrame) -> str:
    return count_by_yaw(frame.drop_duplicates("index")["yaw"].to_numpy(dtype=np.float64), "faces")


def _inside(frame: pd.DataFrame, low: float, high: float) -> pd.Series:
    yaw = frame["yaw"].abs()
    return (yaw <= high) & ((yaw > low) | (low == 0))


def _metrics(frame: pd.DataFrame) -> dict[str, float]:
    parts = {"": frame} | {f"/yaw_{low}_{high}": frame[_inside(frame, low, high)] for low, high in YAW_BINS}
    metrics: dict[str, float] = {}
    for part, rows in parts.items():
        for method, errors in rows.groupby("method", sort=False):
            means = errors[[*ERRORS, *ANGLES]].mean().dropna()
            metrics |= {f"{method}/{error}{part}": float(mean) for error, mean in means.items()}
    return metrics


def _notes(frame: pd.DataFrame) -> list[str]:
    """What a method does not predict, and which errors it therefore lacks."""
    known = frame.groupby("method", sort=False)[[*ERRORS]].count()
    lacking = {method: [error for error in ERRORS if not row[error]] for method, row in known.iterrows()}
    return [f"{_count_by_yaw(frame)}."] + [
        f"{method} has no error of {_listed(ERRORS[error].partition(',')[0] for error in errors)}: it predicts "
        f"{_listed(NEEDED[error] for error in errors)}."
        for method, errors in lacking.items()
        if errors
    ]


def _listed(words: Iterable[str]) -> str:
    """The words without repetitions."""
    return ", ".join(dict.fromkeys(words))
