"""Loaders that outlive signals do not outlive their run."""

import subprocess
import sys

STOPPED_IN_AN_EPOCH = """
from torch.utils.data import DataLoader
from jointface.datamodules.loading import start_worker
batches = iter(DataLoader(range(1000), num_workers=2, worker_init_fn=start_worker))
next(batches)
raise SystemExit(130)
"""


def test_a_program_that_stops_while_loaders_work_ends() -> None:
    ended = subprocess.run([sys.executable, "-c", STOPPED_IN_AN_EPOCH], timeout=60, check=False)
    assert ended.returncode == 130
