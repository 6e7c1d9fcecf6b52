"""Combines the losses of the tasks by fixed weights, learned weights, weights that follow the losses, or by aggregating
their gradients (docs/method.md, "Weighing the tasks").

All start from fixed weights, since L_shape and L_attr have different units.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import Parameter

from jointface.errors import ConfigError
from jointface.modules.distributed import mean_over_processes
from jointface.modules.task_gradients import flatten, task_gradients

TASKS = ("shape", "attributes")
Loss = Float[Tensor, ""]
Losses = Mapping[str, Loss]  # by task, for the heads that the network has
Parameters = Sequence[Parameter]


class FixedWeights(nn.Module):
    """L = shape L_shape + attributes L_attr + auxiliary L_aux + landmark_uncertainty L_sigma, and further losses that
    are added with their weights. Raises a ConfigError if a weight is negative or not finite. The weights of all but
    L_shape and L_attr stay fixed in all methods below."""

    varies = False  # whether the weights change during a training and should be logged

    def __init__(
        self, shape: float, attributes: float, auxiliary: float = 1.0, landmark_uncertainty: float = 0.1
    ) -> None:
        super().__init__()
        self.fixed: dict[str, float] = {}
        weights = {
            "shape": shape, "attributes": attributes, "auxiliary": auxiliary,
            "landmark_uncertainty": landmark_uncertainty,
        }  # fmt: skip
        for task, weight in weights.items():
            self.add(task, weight, f"model.loss.{task}")

    def add(self, task: str, weight: float, key: str) -> None:
        """Adds a loss with a fixed weight, which the config names by `key`."""
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigError(f"{key}={weight}: expected a number of at least 0")
        self.fixed[task] = weight

    def weights(self) -> dict[str, Tensor | float]:
        """The current factor of each task's loss."""
        return dict(self.fixed)

    def forward(self, losses: Losses, means: Losses, step: int) -> Loss:
        """The total loss.

        Args:
            losses: the losses of this process. means: their means over all processes, detached; zero if no sample is
                labelled. step: number of optimiser steps so far.
        """
        weights = self.weights()
        return torch.stack([weights[task] * loss for task, loss in losses.items()]).sum()

    def backward(self, loss: Loss, losses: Losses, shared: Parameters, own: Parameters) -> None:
        """Accumulates gradients in the `shared` parameters of the tasks and in all others, `own`. `loss` is the result
        of `forward` for `losses`, possibly scaled."""
        loss.backward()

    def end_step(self) -> None:
        """Must be called when all gradients of an optimiser step are accumulated."""


class UncertaintyWeights(FixedWeights):
    """Weights learned with the network, from the tasks' homoscedastic uncertainty (Kendall et al., CVPR 2018).

    L = 1/(2 sigma_1^2) shape L_shape + 1/sigma_2^2 attributes L_attr + log sigma_1 + log sigma_2, their formula for a
    regression and a classification. The parameters are log sigma^2, which start at zero. A batch without samples of a
    task leaves out the task's logarithm too.
    """

    varies = True
    factors = (0.5, 1.0)  # regression, classification

    def __init__(self, *fixed: float, **weights: float) -> None:
        super().__init__(*fixed, **weights)
        self.log_variance = Parameter(torch.zeros(len(TASKS)))

    def weights(self) -> dict[str, Tensor | float]:
        precision = torch.exp(-self.log_variance)
        learned = {task: self.factors[i] * precision[i] * self.fixed[task] for i, task in enumerate(TASKS)}
        return self.fixed | learned

    def forward(self, losses: Losses, means: Losses, step: int) -> Loss:
        log_sigma = self.log_variance / 2
        labelled = [log_sigma[TASKS.index(task)] * (mean > 0) for task, mean in means.items() if task in TASKS]
        return super().forward(losses, means, step) + torch.stack(labelled).sum()


class DynamicWeightAverage(FixedWeights):
    """Gives more weight to the task whose loss falls more slowly (DWA; Liu, Johns and Davison, CVPR 2019).

    lambda_k(t) = K exp(w_k(t-1) / T) / sum_i exp(w_i(t-1) / T) with w_k(t-1) = L_k(t-1) / L_k(t-2), multiplied by the
    fixed weights; 1 in the first two windows. L_k(t) is the task's mean loss over window t (an epoch in the paper). It
    ignores losses that are not finite, and does not change in a window without labelled samples.

    Args:
        fixed, weights: of `FixedWeights`.
        window: length of a window in optimiser steps.
        temperature: T; larger values make the weights more equal.

    Raises:
        ConfigError: a setting is out of range.
    """

    varies = True

    def __init__(self, *fixed: float, window: int = 500, temperature: float = 2.0, **weights: float) -> None:
        super().__init__(*fixed, **weights)
        if window < 1 or not temperature > 0:
            raise ConfigError(
                f"model.loss.window={window} and model.loss.temperature={temperature}: must be at least 1 and above 0"
            )
        self.window, self.temperature = window, temperature
        self.number = 0  # t, the number of this window
        self.sums: Tensor = nn.Buffer(torch.zeros(2))  # sums of the losses in this window
        self.batches: Tensor = nn.Buffer(torch.zeros(2))  # number of batches in this window with a labelled sample
        self.means = nn.Buffer(torch.zeros(2, 2))  # L(t-1) and L(t-2); zero: unknown
        self.factors = nn.Buffer(torch.ones(2))  # lambda

    def forward(self, losses: Losses, means: Losses, step: int) -> Loss:
        if step // self.window > self.number:
            self._end_window()
            self.number = step // self.window
        of_batch = torch.stack([means.get(task, torch.zeros_like(self.sums[0])) for task in TASKS])
        seen = of_batch.isfinite() & (of_batch > 0)
        self.sums += torch.where(seen, of_batch, 0.0)
        self.batches += seen
        return super().forward(losses, means, step)

    def _end_window(self) -> None:
        """Sets the weights of the next window."""
        last = torch.where(self.batches > 0, self.sums / self.batches, self.means[0])
        self.means.copy_(torch.stack([last, self.means[0]]))
        known = self.means[0] > 0
        ratio = torch.where(self.means[1] > 0, self.means[0] / self.means[1], 1.0)
        share = torch.softmax((ratio / self.temperature).masked_fill(~known, -torch.inf), dim=0)
        self.factors.copy_(torch.where(known, known.sum() * share, 1.0))
        self.sums.zero_()
        self.batches.zero_()

    def weights(self) -> dict[str, Tensor | float]:
        return self.fixed | {task: self.fixed[task] * factor for task, factor in zip(TASKS, self.factors, strict=True)}

    def get_extra_state(self) -> dict[str, Any]:
        return {"number": self.number}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.number = state["number"]


