"""What a dashboard shows beside curves, logged when it is there to be seen."""

from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from trimesh import Trimesh

from jointface.callbacks import dashboard_media as media
from jointface.callbacks.dashboard_logger import DashboardLogger
from jointface.callbacks.label_census import LabelCensus
from jointface.modules.joint_module import JointFaceModule


class Dashboard(Callback):
    """Fills the run of a `DashboardLogger`; without one it does nothing. Keys, with the split and the source:

    `tables/val/celeba`: prevalence and scores of each attribute. `curves/val/celeba`: precision over recall.
    `faces/val/w300lp/shape`, `faces/val/celeba/attributes`: the pictures of `ValidationFigures`, which has to come
    before it. `meshes/val/w300lp`: predicted faces as glTF. All at every validation, and of the test.

    `data/train/celeba/attributes`, `data/train/w300lp/yaw`: prevalence and yaw in the batches up to the first
    validation, in a distributed run in those of its first process; of val and test in all batches.

    The config is the resolved one, with `num_samples`, `overrides` and `jointface_version`.

    Args:
        folder: the run's folder, which holds config.yaml and figures/.
        num_meshes: predicted faces of each source as meshes; 0 for none.
    """

    def __init__(self, folder: str, num_meshes: int = 2) -> None:
        self.folder, self.num_meshes = Path(folder), num_meshes
        self.census = {stage: LabelCensus() for stage in ("train", "val", "test")}
        self._counted: set[str] = set()  # stages whose census is complete
        self._judged: dict[str, media.JudgedAttributes] = {}  # of the last evaluation, as are the meshes
        self._meshes: dict[str, list[Trimesh]] = {}

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the config."""
        if logger := _dashboard(trainer):
            config = self._config(trainer)
            logger.attempt("the config", lambda: logger.experiment.config.update(config, allow_val_change=True))

    def _config(self, trainer: Trainer) -> dict[str, Any]:
        path = self.folder / "config.yaml"
        data = trainer.datamodule  # type: ignore[attr-defined]
        return (yaml.safe_load(path.read_text()) if path.is_file() else {}) | {
            "num_samples": {
                stage: {name: data.num_samples(stage, name) for name in sources}
                for stage, sources in data.datasets.items()
            },
            "overrides": list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else [],
            "jointface_version": version("jointface"),
        }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._count(trainer, "train", batch)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *loader: int
    ) -> None:
        if not trainer.sanity_checking:
            self._count(trainer, "val", batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *loader: int
    ) -> None:
        self._count(trainer, "test", batch)

    @rank_zero_only
    def _count(self, trainer: Trainer, stage: str, batch: Any) -> None:
        logger = _dashboard(trainer)
        if logger and stage not in self._counted:
            logger.attempt("statistics of the data", lambda: self.census[stage].add(batch))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._collect(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._collect(trainer, pl_module, "test")

    def _collect(self, trainer: Trainer, module: Any, split: str) -> None:
        """Takes what will be gone when the evaluation has ended: its metrics' samples, and averaged weights."""
        assert isinstance(module, JointFaceModule)
        if logger := _dashboard(trainer):
            self._judged = media.judged_attributes(module.metrics, split)
            logger.attempt("3D meshes", lambda: self._predict(trainer, module, split))

    @rank_zero_only
    def _predict(self, trainer: Trainer, module: JointFaceModule, split: str) -> None:
        if self.num_meshes and module.network.shape_decoder is not None:
            data = trainer.datamodule  # type: ignore[attr-defined]
            datasets = {name: data.datasets[split][name] for name in sorted(data.shape_sources(split))}
            self._meshes = media.predicted_meshes(module, datasets, self.num_meshes)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs what the validation gave."""
        if not trainer.sanity_checking:
            self._show(trainer, "val")

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs what the test gave."""
        self._show(trainer, "test")

    def _show(self, trainer: Trainer, split: str) -> None:
        if not (logger := _dashboard(trainer)):
            return
        datasets = trainer.datamodule.datasets  # type: ignore[attr-defined]
        with TemporaryDirectory() as folder:
            parts = {
                "pictures": partial(media.pictures, self.folder / "figures", split, datasets[split]),
                "3D meshes": partial(media.mesh_files, Path(folder), split, self._meshes),
                "tables of attributes": partial(media.attribute_tables, self._judged, trainer.callback_metrics),
                "precision-recall curves": partial(media.attribute_curves, self._judged),
            }
            for what, make in parts.items():
                logger.log_media(what, make)
        for stage in {"train", split} - self._counted:
            statistics = partial(media.data_statistics, stage, self.census[stage], datasets.get(stage, {}))
            if logger.log_media("statistics of the data", statistics):
                self._counted.add(stage)


def _dashboard(trainer: Trainer) -> DashboardLogger | None:
    return next((logger for logger in trainer.loggers if isinstance(logger, DashboardLogger)), None)
