"""An exponential moving average of the weights, which is validated and saved in place of the weights themselves."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from jointface.errors import ConfigError
from jointface.running.resuming import TRAINING_WEIGHTS


class WeightAverage(WeightAveraging):
    """Averages the weights and the running statistics by Lightning's callback, with a decay that grows over the steps.

    After step n: average <- d average + (1 - d) weights, d = min(decay, (1 + n) / (10 + n)). The second term, which is
    TensorFlow's, keeps the random initial weights out of the average in a short training (Polyak and Juditsky, SIAM J.
    Control Optim. 1992). Validations and their figures use the average, and it is the `state_dict` in checkpoints.
    """

    def __init__(self, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"callbacks.ema.decay={decay}: expected a number from 0 to below 1")
        super().__init__(multi_avg_fn=self._add)
        self.decay = decay

    def _add(self, averages: list[Tensor], weights: list[Tensor], _: Any) -> None:
        """Adds the weights of a step to averages of one dtype. Integers are copied. Constants stay untouched: even the
        average of -0.0 with itself would be +0.0, which changes the hash of a morphable model."""
        step = self._latest_update_step + 1
        if not averages[0].is_floating_point():
            torch._foreach_copy_(averages, weights)
            return
        pairs = [pair for pair in zip(averages, weights, strict=True) if pair[0].data_ptr() not in self._constants]
        if pairs:
            averages, weights = (list(part) for part in zip(*pairs, strict=True))
            torch._foreach_lerp_(averages, weights, 1 - min(self.decay, (1 + step) / (10 + step)))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Puts the average on the training device; the module is moved there later."""
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            assert self._average_model is not None
            # The average starts with the initial weights. A counter on the CPU never makes the host wait.
            self._average_model.n_averaged = torch.ones((), dtype=torch.long)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._latest_update_step = trainer.global_step
        assert self._average_model is not None
        buffers = self._average_model.module.named_buffers()
        self._constants = {
            buffer.data_ptr()
            for name, buffer in buffers
            if not name.endswith(("running_mean", "running_var", "running_square"))
        }

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the average in the module for the figures; `on_validation_end` swaps the weights back."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_epoch_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Saves the average as `state_dict` and the weights under their own key, without a second morphable model."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_save_checkpoint(trainer, pl_module, checkpoint)
            weights = checkpoint.pop("current_model_state")
            checkpoint[TRAINING_WEIGHTS] = {
                name: value for name, value in weights.items() if "morphable_model." not in name
            }
            del checkpoint["averaging_state"]  # an unused counter

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restores weights and average; an average missing in the checkpoint starts with the weights. A test needs only
        the average, which is already in the module."""
        if trainer.state.fn == TrainerFn.FITTING:
            if TRAINING_WEIGHTS in checkpoint:
                weights = checkpoint["state_dict"] | checkpoint[TRAINING_WEIGHTS]
                checkpoint |= {"current_model_state": weights, "averaging_state": {"n_averaged": torch.ones(())}}
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
