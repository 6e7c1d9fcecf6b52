"""A few samples of a data set, evenly spread, for a quick look."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.aflw2000 import AFLW2000
from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.datamodules.florence import Florence
from jointface.datamodules.on_disk import Count
from jointface.datamodules.synthetic import SyntheticFaces


class Shortened(FaceDataset):
    """Some samples of a data set, in its order."""

    def __init__(self, dataset: FaceDataset, indices: Int[np.ndarray, "chosen"]) -> None:
        self.dataset, self.indices, self.transform = dataset, indices, dataset.transform
        self.split = dataset.split
        self.label_set = dataset.label_set  # type: ignore[misc]
        self.has_shape = dataset.has_shape  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, index: int) -> Path:
        return self.dataset.path(int(self.indices[index]))

    def read(self, index: int) -> FaceSample:
        return self.dataset.read(int(self.indices[index]))

    def alpha(self) -> Float[Tensor, "attributes"]:
        return self.dataset.alpha()

    def inventory(self) -> list[Count]:
        return self.dataset.inventory()


def shortened(dataset: FaceDataset, num_images: int) -> FaceDataset:
    """A data set of at most so many of its samples, evenly spread; whole subjects of Florence."""
    chosen = spread(len(dataset), num_images)
    match dataset:  # benchmarks ask these for more than a sample
        case AFLW2000():
            dataset.names = dataset.names[chosen]
        case Florence():
            views = len(dataset.angles)
            subjects = spread(len(dataset.scans), math.ceil(num_images / views))
            dataset.subjects, dataset.scans = dataset.subjects[subjects], dataset.scans[subjects]
        case SyntheticFaces():
            dataset.num_faces = len(chosen)
        case _:
            return Shortened(dataset, chosen)
    return dataset


def spread(length: int, count: int) -> Int[np.ndarray, "count"]:
    """At most `count` indices, evenly spread."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int))
