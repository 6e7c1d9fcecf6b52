"""Writes and reads packed copies of data sets: crops at training size with a margin for augmentation."""

import inspect
import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from jointface.attributes import LabelSet
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.crop_store import FORMAT, PackedReader, PackedWriter
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, decode_image
from jointface.datamodules.sample_check import Packing, check_samples
from jointface.errors import ConfigError, DataError
from jointface.geometry.framing import CROP_MARGIN, FaceBox
from jointface.geometry.morphable_model import MorphableModel

log = logging.getLogger(__name__)

NO_SETTINGS = ("root", "morphable_model", "split", "transform", "find_box")


class PackedFaces(FaceDataset):
    """A split of a data set, read from its packed copy: the same samples and labels in the same order.

    The root holds train.lmdb, val.lmdb and test.lmdb, which `jointface.prepare` writes with pack=true (`crop_store`).
    Each picture is a JPEG of the plain crop of `image_size` pixels, with a margin on every side for rotated and shifted
    crops. A sample that was broken when it was packed is also broken in the copy. The licence of the data set applies
    to its copy.

    Args:
        transform: its size must not exceed the copy's `image_size`.
        settings: the settings that the copy must have been made with, see `settings_of`; None: not checked.
        morphable_model: the model that the run's coefficients refer to; None: not checked.
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
                f"{where}: packed with other settings ({different}); use the same settings, or pack the data set again "
                "into another folder"
            )
        if morphable_model is not None and meta["morphable_model"] not in (None, fingerprint(morphable_model)):
            raise DataError(
                f"{where}: its coefficients refer to another morphable model; pack the data set again into another "
                "folder"
            )
        name, attributes = meta["label_set"] or ("", ())
        self.label_set = LabelSet(name, tuple(attributes)) if name else None  # type: ignore[misc]
        self.has_shape = bool(meta["has_shape"])  # type: ignore[misc]
        self.has_landmarks = bool(meta.get("has_landmarks"))  # type: ignore[misc]
        self.labels = self.reader.columns
        if "attributes" in self.labels:
            self.attributes, self.mask = self.labels["attributes"], self.labels["attribute_mask"]
        self.identity = self.labels.get("identity")
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
        if self.label_set is not None and "attributes" not in self.labels:
            raise DataError(
                f"{self.reader.path}: all its samples are broken, so it has no labels; see broken.csv beside it"
            )
        return super().alpha()


def pack_split(
    what: str, data: FaceDataset, dataset: partial[Any], path: Path, packing: Packing, num_workers: int
) -> PackedReader:
    """Packs a split and opens the copy. Raises a DataError if it was made with other settings or cannot be written.

    An interrupted packing is resumed. If a finished copy has damaged or broken samples, these are read again. `what`
    names the split in messages, `dataset` builds the splits of `data`, and `path` is SPLIT.lmdb.
    """
    meta = _describe(data, dataset, packing)
    if path.is_file():
        reader = PackedReader(path)
        if different := differences(reader.meta, meta):
            raise DataError(
                f"{path.absolute()}: packed with other settings ({different}); choose another output_dir or delete it"
            )
        if not reader.broken and not reader.damaged():
            return reader
    with PackedWriter(path, meta) as writer:
        missing = writer.missing(len(data))
        if len(missing) < len(data):
            log.info("%s: %d of %d samples are packed already", what, len(data) - len(missing), len(data))
        for chunk in check_samples(what, data, missing, packing, num_workers):
            writer.write(chunk)
        root = Path(meta["root"])
        writer.finish(np.array([str(data.path(index).absolute().relative_to(root)) for index in range(len(data))]))
    return PackedReader(path)


def _describe(data: FaceDataset, dataset: partial[Any], packing: Packing) -> dict[str, Any]:
    """Everything that distinguishes a packed copy from others, as plain JSON values."""
    model, label_set = dataset.keywords.get("morphable_model"), data.label_set
    return _as_json({
        "format": FORMAT, "root": str(Path(dataset.keywords["root"]).absolute()), "length": len(data),
        "settings": settings_of(dataset), "image_size": packing.image_size, "picture_size": packing.picture_size,
        "quality": packing.quality, "has_shape": data.has_shape,
        **({"has_landmarks": True} if data.has_landmarks else {}),
        "label_set": [label_set.name, label_set.attributes] if label_set is not None else None,
        "morphable_model": fingerprint(model) if model is not None else None,
    })  # fmt: skip


def settings_of(dataset: partial[Any]) -> dict[str, Any]:
    """The arguments, including defaults, that determine a data set's samples, as plain JSON values."""
    parameters = inspect.signature(dataset.func).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
    return _as_json({k: v for k, v in {**defaults, **dataset.keywords}.items() if k not in NO_SETTINGS})


def _as_json(content: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(content))


def fingerprint(model: MorphableModel) -> str:
    """A text that identifies a morphable model by name, size and content."""
    return f"{model.name} {model.num_shape} + {model.num_expression} {model.content_hash()[:16]}"


def differences(packed: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Describes how two sets of settings differ, for messages; empty if they are equal."""
    keys = sorted(key for key in {*packed, *asked} if packed.get(key) != asked.get(key))
    return ", ".join(f"{key}={packed.get(key)} there, {asked.get(key)} now" for key in keys)
