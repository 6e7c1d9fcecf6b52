"""Ends the run at a step whose loss or gradient is not finite, before the weights are damaged."""

import math
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from jointface.errors import DivergedError
from jointface.files import write_atomically

Samples = list[tuple[str, int, bool]]  # source, index, and whether one of the sample's own values is not finite


class DivergenceGuard(Callback):
    """Stops a run whose loss or gradients are NaN or infinite, before the optimiser's step.

    Writes two files to the run's `checkpoints/`. `diverged.ckpt` is the state before the step, from which a run can
    resume with other settings or reproduce the step. `diverged.txt` lists the files of the step's samples.

    With 16-mixed only the loss is checked. Gradients overflow there now and then: the scaler skips those steps and
    halves its factor, initially 65,536. Below `smallest_scale`, no factor works and the run stops. Reading the loss and
    the norm of the gradients makes the host wait for the device once per step.
    """

    def __init__(self, smallest_scale: float = 2**-10) -> None:
        self.smallest_scale = smallest_scale
        self._statistics: list[Tensor] = []  # batch norm statistics, which the forward pass of a bad step damages
        self._kept: list[Tensor] = []  # their values before the step
        self._losses: list[Tensor] = []  # losses of the batches since the last step
        self._batches: list[Mapping[str, Mapping[str, Tensor]]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        norms = [part for part in pl_module.modules() if isinstance(part, nn.modules.batchnorm._NormBase)]
        self._statistics = [buffer for part in norms for buffer in part.buffers(recurse=False)]
        self._kept = [buffer.clone() for buffer in self._statistics]
        self._losses, self._batches = [], []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if not self._batches:
            _copy(self._statistics, self._kept)
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach().float())

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Raises DivergedError if a loss or gradient is not finite."""
        values, scaler = [*self._losses, torch.zeros((), device=pl_module.device)], _scaler(trainer)
        if scaler is None:
            gradients = [parameter.grad for parameter in pl_module.parameters() if parameter.grad is not None]
            values.append(nn.utils.get_total_norm(gradients, foreach=True).float())
        elif scaler.get_scale() < self.smallest_scale:
            values.append(torch.full((), math.inf, device=pl_module.device))
        bad = (~torch.stack(values).isfinite()).any().int()
        if trainer.world_size > 1:  # all processes stop at the same step
            bad = trainer.strategy.reduce(bad, reduce_op="max")
        if bad:
            self._stop(trainer)
        self._losses, self._batches = [], []

    def _stop(self, trainer: Trainer) -> None:
        _copy(self._kept, self._statistics)
        step, what = trainer.global_step, _what_is_bad(trainer)
        of_each_process = [[sample for batch in self._batches for sample in _samples(batch)]] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(of_each_process, of_each_process[0])
        samples = list(chain.from_iterable(of_each_process))
        datasets = trainer.datamodule.datasets["train"]  # type: ignore[attr-defined]
        files = {(source, index): str(datasets[source].path(index)) for source, index, _ in samples}
        suspects = [files[source, index] for source, index, suspicious in samples if suspicious]
        folder = Path(trainer.default_root_dir) / "checkpoints"
        checkpoint, listing = folder / "diverged.ckpt", folder / "diverged.txt"
        trainer.save_checkpoint(checkpoint, weights_only=False)
        if trainer.is_global_zero:
            lines = [f"{source} {index} {file}\n" for (source, index), file in files.items()]
            write_atomically(listing, "".join(lines).encode())
        named = f"; labels that are not finite: {', '.join(suspects[:5])}" if suspects else ""
        raise DivergedError(
            f"step {step}: {what}; stopped before the update. The {len(files)} samples of the step are in {listing}"
            f"{named}; the state before the step is in {checkpoint}"
        )


def _scaler(trainer: Trainer) -> Any:
    """The gradient scaler of 16-mixed, None in other precisions."""
    return getattr(trainer.precision_plugin, "scaler", None)


def _what_is_bad(trainer: Trainer) -> str:
    losses = {name: value for name, value in trainer.callback_metrics.items() if name.startswith("train/loss")}
    bad = [f"{name} is {value.item()}" for name, value in sorted(losses.items()) if not value.isfinite()]
    if not bad and (scaler := _scaler(trainer)) is not None:
        return f"the gradients overflow in 16-mixed even when scaled by {scaler.get_scale():g}, try bf16-mixed"
    return ", ".join(bad) or "the gradients are not finite, though the losses are"


def _samples(batch: Mapping[str, Mapping[str, Any]]) -> Samples:
    """The samples of a mixed batch, and whether they have a label that is not finite."""
    samples = []
    for source, part in batch.items():
        not_finite = torch.zeros(len(part["index"]), dtype=torch.bool)
        for value in part.values():
            if isinstance(value, Tensor) and value.is_floating_point():
                not_finite |= ~value.cpu().isfinite().flatten(1).all(1)
        samples += [(source, *row) for row in zip(part["index"].tolist(), not_finite.tolist(), strict=True)]
    return samples


def _copy(values: list[Tensor], to: list[Tensor]) -> None:
    """Copies values, with one kernel for floating-point tensors and one for integers."""
    for floating in (True, False):
        pairs = [(old, new) for old, new in zip(to, values, strict=True) if new.is_floating_point() == floating]
        if pairs:
            torch._foreach_copy_([old for old, _ in pairs], [new for _, new in pairs])
