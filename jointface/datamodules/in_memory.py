"""Training crops that are decoded once, stay in memory, and are augmented in whole batches on the device."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from jointface.datamodules.augmentation import Augmentation
from jointface.datamodules.batch_augmentation import change_batch, warp_batch
from jointface.datamodules.face_dataset import BROKEN, Batch, FaceDataset, FaceSample, Item, move_labels
from jointface.datamodules.loading import Batches, identity_collate, start_worker
from jointface.datamodules.perspective import move_landmarks, sample_perspectives
from jointface.errors import ConfigError, DataError

log = logging.getLogger(__name__)

CHUNK = 64  # samples that are read together


def border_of(size: int, augmentation: Augmentation | None) -> int:
    """The pixels around a crop of this size that its augmentation can bring into view."""
    if augmentation is None:
        return 0
    angle = math.radians(min(augmentation.rotation, 45.0))
    moves = 1 + 2 * augmentation.shift + 2 * augmentation.perspective
    reach = (1 + augmentation.scale) * (math.cos(angle) + math.sin(angle)) * moves
    return math.ceil(size * (reach - 1) / 2)


class InMemoryFaces(FaceDataset):
    """A data set whose crops, with a border for the augmentation, are kept as uint8 in memory that workers share.

    Its batches hold the crops with their border; `vary` augments them after the transfer to the device. Reading starts
    with `load`; until then the data set only answers for its labels.

    Args:
        dataset: its transform crops with the border and does not augment.
        augmentation: varies the crops; None: it only cuts off the border.

    Raises:
        ConfigError: the augmentation has transforms of albumentations, which know no batches.
    """

    def __init__(self, dataset: FaceDataset, augmentation: Augmentation | None) -> None:
        if augmentation is not None and augmentation.extra:
            raise ConfigError(
                "data.in_memory=true augments in torch and cannot apply data.augmentation.extra: leave one of them out"
            )
        self.dataset, self.augmentation = dataset, augmentation
        self.split, self.transform = dataset.split, dataset.transform
        self.label_set, self.has_shape = dataset.label_set, dataset.has_shape  # type: ignore[misc]
        self.has_landmarks, self.rendered = dataset.has_landmarks, dataset.rendered  # type: ignore[misc]
        self.identity = dataset.identity
        self.samples: Batch = {}
        self.rows = torch.zeros(0, dtype=torch.int64)  # by index: the place among `samples`, -1 if it is broken

    def __len__(self) -> int:
        return len(self.dataset)

    def path(self, index: int) -> Path:
        return self.dataset.path(index)

    def read(self, index: int) -> FaceSample:
        return self.dataset.read(index)

    def name(self, index: int) -> str:
        return self.dataset.name(index)

    def subset(self, count: int) -> FaceDataset:
        return self.dataset.subset(count)

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 3"] | None:
        return self.dataset.image_landmarks(index, labels)

    def why_broken(self, index: int) -> str:
        return self.dataset.why_broken(index)

    def alpha(self) -> Float[Tensor, "attributes"]:
        return self.dataset.alpha()

    def load(self, what: str, count: int, num_workers: int) -> None:
        """Reads the first `count` samples, once; `what` names them in messages.

        Raises:
            DataError: none of them can be read.
        """
        if len(self.rows) == count:
            return
        chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        loader: DataLoader[Batch] = DataLoader(
            Batches(self.dataset), batch_sampler=[list(chunk) for chunk in chunks], collate_fn=identity_collate,
            num_workers=num_workers, worker_init_fn=start_worker,
        )  # fmt: skip
        parts = [{key: value.clone() for key, value in part.items() if key != BROKEN} for part in loader]
        if not any(parts):
            raise DataError(f"{what}: no sample can be read; the first one: {self.why_broken(0)}")
        parts = [part for part in parts if part]
        self.samples = {key: torch.cat([part[key] for part in parts]).share_memory_() for key in parts[0]}
        self.rows = torch.full((count,), -1)
        self.rows[self.samples["index"]] = torch.arange(len(self.samples["index"]))
        size = sum(value.nbytes for value in self.samples.values()) / 2**20
        log.info("%s: %d of %d samples in memory, %.0f MiB", what, len(self.samples["index"]), count, size)

    def batch(self, indices: Sequence[int]) -> Batch:
        wanted = torch.as_tensor(indices)
        rows = self.rows[wanted]
        batch: Batch = {key: value[rows[rows >= 0]] for key, value in self.samples.items()} if (rows >= 0).any() else {}
        return batch | ({BROKEN: wanted[rows < 0]} if (rows < 0).any() else {})

    def vary(self, batch: Item) -> Item:
        """The augmented crops of a batch, with their labels, on its device. Only samples without a camera get another
        perspective, see `Augmentation`."""
        size, border, count = self.transform.size, self.transform.border, len(batch["image"])
        device = batch["image"].device
        if self.augmentation is None:
            transforms = torch.eye(2, 3).repeat(count, 1, 1)
        else:
            transforms = self.augmentation.sample_similarities(count, size)
        transforms = transforms.to(device)
        transforms[:, :, 2] -= border * transforms[:, :, :2].sum(2)  # the border's corner is the origin
        labels, perspectives = move_labels(batch, transforms), None
        if self.augmentation is not None and self.augmentation.perspective and "camera" not in batch:
            perspectives = sample_perspectives(count, self.augmentation.perspective).to(device)
            if "landmarks68" in labels:
                labels["landmarks68"] = move_landmarks(labels["landmarks68"], perspectives, size)
        images = warp_batch(batch["image"], transforms, size, perspectives)
        if self.augmentation is not None:
            images = change_batch(images, self.augmentation)
        return {**labels, "image": images}
