"""Loaders' processes: they survive signals, but not their run; and the time that a training waits for them."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from jointface.datamodules import Augmentation, CelebA, CropTransform
from jointface.datamodules.loading import Batches, TimedLoader, identity_collate, start_worker
from jointface.datamodules.sampling import TrainingStream

STOPPED_IN_AN_EPOCH = """
from torch.utils.data import DataLoader
from jointface.datamodules.loading import start_worker
batches = iter(DataLoader(range(1000), num_workers=2, worker_init_fn=start_worker))
next(batches)
raise SystemExit(130)
"""


def test_a_program_that_stops_while_loaders_work_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", STOPPED_IN_AN_EPOCH], timeout=120, check=False)
    assert ended.returncode == 130


CANNOT_HAND_OVER = """
from torch.utils.data import DataLoader
from jointface.datamodules.loading import explained_loader_failures, start_worker
loader = DataLoader(range(9), num_workers=1, worker_init_fn=start_worker, collate_fn=lambda batch: lambda: batch)
with explained_loader_failures():
    list(loader)
"""


def test_a_worker_that_cannot_hand_over_a_batch_ends_the_run() -> None:
    """As when shared memory is full; here because a function cannot be pickled."""
    ended = subprocess.run(
        [sys.executable, "-c", CANNOT_HAND_OVER], timeout=120, check=False, capture_output=True, text=True
    )
    assert "DataError: a loader process died or shared memory is full" in ended.stderr
    assert "a loader process cannot hand over a batch: " in ended.stderr


@pytest.mark.parametrize("method", [pytest.param("forkserver", marks=pytest.mark.slow), "spawn"])
def test_processes_that_are_not_forked_load_the_same(method: str, tiny_data: Path) -> None:
    """Windows and macOS spawn, and from Python 3.14 on Linux uses a fork server."""
    data = CelebA(tiny_data / "celeba", "train", CropTransform(32, Augmentation()))

    def first(**workers: Any) -> dict[str, Tensor]:
        stream = TrainingStream("celeba", len(data), 4, seed=0)
        return next(iter(DataLoader(Batches(data), batch_sampler=stream, collate_fn=identity_collate, **workers)))

    here, there = first(), first(num_workers=1, multiprocessing_context=method, worker_init_fn=start_worker)
    assert here.keys() == there.keys()
    assert all(torch.equal(here[key], there[key]) for key in here)


class SlowBatches:
    def __iter__(self) -> Iterator[int]:
        for number in range(3):
            time.sleep(0.02)
            yield number


def test_waiting_is_timed_and_the_latest_batch_is_kept() -> None:
    loader = TimedLoader({"slow": SlowBatches()}, "min_size")
    assert [batch["slow"] for batch, _, _ in loader] == [0, 1, 2]
    assert loader.seconds_waited == pytest.approx(0.06, abs=0.06)
    assert loader.latest == {"slow": 2}
