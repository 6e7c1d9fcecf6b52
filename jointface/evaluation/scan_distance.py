"""MICC Florence: how far reconstructed faces are from the people's scans."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jointface.datamodules.florence import Florence
from jointface.errors import ConfigError, DataError
from jointface.evaluation.methods import PredictedFace, ShapeMethod, missing_note
from jointface.evaluation.result import BenchmarkResult, Table
from jointface.geometry.mesh import vertex_normals
from jointface.metrics.alignment import move, refine_by_icp, surface_errors
from jointface.metrics.pose import fit_similarity

log = logging.getLogger(__name__)

OUTER_EYE_CORNERS = (36, 45)  # iBUG's 37 and 46, counted from 1
PROTOCOL = (
    "MICC Florence (Bagdanov et al., 2011), frontal scans rendered in the poses of VRN (Jackson et al., ICCV 2017), "
    "as PRNet's (Feng et al., ECCV 2018); view angles are relative to the scan. The predicted face is laid on the "
    "scan's face region, the vertices within 95 mm of the nose tip (as Deng et al., CVPRW 2019), by a similarity of "
    "the landmarks and ICP with scale; each vertex of the region is compared with the nearest predicted vertex"
)
NME = (
    "NME in per cent: mean distance over the region, divided by the subject's own outer interocular distance (VRN's "
    "and PRNet's normalisation), from landmark 37 to 46 of the morphable model fitted to the scan"
)
RMSE = "Point-to-plane RMSE in mm: root mean square of the distances to the scan's tangent planes"
DIFFERENCES = (
    "Numbers printed in papers compare only roughly with these: the published renderings are not available, VRN takes "
    "ICP for correspondence only and measures before alignment, the landmarks that papers normalise by are unpublished."
)


@dataclass
class _Truth:
    """What a subject's views are judged by, in scan space."""

    points: Float64[Tensor, "points 3"]
    normals: Float64[Tensor, "points 3"]
    landmarks68: Float[Tensor, "68 3"]

    @property
    def interocular(self) -> float:
        """Outer interocular distance of the subject, in millimetres."""
        right, left = self.landmarks68[list(OUTER_EYE_CORNERS)].double()
        return (left - right).norm().item()


def florence(methods: Sequence[ShapeMethod], dataset: Florence) -> BenchmarkResult:
    """Judges methods by the scans of MICC Florence; photos are rendered as they are asked for.

    Metrics are `method/nme`, a fraction of the outer interocular distance, and `method/rmse_mm`, means over the views,
    with `.../std` and, by absolute yaw, `.../yaw_40`; `num_images` counts the views that were judged, `num_subjects`
    the people in them. Methods that predict landmarks only are left out, with a note. The files that methods are asked
    for are those of `view_name`.

    Raises:
        ConfigError: no method predicts a surface. DataError: no scan can be read; single ones that cannot, or have no
            texture, are left out with a note.
    """
    rows: list[dict] = []
    count = len(dataset.angles)
    missing: dict[str, list[str]] = {method.name: [] for method in methods}
    sparse = {method.name: False for method in methods}
    broken: list[str] = []
    for first in range(0, len(dataset), count):
        views = range(first, first + count)
        try:
            samples, files = [dataset.read(index) for index in views], [view_name(dataset, index) for index in views]
            truth = _truth(dataset, first)
        except DataError as error:  # the other subjects can be judged all the same
            log.warning("Florence: a subject is left out: %s", error)
            broken.append(f"A subject is left out: {error}.")
            continue
        for method in methods:
            for index, file, face in zip(views, files, method.predict(samples, files), strict=True):
                if face is None or face.vertices is None or not face.vertices.isfinite().all():
                    missing[method.name].append(file)
                    sparse[method.name] |= face is not None and face.vertices is None
                    continue
                errors = reconstruction_errors(face, truth, dataset.view_camera(index))
                pitch, yaw = _angles(dataset, index)
                row = {"file": file, "index": index, "method": method.name, "yaw": yaw, "pitch": pitch}
                rows.append(row | {"interocular_mm": truth.interocular} | errors)
    subjects = len(dataset.scans) - len(broken)
    if not subjects:
        raise DataError(f"no scan of Florence can be read; {broken[0]}")
    if not rows:
        raise ConfigError(
            "florence: no method predicts a surface, only landmarks or nothing; give a checkpoint with a shape decoder "
            "or predictions with vertices and triangles"
        )
    result = _result(pd.DataFrame(rows), dataset)
    result.metrics |= {"num_images": subjects * count, "num_subjects": subjects}
    flat = [name for name, files in missing.items() if sparse[name] and len(files) == subjects * count]
    result.missing = {name: files for name, files in missing.items() if files and name not in flat}
    result.notes += [f"{name} predicts landmarks only, no surface, and is left out." for name in flat]
    result.notes += [missing_note(name, files, subjects * count) for name, files in result.missing.items()]
    result.notes += [*broken, DIFFERENCES]
    return result


