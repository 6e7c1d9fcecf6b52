"""The base of all data sets of faces: it turns a photo and its labels into an item of the data contract."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from jointface.attributes import LabelSet, positive_weight
from jointface.datamodules.crop import CropTransform, warp
from jointface.datamodules.on_disk import Count
from jointface.errors import ConfigError, DataError
from jointface.geometry.camera import crop_camera
from jointface.geometry.framing import FaceBox, warp_points
from jointface.geometry.morphable_model import MIRROR68
from jointface.viz.overlay import add_caption, overlay_landmarks

Item = dict[str, Tensor]
Batch = dict[str, Any]

PLOT_SCALE = 3  # pixels of a plot to a pixel of the crop
BROKEN = "broken"  # key of a batch: indices of the samples left out of it


@dataclass
class FaceSample:
    """A photo as it is on disk, with its labels.

    image: (H, W, 3) uint8 RGB. box: where the face is. labels: by the keys of `FaceDataset`, with `camera` and
    `landmarks68` in image space.
    """

    image: UInt8[np.ndarray, "height width 3"]
    box: FaceBox
    labels: Item


class FaceDataset(Dataset[Item], ABC):
    """Base of the data sets. A subclass lists its files and reads one of them. docs/adding_a_data_set.md shows how.

    An item holds `image` (3, S, S) uint8 RGB and `index` (), and of the following what the data set labels:
    `attributes` (M,) and `attribute_mask` (M,); `shape_coefficients` (Ks,), `expression_coefficients` (Ke,) and
    `camera` (3, 4) from model to crop space; `landmarks68` (68, 3) in crop space; `identity` ().

    Args of every subclass: `root`, its folder; `split`, one of `splits`; `transform`, how a face is cropped. It raises
    a ConfigError for an argument that is out of range, and a DataError where files are missing or malformed or the
    split is empty.
    """

    label_set: ClassVar[LabelSet | None] = None  # the attributes that it labels
    has_shape: ClassVar[bool] = False  # whether it labels coefficients and camera
    splits: ClassVar[tuple[str, ...]]
    attributes: Tensor  # (samples, M), 0 or 1, of the split, for `alpha`
    mask: Tensor  # (samples, M) or (M,), bool: which of them are labelled
    rendered: ClassVar[bool] = False  # whether images are rendered when they are asked for: there are no photo files

    def __init__(self, split: str, transform: CropTransform) -> None:
        if split not in self.splits:
            raise ConfigError(f"{type(self).__name__} has no split {split!r}, it has {', '.join(self.splits)}")
        self.split, self.transform = split, transform

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def path(self, index: int) -> Path:
        """The file of a sample, which names it in messages."""

    @abstractmethod
    def read(self, index: int) -> FaceSample:
        """The sample as it is on disk. Raises a DataError if it is missing, broken or of another kind."""

    def name(self, index: int) -> str:
        """The name of a sample without an ending; predictions for it are NAME.npz."""
        return self.path(index).stem

    def subset(self, count: int) -> "FaceDataset":
        """At most `count` samples, evenly spaced, in their order; the data set itself stays as it is."""
        return _Subset(self, evenly_spaced(len(self), count))

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 3"] | None:
        """The landmarks of a sample in image space, where its labels say or imply where they are."""
        return labels.get("landmarks68")

    def image_surface(self, index: int) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "triangles 3"]] | None:
        """The true surface of a sample in image space, where it is known and its labels do not describe it."""
        return None

    def plot(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """The crop of a sample as the transform augments it, enlarged, with its landmarks and its attributes' names."""
        sample = self.read(index)
        crop, transform = self.transform(sample.image, sample.box)
        image = cv2.resize(crop.permute(1, 2, 0).numpy(), None, fx=PLOT_SCALE, fy=PLOT_SCALE)
        if (landmarks := self.image_landmarks(index, sample.labels)) is not None:
            points = (warp_points(transform, landmarks) + 0.5) * PLOT_SCALE - 0.5  # pixel centres are at integers
            image = overlay_landmarks(image, points.numpy())
        if self.label_set is None or "attributes" not in sample.labels:
            return image
        present = sample.labels["attributes"].bool() & sample.labels["attribute_mask"]
        return add_caption(
            image, [name for name, there in zip(self.label_set.attributes, present, strict=True) if there]
        )

    def inventory(self) -> list[Count]:
        """What is there of the whole data set, in all splits, beside the published numbers, if there are any."""
        return []

    def why_broken(self, index: int) -> str:
        """Why a sample cannot be read. Workers can only pass tensors on, so the main process reads it once more."""
        try:
            self[index]
        except Exception as error:
            return reason_of(error, self.path(index))
        return f"{self.path(index)}: could not be read the first time"

    def known_yaw(self) -> Float[np.ndarray, "samples"] | None:
        """Yaw of each sample in degrees, if the data set knows it without labelling a camera."""
        return None

    def alpha(self) -> Float[Tensor, "attributes"]:
        """Negatives per positive of each attribute, over the whole split."""
        if self.label_set is None:
            raise DataError(f"{type(self).__name__} labels no attributes")
        return positive_weight(self.attributes.float(), self.mask.expand_as(self.attributes))

    def __getitem__(self, index: int) -> Item:
        sample = self.read(index)
        image, transform = self.transform(sample.image, sample.box)
        return {**move_labels(sample.labels, transform), "image": image, "index": torch.tensor(index)}

    def batch(self, indices: Sequence[int]) -> Batch:
        """Items as a batch. Those that cannot be read are left out, and their indices are listed as `broken`.

        The augmentation is sampled for all at once, which is faster than stacking items.
        """
        crops = np.empty((len(indices), self.transform.size, self.transform.size, 3), np.uint8)
        similarities = self.transform.sample_similarities(len(indices)).numpy()
        whole: list[int] = []
        labels, transforms, broken = [], [], []
        for index, similarity in zip(indices, similarities, strict=True):
            try:  # one by one, so that a photo is still in the processor's cache when it is cropped
                sample = self.read(index)
                transform = self.transform.to_crop(sample.box, similarity)
                warp(sample.image, transform, crops[len(whole)])
            except Exception:  # nothing wrong with one sample may stop the run; the main process logs the reason
                broken.append(index)
                continue
            whole.append(index)
            labels.append(sample.labels)
            transforms.append(transform)
        batch: Batch = {BROKEN: torch.tensor(broken)} if broken else {}
        if whole:
            stacked = {key: torch.stack([label[key] for label in labels]) for key in labels[0]}
            batch |= move_labels(stacked, torch.from_numpy(np.stack(transforms)))
            batch["image"] = self.transform.change_colours(crops[: len(whole)])
            batch["index"] = torch.tensor(whole)
        return batch


