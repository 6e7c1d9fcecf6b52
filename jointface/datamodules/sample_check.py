"""Reads every sample of a split once, in worker processes: gives its labels, a JPEG to pack, or why it is broken."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from rich.progress import track
from torch.utils.data import DataLoader, Dataset

from jointface.datamodules.crop import warp
from jointface.datamodules.face_dataset import FaceDataset, move_labels, reason_of
from jointface.datamodules.loading import identity_collate, start_worker
from jointface.geometry.framing import crop_transform

CHUNK = 32  # samples that a worker reads at once, and that are written in one transaction


@dataclass(frozen=True)
class Packing:
    """Settings for packing samples.

    image_size: side of the crops to train on, in pixels. margin: extra border on every side, as a fraction of
    `image_size`. quality: JPEG quality, 1 to 100.
    """

    image_size: int
    margin: float
    quality: int

    @property
    def border(self) -> int:
        """The margin in pixels."""
        return round(self.image_size * self.margin)

    @property
    def picture_size(self) -> int:
        """Side of the packed pictures in pixels."""
        return self.image_size + 2 * self.border


@dataclass
class CheckedSample:
    """A sample read by a worker: its labels, its JPEG if it is to be packed, or why it is broken."""

    index: int
    labels: dict[str, np.ndarray] = field(default_factory=dict)  # pickled at once; tensors would be shared one by one
    picture: bytes = b""
    broken: str = ""


class _Samples(Dataset[CheckedSample]):
    def __init__(self, dataset: FaceDataset, indices: Sequence[int], packing: Packing | None) -> None:
        self.dataset, self.packing = dataset, packing
        self.indices = torch.tensor(indices, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> CheckedSample:
        index = int(self.indices[place])
        try:
            return self._read(index)
        except Exception as error:  # a fault in one sample must not keep others from being read
            return CheckedSample(index, broken=reason_of(error, self.dataset.path(index)))

    def _read(self, index: int) -> CheckedSample:
        sample, packing = self.dataset.read(index), self.packing
        labels, picture = sample.labels, b""
        if packing is not None:
            transform = crop_transform(sample.box, packing.image_size)
            transform[:, 2] += packing.border
            crop = np.empty((packing.picture_size, packing.picture_size, 3), np.uint8)
            warp(sample.image, transform.numpy(), crop)
            labels, picture = move_labels(labels, transform), encode(crop, packing.quality)
        return CheckedSample(index, {key: value.numpy() for key, value in labels.items()}, picture)


def encode(picture: UInt8[np.ndarray, "size size 3"], quality: int) -> bytes:
    """Encodes an RGB picture as JPEG in full colour resolution; halving it would blur lips and eyes in small crops."""
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def check_samples(
    what: str, dataset: FaceDataset, indices: Sequence[int], packing: Packing | None, num_workers: int
) -> Iterator[list[CheckedSample]]:
    """Yields the samples at these indices in chunks, and shows a progress bar that says `what` is being read."""
    loader = DataLoader(
        _Samples(dataset, indices, packing), batch_size=CHUNK, num_workers=num_workers, collate_fn=identity_collate,
        worker_init_fn=start_worker,
    )  # fmt: skip
    yield from track(loader, description=f"Reading {what}", total=len(loader))
