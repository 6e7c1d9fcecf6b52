"""Computes the gradient of each task with respect to the parameters that the tasks share."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.nn import Parameter

from jointface.errors import ConfigError
from jointface.modules.distributed import mean_over_processes


def task_gradients(
    loss: Float[Tensor, ""], losses: Mapping[str, Tensor], parameters: Sequence[Parameter], keep_graph: bool
) -> list[tuple[Tensor, ...]]:
    """The gradients of `loss` with respect to the parameters, separately through the loss of each task; zero for
    parameters on which the task does not depend.

    They include all factors between a task's loss and `loss`: weights, gradient scaler, accumulation.
    """
    weights = torch.autograd.grad(loss, list(losses.values()), retain_graph=True)
    tasks = list(zip(losses.values(), weights, strict=True))
    return [
        torch.autograd.grad(
            task, parameters, weight, retain_graph=keep_graph or number < len(tasks), materialize_grads=True
        )
        for number, (task, weight) in enumerate(tasks, start=1)
    ]


def flatten(tensors: Sequence[Tensor]) -> Float[Tensor, "numbers"]:
    """Concatenates the tensors into one vector."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def gradient_statistics(
    loss: Float[Tensor, ""], total: Float[Tensor, ""], losses: Mapping[str, Tensor], shared: Sequence[Parameter]
) -> dict[str, Float[Tensor, ""]]:
    """The norm `gradient_norm_TASK` of each task's weighted gradient on the shared parameters, and the
    `gradient_cosine` between those of the first two tasks.

    Gradients are averaged over all processes, before clipping, in the units of `total`, of which `loss` is a multiple.
    The cosine is NaN if a task has no sample. This costs a backward pass for each task and keeps the graph.
    """
    (scale,) = torch.autograd.grad(loss, total, retain_graph=True)
    gradients = torch.stack([flatten(task) for task in task_gradients(loss, losses, shared, keep_graph=True)])
    gradients = mean_over_processes(gradients) / scale
    norms = gradients.norm(dim=1)
    statistics = {f"gradient_norm_{name}": norm for name, norm in zip(losses, norms, strict=True)}
    return {**statistics, "gradient_cosine": gradients[0] @ gradients[1] / norms[:2].prod()}


def require_separable_gradients(strategy: Strategy) -> None:
    """Checks that the tasks can be differentiated one by one, which takes several passes over the graph and all of each
    parameter in every process.

    Raises:
        ConfigError: the strategy shards parameters, or expects the same graph in every pass.
    """
    plain = type(strategy) in (SingleDeviceStrategy, DDPStrategy)
    if not plain or (isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("static_graph")):
        raise ConfigError(
            f"the tasks' gradients cannot be separated under {type(strategy).__name__}"
            f"{' with static_graph' if plain else ''}: set trainer.strategy=ddp, or "
            "model.log_gradients_every_n_steps=0 and a model/loss other than pcgrad and aligned_mtl"
        )
