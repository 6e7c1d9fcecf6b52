"""Handles broken samples: they are left out of their batch, counted and logged once, and too many stop the run."""

import logging
from collections import defaultdict
from typing import Any

import torch

from jointface.datamodules.face_dataset import BROKEN, FaceDataset
from jointface.errors import DataError

log = logging.getLogger(__name__)


class BrokenSamples:
    """Keeps track of the broken samples of a run, by data set. A DataError stops the run if there is more than one and
    they exceed `max_fraction` of the data set."""

    def __init__(self, max_fraction: float) -> None:
        self.max_fraction = max_fraction
        self.reasons: dict[str, dict[int, str]] = defaultdict(dict)

    def count_and_remove(self, name: str, dataset: FaceDataset, batch: dict[str, Any]) -> dict[str, Any]:
        """Logs and counts the broken samples listed in a batch, and removes that list from the batch."""
        known = self.reasons[name]
        for index in batch.pop(BROKEN, torch.tensor([])).int().tolist():
            if index not in known:
                known[index] = dataset.why_broken(index)
                log.warning("%s: sample %d is left out: %s", name, index, known[index])
        # A single bad file in a small data set does not mean that the data set is broken.
        if len(known) > max(1, self.max_fraction * len(dataset)):
            listing = "; ".join(list(known.values())[:20])
            raise DataError(
                f"{name}: {len(known)} of {len(dataset)} samples are broken, more than data.max_broken_fraction = "
                f"{self.max_fraction:g} allows: {listing}"
            )
        return batch

    def counts(self) -> dict[str, int]:
        """The number of broken samples found so far, by data set."""
        return {name: len(reasons) for name, reasons in self.reasons.items() if reasons}
