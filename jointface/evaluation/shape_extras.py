"""What all benchmarks of 3D faces show beside their own tables: error curves, faces, errors on the mean face."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.packed import fingerprint
from jointface.evaluation.face_pictures import faces_figure, heat_map_figure
from jointface.evaluation.methods import NetworkMethod, ShapeMethod
from jointface.evaluation.quick_look import spread
from jointface.evaluation.result import BenchmarkResult
from jointface.geometry.morphable_model import MorphableModel
from jointface.viz.shape_figures import VIEWED, area_under_curve, cumulative_errors, error_against_yaw

GRID_FACES = 6
HEAT_MAP_FACES = 100


def add_shape_figures(
    result: BenchmarkResult,
    methods: Sequence[ShapeMethod],
    test: FaceDataset,
    model: MorphableModel,
    curves: Sequence[Mapping[str, Any]],
    yaw: str,
) -> None:
    """Adds figures, their captions, the areas under the curves, and a note on who has vertices of another model.

    Args:
        result: of the benchmark; `reference` of its tables says who does not compete.
        methods: who is judged, without references. test: the photos.
        model: what the labels of the photos refer to.
        curves: of each an error curve and the error against yaw: `error`, a column of per_image, `scale`, `limit` and
            `label`. yaw: the column of per_image with the yaw.
    """
    images = result.per_image.drop_duplicates("index").set_index("index")
    for curve in curves:
        _add_curves(result, curve, images[yaw])
    from_frontal = images.iloc[np.argsort(images[yaw].abs(), kind="stable")]
    indices, stems = _some(from_frontal, GRID_FACES)
    result.figures["faces"] = faces_figure(methods, test, indices, stems, model)
    result.captions["faces"] = _faces_caption(len(methods))
    indices, stems = _some(images.sort_index(), HEAT_MAP_FACES)
    heat_map = heat_map_figure(methods, test, indices, stems, model)
    if heat_map is not None:
        result.figures["errors_on_the_mean_face"] = heat_map
        result.captions["errors_on_the_mean_face"] = (
            f"Where errors lie: the mean 3D error of each vertex over {len(indices)} images, on the mean face of "
            f"{model.name}, in per cent of sqrt(width x height) of the true landmark box; z relative to the mean."
        )
    if "nme_3d_dense" in result.per_image:
        result.notes += [
            f"{method.name} predicts the vertices of another morphable model than {model.name}: it takes part where "
            "landmarks and pose are compared, not in dense errors."
            for method in methods
            if isinstance(method, NetworkMethod) and method.topology != fingerprint(model)
        ]


def _faces_caption(methods: int) -> str:
    others = "" if methods <= VIEWED else f"; of those after the first {VIEWED} over the photo only"
    return (
        "Faces, evenly spread by yaw. Of each method the mesh over the photo and, its pose taken back, from two views"
        f"{others}; landmarks where it has no mesh. On the right the ground truth: its mesh, its 68 landmarks."
    )


def _add_curves(result: BenchmarkResult, curve: Mapping[str, Any], yaw: pd.Series) -> None:
    """Error curves and error against yaw of one column of the errors of each image, and the area under the curve;
    nothing where only references have the error."""
    errors = errors_by_method(result.per_image, curve["error"])
    if not errors.keys() - result.references:
        return
    name, label, limit = str(curve["error"]), str(curve["label"]), float(curve["limit"])
    scaled = {method: float(curve["scale"]) * values for method, values in errors.items()}
    for method, values in scaled.items():
        result.metrics[f"{method}/{name}/auc"] = area_under_curve(values, limit)
    result.figures[f"{name}_curve"] = cumulative_errors(scaled, limit, label)
    result.captions[f"{name}_curve"] = (
        f"Cumulative error distribution of {label}: the share of images below each error, and the area under the "
        "curve, both over the images that the method has a prediction for."
    )
    result.figures[f"{name}_by_yaw"] = error_against_yaw(scaled, yaw.sort_index().to_numpy(dtype=np.float64), label)
    result.captions[f"{name}_by_yaw"] = f"{label}, of each image against its yaw, and its mean by yaw."


def errors_by_method(per_image: pd.DataFrame, error: str) -> dict[str, Float[np.ndarray, "images"]]:
    """Errors of each image by method, in the order of their `index`, NaN where a method has no prediction; without
    methods that have none at all."""
    if error not in per_image:
        return {}
    table = per_image.pivot(index="index", columns="method", values=error).dropna(axis=1, how="all")
    names = [name for name in per_image["method"].unique() if name in table]
    return {name: table[name].to_numpy(dtype=np.float64) for name in names}


def _some(images: pd.DataFrame, count: int) -> tuple[list[int], list[str]]:
    """Index and stem of a few images, evenly spread over the rows."""
    chosen = images.iloc[spread(len(images), count)]
    return chosen.index.tolist(), [Path(file).stem for file in chosen["file"]]
