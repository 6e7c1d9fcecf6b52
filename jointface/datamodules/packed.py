"""The packed copy of any data set: crops at training size with room to vary, written by `jointface.prepare`."""

import inspect
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from jointface.attributes import LabelSet, positive_weight
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.crop_store import PackedReader
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, decode_image
from jointface.errors import ConfigError, DataError
from jointface.geometry.framing import CROP_MARGIN, FaceBox
from jointface.geometry.morphable_model import MorphableModel

NO_SETTINGS = ("root", "morphable_model", "split", "transform")


class PackedFaces(FaceDataset):
    """A split of a data set from its packed copy. Samples, their order and their labels are those of the data set.

    On disk, as `python -m jointface.prepare source=NAME pack=true` leaves it:

        root/train.lmdb, val.lmdb, test.lmdb   see `jointface.datamodules.crop_store`

    A picture is the plain crop of `image_size` pixels with a margin on every side, in JPEG, so that turned and shifted
    crops find what they show. A sample that was broken when it was packed is still one when it is read. The terms of
    the data set apply to its copy.

    Args:
        root: the folder above.
        split: a split of the data set.
        transform: how a face is cropped; its size must not exceed that of the copy.
        settings: arguments of the data set's class that the copy must have been made with; None does not ask.
        morphable_model: the model that the run's coefficients refer to; None does not ask.

    Raises:
        DataError: the copy is missing, damaged, or was made with other settings or another morphable model.
        ConfigError: the crops are larger than the copy's.
    """

    splits = ("train", "val", "test")

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        settings: Mapping[str, Any] | None = None,
        morphable_model: MorphableModel | None = None,
    ) -> None:
        super().__init__(split, transform)
        self.reader = PackedReader(Path(root) / f"{split}.lmdb")
        meta = self.reader.meta
        where = self.reader.path.absolute()
        if transform.size > meta["image_size"]:
            raise ConfigError(
                f"{where}: packed for crops of {meta['image_size']} pixels, image_size={transform.size} is larger; "
                "lower it or pack the data set again"
            )
        if settings is not None and (different := differences(meta["settings"], settings)):
            raise DataError(
                f"{where}: packed with other settings ({different}); set them alike, or pack the data set anew into "
                "another folder"
            )
        if morphable_model is not None and meta["morphable_model"] not in (None, fingerprint(morphable_model)):
            raise DataError(
                f"{where}: its coefficients are of another morphable model; pack the data set anew into another folder"
            )
        self.label_set = LabelSet(*_tuple(meta["label_set"])) if meta["label_set"] else None  # type: ignore[misc]
        self.has_shape = bool(meta["has_shape"])  # type: ignore[misc]
        self.labels = self.reader.columns
        side = meta["picture_size"]
        self.box = FaceBox((side - 1) / 2, (side - 1) / 2, meta["image_size"] / CROP_MARGIN)

    def __len__(self) -> int:
        return len(self.reader)

    def path(self, index: int) -> Path:
        """The file that the sample was packed from."""
        return Path(self.reader.meta["root"]) / self.reader.name(index)

    def read(self, index: int) -> FaceSample:
        image = decode_image(self.reader.picture(index), f"{self.reader.path}: sample {index}")
        return FaceSample(image, self.box, {key: column[index] for key, column in self.labels.items()})

    def alpha(self) -> Float[Tensor, "attributes"]:
        if self.label_set is None:
            return super().alpha()
        if "attributes" not in self.labels:
            raise DataError(
                f"{self.reader.path}: every sample of it is broken, so it has no labels; see broken.csv beside it"
            )
        return positive_weight(self.labels["attributes"], self.labels["attribute_mask"])


def settings_of(dataset: partial[Any]) -> dict[str, Any]:
    """The arguments of a data set's class that decide what its samples are, defaults included, as JSON keeps them."""
    parameters = inspect.signature(dataset.func).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    settings = {key: value for key, value in {**defaults, **dataset.keywords}.items() if key not in NO_SETTINGS}
    return json.loads(json.dumps(settings))


def fingerprint(model: MorphableModel) -> str:
    """Tells morphable models apart."""
    return f"{model.name} {model.num_shape} + {model.num_expression} {model.content_hash()[:16]}"


def _tuple(label_set: Sequence[Any]) -> tuple[str, tuple[str, ...]]:
    name, attributes = label_set
    return name, tuple(attributes)


def differences(packed: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """What two sets of settings differ in, for messages; empty if in nothing."""
    keys = sorted(key for key in {*packed, *asked} if packed.get(key) != asked.get(key))
    return ", ".join(f"{key}={packed.get(key)} there, {asked.get(key)} now" for key in keys)