class AggregatedGradients(FixedWeights, ABC):
    """Fixed weights. A rule other than the sum joins the tasks' gradients on the shared parameters.

    The rule sees the gradients of a whole optimiser step, over all processes and accumulated batches. This costs a
    second backward pass through the shared parameters, and memory for one more gradient of each task and for the
    result.
    """

    def __init__(
        self, shape: float, attributes: float, auxiliary: float = 1.0, landmark_uncertainty: float = 0.1
    ) -> None:
        super().__init__(shape, attributes, auxiliary, landmark_uncertainty)
        self.end_step()

    @abstractmethod
    def aggregate(self, gradients: Float[Tensor, "tasks numbers"]) -> Float[Tensor, "numbers"]:
        """One gradient from those of the tasks."""

    def end_step(self) -> None:
        self.accumulated: Tensor | None = None  # the tasks' gradients over the batches of this optimiser step
        self.applied: Tensor | None = None  # what they became, already added to the shared parameters' gradients

    def backward(self, loss: Loss, losses: Losses, shared: Parameters, own: Parameters) -> None:
        tasks = task_gradients(loss, losses, [*shared, *own], keep_graph=False)
        by_task = mean_over_processes(torch.stack([flatten(task[: len(shared)]) for task in tasks]))
        on_own = [sum(gradients) for gradients in zip(*(task[len(shared) :] for task in tasks), strict=True)]
        self.accumulated = by_task if self.accumulated is None else self.accumulated + by_task
        before, self.applied = self.applied, self.aggregate(self.accumulated)
        increment = self.applied if before is None else self.applied - before
        parts = increment.split([parameter.numel() for parameter in shared])
        on_shared = [part.view_as(parameter) for part, parameter in zip(parts, shared, strict=True)]
        # autograd.backward instead of assigning .grad, so that the hooks of distributed training run
        torch.autograd.backward([*shared, *own], [*on_shared, *on_own])


class PCGrad(AggregatedGradients):
    """Projects conflicting gradients (Yu et al., NeurIPS 2020)."""

    def aggregate(self, gradients: Float[Tensor, "tasks numbers"]) -> Float[Tensor, "numbers"]:
        return project_conflicting(gradients)


class TorchJDGradients(AggregatedGradients):
    """Joins the gradients by an aggregator of torchjd.

    Args:
        fixed, weights: of `FixedWeights`.
        method: name of an aggregator in `torchjd.aggregation` without state and required settings, such as "AlignedMTL"
            (Senushkin et al., CVPR 2023) or "IMTLG" (Liu et al., ICLR 2021).

    Raises:
        ConfigError: torchjd is missing or has no such aggregator.
    """

    def __init__(self, *fixed: float, method: str = "AlignedMTL", **weights: float) -> None:
        super().__init__(*fixed, **weights)
        try:
            from torchjd import aggregation
        except ImportError as error:
            raise ConfigError(f"model.loss.method={method} needs torchjd: pip install 'jointface[torchjd]'") from error
        kind = getattr(aggregation, method, None)
        if not (isinstance(kind, type) and issubclass(kind, aggregation.Aggregator)):
            raise ConfigError(
                f"model.loss.method={method} is no aggregator of torchjd; see torchjd.org for their names"
            )
        try:
            self.aggregator: Any = kind()
        except (TypeError, ImportError) as error:
            raise ConfigError(f"model.loss.method={method} cannot be built without settings: {error}") from error

    def aggregate(self, gradients: Float[Tensor, "tasks numbers"]) -> Float[Tensor, "numbers"]:
        return self.aggregator(gradients)


def project_conflicting(gradients: Float[Tensor, "tasks numbers"]) -> Float[Tensor, "numbers"]:
    """The sum of the tasks' gradients after removing from each the component that opposes another task's gradient.

    g_i <- g_i - (g_i . g_j / ||g_j||^2) g_j if g_i . g_j < 0: algorithm 1 of Yu et al. Their order of the tasks j is
    random, which makes no difference with two tasks; here it is fixed.
    """
    total = torch.zeros_like(gradients[0])
    for i, gradient in enumerate(gradients):
        for j, other in enumerate(gradients):
            if i != j:
                length = other.square().sum().clamp(min=torch.finfo(other.dtype).tiny)
                gradient = gradient - (gradient @ other / length).clamp(max=0) * other
        total = total + gradient
    return total
