"""Loaders' processes: they survive signals, but not their run; and the time that a training waits for them."""

import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from jointface.datamodules.loading import TimedLoader

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
