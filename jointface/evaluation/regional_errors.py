"""Measures the nose, mouth, forehead and cheeks of predicted faces on their own, by the protocol of REALY."""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jointface.datamodules.on_disk import require_file
from jointface.datamodules.realy import FROM_REALY, NUM_KEYPOINTS, REALY, REGIONS
from jointface.errors import DataError
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.methods import PredictedFace, ShapeMethod
from jointface.evaluation.shape_errors import KnownFace, means, measure_errors, note_missing
from jointface.geometry.closest_point import Surface
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.alignment import fit_similarity, move
from jointface.metrics.scan_alignment import align_region, deform

LANDMARKS = 68  # the first keypoints
SEVEN = [36, 39, 42, 45, 33, 48, 54]  # for the alignment of the whole face
MOUTH = [*range(48, 61), 64]
# Keypoints of the regional alignment, and of the non-rigid one; counted from 0.
RIGID = {
    "nose": [*range(27, 36), 70, 71],
    "mouth": MOUTH,
    "forehead": [*range(36, 48), *range(17, 27)],
    "cheek": [*MOUTH, 76, 77, 36, 41, 40, 39, 42, 47, 46, 45, 7, 8, 9],
}
SHARE = {"cheek": 0.25}  # weight of the keypoints beside the scan points, otherwise 1
NON_RIGID = {"nose": [*range(27, 36)], "mouth": MOUTH, "forehead": RIGID["forehead"]}
ERRORS = {f"{region}_mm": region for region in REGIONS}
PROTOCOL = (
    "REALY (Chai et al., ECCV 2022): error of each region in mm. The predicted face is aligned with the scan by seven "
    "keypoints with scale, then rigidly with each region and its keypoints. The region is deformed towards the "
    "prediction by non-rigid ICP to find corresponding points; the error is the mean distance to these from the scan"
)
INCOMPLETE = (
    "No keypoints of the methods' mesh were given, so regions are aligned by 68 landmarks without REALY's keypoints on "
    "nose and cheeks: the figures are not those of the published protocol; set "
    "benchmarks.realy.shape.keypoints=FILE.txt."
)


def regional_errors(
    methods: Sequence[ShapeMethod], dataset: REALY, morphable_model: MorphableModel, keypoints: str | None = None
) -> BenchmarkResult:
    """Evaluates methods on REALY.

    Metrics are means over the photos: `method/nose_mm`, `mouth_mm`, `forehead_mm`, `cheek_mm`, each with `.../median`
    and `.../std`, and `method/all_mm`, the mean of the four.

    Args:
        morphable_model: the model whose triangles `keypoints` refer to.
        keypoints: REALY's 85 keypoints on that model's mesh: JSON rows of triangle and the weights of its first two
            corners, as data/*.txt of github.com/czh-98/REALY. None: only the 68 landmarks, which a note says.
    """
    places = None if keypoints is None else read_keypoints(Path(keypoints), len(morphable_model.triangles))
    locate = partial(_keypoints, triangles=morphable_model.triangles.cpu(), places=places)
    per_image = measure_errors(methods, dataset, _known_faces(dataset, locate), [*ERRORS])
    missing, notes = note_missing(per_image, per_image["nose_mm"].notna())
    notes += [INCOMPLETE] if places is None else []
    table = means(per_image, [*ERRORS]).dropna(how="all")
    by_method = per_image.groupby("method", sort=False)[[*ERRORS]]
    metrics = {
        f"{method}/{error}{part}": float(value)
        for part, values in {"": table, "/median": by_method.median(), "/std": by_method.std()}.items()
        for (method, error), value in values.stack().items()
    }
    metrics |= {f"{method}/all_mm": float(value) for method, value in table.mean(axis=1).items()}
    frame = table.rename(columns=ERRORS).assign(all=table.mean(axis=1))
    caption = f"{PROTOCOL}. Means over the photos; all is the mean of the four regions."
    per_image = per_image.drop(columns="has_prediction")
    tables = [Table("REALY, error in mm by region", caption, frame)]
    return BenchmarkResult("realy", metrics, tables, per_image, notes=notes, missing=missing)


