"""What every data set of faces shares: a photo and its labels go in, an item of the data contract comes out."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from jointface.attributes import LabelSet
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.on_disk import Count
from jointface.errors import ConfigError, DataError
from jointface.geometry.camera import crop_camera
from jointface.geometry.framing import FaceBox, warp_points
from jointface.geometry.morphable_model import MIRROR68

Item = dict[str, Tensor]


@dataclass
class FaceSample:
    """A photo as it is on disk, with its labels.

    image: (H, W, 3) uint8 RGB. box: where the face is. labels: keys of the data contract, `camera` and `landmarks68` in
    image space.
    """

    image: UInt8[np.ndarray, "height width 3"]
    box: FaceBox
    labels: Item


class FaceDataset(Dataset[Item], ABC):
    """Base of the data sets. A subclass lists its files, and reads and describes one of them.

    An item holds `image` (3, S, S) uint8 RGB and `index` (), and of the following what the data set labels:
    `attributes` (M,) and `attribute_mask` (M,); `shape_coefficients` (Ks,), `expression_coefficients` (Ke,) and
    `camera` (3, 4) from model to crop space; `landmarks68` (68, 3) in crop space; `identity` ().
    """

    label_set: ClassVar[LabelSet | None] = None  # its attributes, where it labels any
    has_shape: ClassVar[bool] = False  # whether it labels coefficients and camera
    splits: ClassVar[tuple[str, ...]]  # the splits that it has

    def __init__(self, split: str, transform: CropTransform) -> None:
        if split not in self.splits:
            raise ConfigError(f"{type(self).__name__} has no split {split!r}, it has {', '.join(self.splits)}")
        self.transform = transform

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def path(self, index: int) -> Path:
        """The file of a sample, to name it in messages."""

    @abstractmethod
    def read(self, index: int) -> FaceSample:
        """The sample as it is on disk.

        Raises:
            DataError: the sample is missing, broken or of another kind.
        """

    def inventory(self) -> list[Count]:
        """What there is of the whole data set, in all splits, beside what was published; empty if nothing was."""
        return []

    def alpha(self) -> Float[Tensor, "attributes"]:
        """Negatives per positive of each attribute, over the whole split."""
        raise DataError(f"{type(self).__name__} labels no attributes")

    def __getitem__(self, index: int) -> Item:
        sample = self.read(index)
        image, transform = self.transform(sample.image, sample.box)
        item = {**sample.labels, "image": image, "index": torch.tensor(index)}
        if "camera" in item:
            item["camera"] = crop_camera(item["camera"], transform)
        if "landmarks68" in item:
            item["landmarks68"] = warp_landmarks(item["landmarks68"], transform)
        return item


def warp_landmarks(landmarks: Float[Tensor, "68 3"], transform: Float[Tensor, "2 3"]) -> Float[Tensor, "68 3"]:
    """Landmarks under an image similarity; after a flip they are named by the side that they are on now."""
    warped = warp_points(transform, landmarks)
    return warped[list(MIRROR68)] if torch.linalg.det(transform[:, :2]) < 0 else warped


def read_image(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """An image file as RGB, turned upright by its EXIF orientation.

    Raises:
        DataError: no such file, or it is empty, cut short or no image.
    """
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot read the image ({error.strerror})") from error
    return decode_image(data, str(path))


def decode_image(data: UInt8[np.ndarray, "bytes"], what: str) -> UInt8[np.ndarray, "height width 3"]:
    """The bytes of an image file as RGB, turned upright by its EXIF orientation; `what` names it in the message.

    Raises:
        DataError: they are empty, cut short or no image.
    """
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB) if len(data) else None
    if image is None:
        raise DataError(f"{what}: not a whole image ({len(data)} bytes); it is empty, cut short or of another kind")
    return image
