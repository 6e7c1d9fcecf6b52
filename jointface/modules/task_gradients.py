"""What each task asks of the parameters that the tasks share."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, Strategy
from torch import Tensor
from torch.nn import Parameter

from jointface.errors import ConfigError
from jointface.modules.distributed import mean_over_processes

Gradients = tuple[Tensor | None, ...]  # one for each parameter; None where the task does not reach it


def task_gradients(
    loss: Float[Tensor, ""], losses: Mapping[str, Tensor], parameters: Sequence[Parameter], keep_graph: bool
) -> list[Gradients]:
    """The gradient of `loss` by `parameters`, task by task.

    Args:
        loss: made of the tasks' losses. Its derivative by a task's loss is all that this was multiplied with on the way
            (a weight, a gradient scaler's factor, the accumulation of batches), so that is in the gradients too.
        losses: of the tasks, before that.
        keep_graph: whether `loss` is differentiated once more afterwards.
    """
    weights = torch.autograd.grad(loss, list(losses.values()), retain_graph=True)
    pairs = list(zip(losses.values(), weights, strict=True))
    return [
        torch.autograd.grad(task, parameters, weight, retain_graph=keep_graph or number < len(pairs), allow_unused=True)
        for number, (task, weight) in enumerate(pairs, start=1)
    ]


def flatten(gradients: Gradients, parameters: Sequence[Parameter]) -> Float[Tensor, "numbers"]:
    """The gradients one after the other; zeros where the task does not reach a parameter."""
    pairs = zip(gradients, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if gradient is None else gradient).flatten() for gradient, p in pairs])


def unflatten(vector: Float[Tensor, "numbers"], parameters: Sequence[Parameter]) -> list[Tensor]:
    """The inverse of `flatten`."""
    parts = vector.split([parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


def gradient_statistics(
    loss: Float[Tensor, ""], total: Float[Tensor, ""], losses: Mapping[str, Tensor], shared: Sequence[Parameter]
) -> dict[str, Float[Tensor, ""]]:
    """Norms of the tasks' weighted gradients on the shared parameters, and the cosine between the first two tasks.

    `gradient_norm_TASK` and `gradient_cosine`: of the gradients averaged over all processes, before clipping, in the
    units of `total`, which `loss` is a multiple of. The cosine is NaN where a task has no sample. The graph is kept. It
    costs a backward pass through each task.
    """
    (scale,) = torch.autograd.grad(loss, total, retain_graph=True)
    gradients = torch.stack([flatten(task, shared) for task in task_gradients(loss, losses, shared, keep_graph=True)])
    gradients = mean_over_processes(gradients) / scale
    norms = gradients.norm(dim=1)
    statistics = {f"gradient_norm_{name}": norm for name, norm in zip(losses, norms, strict=True)}
    if len(gradients) > 1:
        statistics["gradient_cosine"] = gradients[0] @ gradients[1] / (norms[0] * norms[1])
    return statistics


def require_whole_gradients(strategy: Strategy) -> None:
    """Tasks can be differentiated one by one only where each process holds whole parameters, and the graph may be
    passed more than once.

    Raises:
        ConfigError: the strategy cuts parameters into pieces, or takes the graph to be always the same.
    """
    plain = type(strategy) in (SingleDeviceStrategy, DDPStrategy)
    if not plain or (isinstance(strategy, DDPStrategy) and strategy._ddp_kwargs.get("static_graph")):
        raise ConfigError(
            f"the tasks' gradients cannot be told apart under {type(strategy).__name__}"
            f"{' with static_graph' if plain else ''}: set trainer.strategy=ddp, or "
            "model.log_gradients_every_n_steps=0 and model/loss to another than pcgrad"
        )
