"""Broken samples are left out of their batch, counted and logged once; too many of them stop the run."""

import logging
from collections import defaultdict
from typing import Any

import torch

from jointface.datamodules.face_dataset import BROKEN, FaceDataset
from jointface.errors import DataError

log = logging.getLogger(__name__)


class BrokenSamples:
    """The broken samples of a run, by data set. Beyond `max_fraction` of a data set, and one sample, a DataError stops
    the run."""

    def __init__(self, max_fraction: float) -> None:
        self.max_fraction = max_fraction
        self.reasons: dict[str, dict[int, str]] = defaultdict(dict)

    def account(self, name: str, dataset: FaceDataset, batch: dict[str, Any]) -> dict[str, Any]:
        """Logs and counts the broken samples that a batch lists, and removes the list from it."""
        known = self.reasons[name]
        for index in batch.pop(BROKEN, torch.tensor([])).int().tolist():
            if index not in known:
                known[index] = dataset.why_broken(index)
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
