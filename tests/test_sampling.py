"""Mini-batches as functions of seed, source and batch number."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jointface.datamodules.sampling import EvaluationBatches, Share, TrainingStream, seed_of

SIZES = {"num_samples": st.integers(1, 30), "batch_size": st.integers(1, 8)}


def indices(stream: TrainingStream, count: int) -> list[int]:
    return [index for draw in islice(stream, count) for index in draw.indices]


@given(**SIZES, seed=st.integers(0, 2**31))
def test_each_sample_comes_once_in_each_epoch(num_samples: int, batch_size: int, seed: int) -> None:
    seen = indices(TrainingStream("celeba", num_samples, batch_size, seed), 2 * num_samples)
    for start in range(0, len(seen) - num_samples + 1, num_samples):
        assert sorted(seen[start : start + num_samples]) == list(range(num_samples))


@given(**SIZES, first=st.integers(0, 20))
def test_a_stream_that_begins_later_gives_the_same_batches(num_samples: int, batch_size: int, first: int) -> None:
    straight = islice(TrainingStream("celeba", num_samples, batch_size, 3), first, first + 5)
    assert list(straight) == list(islice(TrainingStream("celeba", num_samples, batch_size, 3, first=first), 5))


@given(**SIZES, world_size=st.integers(1, 4), number=st.integers(0, 20))
def test_processes_share_the_batch_that_one_would_take(
    num_samples: int, batch_size: int, world_size: int, number: int
) -> None:
    whole = TrainingStream("celeba", num_samples, batch_size * world_size, 3).sample(number)
    parts = [
        TrainingStream("celeba", num_samples, batch_size, 3, Share(rank, world_size)).sample(number)
        for rank in range(world_size)
    ]
    assert [index for part in parts for index in part.indices] == whole.indices
    assert len({part.seed for part in parts}) == world_size  # but what is random differs


def test_seeds_sources_and_batches_are_shuffled_differently() -> None:
    streams = [
        TrainingStream("celeba", 50, 10, 0),
        TrainingStream("lfwa", 50, 10, 0),
        TrainingStream("celeba", 50, 10, 1),
    ]
    draws = [draw for stream in streams for draw in islice(stream, 6)]
    assert len({tuple(draw.indices) for draw in draws}) == len(draws)
    assert len({draw.seed for draw in draws}) == len(draws)


def test_a_seed_depends_on_the_order_of_its_parts() -> None:
    assert seed_of(1, 2) != seed_of(2, 1)
    assert seed_of(1, "celeba") == seed_of(1, "celeba")
    assert 0 <= seed_of(0) < 2**63


@given(**SIZES, world_size=st.integers(1, 4))
def test_evaluation_takes_each_sample_once_and_as_many_steps_everywhere(
    num_samples: int, batch_size: int, world_size: int
) -> None:
    parts = [EvaluationBatches(num_samples, batch_size, Share(rank, world_size)) for rank in range(world_size)]
    assert {len(part) for part in parts} == {len(list(part)) for part in parts}
    assert len({len(part) for part in parts}) == 1
    seen = [index for part in parts for draw in part for index in draw.indices]
    assert sorted(seen) == list(range(num_samples))


def test_an_endless_stream_has_no_length() -> None:
    with pytest.raises(TypeError):
        len(TrainingStream("celeba", 5, 2, 0))  # type: ignore[arg-type]
