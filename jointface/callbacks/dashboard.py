"""Logs tables, pictures, meshes and data statistics to Weights & Biases, in addition to curves."""

import math
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from hydra.core.hydra_config import HydraConfig
from jaxtyping import Int
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.imports import lazy_import
from torch import Tensor

from jointface.callbacks.figures import predict, spread_faces
from jointface.datamodules.face_dataset import FaceDataset
from jointface.geometry.camera import pose_from_camera
from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.precision_recall import gather_samples, precision_recall_table
from jointface.modules.joint_module import JointFaceModule
from jointface.running.wandb_logger import DashboardLogger
from jointface.viz.face_mesh import face_mesh

wandb = lazy_import("wandb")  # an optional dependency

CURVES_CHART = "wandb/area-under-curve/v0"  # the layout of W&B's own precision-recall curves
CURVES = {"x": "recall", "y": "precision", "class": "attribute"}
SCORES = ("accuracy", "balanced_accuracy", "f1", "average_precision")
YAW_EDGES = np.arange(-90, 91, 10)  # degrees

Samples = tuple[tuple[str, ...], Tensor, Tensor, Tensor]  # attributes; logits, labels and mask (samples, attributes)


class Dashboard(Callback):
    """Adds media to the run of a `DashboardLogger`; does nothing without one.

    At every validation and in the test, by split and source: `tables/val/celeba`: prevalence and scores of each
    attribute. `curves/val/celeba`: precision over recall. `faces/val/w300lp/shape`, `faces/val/celeba/attributes`: the
    pictures of `ValidationFigures`, which must come first. `meshes/val/w300lp`: predicted faces as glTF.

    `data/train/celeba/attributes`, `data/train/w300lp/yaw`: prevalence and yaw in the training batches before the first
    validation (in a distributed run those of the first process), and in all batches of val and test.

    The logged config is the resolved one, plus `num_samples`, `overrides` and `jointface_version`. `num_meshes` is the
    number of meshes for each source; 0 for none.
    """

    def __init__(self, num_meshes: int = 2) -> None:
        self.num_meshes = num_meshes
        self.census = {stage: LabelCensus() for stage in ("train", "val", "test")}  # stages not logged yet
        self._samples: dict[str, Samples] = {}  # attribute samples of this evaluation, by SPLIT/SOURCE

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if logger := _dashboard(trainer):
            logger.attempt(lambda: logger.log_hyperparams(_config(trainer)))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *indices: int) -> None:
        self._count(trainer, "train", batch)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: int) -> None:
        self._count(trainer, "val", batch)

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *indices: int) -> None:
        self._count(trainer, "test", batch)

    @rank_zero_only
    def _count(self, trainer: Trainer, stage: str, batch: Any) -> None:
        if _dashboard(trainer) and (census := self.census.get(stage)):
            census.add(batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stores the samples of the attribute metrics, which are reset before `on_validation_end`."""
        self._samples = attribute_samples(pl_module, "val") if _dashboard(trainer) else {}

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Like `on_validation_epoch_end`."""
        self._samples = attribute_samples(pl_module, "test") if _dashboard(trainer) else {}

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module, "val")

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._show(trainer, pl_module, "test")

    def _show(self, trainer: Trainer, module: Any, split: str) -> None:
        if not (logger := _dashboard(trainer)):
            return
        data, figures = trainer.datamodule, Path(trainer.default_root_dir) / "figures"  # type: ignore[attr-defined]
        shapes = {name: data.datasets[split][name] for name in sorted(data.shape_sources(split))}
        counted = {"train", split} & self.census.keys()

        def log_media() -> None:
            media = pictures(figures, split, data.datasets[split]) | attribute_media(
                self._samples, trainer.callback_metrics
            )
            for stage in counted:
                media |= self.census[stage].media(stage, data.datasets.get(stage, {}))
            with TemporaryDirectory() as folder:
                media |= meshes(Path(folder), split, module, shapes, self.num_meshes)
                logger.experiment.log(media)

        if logger.attempt(log_media):
            for stage in counted:
                del self.census[stage]


class LabelCensus:
    """Counts the labels in batches {source: batch} on their device, as the network sees them: flipped, turned, and
    counted again each time a sample is repeated."""

    def __init__(self) -> None:
        self.attributes: dict[str, Int[Tensor, "2 attributes"]] = {}  # positives, labelled
        self.yaw: dict[str, Int[Tensor, "bins"]] = {}  # faces between YAW_EDGES

    def add(self, batch: Mapping[str, Mapping[str, Any]]) -> None:
        """Counts a batch."""
        for source, part in batch.items():
            if "attributes" in part:
                mask = part["attribute_mask"]
                counts = torch.stack([((part["attributes"] > 0.5) & mask).sum(0), mask.sum(0)])
                self.attributes[source] = self.attributes.get(source, 0) + counts
            if "camera" in part:
                yaw = pose_from_camera(part["camera"].float(), 1.0)[:, 1].rad2deg()  # independent of image height
                bins = ((yaw + 90) / 180 * (len(YAW_EDGES) - 1)).long().clamp(0, len(YAW_EDGES) - 2)
                self.yaw[source] = self.yaw.get(source, 0) + torch.bincount(bins, minlength=len(YAW_EDGES) - 1)

    def media(self, stage: str, datasets: Mapping[str, FaceDataset]) -> dict[str, Any]:
        """The table `data/STAGE/SOURCE/attributes` and the histogram `data/STAGE/SOURCE/yaw` in degrees."""
        media: dict[str, Any] = {}
        for name, counts in self.attributes.items():
            label_set, (positives, labelled) = datasets[name].label_set, counts.cpu().numpy()
            assert label_set is not None
            table = pd.DataFrame({"attribute": label_set.attributes, "labelled": labelled, "positives": positives})
            table["prevalence"] = (positives / np.maximum(labelled, 1)).round(4)
            media[f"data/{stage}/{name}/attributes"] = wandb.Table(dataframe=table)
        for name, faces in self.yaw.items():
            media[f"data/{stage}/{name}/yaw"] = wandb.Histogram(np_histogram=(faces.cpu().numpy(), YAW_EDGES))
        return media


