"""What `python -m jointface.prepare` does: look at a data set, decode all of it once, describe it, pack it."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jointface.datamodules.crop import CropTransform, warp
from jointface.datamodules.crop_store import FORMAT, PackedReader, PackedWriter, columns_of
from jointface.datamodules.description import SHEET_SIZE, Described, inventory_table, summary_table, write_description
from jointface.datamodules.face_dataset import FaceDataset, move_labels
from jointface.datamodules.loading import identity_collate, start_worker
from jointface.datamodules.on_disk import require_writable
from jointface.datamodules.packed import differences, fingerprint, settings_of
from jointface.errors import ConfigError, DataError
from jointface.geometry.framing import crop_transform

log = logging.getLogger(__name__)

NAMED = 20  # broken samples that are named on the screen
CHUNK = 32  # samples that a worker reads at once, and that are written in one transaction


@dataclass(frozen=True)
class Packing:
    """How a packed copy is made: image_size: side of the crops to come; margin: more on every side, as a fraction of
    it; quality: of JPEG, 1 to 100."""

    image_size: int
    margin: float
    quality: int

    @property
    def border(self) -> int:
        return round(self.image_size * self.margin)

    @property
    def picture_size(self) -> int:
        return self.image_size + 2 * self.border


@dataclass
class Read:
    """A sample that a worker has read: its labels, its JPEG where it is to be packed, or why it is broken."""

    index: int
    labels: dict[str, np.ndarray] = field(default_factory=dict)  # pickled whole, where tensors would each be shared
    picture: bytes = b""
    broken: str = ""


class _Samples(Dataset[Read]):
    """Reads samples, and encodes them where they are to be packed."""

    def __init__(self, dataset: FaceDataset, indices: Sequence[int], packing: Packing | None) -> None:
        self.dataset, self.packing = dataset, packing
        self.indices = torch.tensor(indices, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> Read:
        index = int(self.indices[place])
        try:
            return self._read(index)
        except DataError as error:
            return Read(index, broken=str(error))
        except Exception as error:  # whatever is wrong with one sample, the others are to be read
            what = f"{self.dataset.path(index)}: {type(error).__name__}: {' '.join(str(error).split())}"
            return Read(index, broken=what)

    def _read(self, index: int) -> Read:
        sample = self.dataset.read(index)
        if self.packing is None:
            return Read(index, {key: value.numpy() for key, value in sample.labels.items()})
        side, border = self.packing.picture_size, self.packing.border
        transform = crop_transform(sample.box, self.packing.image_size)
        transform[:, 2] += border
        picture = np.empty((side, side, 3), np.uint8)
        warp(sample.image, transform.numpy(), picture)
        labels = move_labels({key: value[None] for key, value in sample.labels.items()}, transform[None])
        numbers = {key: value[0].numpy() for key, value in labels.items()}
        return Read(index, numbers, encode(picture, self.packing.quality))


def encode(picture: UInt8[np.ndarray, "size size 3"], quality: int) -> bytes:
    """An RGB picture as JPEG in full colour resolution: at the size of these crops, halving it blurs lips and eyes."""
    full_colour = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, *full_colour]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def prepare(
    name: str,
    dataset: Callable[..., FaceDataset],
    output_dir: Path,
    pack: bool = False,
    image_size: int = 256,
    margin: float = 0.2,
    quality: int = 95,
    num_workers: int = 2,
) -> dict[str, Any]:
    """Reads every sample of every split once; leaves a description of the data set, and with `pack` a packed copy.

        output_dir/SPLIT.lmdb   with `pack`: see `jointface.datamodules.crop_store`
        and the files of `jointface.datamodules.description`

    A packing that was interrupted goes on where it was. Of a packed copy that is there, samples that are damaged or
    were broken are read again.

    Args:
        name: of the data set, in messages.
        dataset: its class with all arguments but `split` and `transform`, a functools.partial.
        output_dir: folder to write to. pack: write the packed copy.
        image_size, margin, quality: see `Packing`. num_workers: processes that read.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: a number is out of its range. DataError: the data set is missing or malformed, or output_dir cannot
            be written to.
    """
    require_packing(image_size, margin, quality, num_workers)
    packing = Packing(image_size, margin, quality) if pack else None
    splits = _open_splits(name, dataset)
    require_writable(output_dir)
    inventory = next(iter(splits.values())).inventory()
    console = Console()
    console.print(inventory_table(name, inventory))
    log.info("Writing to %s", output_dir.absolute())
    described = []
    for split, data in splits.items():
        labels, broken = _read_split(f"{name} {split}", data, split, output_dir, packing, dataset, num_workers)
        described.append(Described(split, data, labels, broken))
    report = write_description(output_dir, name, inventory, described)
    console.print(summary_table(name, described))
    for row in report["broken"][:NAMED]:
        console.print(f"broken: {row['split']} {row['index']}: {row['reason']}", markup=False, soft_wrap=True)
    if len(report["broken"]) > NAMED:
        console.print(f"and {len(report['broken']) - NAMED} more, see {output_dir / 'broken.csv'}")
    log.info("%s in %s", "The description and the packed copy are" if pack else "The description is", output_dir)
    return report


def _open_splits(name: str, dataset: Callable[..., FaceDataset]) -> dict[str, FaceDataset]:
    """The splits that there are; those that cannot be opened, for instance of a partial download, are warned of.

    Raises:
        DataError, ConfigError: none can be opened.
    """
    assert isinstance(dataset, partial)
    kind: Any = dataset.func
    splits, errors = {}, {}
    for split in kind.splits:
        try:
            splits[split] = dataset(split=split, transform=CropTransform(SHEET_SIZE))
        except DataError as error:
            errors[split] = error
        except (TypeError, KeyError) as error:  # a key that the class does not have
            raise ConfigError(f"source.dataset cannot be opened: {error}") from error
    if not splits:
        raise next(iter(errors.values()))
    for split, reason in errors.items():
        log.warning("%s: %s is left out: %s", name, split, reason)
    return splits


def require_packing(image_size: int, margin: float, quality: int, num_workers: int) -> None:
    """Raises a ConfigError that names the number that makes no sense."""
    limits = {"image_size": (image_size, 16, 4096), "quality": (quality, 1, 100), "num_workers": (num_workers, 0, 512)}
    for key, (value, low, high) in limits.items():
        if not isinstance(value, int) or not low <= value <= high:
            raise ConfigError(f"{key}={value}: expected a whole number from {low} to {high}")
    if not isinstance(margin, int | float) or not 0 <= margin <= 1:
        raise ConfigError(f"margin={margin}: expected a number from 0 to 1")


def _read_split(
    what: str,
    data: FaceDataset,
    split: str,
    output_dir: Path,
    packing: Packing | None,
    dataset: Callable[..., FaceDataset],
    num_workers: int,
) -> tuple[dict[str, Tensor], dict[int, str]]:
    """Labels by name, (N, ...), and the reasons of the broken samples, whose rows are zero."""
    if packing is None:
        rows: dict[int, dict[str, np.ndarray]] = {}
        broken: dict[int, str] = {}
        for chunk in _chunks(what, data, range(len(data)), None, num_workers):
            rows |= {read.index: read.labels for read in chunk if not read.broken}
            broken |= {read.index: read.broken for read in chunk if read.broken}
        return columns_of([rows.get(index) for index in range(len(data))]), broken
    path, meta = output_dir / f"{split}.lmdb", _meta(data, packing, dataset)
    if not path.is_file() or _needs_repair(path, meta):
        _pack(what, data, path, packing, meta, num_workers)
    reader = PackedReader(path)
    return reader.columns, reader.broken


def _needs_repair(path: Path, meta: Mapping[str, Any]) -> bool:
    """Whether samples of a copy that is there are damaged, or were broken when they were read.

    Raises:
        DataError: it is a copy with other settings.
    """
    reader = PackedReader(path)
    if different := differences(reader.meta, meta):
        raise DataError(
            f"{path.absolute()} is a copy with other settings ({different}); choose another output_dir or delete it"
        )
    return bool(reader.broken or reader.damaged())


def _chunks(
    what: str, data: FaceDataset, indices: Sequence[int], packing: Packing | None, num_workers: int
) -> Iterator[list[Read]]:
    loader = DataLoader(
        _Samples(data, indices, packing), batch_size=CHUNK, num_workers=num_workers, collate_fn=identity_collate,
        worker_init_fn=start_worker,
    )  # fmt: skip
    yield from track(loader, description=f"Reading {what}", total=len(loader))


def _pack(
    what: str, data: FaceDataset, path: Path, packing: Packing, meta: Mapping[str, Any], num_workers: int
) -> None:
    with PackedWriter(path, meta) as writer:
        missing = writer.missing(len(data))
        if len(missing) < len(data):
            log.info("%s: %d of %d samples are packed already", what, len(data) - len(missing), len(data))
        for chunk in _chunks(what, data, missing, packing, num_workers):
            whole = [(read.index, read.picture, read.labels) for read in chunk if not read.broken]
            writer.write(whole, {read.index: read.broken for read in chunk if read.broken})
        root = Path(meta["root"])
        names = [str(data.path(index).absolute().relative_to(root)) for index in range(len(data))]
        writer.finish(np.array(names))


def _meta(data: FaceDataset, packing: Packing, dataset: Callable[..., FaceDataset]) -> dict[str, Any]:
    """What tells one packed copy from another, as JSON gives it back."""
    assert isinstance(dataset, partial)
    model = dataset.keywords.get("morphable_model")
    label_set = data.label_set
    meta = {
        "root": str(Path(dataset.keywords["root"]).absolute()), "length": len(data), "settings": settings_of(dataset),
        "image_size": packing.image_size, "picture_size": packing.picture_size, "quality": packing.quality,
        "label_set": [label_set.name, list(label_set.attributes)] if label_set is not None else None,
        "has_shape": data.has_shape, "morphable_model": fingerprint(model) if model is not None else None,
    }  # fmt: skip
    return {"format": FORMAT, **json.loads(json.dumps(meta))}
