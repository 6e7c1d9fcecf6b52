"""How the tasks' losses become one: fixed weights, learned ones, weights that follow the losses, or gradients that make
way for each other (docs/method.md, "Weighing the tasks").

Each class starts from fixed weights, since L_shape and L_attr are of different units: without them the first would not
be felt.
"""

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import Parameter

from jointface.errors import ConfigError
from jointface.modules.distributed import mean_over_processes
from jointface.modules.task_gradients import flatten, task_gradients, unflatten

TASKS = ("shape", "attributes")
Losses = Mapping[str, Float[Tensor, ""]]  # by task; a task that the network has no head for is left out


class FixedWeights(nn.Module):
    """L = shape L_shape + attributes L_attr.

    Args:
        shape, attributes: the weights, at least zero.

    Raises:
        ConfigError: a weight is negative or no number.
    """

    varies = False  # whether the weights change during a training, and are worth a curve

    def __init__(self, shape: float, attributes: float) -> None:
        super().__init__()
        self.fixed = {"shape": shape, "attributes": attributes}
        for task, weight in self.fixed.items():
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigError(f"model.loss.{task}={weight}: expected a number of at least 0")

    def observe(self, means: Losses, step: int) -> None:
        """Takes note of a batch's losses before they are weighed.

        Args:
            means: over all processes, without a graph; exactly zero for a task that no sample of the batch is labelled
                for.
            step: optimiser steps done before.
        """

    def weights(self) -> dict[str, Tensor | float]:
        """What each task's loss is multiplied with now."""
        return dict(self.fixed)

    def forward(self, losses: Losses, means: Losses) -> Float[Tensor, ""]:
        """The one loss. `means` as in `observe`."""
        weights = self.weights()
        return torch.stack([weights[task] * loss for task, loss in losses.items()]).sum()

    def backward(
        self, loss: Float[Tensor, ""], losses: Losses, shared: Sequence[Parameter], own: Sequence[Parameter]
    ) -> None:
        """Adds the gradients of `loss` to the parameters'.

        Args:
            loss: what `forward` gave, perhaps scaled.
            losses: what it was made of.
            shared, own: the parameters that the tasks share, and all others.
        """
        loss.backward()

    def end_step(self) -> None:
        """Called when the gradients of an optimiser step are complete."""


class UncertaintyWeights(FixedWeights):
    """Weights learned with the network, from each task's homoscedastic uncertainty (Kendall, Gal, Cipolla, CVPR 2018).

    L = 1/(2 sigma_1^2) shape L_shape + 1/sigma_2^2 attributes L_attr + log sigma_1 + log sigma_2, as there for a
    regression and a classification, with s = log sigma^2 as the parameters, which start at zero. A batch without
    samples of a task says nothing of its sigma, so the task's logarithm is left out there too.
    """

    varies = True
    factors = (0.5, 1.0)  # regression, classification

    def __init__(self, shape: float, attributes: float) -> None:
        super().__init__(shape, attributes)
        self.log_variance = Parameter(torch.zeros(len(TASKS)))

    def weights(self) -> dict[str, Tensor | float]:
        precision = torch.exp(-self.log_variance)
        return {task: self.factors[i] * precision[i] * self.fixed[task] for i, task in enumerate(TASKS)}

    def forward(self, losses: Losses, means: Losses) -> Float[Tensor, ""]:
        log_sigma = self.log_variance / 2
        labelled = [log_sigma[TASKS.index(task)] * (mean > 0) for task, mean in means.items()]
        return super().forward(losses, means) + torch.stack(labelled).sum()


