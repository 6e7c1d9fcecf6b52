"""checkpoints/last.ckpt: the state from which a run resumes."""

import signal
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from jointface.errors import RunStopped
from jointface.files import TEMPORARY
from jointface.running.stop_signals import StopSignals
from jointface.settings import require_whole_number


class LastCheckpoint(Checkpoint):
    """Saves `last.ckpt` every `every_n_train_steps` (0: never), before and after each validation, at the last step, and
    when a signal asks the run to stop; it then stops the run. A killed run loses at most `every_n_train_steps` steps.
    """

    def __init__(self, every_n_train_steps: int) -> None:
        require_whole_number("callbacks.last_checkpoint.every_n_train_steps", every_n_train_steps, 0)
        self.every_n_train_steps = every_n_train_steps
        self.signals = StopSignals()
        self._step = 0  # number of optimiser steps at the end of the previous batch
        self._stopping = 0  # number of the signal that ends the run before the next step
        self._validation_is_due = False  # whether the checkpoint being saved should repeat the validation

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if stage == "fit" and trainer.is_global_zero:
            # Removes files that a killed run left half written.
            for leftover in self.path.parent.glob(f".*{TEMPORARY}"):
                leftover.unlink(missing_ok=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()
        self._step = trainer.global_step

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, before = trainer.global_step, self._step
        self._step = step
        if step == before or _validation_follows(trainer):  # accumulating gradients, or saved at its start
            return
        self._stopping = self._requested_stop(trainer)
        every = self.every_n_train_steps
        if self._stopping or (every and step % every == 0) or step == trainer.max_steps:
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Stops the run here rather than earlier, so that the values of the previous step are logged."""
        self._stop_if(self._stopping, f"after step {trainer.global_step}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves before the validation; a run interrupted during the validation repeats it when it resumes."""
        self._validation_is_due = True
        trainer.save_checkpoint(self.path, weights_only=False)
        self._validation_is_due = False
        self._stop_if(self._requested_stop(trainer), f"after step {trainer.global_step}")

    def on_validation_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._stop_if(self._requested_stop(trainer), f"in the validation after step {trainer.global_step}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves the outcome of the validation: the best score so far, and patience."""
        trainer.save_checkpoint(self.path, weights_only=False)

    def on_test_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        self._stop_if(self._requested_stop(trainer), "in the test, with the training complete")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Marks a due validation as interrupted in its first batch. Lightning then repeats it; without a started batch,
        it would treat the validation as complete."""
        if self._validation_is_due:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            for counts in (progress["total"], progress["current"]):
                counts["ready"] += 1
                counts["started"] += 1

    def _requested_stop(self, trainer: Trainer) -> int:
        """The number of the signal that any process received, 0 if none, so that all stop after the same step."""
        if trainer.world_size == 1:
            return self.signals.received
        received = torch.tensor(self.signals.received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(received, reduce_op="max"))

    def _stop_if(self, number: int, when: str) -> None:
        if number:
            raise RunStopped(f"stopped by {signal.Signals(number).name} {when}", self.path, number)


def _validation_follows(trainer: Trainer) -> bool:
    """Whether a validation follows directly after this batch."""
    interval = trainer.val_check_batch
    return isinstance(interval, int) and (trainer.fit_loop.total_batch_idx + 1) % interval == 0