def read_keypoints(path: Path, triangles: int) -> Float64[np.ndarray, "85 3"]:
    """Triangle and weights of its first two corners of each keypoint; raises a DataError for any other file."""
    require_file(path, "REALY's keypoints on a mesh", FROM_REALY)
    try:
        rows = np.array(json.loads(path.read_text(encoding="utf-8")), dtype=float)
    except ValueError as error:
        raise DataError(f"{path}: not REALY's keypoints ({error}); {FROM_REALY}") from error
    if rows.shape != (NUM_KEYPOINTS, 3) or not ((rows[:, 0] >= 0) & (rows[:, 0] < triangles)).all():
        raise DataError(
            f"{path}: expected {NUM_KEYPOINTS} rows of a triangle below {triangles} and two weights; these keypoints "
            "belong to another mesh"
        )
    return rows


def _keypoints(
    face: PredictedFace, triangles: Int[Tensor, "triangles 3"], places: np.ndarray | None
) -> Float[Tensor, "keypoints 3"] | None:
    """A prediction's keypoints: 85, or 68 if only its landmarks are known, None without these in 3D."""
    if places is not None and face.topology is not None and face.vertices is not None:
        weights = torch.from_numpy(np.column_stack([places[:, 1:], 1 - places[:, 1:].sum(1)]))
        corners = face.vertices.double()[triangles[torch.from_numpy(places[:, 0]).long()]]
        return (weights[..., None] * corners).sum(1)
    has_depth = face.landmarks68 is not None and face.landmarks68.shape[1] == 3
    return face.landmarks68 if has_depth else None


def _known_faces(dataset: REALY, locate: partial[Tensor | None]) -> Iterator[KnownFace]:
    for index in range(len(dataset)):
        truth = {"regions": dataset.regions(index), "keypoints": dataset.keypoints(index).double()}
        errors = partial(region_errors, truth=truth, unit=dataset.millimetres(index), locate=locate)
        yield KnownFace(index, dataset.read(index), {"yaw": np.nan}, errors)


def region_errors(face: PredictedFace, truth: dict, unit: float, locate: partial[Tensor | None]) -> dict[str, float]:
    """The errors of a face, by the names in ERRORS; empty if it has no surface or no landmarks in 3D."""
    keypoints = locate(face)
    if face.vertices is None or face.triangles is None or keypoints is None:
        return {}
    y_up, true_keypoints = torch.tensor([1.0, -1.0, 1.0]), truth["keypoints"][: len(keypoints)]
    keypoints, vertices = keypoints.double() * y_up, face.vertices.double() * y_up
    start = _align_seven(keypoints[SEVEN], true_keypoints[SEVEN])
    keypoints, vertices = move(start, keypoints), move(start, vertices)
    surface = Surface(vertices, face.triangles)
    errors = {}
    for error, region in ERRORS.items():
        scan, triangles = truth["regions"][region]
        chosen = [point for point in RIGID[region] if point < len(keypoints)]
        motion = align_region(surface, scan.double(), keypoints[chosen], true_keypoints[chosen], SHARE.get(region, 1.0))
        errors[error] = unit * _deformed_error(
            Surface(move(motion, vertices), face.triangles), scan, triangles, move(motion, keypoints), true_keypoints,
            NON_RIGID.get(region),
        )  # fmt: skip
    return errors


def _align_seven(source: Tensor, target: Tensor) -> Float64[Tensor, "3 4"]:
    """REALY's similarity: the rotation of least squares, and as scale the ratio of the sums of absolute coordinates."""
    rotation = fit_similarity(source, target)[:, :3]
    rotation = rotation / torch.linalg.det(rotation) ** (1 / 3)
    low, high = source.mean(0), target.mean(0)
    scale = (target - high).abs().sum() / ((source - low) @ rotation.T).abs().sum()
    return torch.cat([scale * rotation, (high - scale * rotation @ low)[:, None]], dim=1)


def _deformed_error(
    surface: Surface,
    scan: Float[Tensor, "points 3"],
    triangles: Int[Tensor, "triangles 3"],
    keypoints: Tensor,
    true_keypoints: Tensor,
    chosen: Sequence[int] | None,
) -> float:
    """The mean distance from a region of the scan to the points that correspond to it on the prediction."""
    mesh = trimesh.Trimesh(scan.double().numpy(), triangles.numpy(), process=True)  # merges equal vertices
    points, faces = torch.from_numpy(np.array(mesh.vertices)), torch.from_numpy(np.array(mesh.faces))
    places, targets = None, None
    if chosen is not None:
        places = torch.cdist(true_keypoints[list(chosen)], points).argmin(1).numpy()
        targets = keypoints[list(chosen)]
    deformed = deform(points, faces.long(), surface.closest(points), places, targets)
    return (surface.closest(deformed) - points).norm(dim=1).mean().item()
