"""Chooses the samples of each mini-batch as a function of nothing but seed, source and batch number.

A training that resumes in the middle of an epoch therefore sees the same samples in the same order, on any number of
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
    """A process's part of a source's mini-batch: the samples, and the seed for everything random in them."""

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
    """The endless mini-batches of one source, always full. The source is reshuffled after each pass.

    Args:
        source: name of the source, so that sources of equal length are shuffled differently.
        num_samples: number of samples in the source.
        batch_size: number of samples in one process's mini-batch.
        seed: the run's seed.
        share: this process; the mini-batches of all processes are consecutive in the shuffled order.
        first: number of the mini-batch to start with.
    """

    def __init__(
        self, source: str, num_samples: int, batch_size: int, seed: int, share: Share | None = None, first: int = 0
    ) -> None:
        self.source, self.num_samples, self.batch_size = source, num_samples, batch_size
        self.seed, self.share, self.first = seed, share or Share(), first

    def __iter__(self) -> Iterator[BatchSample]:
        return map(self.sample, count(self.first))

    def sample(self, number: int) -> BatchSample:
        """The mini-batch with this number, counted from 0."""
        rank, world_size = self.share.rank, self.share.world_size
        start = (number * world_size + rank) * self.batch_size
        places = [divmod(position, self.num_samples) for position in range(start, start + self.batch_size)]
        indices = [int(_order(self.seed, self.source, epoch, self.num_samples)[place]) for epoch, place in places]
        return BatchSample(indices, seed_of(self.seed, self.source, number, rank))


@lru_cache(maxsize=16)
def _order(seed: int, source: str, epoch: int, length: int) -> Int[Tensor, "length"]:
    """The samples in the shuffled order of one pass."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed_of(seed, source, epoch)))


class EvaluationBatches(Sampler[BatchSample]):
    """Mini-batches that hold each sample of a source once and in order, over all processes; see `TrainingStream`.

    Every process gets the same number of mini-batches, which distributed modules require. The last ones may be short
    or empty.
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
