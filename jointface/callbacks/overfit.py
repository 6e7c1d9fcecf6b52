"""Stops a run on a handful of samples once it has memorised them."""

import logging

from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)

# The logarithm of a density, which may be negative, and a prior, which keeps faces from being memorised exactly
WITHOUT_ZERO = ("train/loss_landmark_uncertainty", "train/loss_prior")


class OverfitCheck(Callback):
    """Compares each task's loss with its first value at every validation. The training ends when all losses are below
    `fraction` of their first value, L_shape as a square. At the end, a report says how far each loss fell. Losses that
    do not fall to 0 do not count."""

    def __init__(self, fraction: float = 0.05) -> None:
        self.fraction = fraction
        self.first: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self.root_of_shape = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.root_of_shape = getattr(pl_module, "rms", False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        self.first = self.first or _losses(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops when the losses are low enough; only after a validation, so that there is a checkpoint."""
        self.last = _losses(trainer)
        trainer.should_stop |= not self.too_high()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, first in self.first.items():
            message = f"{name}: {first:.4g} at first, {self.last[name]:.4g} after {trainer.global_step} steps"
            if name in self.too_high():
                log.warning(
                    "%s: not memorised (above %g of the first); check its labels, its loss and the learning rate",
                    message, self._limit(name),
                )  # fmt: skip
            else:
                log.info("%s: memorised", message)

    def too_high(self) -> list[str]:
        """The losses that have not fallen far enough."""
        return [name for name, first in self.first.items() if not self.last[name] <= self._limit(name) * first]

    def _limit(self, name: str) -> float:
        return self.fraction**0.5 if name == "train/loss_shape" and self.root_of_shape else self.fraction


def _losses(trainer: Trainer) -> dict[str, float]:
    """The most recently logged losses of the tasks that fall to 0."""
    losses = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/loss_")}
    return {name: value.item() for name, value in losses.items() if name not in WITHOUT_ZERO}
