"""What runs around a data set in the loaders' processes, and how long a training waits for them."""

import atexit
import multiprocessing
import multiprocessing.util  # registers its own exit function first, so that it runs after `end_workers`
import random
import signal
import time
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import Dataset

from jointface.datamodules.face_dataset import Batch, FaceDataset
from jointface.datamodules.sampling import BatchSample


class Batches(Dataset[Any]):
    """Lets a loader ask a data set for whole batches, which hold only the samples that could be read.

    For a `BatchSample`, everything random in the batch depends on its seed alone, whichever process makes it.
    """

    def __init__(self, dataset: FaceDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, sample: BatchSample | list[int]) -> Batch:
        if not isinstance(sample, BatchSample):
            return self.dataset.batch(sample)
        with isolate_rng(include_cuda=False):
            torch.default_generator.manual_seed(sample.seed)
            random.seed(sample.seed)
            np.random.seed(sample.seed % 2**32)  # noqa: NPY002  # for data sets that use the global generator
            return self.dataset.batch(sample.indices) if sample.indices else {}


def identity_collate(batch: Any) -> Any:
    """The collate function of loaders over `Batches`, which need none."""
    return batch


def start_worker(worker: int) -> None:
    """Sets up a loader's process: one thread, and signals are left to the main process.

    A terminal and SLURM send Ctrl-C, SIGTERM and SLURM's warnings to every process of a run. A worker that ended there
    would fail the step after which the run saves. The main process ends workers that hang by sending SIGTERM twice, so
    only the first is ignored.
    """
    cv2.setNumThreads(0)
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # Windows has only the first
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(number, signal.SIG_DFL))


@atexit.register
def end_workers() -> None:
    """Kills the workers that a stopped run has left. Python sends them one SIGTERM at exit, which they ignore, and
    would wait for them forever."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


class TimedLoader(CombinedLoader):
    """A CombinedLoader that adds up the seconds spent waiting for mini-batches, in `seconds_waited`.

    Lightning fetches one mini-batch ahead, so `latest` is the one after that which the step is given.
    """

    seconds_waited = 0.0
    latest: Any = None

    def __next__(self) -> Any:
        start = time.perf_counter()
        following = super().__next__()
        self.latest = following[0]
        self.seconds_waited += time.perf_counter() - start
        return following
