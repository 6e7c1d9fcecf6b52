"""Means over the processes of a distributed training; they cost nothing if there is only one process."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process trains jointly with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The mean of the values over all processes, detached from the graph. All processes must call it together."""
    values = values.detach()
    if not is_distributed():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def samples_per_process(counts: Sequence[int], device: torch.device) -> list[Tensor] | list[int]:
    """The mean of each count over the processes, at least as large as if there were one sample in all of them.

    Processes may hold different numbers of labelled samples, because broken ones are left out. If each process divides
    the sum over its own samples by this mean, averaging losses or gradients over the processes gives the mean over all
    samples.
    """
    if not is_distributed():
        return [max(count, 1) for count in counts]
    means = mean_over_processes(torch.tensor(counts, dtype=torch.float32, device=device))
    return list(means.clamp(min=1 / dist.get_world_size()).unbind())
