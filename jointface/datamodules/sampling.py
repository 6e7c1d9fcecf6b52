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

from jointface.errors import ConfigError


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


class PeopleStream(TrainingStream):
    """The endless mini-batches of one source whose samples come in groups: consecutive ones show one person.

    In each pass, the photos of each person are shuffled and divided into groups; photos that are left over, and people
    with fewer photos than a group, come in another pass or not at all. Then the groups are shuffled.

    Args:
        people: (samples,) whom each sample shows.
        photos_per_person: size of a group; divides `batch_size`.
        others: see `TrainingStream`.

    Raises:
        ConfigError: the group does not divide the mini-batch, or nobody has so many photos.
    """

    def __init__(
        self,
        source: str,
        people: Int[Tensor, "samples"],
        photos_per_person: int,
        batch_size: int,
        seed: int,
        share: Share | None = None,
        first: int = 0,
    ) -> None:
        super().__init__(source, len(people), batch_size, seed, share, first)
        key = f"data.sources.{source}"
        if batch_size % photos_per_person:
            raise ConfigError(f"{key}.batch_size={batch_size} must be a multiple of photos_per_person")
        self.people, self.photos_per_person = people, photos_per_person
        self.num_groups = len(groups_of_people(people, photos_per_person, 0))
        if not self.num_groups:
            raise ConfigError(f"{key}: nobody has photos_per_person={photos_per_person} photos: lower it")
        self.groups = lru_cache(maxsize=2)(self._groups)

    def sample(self, number: int) -> BatchSample:
        rank, world_size = self.share.rank, self.share.world_size
        wanted = self.batch_size // self.photos_per_person
        start = (number * world_size + rank) * wanted
        places = [divmod(position, self.num_groups) for position in range(start, start + wanted)]
        indices = [index for epoch, place in places for index in self.groups(epoch)[place].tolist()]
        return BatchSample(indices, seed_of(self.seed, self.source, number, rank))

    def _groups(self, epoch: int) -> Int[Tensor, "groups photos"]:
        return groups_of_people(self.people, self.photos_per_person, seed_of(self.seed, self.source, epoch))


def groups_of_people(people: Int[Tensor, "samples"], size: int, seed: int) -> Int[Tensor, "groups size"]:
    """Random groups of samples of one person each, in random order; their number depends on `people` and `size` alone.

    No sample is in two groups. Of each person, fewer than `size` samples are in none.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(people), generator=generator)
    shuffled = shuffled[people[shuffled].argsort(stable=True)]  # by person, each one's photos shuffled
    counts = people.unique(return_counts=True)[1]
    place = torch.arange(len(people)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    whole = place < (counts // size * size).repeat_interleave(counts)
    groups = shuffled[whole].view(-1, size)
    return groups[torch.randperm(len(groups), generator=generator)]


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