def view_name(dataset: Florence, index: int) -> str:
    """The name of a view, which has no file: subject_01_pitch-15_yaw+40."""
    subject = dataset.path(index).relative_to(dataset.root).parts[0]
    pitch, yaw = _angles(dataset, index)
    return f"{subject}_pitch{pitch:+d}_yaw{yaw:+d}"


def _angles(dataset: Florence, index: int) -> tuple[int, int]:
    """Pitch and yaw of a view in degrees."""
    pitch, yaw, _ = dataset.angles[index % len(dataset.angles)].rad2deg().round().int().tolist()
    return pitch, yaw


def _truth(dataset: Florence, index: int) -> _Truth:
    scan = dataset.scan(index)
    normals = vertex_normals(scan.vertices.double(), scan.triangles)
    region = dataset.face_region(index) & normals.any(1)  # stray points without a triangle are no surface
    return _Truth(scan.vertices[region].double(), normals[region], dataset.landmarks68(index))


def reconstruction_errors(face: PredictedFace, truth: _Truth, camera: Float[Tensor, "3 4"]) -> dict[str, float]:
    """`nme` and `rmse_mm` of a face with vertices, predicted in the pixels of the camera's view."""
    assert face.vertices is not None
    y_up = torch.tensor([1.0, -1.0, 1.0])  # from pixels to a space of scan space's handedness
    vertices = face.vertices * y_up
    if face.landmarks68 is not None and face.landmarks68.shape[1] == 3:
        start = fit_similarity(face.landmarks68 * y_up, truth.landmarks68)
    else:
        start = _through_camera(vertices, truth, camera * y_up[:, None])
    motion = refine_by_icp(vertices, truth.points, start)
    distances = surface_errors(truth.points, truth.normals, move(motion, vertices))
    nme = distances.point_to_point.mean().item() / truth.interocular
    return {"nme": nme, "rmse_mm": distances.point_to_plane.square().mean().sqrt().item()}


def _through_camera(
    vertices: Float[Tensor, "vertices 3"], truth: _Truth, camera: Float[Tensor, "3 4"]
) -> Float64[Tensor, "3 4"]:
    """From pixels back through the view's camera; the depth, whose origin is free, is that of the truth in the mean."""
    linear, shift = camera.double().split([3, 1], dim=1)
    shift[2] += vertices[:, 2].double().mean() - move(camera, truth.points)[:, 2].mean()
    inverse = torch.linalg.inv(linear)
    return torch.cat([inverse, -inverse @ shift], dim=1)


def _result(frame: pd.DataFrame, dataset: Florence) -> BenchmarkResult:
    frame["subject"] = [dataset.subjects[index // len(dataset.angles)] for index in frame["index"]]
    shown = frame.assign(nme=100 * frame["nme"], distance=frame["yaw"].abs())
    tables = []
    for error, title, what in (("nme", "NME", NME), ("rmse_mm", "point-to-plane RMSE", RMSE)):
        caption = f"{what}. {PROTOCOL}. Mean and standard deviation over all views."
        tables.append(Table(f"MICC Florence, {title} by absolute yaw", caption, _by_yaw(shown, error)))
        by_view = shown.pivot_table(error, ["pitch", "yaw"], "method", sort=False).reindex(columns=_names(shown))
        by_view.index = pd.Index([f"pitch {pitch:+d}°, yaw {yaw:+d}°" for pitch, yaw in by_view.index], name="view")
        by_view.columns.name = None
        tables.append(Table(f"MICC Florence, {title} by view", f"{what}. {PROTOCOL}.", by_view, lower_is_better=None))
    return BenchmarkResult("florence", _metrics(frame), tables, frame)


def _names(frame: pd.DataFrame) -> list[str]:
    return list(frame["method"].unique())


def _by_yaw(frame: pd.DataFrame, error: str) -> pd.DataFrame:
    by_yaw = frame.pivot_table(error, "method", "distance").reindex(_names(frame))
    by_yaw.columns = pd.Index([f"{yaw}°" for yaw in by_yaw.columns])
    all_views = frame.groupby("method")[error]
    return by_yaw.assign(mean=all_views.mean(), std=all_views.std(ddof=0))


def _metrics(frame: pd.DataFrame) -> dict[str, float]:
    metrics = {}
    for error in ("nme", "rmse_mm"):
        for method, errors in frame.groupby("method", sort=False):
            metrics[f"{method}/{error}"] = float(errors[error].mean())
            metrics[f"{method}/{error}/std"] = float(errors[error].std(ddof=0))
            for yaw, mean in errors.groupby(errors["yaw"].abs())[error].mean().items():
                metrics[f"{method}/{error}/yaw_{yaw}"] = float(mean)
    return metrics
