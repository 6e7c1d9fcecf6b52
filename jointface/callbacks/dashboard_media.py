"""What W&B shows beside curves, by key: tables and curves of attributes, pictures, meshes, statistics of the data."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import trimesh
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jointface.callbacks.figures import predict, spread_faces
from jointface.callbacks.label_census import YAW_EDGES, LabelCensus
from jointface.datamodules.face_dataset import FaceDataset
from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.precision_recall import gathered_samples, precision_recall_table
from jointface.modules.joint_module import JointFaceModule
from jointface.viz.face_mesh import face_mesh

CURVES_CHART = "wandb/area-under-curve/v0"  # the layout of W&B's own precision-recall curves
CURVES = {"x": "recall", "y": "precision", "class": "attribute"}
SCORES = ("accuracy", "balanced_accuracy", "f1", "average_precision")


@dataclass(frozen=True)
class JudgedAttributes:
    """What a source's attributes were judged on: the samples of all processes, on the CPU."""

    attributes: tuple[str, ...]
    logits: Float[Tensor, "samples attributes"]
    labels: Float[Tensor, "samples attributes"]
    mask: Bool[Tensor, "samples attributes"]


def attribute_tables(judged: Mapping[str, JudgedAttributes], logged: Mapping[str, Tensor]) -> dict[str, Any]:
    """`tables/SPLIT/SOURCE`, by `SPLIT/SOURCE`."""
    import wandb

    return {f"tables/{key}": wandb.Table(dataframe=attribute_table(key, on, logged)) for key, on in judged.items()}


def attribute_table(prefix: str, on: JudgedAttributes, logged: Mapping[str, Tensor]) -> pd.DataFrame:
    """Columns attribute, labelled, prevalence and SCORES, which are taken from the logged `PREFIX/SCORE/ATTRIBUTE`; NaN
    where one is undefined. The best balanced accuracy comes first."""
    labelled, positives = on.mask.sum(0), ((on.labels > 0.5) & on.mask).sum(0)
    scores = {
        score: [float(logged.get(f"{prefix}/{score}/{name}", math.nan)) for name in on.attributes] for score in SCORES
    }
    counts = {"labelled": labelled.numpy(), "prevalence": (positives / labelled.clamp(min=1)).numpy()}
    table = pd.DataFrame({"attribute": on.attributes, **counts, **scores})
    return table.sort_values("balanced_accuracy", ascending=False, kind="stable", ignore_index=True).round(4)


def attribute_curves(judged: Mapping[str, JudgedAttributes]) -> dict[str, Any]:
    """`curves/SPLIT/SOURCE`: precision over recall, by `SPLIT/SOURCE`."""
    import wandb

    curves = {}
    for key, on in judged.items():
        table = wandb.Table(dataframe=precision_recall_table(on.attributes, on.logits, on.labels, on.mask).round(4))
        strings = {"title": f"{key}: precision over recall", "x-axis-title": "recall", "y-axis-title": "precision"}
        curves[f"curves/{key}"] = wandb.plot_table(CURVES_CHART, table, CURVES, strings)
    return curves


def pictures(folder: Path, split: str, sources: Iterable[str]) -> dict[str, Any]:
    """`faces/SPLIT/SOURCE/shape` and `.../attributes`: what `ValidationFigures` left in a folder."""
    import wandb

    paths = {
        f"faces/{split}/{name}/{kind}": folder / f"{split}_{name}_{kind}.png"
        for name in sources
        for kind in ("shape", "attributes")
    }
    return {key: wandb.Image(str(path)) for key, path in paths.items() if path.is_file()}


def predicted_meshes(
    module: JointFaceModule, datasets: Mapping[str, FaceDataset], count: int
) -> dict[str, list[trimesh.Trimesh]]:
    """Predicted faces of evenly spread samples of each data set, without those that are not finite."""
    assert module.network.shape_decoder is not None
    triangles = module.network.shape_decoder.morphable_model.triangles.cpu().numpy()
    meshes = {}
    for name, dataset in datasets.items():
        batch = spread_faces(dataset, count, module.device)
        if batch is None:
            continue
        faces = predict(module, batch["image"]).vertices.float().cpu().numpy()
        crops = batch["image"].permute(0, 2, 3, 1).cpu().numpy()
        finite = [number for number, face in enumerate(faces) if np.isfinite(face).all()]
        meshes[name] = [face_mesh(crops[number], faces[number], triangles) for number in finite]
    return meshes


def mesh_files(folder: Path, split: str, meshes: Mapping[str, list[trimesh.Trimesh]]) -> dict[str, Any]:
    """`meshes/SPLIT/SOURCE`, written as glTF to a folder, which W&B takes copies from."""
    import wandb

    media: dict[str, Any] = {}
    for name, faces in meshes.items():
        for number, mesh in enumerate(faces):
            path = folder / f"{name}_{number}.glb"
            mesh.export(path)
            media.setdefault(f"meshes/{split}/{name}", []).append(wandb.Object3D(str(path), caption=f"face {number}"))
    return media


def data_statistics(stage: str, census: LabelCensus, datasets: Mapping[str, FaceDataset]) -> dict[str, Any]:
    """`data/STAGE/SOURCE/attributes`, a table, and `data/STAGE/SOURCE/yaw`, a histogram in degrees."""
    import wandb

    media: dict[str, Any] = {}
    for name in census.samples:
        label_set = datasets[name].label_set
        if label_set is not None and len(table := census.prevalence(name, label_set)):
            media[f"data/{stage}/{name}/attributes"] = wandb.Table(dataframe=table.round(4))
        if (yaw := census.yaw(name)) is not None:
            media[f"data/{stage}/{name}/yaw"] = wandb.Histogram(np_histogram=(yaw, YAW_EDGES))
    return media


def judged_attributes(metrics: nn.ModuleDict, split: str) -> dict[str, JudgedAttributes]:
    """The samples of a split's attribute metrics so far, by `SPLIT/SOURCE`; every process has to ask for them."""
    judged = {
        key.removesuffix("/attributes"): JudgedAttributes(metric.attributes, *gathered_samples(metric))
        for key, metric in metrics.items()
        if isinstance(metric, AttributeMetrics) and key.startswith(f"{split}/") and "/trivial/" not in key
    }
    return {key: on for key, on in judged.items() if len(on.logits)}
