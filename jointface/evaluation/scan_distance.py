"""Measures how far reconstructed faces are from scans of the people, on MICC Florence."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jointface.datamodules.florence import Florence
from jointface.errors import DataError
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.methods import PredictedFace, ShapeMethod
from jointface.evaluation.shape_errors import KnownFace, measure_errors, note_missing
from jointface.geometry.mesh import vertex_normals
from jointface.metrics.alignment import fit_similarity, move, refine_by_icp, surface_errors

log = logging.getLogger(__name__)

OUTER_EYE_CORNERS = (36, 45)  # iBUG's 37 and 46, counted from 1
PROTOCOL = (
    "MICC Florence (Bagdanov et al., 2011), frontal scans rendered in the poses of VRN (Jackson et al., ICCV 2017), "
    "as in PRNet (Feng et al., ECCV 2018); view angles are relative to the scan. The predicted face is aligned to the "
    "scan's face region, the vertices within 95 mm of the nose tip (as in Deng et al., CVPRW 2019), by a similarity of "
    "the landmarks and ICP with scale; each vertex of the region is compared with the nearest predicted vertex"
)
NME = (
    "NME in per cent: mean distance over the region, divided by the subject's own outer interocular distance (VRN's "
    "and PRNet's normalisation), from landmark 37 to 46 of the morphable model fitted to the scan"
)
RMSE = "Point-to-plane RMSE in mm: root mean square of the distances to the scan's tangent planes"
ERRORS = {"nme": ("NME", NME), "rmse_mm": ("point-to-plane RMSE", RMSE)}  # column: name in titles, text for captions
DIFFERENCES = (
    "Numbers printed in papers are only roughly comparable: the published renderings are not available, VRN uses ICP "
    "only for correspondence and measures before alignment, and the landmarks used for normalisation are unpublished."
)


@dataclass
class _Truth:
    """The ground truth for a subject's views, in scan space and millimetres."""

    points: Float64[Tensor, "points 3"]
    normals: Float64[Tensor, "points 3"]
    landmarks68: Float[Tensor, "68 3"]
    interocular: float  # from outer corner to outer corner


def scan_distance(methods: Sequence[ShapeMethod], dataset: Florence) -> BenchmarkResult:
    """Evaluates methods on the scans of MICC Florence; views are rendered on reading.

    Metrics are means over the views: `method/nme`, a fraction of the outer interocular distance, and `method/rmse_mm`,
    with `.../std` and, by absolute yaw, `.../yaw_40`. `num_images` counts the evaluated views, `num_subjects` the
    people in them.

    Raises:
        DataError: no scan can be read. Single scans that cannot be read, or have no texture, are left out with a note.
    """
    broken: list[str] = []
    per_image = measure_errors(methods, dataset, _known_faces(dataset, broken), [*ERRORS])
    subjects = len(dataset.scans) - len(broken)
    if not subjects:
        raise DataError(f"no scan of Florence can be read; {broken[0]}")
    views = subjects * len(dataset.angles)
    missing, notes = note_missing(per_image, per_image["nme"].notna())
    notes += [*broken, DIFFERENCES]
    per_image = per_image.drop(columns="has_prediction")
    metrics = _metrics(per_image) | {"num_images": views, "num_subjects": subjects}
    return BenchmarkResult("florence", metrics, _tables(per_image), per_image, notes=notes, missing=missing)


def _known_faces(dataset: Florence, broken: list[str]) -> Iterator[KnownFace]:
    """Yields the views of each subject; subjects that cannot be read are added to `broken`."""
    count = len(dataset.angles)
    angles = dataset.angles.rad2deg().round().int().tolist()
    for place, subject in enumerate(dataset.subjects):
        views = range(place * count, (place + 1) * count)
        try:
            truth, samples = _truth(dataset, views[0]), [dataset.read(index) for index in views]
        except DataError as error:  # the other subjects can still be evaluated
            log.warning("Florence: a subject is left out: %s", error)
            broken.append(f"A subject is left out: {error}.")
            continue
        for index, sample, (pitch, yaw, _) in zip(views, samples, angles, strict=True):
            facts = {"yaw": yaw, "pitch": pitch, "interocular_mm": truth.interocular, "subject": int(subject)}
            errors = partial(reconstruction_errors, truth=truth, camera=dataset.view_camera(index))
            yield KnownFace(index, sample, facts, errors)


def _truth(dataset: Florence, index: int) -> _Truth:
    scan = dataset.scan(index)
    normals = vertex_normals(scan.vertices.double(), scan.triangles)
    region = dataset.face_region(index) & normals.any(1)  # points without a triangle are not on the surface
    landmarks = dataset.landmarks68(index)
    right, left = landmarks[list(OUTER_EYE_CORNERS)].double()
    return _Truth(scan.vertices[region].double(), normals[region], landmarks, (left - right).norm().item())


def reconstruction_errors(face: PredictedFace, truth: _Truth, camera: Float[Tensor, "3 4"]) -> dict[str, float]:
    """`nme` and `rmse_mm` of a face predicted in pixels of the camera's view; empty if it has no vertices."""
    if face.vertices is None:
        return {}
    y_up = torch.tensor([1.0, -1.0, 1.0])  # gives pixels the handedness of scan space
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
    """The map from pixels back to scan space by the view's camera. As depth has no origin, its mean is set to the
    truth's."""
    linear, shift = camera.double().split([3, 1], dim=1)
    shift[2] += vertices[:, 2].double().mean() - move(camera, truth.points)[:, 2].mean()
    inverse = torch.linalg.inv(linear)
    return torch.cat([inverse, -inverse @ shift], dim=1)


def _by_yaw(per_image: pd.DataFrame, error: str) -> pd.DataFrame:
    """A row for each method: the mean for each absolute yaw, and mean and standard deviation over all views."""
    by_method = per_image.groupby("method")[error]
    methods = per_image.dropna(subset=error)["method"].unique()
    by_yaw = per_image.pivot_table(error, "method", per_image["yaw"].abs()).reindex(methods)
    return by_yaw.rename_axis(None).assign(mean=by_method.mean(), std=by_method.std(ddof=0))


def _tables(per_image: pd.DataFrame) -> list[Table]:
    shown, tables = per_image.assign(nme=100 * per_image["nme"]), []
    for error, (title, what) in ERRORS.items():
        by_yaw = _by_yaw(shown, error).rename(columns=lambda part: part if isinstance(part, str) else f"{part}°")
        caption = f"{what}. {PROTOCOL}."
        title = f"MICC Florence, {title} by"
        tables.append(Table(f"{title} absolute yaw", f"{caption} Mean and standard deviation over all views.", by_yaw))
        by_view = shown.pivot_table(error, ["pitch", "yaw"], "method", sort=False).reindex(columns=by_yaw.index)
        by_view.index = pd.Index([f"pitch {pitch:+d}°, yaw {yaw:+d}°" for pitch, yaw in by_view.index], name="view")
        tables.append(Table(f"{title} view", caption, by_view.rename_axis(columns=None), lower_is_better=None))
    return tables


def _metrics(per_image: pd.DataFrame) -> dict[str, float]:
    parts = {"mean": "", "std": "/std"}
    return {
        f"{method}/{error}{parts.get(part, f'/yaw_{part}')}": float(value)
        for error in ERRORS
        for (method, part), value in _by_yaw(per_image, error).stack().dropna().items()
    }
