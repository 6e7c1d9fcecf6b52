"""Sums and means over the processes of a distributed training; a single process pays nothing for them."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values' mean over all processes, without a graph. All processes have to call it at the same point."""
    values = values.detach()
    if not is_distributed():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def samples_per_process(counts: Sequence[int], device: torch.device) -> list[Tensor] | list[int]:
    """The mean over the processes of each count, which stands for at least one sample in all of them.

    Processes may hold different numbers of labelled samples, as broken ones are left out. If each divides the sum over
    its own samples by this, then the mean over the processes, of losses as of gradients, is that over all samples.
    """
    if not is_distributed():
        return [max(count, 1) for count in counts]
    means = mean_over_processes(torch.tensor(counts, dtype=torch.float32, device=device))
    return list(means.clamp(min=1 / dist.get_world_size()).unbind())
