"""The optimiser of a run and its learning rate over the steps."""

import math
from collections.abc import Callable, Iterable
from typing import Any

from lightning import LightningModule
from torch.nn import Parameter
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup_fraction: float = 0.05) -> LambdaLR:
    """Linear warm-up, then half a cosine down to zero (Loshchilov and Hutter, ICLR 2017)."""
    warmup = max(1, round(warmup_fraction * total_steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total_steps - warmup))))

    return LambdaLR(optimizer, factor)


def optimizer_and_schedule(
    parameters: Iterable[Parameter],
    make_optimizer: Callable[..., Optimizer],
    make_scheduler: Callable[..., Any] | None,
    module: LightningModule,
) -> Any:
    """What `configure_optimizers` returns. Weight decay applies to matrices and convolutions, but not to biases,
    normalisations and loss weights.

    Args:
        make_optimizer: from parameter groups.
        make_scheduler: from the optimiser and the number of steps, for each step; None: a constant rate.
        module: what is trained; a schedule asks its trainer for the number of steps.
    """
    groups: tuple[list[Parameter], list[Parameter]] = ([], [])
    for parameter in parameters:
        groups[parameter.ndim < 2].append(parameter)
    optimizer = make_optimizer([{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}])
    if make_scheduler is None:
        return optimizer
    schedule = make_scheduler(optimizer, total_steps=int(module.trainer.estimated_stepping_batches))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
