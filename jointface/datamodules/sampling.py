"""Which samples make up which mini-batch: a function of seed, source and batch number alone.

So a training that is resumed in the middle of an epoch takes the same samples in the same order, on any number of
processes.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Sampler


@dataclass(frozen=True)
class BatchSample:
    """One process's part of a mini-batch of a source: its samples, and the seed of everything random in them."""

    indices: list[int]
    seed: int


@dataclass(frozen=True)
class Share:
    """Which process of a distributed run this is."""

    rank: int = 0
    world_size: int = 1


def seed_of(*parts: int | str) -> int:
    """A seed of 63 bits that depends on every part; different parts give unrelated seeds."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in parts]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


class TrainingStream(Sampler[BatchSample]):
    """The endless mini-batches of one source, always full. The source is shuffled anew after each pass.

    Args:
        source: name of the source, so that sources of equal length are shuffled differently.
        num_samples: samples of the source.
        batch_size: samples of the source in one process's mini-batch.
        seed: of the run.
        share: the mini-batches of all processes together are consecutive in the shuffled order.
        first: number of the mini-batch to begin with.
    """

    def __init__(
        self, source: str, num_samples: int, batch_size: int, seed: int, share: Share | None = None, first: int = 0
    ) -> None:
        self.source, self.num_samples, self.batch_size = source, num_samples, batch_size
        self.seed, self.share, self.first = seed, share or Share(), first

    def __iter__(self) -> Iterator[BatchSample]:
        return map(self.sample, count(self.first))

    def sample(self, number: int) -> BatchSample:
        """Mini-batch `number`, counted from 0."""
        rank, world_size = self.share.rank, self.share.world_size
        start = (number * world_size + rank) * self.batch_size
        places = [divmod(position, self.num_samples) for position in range(start, start + self.batch_size)]
        indices = [int(_order(self.seed, self.source, epoch, self.num_samples)[place]) for epoch, place in places]
        return BatchSample(indices, seed_of(self.seed, self.source, number, rank))


@lru_cache(maxsize=16)
def _order(seed: int, source: str, epoch: int, length: int) -> Int[Tensor, "length"]:
    """The shuffled samples of a pass."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed_of(seed, source, epoch)))


class EvaluationBatches(Sampler[BatchSample]):
    """Each sample of one source once, in order, over all processes; arguments as of `TrainingStream`.

    Every process gets the same number of mini-batches, as distributed modules require; the last ones may be short or
    empty.
    """

    def __init__(self, num_samples: int, batch_size: int, share: Share | None = None) -> None:
        self.num_samples, self.batch_size, self.share = num_samples, batch_size, share or Share()

    def __len__(self) -> int:
        return -(-self.num_samples // (self.batch_size * self.share.world_size))

    def __iter__(self) -> Iterator[BatchSample]:
        for number in range(len(self)):
            start = (number * self.share.world_size + self.share.rank) * self.batch_size
            end = min(start + self.batch_size, self.num_samples)
            yield BatchSample(list(range(start, end)), seed_of(number, self.share.rank))