class DynamicWeightAverage(FixedWeights):
    """The task whose loss falls more slowly weighs more (DWA; Liu, Johns and Davison, CVPR 2019).

    lambda_k(t) = K exp(w_k(t-1) / T) / sum_i exp(w_i(t-1) / T) with w_k(t-1) = L_k(t-1) / L_k(t-2), on top of the fixed
    weights. L_k(t) is the task's mean loss over window t of the training, where the paper has epochs; a window in which
    no sample is labelled for a task repeats its last mean, and a loss that is not finite does not count. Over the first
    two windows lambda is 1.

    Args:
        shape, attributes: the fixed weights.
        window: optimiser steps of a window.
        temperature: T; the larger, the more even the weights.

    Raises:
        ConfigError: a number is out of range.
    """

    varies = True
    sums: Float[Tensor, "2"]  # of the losses in the window so far
    batches: Float[Tensor, "2"]  # with a labelled sample, in the window so far
    means: Float[Tensor, "2 2"]  # L(t-1) and L(t-2), zero where unknown
    factors: Float[Tensor, "2"]  # lambda

    def __init__(self, shape: float, attributes: float, window: int = 500, temperature: float = 2.0) -> None:
        super().__init__(shape, attributes)
        if window < 1 or not temperature > 0:
            raise ConfigError(
                f"model.loss.window={window} and model.loss.temperature={temperature}: must be at least 1 and above 0"
            )
        self.window, self.temperature = window, temperature
        self.number = 0  # of the window
        self.register_buffer("sums", torch.zeros(len(TASKS)))
        self.register_buffer("batches", torch.zeros(len(TASKS)))
        self.register_buffer("means", torch.zeros(2, len(TASKS)))
        self.register_buffer("factors", torch.ones(len(TASKS)))

    def observe(self, means: Losses, step: int) -> None:
        if step // self.window > self.number:
            self._end_window()
            self.number = step // self.window
        losses = torch.stack([means.get(task, torch.zeros_like(self.sums[0])) for task in TASKS])
        seen = losses.isfinite() & (losses > 0)
        self.sums += torch.where(seen, losses, 0.0)
        self.batches += seen

    def _end_window(self) -> None:
        last = torch.where(self.batches > 0, self.sums / self.batches, self.means[0])
        self.means.copy_(torch.stack([last, self.means[0]]))
        known = self.means[0] > 0
        ratio = torch.where(self.means[1] > 0, self.means[0] / self.means[1], 1.0)
        share = torch.softmax((ratio / self.temperature).masked_fill(~known, -torch.inf), dim=0)
        self.factors.copy_(torch.where(known, known.sum() * share, 1.0))
        self.sums.zero_()
        self.batches.zero_()

    def weights(self) -> dict[str, Tensor | float]:
        return {task: self.fixed[task] * factor for task, factor in zip(TASKS, self.factors, strict=True)}

    def get_extra_state(self) -> dict[str, Any]:
        """For checkpoints, beside the buffers."""
        return {"number": self.number}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


class PCGrad(FixedWeights):
    """Fixed weights; on the shared parameters each task's gradient gives way where it works against another's (Yu et
    al., NeurIPS 2020).

    The parameters that one task alone has are trained as ever. All gradients are those of the whole batch of an
    optimiser step, over all processes and accumulated batches. It costs a second backward pass through the shared part,
    and room for two gradients of it.
    """

    def __init__(self, shape: float, attributes: float) -> None:
        super().__init__(shape, attributes)
        self.end_step()

    def end_step(self) -> None:
        self.accumulated: Tensor | None = None  # the tasks' gradients over the batches of this optimiser step so far
        self.applied: Tensor | None = None  # what the shared parameters got for them

    def backward(
        self, loss: Float[Tensor, ""], losses: Losses, shared: Sequence[Parameter], own: Sequence[Parameter]
    ) -> None:
        parameters = [*shared, *own]
        tasks = task_gradients(loss, losses, parameters, keep_graph=False)
        together = torch.stack([flatten(task[: len(shared)], shared) for task in tasks])
        projected = unflatten(self._increment(mean_over_processes(together)), shared)
        columns = [[gradient for gradient in column if gradient is not None] for column in zip(*tasks, strict=True)]
        summed = [reduce(torch.add, column) if column else None for column in columns[len(shared) :]]
        reached = [i for i, column in enumerate(columns) if column]
        gradients = [*projected, *summed]
        # Through autograd rather than into .grad: this way the hooks of distributed training run.
        torch.autograd.backward([parameters[i] for i in reached], [gradients[i] for i in reached])

    def _increment(self, gradients: Float[Tensor, "tasks numbers"]) -> Float[Tensor, "numbers"]:
        """What to add to the shared gradient so that it becomes the projection of all batches of the step so far."""
        self.accumulated = gradients if self.accumulated is None else self.accumulated + gradients
        before, self.applied = self.applied, project_conflicting(self.accumulated)
        return self.applied if before is None else self.applied - before


def project_conflicting(gradients: Float[Tensor, "tasks numbers"]) -> Float[Tensor, "numbers"]:
    """The sum of the tasks' gradients, each without the part that points against another's original one.

    g_i <- g_i - (g_i . g_j / ||g_j||^2) g_j where g_i . g_j < 0: algorithm 1 of Yu et al. Its random order of the
    others is no matter with two tasks.
    """
    total = torch.zeros_like(gradients[0])
    for i, gradient in enumerate(gradients):
        for j, other in enumerate(gradients):
            if i != j:
                length = other.square().sum().clamp(min=torch.finfo(other.dtype).tiny)
                gradient = gradient - (gradient @ other / length).clamp(max=0) * other
        total = total + gradient
    return total
