"""Loaders' processes: they survive signals, but not their run; and the time that a training waits for them."""

import pickle
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
import multiprocessing, time
from torch.utils.data import DataLoader
from jointface.datamodules.loading import explained_loader_failures, start_worker
from jointface.errors import DataError

def loader(**options):
    return DataLoader(range(1000), num_workers=1, worker_init_fn=start_worker, **options)

try:
    with explained_loader_failures():
        list(loader(collate_fn=lambda batch: lambda: batch))
except DataError as error:
    print(error)
batches = iter(loader())
next(batches)
for _ in range(2):
    for worker in multiprocessing.active_children():
        worker.terminate()
    time.sleep(0.1)
next(batches)
raise SystemExit(130)
"""


@pytest.fixture(scope="module")
def stopped() -> subprocess.CompletedProcess[str]:
    """A program that stops while loaders work, after much that they met."""
    command = [sys.executable, "-c", STOPPED_IN_AN_EPOCH]
    return subprocess.run(command, timeout=120, check=False, capture_output=True, text=True)


def test_a_worker_that_cannot_hand_over_a_batch_ends_the_run(stopped: subprocess.CompletedProcess[str]) -> None:
    """As when shared memory is full; here because a function cannot be pickled."""
    assert "a loader process died or shared memory is full" in stopped.stdout
    assert "a loader process cannot hand over a batch: " in stopped.stderr


def test_workers_survive_any_number_of_signals_but_not_their_program(stopped: subprocess.CompletedProcess[str]) -> None:
    assert stopped.returncode == 130, stopped.stderr


@pytest.fixture(scope="module")
def augmented(tiny_data: Path) -> Batches:
    return Batches(CelebA(tiny_data / "celeba", "train", CropTransform(32, Augmentation())))


def first_batch(batches: Batches, **workers: Any) -> dict[str, Tensor]:
    stream = TrainingStream("celeba", len(batches), 4, seed=0)
    return next(iter(DataLoader(batches, batch_sampler=stream, collate_fn=identity_collate, **workers)))


def assert_same_batch(here: dict[str, Tensor], there: dict[str, Tensor]) -> None:
    assert here.keys() == there.keys()
    assert all(torch.equal(here[key], there[key]) for key in here)


def test_batches_can_be_handed_to_another_process(augmented: Batches) -> None:
    """Windows and macOS spawn loaders, and from Python 3.14 on Linux uses a fork server."""
    assert pickle.loads(pickle.dumps((start_worker, identity_collate))) == (start_worker, identity_collate)
    assert_same_batch(first_batch(pickle.loads(pickle.dumps(augmented))), first_batch(augmented))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_processes_that_are_not_forked_load_the_same(method: str, augmented: Batches) -> None:
    workers = {"num_workers": 1, "multiprocessing_context": method, "worker_init_fn": start_worker}
    assert_same_batch(first_batch(augmented, **workers), first_batch(augmented))


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