def attribute_samples(module: Any, split: str) -> dict[str, Samples]:
    """The samples of a split's attribute metrics so far, from all processes, on the CPU, by `SPLIT/SOURCE`. All
    processes must call it together."""
    assert isinstance(module, JointFaceModule)
    samples = {
        key.removesuffix("/attributes"): (metric.attributes, *gather_samples(metric))
        for key, metric in module.source_metrics.metrics.items()
        if isinstance(metric, AttributeMetrics) and key.startswith(f"{split}/") and "/trivial/" not in key
    }
    return {key: of for key, of in samples.items() if len(of[1])}


def attribute_media(samples: Mapping[str, Samples], logged: Mapping[str, Tensor]) -> dict[str, Any]:
    """The scores `tables/SPLIT/SOURCE` and the precision over recall `curves/SPLIT/SOURCE`."""
    media = {f"tables/{key}": wandb.Table(dataframe=attribute_table(key, of, logged)) for key, of in samples.items()}
    for key, of in samples.items():
        table = wandb.Table(dataframe=precision_recall_table(*of).round(4))
        strings = {"title": f"{key}: precision over recall", "x-axis-title": "recall", "y-axis-title": "precision"}
        media[f"curves/{key}"] = wandb.plot_table(CURVES_CHART, table, CURVES, strings)
    return media


def attribute_table(prefix: str, samples: Samples, logged: Mapping[str, Tensor]) -> pd.DataFrame:
    """A table with columns attribute, labelled, prevalence and SCORES, sorted by balanced accuracy, best first. Scores
    are the logged `PREFIX/SCORE/ATTRIBUTE`; undefined ones are NaN."""
    attributes, _, labels, mask = samples
    labelled, positives = mask.sum(0), ((labels > 0.5) & mask).sum(0)
    prevalence = positives / labelled.clamp(min=1)
    table = pd.DataFrame({"attribute": attributes, "labelled": labelled, "prevalence": prevalence})
    for score in SCORES:
        table[score] = [float(logged.get(f"{prefix}/{score}/{name}", math.nan)) for name in attributes]
    return table.sort_values("balanced_accuracy", ascending=False, kind="stable", ignore_index=True).round(4)


def pictures(folder: Path, split: str, sources: Iterable[str]) -> dict[str, Any]:
    """The pictures that `ValidationFigures` wrote to a folder, as `faces/SPLIT/SOURCE/shape` and `.../attributes`."""
    keys = [f"{split}/{name}/{kind}" for name in sources for kind in ("shape", "attributes")]
    paths = {f"faces/{key}": folder / f"{key}.png" for key in keys}
    return {key: wandb.Image(str(path)) for key, path in paths.items() if path.is_file()}


def meshes(
    folder: Path, split: str, module: JointFaceModule, datasets: Mapping[str, FaceDataset], count: int
) -> dict[str, Any]:
    """The predicted faces of evenly spaced samples, as `meshes/SPLIT/SOURCE`. Writes glTF files to a folder, which W&B
    copies. Predictions that are not finite are left out."""
    if not count or module.network.shape_decoder is None:
        return {}
    triangles = module.network.shape_decoder.morphable_model.triangles.cpu().numpy()
    media: dict[str, list[Any]] = {}
    for name, dataset in datasets.items():
        batch = spread_faces(dataset, count, module.device)
        if batch is None:
            continue
        faces = predict(module, batch["image"]).vertices.float().cpu().numpy()
        crops = batch["image"].permute(0, 2, 3, 1).cpu().numpy()
        for number, (crop, face) in enumerate(zip(crops, faces, strict=True)):
            if np.isfinite(face).all():
                path = str(folder / f"{name}_{number}.glb")
                face_mesh(crop, face, triangles).export(path)
                media.setdefault(f"meshes/{split}/{name}", []).append(wandb.Object3D(path, caption=f"face {number}"))
    return media


def _config(trainer: Trainer) -> dict[str, Any]:
    path, data = Path(trainer.default_root_dir) / "config.yaml", trainer.datamodule  # type: ignore[attr-defined]
    return (yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}) | {
        "num_samples": {
            stage: {name: data.num_samples(stage, name) for name in sources} for stage, sources in data.datasets.items()
        },
        "overrides": list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else [],
        "jointface_version": version("jointface"),
    }


def _dashboard(trainer: Trainer) -> DashboardLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, DashboardLogger)), None)
