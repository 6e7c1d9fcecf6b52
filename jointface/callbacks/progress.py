"""Shows the progress of a run: a bar with the losses of both tasks, or lines in a log file."""

import logging
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console

log = logging.getLogger(__name__)


class StepProgressBar(RichProgressBar):
    """Lightning's rich progress bar over the optimiser steps of the run; an epoch of several sources means little.

    If the output is not a terminal but, for instance, a job's log, it logs a line at each validation. Between
    validations, it logs at most one line every `seconds_between_lines`.
    """

    def __init__(self, seconds_between_lines: float = 60.0) -> None:
        super().__init__()
        self.seconds_between_lines = seconds_between_lines
        self._lines = not get_console().is_terminal
        self._last_line = time.monotonic()

    @property
    def total_train_batches(self) -> int | float:
        """The number of optimiser steps in the whole run."""
        return self.trainer.estimated_stepping_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the bar only once, not in every epoch."""
        if self.train_progress_bar_id is None:
            super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, trainer.global_step - 1)
        if self._lines and time.monotonic() - self._last_line >= self.seconds_between_lines:
            self._write_line(trainer, "train/loss")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if self._lines:
            self._write_line(trainer, "train/loss", "val/error")

    def _write_line(self, trainer: Trainer, *keys: str) -> None:
        self._last_line = time.monotonic()
        known = [(key, value) for key, value in trainer.callback_metrics.items() if key.startswith(keys)]
        values = ", ".join(f"{key} {value.item():.4g}" for key, value in known)
        log.info("Step %d of %d: %s", trainer.global_step, trainer.estimated_stepping_batches, values)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged values under short names."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name.removeprefix("train/"): value for name, value in metrics.items() if name != "v_num"}
