"""The base class of all face data sets: it turns a photo and its labels into an item of the data contract."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from jointface.attributes import LabelSet, positive_weight
from jointface.datamodules.crop import CropTransform, box_in_copy, warp
from jointface.datamodules.on_disk import Count
from jointface.errors import ConfigError, DataError
from jointface.files import disguise
from jointface.geometry.camera import crop_camera
from jointface.geometry.framing import CROP_MARGIN, FaceBox, warp_points
from jointface.geometry.morphable_model import MIRROR68
from jointface.viz.overlay import add_caption, overlay_landmarks

Item = dict[str, Tensor]
Batch = dict[str, Any]

log = logging.getLogger(__name__)

FindBox = Callable[[np.ndarray], FaceBox | None]  # the face box in an RGB photo

PLOT_SCALE = 3  # pixels of a plot per pixel of the crop
BROKEN = "broken"  # batch key: indices of the samples that were left out


@dataclass
class FaceSample:
    """A photo before cropping, with its labels.

    image: (H, W, 3) uint8 RGB. box: where the face is. labels: under the keys listed in `FaceDataset`, with `camera`
    and `landmarks68` in image space.
    """

    image: UInt8[np.ndarray, "height width 3"]
    box: FaceBox
    labels: Item


class FaceDataset(Dataset[Item], ABC):
    """Base of the data sets. A subclass lists its files and reads single samples; docs/adding_a_data_set.md shows how.

    An item holds `image` (3, S, S) uint8 RGB, `index` (), and those of the following that the data set labels:
    `attributes` (M,) and `attribute_mask` (M,); `shape_coefficients` (Ks,), `expression_coefficients` (Ke,) and
    `camera` (3, 4) from model to crop space; `landmarks68` (68, 3) or (68, 2) in crop space, and without a camera also
    `landmark_mask` (68,); `identity` ().

    Every subclass takes `root`, its folder, `split`, one of `splits`, and `transform`, which crops a face. It raises a
    ConfigError if an argument is out of range, and a DataError if files are missing or malformed or the split is empty.
    """

    label_set: ClassVar[LabelSet | None] = None  # the labelled attributes
    has_shape: ClassVar[bool] = False  # whether coefficients and camera are labelled
    has_landmarks: ClassVar[bool] = False  # whether landmarks are labelled, without coefficients and camera
    splits: ClassVar[tuple[str, ...]]
    attributes: Tensor  # (samples, M), 0 or 1, labels of the whole split; for `alpha`
    mask: Tensor  # (samples, M) or (M,), bool: which of them are labelled
    identity: Tensor | None = None  # (samples,), int64: whom each sample shows, None where that is unknown
    groups: pd.DataFrame | None = None  # a row a sample: groups of people that are known beside the attributes
    rendered: ClassVar[bool] = False  # whether images are rendered on request, so that there are no photo files

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
        """The sample before cropping. Raises a DataError if it is missing, broken or not what it should be."""

    def name(self, index: int) -> str:
        """The name of a sample without file extension; predictions for it are stored as NAME.npz."""
        return self.path(index).stem

    def subset(self, count: int) -> "FaceDataset":
        """A data set of at most `count` evenly spaced samples in their order; the data set itself does not change."""
        return _Subset(self, evenly_spaced(len(self), count))

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 3"] | None:
        """The landmarks of a sample in image space, None if its labels do not determine them."""
        return labels.get("landmarks68")

    def image_surface(self, index: int) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "triangles 3"]] | None:
        """The true surface of a sample in image space, None if it is unknown or follows from the labels."""
        return None

    def plot(self, index: int) -> UInt8[np.ndarray, "height width 3"]:
        """The augmented crop of a sample, enlarged, with its landmarks and the names of its attributes."""
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
        """Counts of what is on disk in all splits, each with its published number if that is known."""
        return []

    def why_broken(self, index: int) -> str:
        """Why a sample cannot be read. The main process reads it again, since workers can only pass on tensors."""
        try:
            self[index]
        except Exception as error:
            return reason_of(error, self.path(index))
        return f"{self.path(index)}: could not be read the first time"

    def require_published_size(self, published: tuple[int, int]) -> None:
        """Raises a DataError if the first photo is no scaled copy of an image of this width and height. An unreadable
        one passes: it is a broken sample like any other."""
        try:
            height, width, _ = read_image(self.path(0)).shape
        except DataError:
            return
        box_in_copy(FaceBox(0, 0, 1), published, (width, height), self.path(0))

    def known_yaw(self) -> Float[np.ndarray, "samples"] | None:
        """Yaw of each sample in degrees, if the data set knows it although it labels no camera."""
        return None

    def alpha(self) -> Float[Tensor, "attributes"]:
        """The number of negatives per positive of each attribute in the whole split."""
        if self.label_set is None:
            raise DataError(f"{type(self).__name__} labels no attributes")
        return positive_weight(self.attributes.float(), self.mask.expand_as(self.attributes))

    def __getitem__(self, index: int) -> Item:
        sample = self.read(index)
        image, transform = self.transform(sample.image, sample.box)
        return {**move_labels(sample.labels, transform), "image": image, "index": torch.tensor(index)}

    def batch(self, indices: Sequence[int]) -> Batch:
        """The items at these indices as a batch. Unreadable ones are left out, and `broken` lists their indices.

        The augmentation is sampled for the whole batch at once, which is faster than stacking items.
        """
        crops = np.empty((len(indices), self.transform.side, self.transform.side, 3), np.uint8)
        similarities = self.transform.sample_similarities(len(indices)).numpy()
        whole: list[int] = []
        labels, transforms, broken = [], [], []
        for index, similarity in zip(indices, similarities, strict=True):
            try:  # one by one, so that a photo is still in the processor's cache when it is cropped
                sample = self.read(index)
                transform = self.transform.to_crop(sample.box, similarity)
                warp(sample.image, transform, crops[len(whole)])
            except Exception:  # no fault in a single sample may stop the run; the main process logs the reason
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
    """Some samples of a data set; everything else is taken from the whole data set."""

    def __init__(self, dataset: FaceDataset, indices: Int[np.ndarray, "chosen"]) -> None:
        self.dataset, self.indices = dataset, indices.tolist()
        self.split, self.transform = dataset.split, dataset.transform
        self.label_set = dataset.label_set  # type: ignore[misc]
        self.has_shape, self.has_landmarks = dataset.has_shape, dataset.has_landmarks  # type: ignore[misc]
        if dataset.groups is not None:
            self.groups = dataset.groups.iloc[self.indices].reset_index(drop=True)

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


def box_in_photo(find_box: FindBox, image: UInt8[np.ndarray, "height width 3"], photo: Path) -> FaceBox:
    """The face box that a finder gives for a photo; without a face, the middle of the photo, with a warning."""
    box = find_box(image)
    if box is not None:
        return box
    log.warning("%s: no face was found; the middle of the photo is read", photo)
    height, width = image.shape[:2]
    return FaceBox((width - 1) / 2, (height - 1) / 2, min(height, width) / CROP_MARGIN)


def require_choice(option: str, value: str, choices: Sequence[str]) -> None:
    """Raises a ConfigError if the value is not one of the choices."""
    if value not in choices:
        raise ConfigError(f"{option}={value} is unknown; choose from {', '.join(choices)}")


def reason_of(error: Exception, path: Path) -> str:
    """One line that says why the sample in this file could not be read."""
    if isinstance(error, DataError):
        return str(error)
    return f"{path}: {type(error).__name__}: {' '.join(str(error).split())}"


def evenly_spaced(length: int, count: int) -> Int[np.ndarray, "count"]:
    """At most `count` of the indices below `length`, evenly spaced from the first to the last."""
    return np.linspace(0, length - 1, min(count, length)).round().astype(np.int64)


def move_labels(labels: Item, transform: Float[Tensor, "*batch 2 3"]) -> Item:
    """The labels after their images were moved by similarities. Only camera and landmarks change.

    A flip swaps the left and right landmarks.
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
    """Reads an image file as RGB, in its stored pixels: the labels of data sets refer to these, whatever turn the
    file's EXIF asks for. Raises a DataError if it is not an intact image."""
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot read the image ({error.strerror})") from error
    return decode_image(data, str(path))


def decode_image(data: UInt8[np.ndarray, "bytes"], what: str) -> UInt8[np.ndarray, "height width 3"]:
    """Like `read_image`, from the bytes of a file; `what` names the file in error messages."""
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if image is None:
        why = disguise(data[:100].tobytes()) or "empty, truncated or no image at all"
        raise DataError(f"{what}: not an intact image ({len(data)} bytes); it is {why}")
    return image
