"""Measures how fast a training is, and how much of its time it waits for data."""

import time
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Every `log_every_n_steps` steps, logs three values measured since the last time:

    `train/images_per_second` of all processes, not counting the time of validations with their figures and checkpoints;
    `train/loader_wait`, the fraction of that time spent waiting for the loaders; and on a GPU `train/gpu_memory_gib`,
    the peak memory of tensors so far.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begun = _clock(trainer)  # shifted by the duration of validations
        self._validation: Any = None  # start of a validation that no step has followed yet
        self._images, self._step = 0, trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation = _clock(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Excludes the time of the validation before this batch."""
        if self._validation is not None:
            self._begun += _clock(trainer) - self._validation
            self._validation = None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._images += sum(len(part["image"]) for part in batch.values())
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step == self._step or not every or step % every:
            return
        seconds, waited = (_clock(trainer) - self._begun).tolist()
        values = {
            "train/images_per_second": self._images * trainer.world_size / seconds,
            "train/loader_wait": waited / seconds,
        }
        if pl_module.device.type == "cuda":
            values["train/gpu_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        pl_module.log_dict(values, batch_size=1)
        self.on_train_start(trainer, pl_module)


def _clock(trainer: Trainer) -> np.ndarray:
    """The current time, and the total time that the process has waited for its loaders, in seconds."""
    return np.array([time.perf_counter(), trainer.datamodule.training_loader.seconds_waited])  # type: ignore[attr-defined]
