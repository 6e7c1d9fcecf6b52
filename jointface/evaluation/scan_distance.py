"""How far reconstructed faces are from scans of the people, on MICC Florence."""

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jointface.datamodules.florence import Florence
from jointface.errors import ConfigError, DataError
from jointface.evaluation.methods import PredictedFace, ShapeMethod
from jointface.evaluation.result import BenchmarkResult, Table
from jointface.evaluation.shape_errors import KnownFace, ShapeErrors
from jointface.geometry.mesh import vertex_normals
from jointface.metrics.alignment import fit_similarity, move, refine_by_icp, surface_errors

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
ERRORS = {"nme": ("NME", NME), "rmse_mm": ("point-to-plane RMSE", RMSE)}  # and their names in titles and captions
DIFFERENCES = (
    "Numbers printed in papers compare only roughly with these: the published renderings are not available, VRN takes "
    "ICP for correspondence only and measures before alignment, the landmarks that papers normalise by are unpublished."
)


@dataclass
class _Truth:
    """What a subject's views are compared with, in scan space."""

    points: Float64[Tensor, "points 3"]
    normals: Float64[Tensor, "points 3"]
    landmarks68: Float[Tensor, "68 3"]

    @property
    def interocular(self) -> float:
        """Outer interocular distance of the subject, in millimetres."""
        right, left = self.landmarks68[list(OUTER_EYE_CORNERS)].double()
        return (left - right).norm().item()


def scan_distance(methods: Sequence[ShapeMethod], dataset: Florence) -> BenchmarkResult:
    """Evaluates methods on the scans of MICC Florence; views are rendered as they are read.

    Metrics are `method/nme`, a fraction of the outer interocular distance, and `method/rmse_mm`, means over the views,
    with `.../std` and, by absolute yaw, `.../yaw_40`; `num_images` counts the views that were used, `num_subjects` the
    people in them. Methods that predict landmarks only are left out, with a note.

    Raises:
        ConfigError: no method predicts a surface.
        DataError: no scan can be read. Single scans that cannot be read, or have no texture, are left out with a note.
    """
    broken: list[str] = []
    per_image = ShapeErrors.measure(methods, dataset, _known_faces(dataset, broken), [*ERRORS]).per_image
    subjects = len(dataset.scans) - len(broken)
    if not subjects:
        raise DataError(f"no scan of Florence can be read; {broken[0]}")
    by_method = per_image.groupby("method", sort=False)
    is_flat = by_method["has_prediction"].any() & (by_method["nme"].count() == 0)
    flat = is_flat.index[is_flat].tolist()
    per_image = per_image[~per_image["method"].isin(flat)].drop(columns="has_prediction").reset_index(drop=True)
    if not per_image["nme"].notna().any():
        raise ConfigError(
            "florence: no method predicts a surface, only landmarks or nothing; give a checkpoint with a shape decoder "
            "or predictions with vertices and triangles"
        )
    views = subjects * len(dataset.angles)
    missing, notes = ShapeErrors(per_image).missing(per_image["nme"].notna())
    notes += [f"{name} predicts landmarks only, no surface, and is left out." for name in flat]
    notes += [*broken, DIFFERENCES]
    metrics = _metrics(per_image) | {"num_images": views, "num_subjects": subjects}
    return BenchmarkResult("florence", metrics, _tables(per_image), per_image, notes=notes, missing=missing)


def _known_faces(dataset: Florence, broken: list[str]) -> Iterator[list[KnownFace]]:
    """The views of each subject; those that cannot be read are noted as broken."""
    count = len(dataset.angles)
    for first in range(0, len(dataset), count):
        try:
            truth = _truth(dataset, first)
            yield [_known_face(dataset, index, truth) for index in range(first, first + count)]
        except DataError as error:  # the other subjects can be evaluated all the same
            log.warning("Florence: a subject is left out: %s", error)
            broken.append(f"A subject is left out: {error}.")


def _known_face(dataset: Florence, index: int, truth: _Truth) -> KnownFace:
    count, camera = len(dataset.angles), dataset.view_camera(index)
    pitch, yaw, _ = dataset.angles[index % count].rad2deg().round().int().tolist()
    facts = {"yaw": yaw, "pitch": pitch, "interocular_mm": truth.interocular}
    facts |= {"subject": int(dataset.subjects[index // count])}
    return KnownFace(index, dataset.read(index), facts, partial(reconstruction_errors, truth=truth, camera=camera))


def _truth(dataset: Florence, index: int) -> _Truth:
    scan = dataset.scan(index)
    normals = vertex_normals(scan.vertices.double(), scan.triangles)
    region = dataset.face_region(index) & normals.any(1)  # stray points without a triangle are no surface
    return _Truth(scan.vertices[region].double(), normals[region], dataset.landmarks68(index))


def reconstruction_errors(face: PredictedFace, truth: _Truth, camera: Float[Tensor, "3 4"]) -> dict[str, float]:
    """`nme` and `rmse_mm` of a face predicted in the pixels of the camera's view; nothing where it has no vertices."""
    if face.vertices is None:
        return {}
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
    """From pixels back through the view's camera. Depth has no origin: its mean becomes that of the truth."""
    linear, shift = camera.double().split([3, 1], dim=1)
    shift[2] += vertices[:, 2].double().mean() - move(camera, truth.points)[:, 2].mean()
    inverse = torch.linalg.inv(linear)
    return torch.cat([inverse, -inverse @ shift], dim=1)


def _tables(per_image: pd.DataFrame) -> list[Table]:
    shown = per_image.assign(nme=100 * per_image["nme"])
    methods, tables = per_image.dropna(subset="nme")["method"].unique(), []
    for error, (title, what) in ERRORS.items():
        by_method = shown.groupby("method")[error]
        by_yaw = shown.pivot_table(error, "method", shown["yaw"].abs()).reindex(methods).rename_axis(None)
        by_yaw.columns = pd.Index([f"{yaw}°" for yaw in by_yaw.columns])
        by_yaw = by_yaw.assign(mean=by_method.mean(), std=by_method.std(ddof=0))
        caption = f"{what}. {PROTOCOL}."
        title = f"MICC Florence, {title} by"
        tables.append(Table(f"{title} absolute yaw", f"{caption} Mean and standard deviation over all views.", by_yaw))
        by_view = shown.pivot_table(error, ["pitch", "yaw"], "method", sort=False).reindex(columns=methods)
        by_view.index = pd.Index([f"pitch {pitch:+d}°, yaw {yaw:+d}°" for pitch, yaw in by_view.index], name="view")
        tables.append(Table(f"{title} view", caption, by_view.rename_axis(columns=None), lower_is_better=None))
    return tables


def _metrics(per_image: pd.DataFrame) -> dict[str, float]:
    metrics = {}
    for error in ERRORS:
        for method, rows in per_image.groupby("method", sort=False):
            metrics[f"{method}/{error}"] = rows[error].mean()
            metrics[f"{method}/{error}/std"] = rows[error].std(ddof=0)
            by_yaw = rows.groupby(rows["yaw"].abs())[error].mean()
            metrics |= {f"{method}/{error}/yaw_{yaw}": mean for yaw, mean in by_yaw.items()}
    return {key: float(value) for key, value in metrics.items() if math.isfinite(value)}
