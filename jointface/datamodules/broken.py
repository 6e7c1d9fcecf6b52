"""Broken samples: left out of their batch, counted, named once in the log, and too many of them stop the run."""

import logging
from collections import defaultdict
from typing import Any

import torch
from torch.utils.data import Dataset, default_collate

from jointface.datamodules.face_dataset import FaceDataset, Item
from jointface.errors import DataError

log = logging.getLogger(__name__)

BROKEN = "broken"  # key of a batch: indices of the samples left out of it
UNDRAWN = "undrawn"  # key of an item and a batch: what its images are drawn from, on the device


class Undrawn:
    """Scenes of synthetic faces on their way to the device; loaders and Lightning pass it on as it is."""

    def __init__(self, scenes: list[Any]) -> None:
        self.scenes = scenes


class TolerantDataset(Dataset[Item]):
    """A data set whose broken samples become items that hold nothing but their index."""

    def __init__(self, dataset: FaceDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        try:
            return self.dataset[index]
        except Exception:  # whatever is wrong with one sample must not stop the run; the main process names it
            return {BROKEN: torch.tensor(index)}


def collate(items: list[Item]) -> dict[str, Any]:
    """Items to a batch; the broken ones are only listed."""
    broken = [item[BROKEN] for item in items if BROKEN in item]
    whole = [item for item in items if BROKEN not in item]
    tensors = [{key: value for key, value in item.items() if key != UNDRAWN} for item in whole]
    batch: dict[str, Any] = default_collate(tensors) if tensors else {}
    if whole and UNDRAWN in whole[0]:
        batch[UNDRAWN] = Undrawn([item[UNDRAWN] for item in whole])
    if broken:
        batch[BROKEN] = torch.stack(broken)
    return batch


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
