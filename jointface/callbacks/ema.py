"""An exponential moving average of the weights, which is what is validated, saved and used."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from jointface.errors import ConfigError

KEY = "training_weights"  # where a checkpoint keeps the weights that the optimiser works on


class WeightAverage(Callback):
    """Averages the weights over the steps, and the statistics of batch norm with them.

    After step n: average <- d average + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)); the second term keeps the
    random first weights of a short training out (Polyak and Juditsky, SIAM J. Control Optim. 1992; the term is
    TensorFlow's). Validations see the average, and in checkpoints it is the `state_dict`.

    Lightning's own callback averages every buffer, which here would round the triangles of the morphable model to
    others.

    Args:
        decay: in [0, 1).
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"callbacks.ema.decay={decay}: expected a number from 0 to below 1")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self._set_aside: dict[str, Tensor] = {}  # the weights, while the average is in their place
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the average with the weights, or where a checkpoint left it."""
        weights = _averaged(pl_module)
        self.average = {
            name: self.average.get(name, weight).to(weight.device, copy=True) for name, weight in weights.items()
        }
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the weights after each optimiser step."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        decay = min(self.decay, (1 + self._step) / (10 + self._step))
        torch._foreach_lerp_(list(self.average.values()), list(_averaged(pl_module).values()), 1 - decay)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.average:
            self._set_aside = {name: weight.clone() for name, weight in _averaged(pl_module).items()}
            _copy(self.average, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._set_aside:
            _copy(self._set_aside, pl_module)
            self._set_aside = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Makes the average the checkpoint's `state_dict`; the weights go beside it."""
        if self.average:
            state = checkpoint["state_dict"]
            checkpoint[KEY] = self._set_aside or {name: state[name] for name in self.average}
            checkpoint["state_dict"] = {**state, **self.average}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Goes on with both; the average of a run without one starts with its weights."""
        if trainer.state.fn == TrainerFn.FITTING and KEY in checkpoint:
            self.average = {name: checkpoint["state_dict"][name] for name in checkpoint[KEY]}
            _copy(checkpoint[KEY], pl_module)


def _averaged(module: nn.Module) -> dict[str, Tensor]:
    """What training changes: the parameters and the running statistics of batch norm."""
    statistics = {
        f"{name}.{key}": buffer
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._NormBase)
        for key, buffer in part.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }
    return {name: parameter.data for name, parameter in module.named_parameters()} | statistics


@torch.no_grad()
def _copy(values: dict[str, Tensor], module: nn.Module) -> None:
    weights = _averaged(module)
    for name, value in values.items():
        weights[name].copy_(value)
