"""Checks, describes and packs a data set: `python -m jointface.prepare source=celeba paths.data_dir=DATA`."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console

from jointface.command_line import entry_point
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.crop_store import stack_labels
from jointface.datamodules.description import SHEET_SIZE, ReadSplit, inventory_table, summary_table, write_description
from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.loading import explained_loader_failures
from jointface.datamodules.on_disk import require_room_for
from jointface.datamodules.packed import pack_split
from jointface.datamodules.sample_check import Packing, check_samples
from jointface.errors import ConfigError, DataError

log = logging.getLogger("jointface.prepare")

NAMED = 20  # broken samples that are printed
LIMITS = {"image_size": (16, 4096), "margin": (0, 1), "quality": (1, 100), "num_workers": (0, 512)}


@entry_point("prepare")
def main(config: DictConfig) -> None:
    """Prepares the data set in the config."""
    if not config.get("source"):
        raise ConfigError("no data set is given: add source=celeba, lfwa, 300wlp, aflw2000 or florence")
    dataset = instantiate(config.source.dataset, _convert_="all")
    options = {key: config[key] for key in ("pack", *LIMITS)}
    prepare(config.source.packed, dataset, Path(str(config.output_dir)), **options)


def require_options(pack: bool, **numbers: float) -> None:
    """Raises a ConfigError that names an option that is out of range."""
    if not isinstance(pack, bool):
        raise ConfigError(f"pack={pack}: expected true or false")
    for key, value in numbers.items():
        low, high = LIMITS[key]
        fraction = key == "margin"
        if not isinstance(value, int | float if fraction else int) or not low <= value <= high:
            raise ConfigError(f"{key}={value}: expected a {'' if fraction else 'whole '}number from {low} to {high}")


@explained_loader_failures()
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
    """Reads every sample of every split once. Writes the files described in `datamodules.description` to `output_dir`,
    and with `pack` a packed copy, SPLIT.lmdb (`datamodules.packed`).

    Args:
        name: the data set's name in messages.
        dataset: a functools.partial of its class with all arguments but `split` and `transform`.
        image_size, margin, quality: see `Packing`. num_workers: number of reading processes.

    Returns:
        The content of report.json.

    Raises:
        ConfigError: an option is out of range. DataError: the data set is malformed, or output_dir is not writable.
    """
    require_options(pack, margin=margin, image_size=image_size, quality=quality, num_workers=num_workers)
    splits = _open_splits(name, dataset)
    require_room_for(output_dir)
    inventory = next(iter(splits.values())).inventory()
    console = Console()
    console.print(inventory_table(name, inventory))
    log.info("Writing to %s", output_dir.absolute())
    described = []
    for split, data in splits.items():
        what = f"{name} {split}"
        if pack:
            path, packing = output_dir / f"{split}.lmdb", Packing(image_size, margin, quality)
            copy = pack_split(what, data, dataset, path, packing, num_workers)  # type: ignore[arg-type]
            described.append(ReadSplit(split, data, copy.columns, copy.broken))
        else:
            samples = [s for chunk in check_samples(what, data, range(len(data)), None, num_workers) for s in chunk]
            labels = stack_labels([None if sample.broken else sample.labels for sample in samples])
            broken = {sample.index: sample.broken for sample in samples if sample.broken}
            described.append(ReadSplit(split, data, labels, broken))
    report = write_description(output_dir, name, inventory, described)
    console.print(summary_table(name, described))
    for row in report["broken"][:NAMED]:
        console.print(f"broken: {row['split']} {row['index']}: {row['reason']}", markup=False, soft_wrap=True)
    if len(report["broken"]) > NAMED:
        console.print(f"and {len(report['broken']) - NAMED} more, see {output_dir / 'broken.csv'}")
    log.info("%s in %s", "The description and the packed copy are" if pack else "The description is", output_dir)
    return report


def _open_splits(name: str, dataset: Callable[..., FaceDataset]) -> dict[str, FaceDataset]:
    """Opens all splits that can be opened; the log warns about others, for instance in a partial download."""
    assert isinstance(dataset, partial)
    splits, errors = {}, {}
    for split in dataset.func.splits:  # type: ignore[attr-defined]
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


if __name__ == "__main__":
    main()
