"""checkpoints/best.ckpt: the state with the best validation result."""

import os
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from jointface.metrics.direction import better


class BestCheckpoint(ModelCheckpoint):
    """Saves `best.ckpt` in the run's `checkpoints/`.

    mode: whether the lowest ("min") or the highest ("max") value is best; None: as the metric's name says. `more` are
    settings of Lightning's ModelCheckpoint.
    """

    def __init__(self, monitor: str, mode: str | None = None, **more: Any) -> None:
        fixed: dict[str, Any] = {"filename": "best", "auto_insert_metric_name": False, "enable_version_counter": False}
        super().__init__(monitor=monitor, mode=mode or better(monitor) or "min", **fixed | more)

    @property
    def state_key(self) -> str:
        """The key of its state in checkpoints: that of ModelCheckpoint, which version 0.1 used."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.dirpath = os.path.realpath(Path(trainer.default_root_dir) / "checkpoints")
        super().setup(trainer, pl_module, stage)

    def check_monitor_top_k(self, trainer: Trainer, current: Tensor | None = None) -> bool:
        """Whether a value is better than the kept one. As long as all are undefined (NaN, which Lightning keeps as
        infinite), the latest state counts, so that the first one is not kept for ever."""
        kept = self.best_model_score
        if current is not None and current.isnan() and kept is not None and kept.isinf():
            return True
        return super().check_monitor_top_k(trainer, current)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores the best score of a run that is resumed in its folder, even if the folder has moved. Lightning would
        forget the score and replace `best.ckpt` by a worse checkpoint."""
        state, folder = checkpoint["callbacks"].get(self.state_key), Path(str(self.dirpath))
        if state is None or trainer.ckpt_path is None or Path(trainer.ckpt_path).resolve().parent != folder:
            return
        state["dirpath"] = str(folder)
        for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
            state[key] = str(folder / Path(state[key]).name) if state[key] else ""
        state["best_k_models"] = {
            str(folder / Path(path).name): score for path, score in state["best_k_models"].items()
        }
