"""Broken samples: left out of their batch, counted, named once in the log, and too many of them stop the run."""

import logging
import random
from collections import defaultdict
from typing import Any

import cv2
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch.utils.data import Dataset

from jointface.datamodules.face_dataset import BROKEN, Batch, FaceDataset
from jointface.datamodules.stream import Draw
from jointface.datamodules.worker_signals import leave_signals_to_main
from jointface.errors import DataError

log = logging.getLogger(__name__)


class Batches(Dataset[Any]):
    """A data set for loaders: asked for the samples of a batch, it gives the batch, without the broken ones.

    For a `Draw` what is random in the batch depends on its seed alone, whichever process makes it.
    """

    def __init__(self, dataset: FaceDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, draw: Draw | list[int]) -> Batch:
        if not isinstance(draw, Draw):
            return self.dataset.batch(draw)
        with isolate_rng(include_cuda=False):
            torch.default_generator.manual_seed(draw.seed)
            random.seed(draw.seed)
            np.random.seed(draw.seed % 2**32)  # noqa: NPY002  # of data sets that use the global generator
            return self.dataset.batch(draw.indices) if draw.indices else {}


def as_it_is(batch: Any) -> Any:
    """The collate function of loaders over `Batches`."""
    return batch


def start_worker(worker: int) -> None:
    """Sets a loader's process up: one thread, and it ends when the main process says so, not with Ctrl-C."""
    cv2.setNumThreads(0)
    leave_signals_to_main()


class BrokenSamples:
    """Keeps account of the broken samples of a run.

    Args:
        max_fraction: share of a data set that may be broken, one sample at least; beyond it the run stops with the
            list.
    """

    def __init__(self, max_fraction: float) -> None:
        self.max_fraction = max_fraction
        self.reasons: dict[str, dict[int, str]] = defaultdict(dict)

    def account(self, name: str, dataset: FaceDataset, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch without its list of broken samples, which are named and counted.

        Raises:
            DataError: more than `max_fraction` of the data set is broken.
        """
        known = self.reasons[name]
        for index in batch.pop(BROKEN, torch.tensor([])).int().tolist():
            if index not in known:
                known[index] = _reason(dataset, index)
                log.warning("%s: sample %d is left out: %s", name, index, known[index])
        # One bad file of a handful is no sign of a broken data set.
        if len(known) > max(1, self.max_fraction * len(dataset)):
            listing = "; ".join(list(known.values())[:20])
            raise DataError(
                f"{name}: {len(known)} of {len(dataset)} samples are broken, more than data.max_broken_fraction = "
                f"{self.max_fraction:g} allows: {listing}"
            )
        return batch

    def counts(self) -> dict[str, int]:
        """Broken samples found so far, by data set."""
        return {name: len(reasons) for name, reasons in self.reasons.items() if reasons}


def _reason(dataset: FaceDataset, index: int) -> str:
    # Workers only pass tensors, so the reason is found by reading the sample again.
    try:
        dataset[index]
    except DataError as error:
        return str(error)
    except Exception as error:
        return f"{dataset.path(index)}: {type(error).__name__}: {' '.join(str(error).split())}"
    return f"{dataset.path(index)}: could not be read the first time"
