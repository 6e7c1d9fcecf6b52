"""Stops a run on a handful of samples once it has memorised them."""

import logging

from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)


class OverfitCheck(Callback):
    """Compares each task's loss with its first value at every validation, and reports at the end how far it fell. Once
    every loss is below its `fraction` of the first, the training ends."""

    def __init__(self, fraction: float = 0.05) -> None:
        self.fraction = fraction
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.first = self.first or _losses(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops once the losses are low: after a validation, so that there is a checkpoint."""
        self.last = _losses(trainer)
        trainer.should_stop |= not self.too_high()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
        """The losses that have not fallen far enough."""
        return [name for name, first in self.first.items() if not self.last[name] <= self.fraction * first]


def _losses(trainer: Trainer) -> dict[str, float]:
    """The tasks' losses, as they were logged last."""
    metrics = trainer.callback_metrics.items()
    return {name: value.item() for name, value in metrics if name.startswith("train/loss_")}
