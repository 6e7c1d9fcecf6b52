"""Loading in worker processes: whole batches, reproducible randomness, signals, and the time spent waiting for data."""

import atexit
import multiprocessing
import multiprocessing.queues
import multiprocessing.util  # registers its own exit function first, so that it runs after `end_workers`
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from textwrap import shorten
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch.utilities import CombinedLoader
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import Dataset

from jointface.datamodules.face_dataset import Batch, FaceDataset
from jointface.datamodules.sampling import BatchSample
from jointface.errors import DataError


class Batches(Dataset[Any]):
    """Lets a loader request whole batches from a data set; they hold only the samples that could be read.

    For a `BatchSample`, everything random in the batch depends only on its seed, not on the process that loads it.
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
    """The collate function for loaders of `Batches`, whose batches need no collating."""
    return batch


def start_worker(worker: int) -> None:
    """Sets up a worker process: it uses one thread, and leaves signals to the main process.

    Terminals and SLURM send Ctrl-C, SIGTERM and SLURM's warnings to every process of a run, some of them twice. A
    worker that ended at one would break the last step before the run saves: as soon as a worker is killed, PyTorch
    raises an error in the main process, wherever that is.

    A worker that cannot hand over a batch, for instance because shared memory is full, ends. Python would drop the
    batch, and the main process would wait for it forever.
    """
    cv2.setNumThreads(0)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # Windows has only the first two
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _end_worker(error: Exception, batch: object) -> None:
    print(f"a loader process cannot hand over a batch: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    os._exit(1)


@contextmanager
def explained_loader_failures() -> Iterator[None]:
    """Raises a DataError that says what to do where a loader process died or shared memory is full."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error) and "shared memory(shm)" not in str(error):
            raise
        raise DataError(
            f"a loader process died or shared memory is full ({shorten(str(error), 150)}): lower num_workers or "
            "batch_size, or give the container more shared memory (docker run --shm-size=2g); num_workers=0 needs none"
        ) from error


@atexit.register
def end_workers() -> None:
    """Kills workers left by a stopped run. At exit Python sends them SIGTERM, which they ignore, and would wait for
    them forever."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


class TimedLoader(CombinedLoader):
    """A CombinedLoader that adds up the seconds spent waiting for mini-batches, in `seconds_waited`.

    Lightning fetches one mini-batch ahead, so `latest` is the one that follows the mini-batch of the current step.
    """

    seconds_waited = 0.0
    latest: Any = None

    def __next__(self) -> Any:
        start = time.perf_counter()
        following = super().__next__()
        self.latest = following[0]
        self.seconds_waited += time.perf_counter() - start
        return following
