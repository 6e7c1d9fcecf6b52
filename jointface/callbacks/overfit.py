"""Stops a run on a handful of samples once it has learned them by heart."""

import logging

import torch
from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

LOSSES = "train/loss_"  # what the tasks' losses are logged as


class OverfitCheck(Callback):
    """Watches each task's loss, at every validation, and says at the end how far they came down.

    Args:
        fraction: of its first value that every loss must come down to; the training ends when they have.
    """

    def __init__(self, fraction: float = 0.05) -> None:
        self.fraction = fraction
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Remembers the first losses."""
        self.first = self.first or _losses(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops once the losses are down: after a validation, so that a checkpoint is there."""
        self.last = _losses(trainer)
        trainer.should_stop |= not self.too_high()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Says how it went."""
        for name, first in self.first.items():
            message = f"{name}: {first:.4g} at first, {self.last[name]:.4g} after {trainer.global_step} steps"
            if name in self.too_high():
                log.warning(
                    "%s: not learned by heart (above %g of the first); look at its labels, its loss, the learning rate",
                    message, self.fraction,
                )  # fmt: skip
            else:
                log.info("%s: learned by heart", message)

    def too_high(self) -> list[str]:
        """The losses that are not down yet."""
        return [name for name, first in self.first.items() if not self.last[name] <= self.fraction * first]


def _losses(trainer: Trainer) -> dict[str, float]:
    return {
        name: value.item()
        for name, value in trainer.callback_metrics.items()
        if name.startswith(LOSSES) and torch.is_tensor(value)
    }
