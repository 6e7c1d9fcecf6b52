"""What the processes of a distributed training know together. A single process pays nothing for it."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process trains together with others."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def mean_over_processes(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values' mean over all processes, without a graph; every process must ask for it at the same point."""
    values = values.detach()
    if not is_distributed():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def samples_per_process(counts: Sequence[int], device: torch.device) -> list[Tensor] | list[int]:
    """For each of several counts of samples their mean over the processes, at least that of one sample in all.

    Processes can hold different numbers of labelled samples, as broken ones are left out. A sum over a process's own
    samples divided by this is what averages, over the processes, to the mean over the samples of all of them; and so do
    its gradients, which distributed training averages.
    """
    if not is_distributed():
        return [max(count, 1) for count in counts]
    total = torch.tensor(counts, dtype=torch.float32, device=device)
    dist.all_reduce(total)
    return list((total.clamp(min=1) / dist.get_world_size()).unbind())
