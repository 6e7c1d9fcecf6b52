"""How fast a training is, and how much of its time it waits for data."""

import time
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer


class Throughput(Callback):
    """Logs, every `log_every_n_steps` steps, over the steps since the last time:

    `train/images_per_second` of all processes, without the time of validations and their figures and checkpoints;
    `train/loader_wait`, the share of that time in which the process waited for its loaders; on a GPU
    `train/gpu_memory_gib`, the most that tensors have occupied so far.
    """

    def __init__(self) -> None:
        self._since = 0.0  # start of the measured steps, moved forward by the length of validations
        self._waited = 0.0  # seconds waited for loaders up to then
        self._images = 0
        self._step = 0
        # Start of a validation that no step has followed yet, and the seconds waited up to then.
        self._validation: tuple[float, float] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        self._since, self._waited = time.perf_counter(), _seconds_waited(trainer)
        self._images, self._step = 0, trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the images, and logs when it is time."""
        self._images += sum(len(part["image"]) for part in batch.values())
        step = trainer.global_step
        if step == self._step or step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        seconds = time.perf_counter() - self._since
        values = {
            "train/images_per_second": self._images * trainer.world_size / seconds,
            "train/loader_wait": (_seconds_waited(trainer) - self._waited) / seconds,
        }
        if pl_module.device.type == "cuda":
            values["train/gpu_memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        pl_module.log_dict(values, batch_size=1)
        self._begin(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation = time.perf_counter(), _seconds_waited(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Leaves out the validation before this batch."""
        if self._validation is not None:
            begun, waited = self._validation
            self._since += time.perf_counter() - begun
            self._waited += _seconds_waited(trainer) - waited
            self._validation = None


def _seconds_waited(trainer: Trainer) -> float:
    return trainer.datamodule.training_loader.seconds_waited  # type: ignore[attr-defined]
