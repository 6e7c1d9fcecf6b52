"""What the batches of a stage are labelled with: how many samples, how often each attribute, which yaw."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from jointface.attributes import LabelSet
from jointface.geometry.camera import pose_from_camera

YAW_EDGES = np.arange(-90, 91, 10)  # degrees


class LabelCensus:
    """Counts the labels of batches {source: batch} as they pass, on their device.

    Training faces are counted as the network sees them: flipped, turned, and again each time that they return.
    """

    def __init__(self) -> None:
        self.samples: dict[str, int] = {}
        self._attributes: dict[str, Int[Tensor, "2 attributes"]] = {}  # positives, labelled
        self._yaw: dict[str, Int[Tensor, "bins"]] = {}

    def add(self, batch: dict[str, dict[str, Any]]) -> None:
        """Counts a batch."""
        for source, part in batch.items():
            self.samples[source] = self.samples.get(source, 0) + len(part["image"])
            if "attributes" in part:
                mask = part["attribute_mask"]
                counts = torch.stack([((part["attributes"] > 0.5) & mask).sum(0), mask.sum(0)])
                self._attributes[source] = self._attributes.get(source, 0) + counts
            if "camera" in part:
                self._yaw[source] = self._yaw.get(source, 0) + _yaw_counts(part["camera"])

    def prevalence(self, source: str, label_set: LabelSet) -> pd.DataFrame:
        """Columns attribute, labelled, positives, prevalence; empty if the source's batches had no attributes."""
        if source not in self._attributes:
            return pd.DataFrame()
        positives, labelled = self._attributes[source].cpu().numpy()
        prevalence = positives / np.maximum(labelled, 1)
        return pd.DataFrame(
            {"attribute": label_set.attributes, "labelled": labelled, "positives": positives, "prevalence": prevalence}
        )

    def yaw(self, source: str) -> Int[np.ndarray, "bins"] | None:
        """Faces in each bin between YAW_EDGES, None if the source's batches had no cameras."""
        return self._yaw[source].cpu().numpy() if source in self._yaw else None


def _yaw_counts(camera: Tensor) -> Int[Tensor, "bins"]:
    yaw = pose_from_camera(camera.float(), 1.0)[:, 1].rad2deg()  # the image's height moves the pose's shift only
    bins = len(YAW_EDGES) - 1
    return torch.bincount(((yaw + 90) / 180 * bins).long().clamp(0, bins - 1), minlength=bins)