class _Subset(FaceDataset):
    """Some samples of a data set; everything else is that of the whole."""

    def __init__(self, dataset: FaceDataset, indices: Int[np.ndarray, "chosen"]) -> None:
        self.dataset, self.indices = dataset, indices.tolist()
        self.split, self.transform = dataset.split, dataset.transform
        self.label_set = dataset.label_set  # type: ignore[misc]
        self.has_shape = dataset.has_shape  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self.indices)

    def path(self, index: int) -> Path:
        return self.dataset.path(self.indices[index])

    def read(self, index: int) -> FaceSample:
        return self.dataset.read(self.indices[index])

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 3"] | None:
        return self.dataset.image_landmarks(self.indices[index], labels)

    def alpha(self) -> Float[Tensor, "attributes"]:
        return self.dataset.alpha()


def require_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raises a ConfigError for a value that is none of the choices."""
    if value not in choices:
        raise ConfigError(f"{option}={value} is unknown, known are {', '.join(choices)}")


def reason_of(error: Exception, path: Path) -> str:
    """One line that says why the sample of this file could not be read."""
    if isinstance(error, DataError):
        return str(error)
    return f"{path}: {type(error).__name__}: {' '.join(str(error).split())}"


def evenly_spaced(length: int, count: int) -> Int[np.ndarray, "count"]:
    """At most `count` of the indices below `length`, evenly spaced from the first to the last."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)


def move_labels(labels: Item, transform: Float[Tensor, "*batch 2 3"]) -> Item:
    """The labels of images under similarities. Camera and landmarks move with the images, the rest stays.

    A flip exchanges the names of left and right landmarks.
    """
    labels = dict(labels)
    if "camera" in labels:
        labels["camera"] = crop_camera(labels["camera"], transform)
    if "landmarks68" in labels:
        moved = warp_points(transform, labels["landmarks68"])
        flipped = (torch.linalg.det(transform[..., :2]) < 0)[..., None, None]
        labels["landmarks68"] = torch.where(flipped, moved[..., list(MIRROR68), :], moved)
    return labels


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image file as RGB, turned upright by its EXIF orientation. Raises a DataError unless it is a whole image."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot read the image ({error.strerror})") from error
    return decode_image(data, str(path))


def decode_image(data: UInt8[np.ndarray, "bytes"], what: str) -> UInt8[np.ndarray, "height width 3"]:
    """As `read_image`, from the bytes of a file; `what` names it in the message."""
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None
    if image is None:
        raise DataError(f"{what}: not a whole image ({len(data)} bytes); it is empty, cut short or of another kind")
    return image
