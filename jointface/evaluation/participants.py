"""The participants of an evaluation: networks and folders of other methods' predictions, each with a unique name."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import ConfigError, DataError
from jointface.evaluation.prediction_files import list_predictions
from jointface.modules.checkpoint import load_model
from jointface.modules.devices import open_device
from jointface.modules.network import FaceNetwork

PRECISIONS = ("float64", "float32")
NAMED = 3  # expected and found files that a message names

# Parts of a path that do not name a run: checkpoints, job numbers of a sweep, dates.
_ANONYMOUS = re.compile(r"best|last|\d+|\d{4}-\d{2}-\d{2}.*|multirun_.*|(epoch|step)=.*")


@dataclass(frozen=True)
class Participants:
    """Networks with their checkpoints, and folders of other methods' predictions, by name."""

    checkpoints: Mapping[str, Path]
    networks: Mapping[str, FaceNetwork]
    folders: Mapping[str, Path]
    placement: Mapping[str, Any]  # batch_size and device

    @property
    def names(self) -> list[str]:
        return [*self.networks, *self.folders]

    def networks_with(self, head: str | None) -> dict[str, FaceNetwork]:
        """The networks that have a head: "shape_decoder" or "attribute_classifier"; None takes all."""
        return {name: net for name, net in self.networks.items() if head is None or getattr(net, head) is not None}


def open_participants(
    checkpoints: Sequence[str], compare: Sequence[str], batch_size: int, device: str, precision: str
) -> Participants:
    """Loads the checkpoints, `PATH` or `NAME:PATH`, and checks that the folders, `NAME:FOLDER`, hold predictions.

    Args:
        device: a torch device, or "auto". precision: float64 or float32. In float64, results for different batch sizes
            agree to far more digits than are reported.

    Raises:
        ConfigError: two participants share a name, or the device or precision does not exist.
        CheckpointError, DataError: a checkpoint or a folder is missing or broken.
    """
    placed = open_device(device)
    paths, folders = named_checkpoints(checkpoints), named_folders(compare)
    require_different([*paths, *folders])
    for name, folder in folders.items():
        list_predictions(name, folder)
    if precision not in PRECISIONS:
        raise ConfigError(f"precision={precision}: choose from {', '.join(PRECISIONS)}")
    if precision == "float64" and placed.type == "mps":
        raise ConfigError("device=mps has no float64: set precision=float32, or device=cpu")
    networks = {name: load_model(path).to(getattr(torch, precision)) for name, path in paths.items()}
    return Participants(paths, networks, folders, {"batch_size": batch_size, "device": placed})


def folders_by_benchmark(folders: Mapping[str, Path], tests: Mapping[str, FaceDataset]) -> dict[str, dict[str, Path]]:
    """For each benchmark, the folders, by method, that hold a prediction for at least one of its images.

    Raises:
        DataError: a folder is missing or empty, or holds no prediction for any image of any benchmark.
    """
    wanted = {key: [f"{test.name(index)}.npz" for index in range(len(test))] for key, test in tests.items()}
    found = {method: list_predictions(method, folder) for method, folder in folders.items()}
    for method, files in found.items():
        if wanted and all(files.isdisjoint(names) for names in wanted.values()):
            looked_for, there = (
                ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
                for names in (next(iter(wanted.values())), sorted(files))
            )
            raise DataError(
                f"none of the {len(files):,} .npz files in {folders[method].absolute()} is named after a photo of "
                f"{' or '.join(wanted)}: looked for {looked_for}; found {there}; name the file for STEM.jpg STEM.npz"
            )
    return {
        key: {method: folder for method, folder in folders.items() if not found[method].isdisjoint(names)}
        for key, names in wanted.items()
    }


# Names


def named_checkpoints(entries: Iterable[str]) -> dict[str, Path]:
    """The checkpoints by name, in their order.

    `NAME:PATH` is named NAME. `PATH` is named after its run: runs/joint/2026-11-22_20-02-27/checkpoints/best.ckpt is
    joint, A.ckpt is A. If runs share a name, further parts of the path distinguish them: real/0 and real/1 are jobs of
    one sweep, joint/best and joint/last are two checkpoints of one run.

    Raises:
        ConfigError: two checkpoints share a name, or a name is empty or has a slash.
    """
    # A path may contain a colon.
    given = [("", Path(entry)) if ":" not in entry or Path(entry).exists() else _split(entry) for entry in entries]
    shortest = iter(_shortest_names([path for name, path in given if not name]))
    return _by_name([(name or next(shortest), path) for name, path in given])


def named_folders(entries: Iterable[str]) -> dict[str, Path]:
    """Folders of predictions by name. Raises a ConfigError if an entry has no name, or two share a name."""
    return _by_name([_split(entry) for entry in entries])


def require_different(names: Sequence[str]) -> None:
    """Raises a ConfigError if two methods share a name."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two methods are called {repeated[0]!r}: write NAME:PATH to rename one")


def _by_name(named: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    require_different([name for name, _ in named])
    return dict(named)


def _split(entry: str) -> tuple[str, Path]:
    name, colon, path = entry.partition(":")
    if not colon:
        raise ConfigError(f"compare={entry}: expected NAME:FOLDER, the name of the method and its predictions")
    if not name or "/" in name:
        raise ConfigError(f"{entry}: expected the name of the method, without /, before the colon")
    return name, Path(path)


def _shortest_names(paths: Iterable[Path]) -> list[str]:
    """For each path, the part that names its run, and the parts that distinguish it from other runs of that name."""
    parts = [[part for part in path.absolute().with_suffix("").parts[1:] if part != "checkpoints"] for path in paths]
    runs = [
        max((n for n, part in enumerate(path) if not _ANONYMOUS.fullmatch(part)), default=len(path) - 1)
        for path in parts
    ]
    names = []
    for path, run in zip(parts, runs, strict=True):
        same = [other for other, at in zip(parts, runs, strict=True) if other[at] == path[run]]
        first, last = _common_parts(same), len(path) - _common_parts([other[::-1] for other in same])
        names.append("/".join(part for n, part in enumerate(path) if n == run or first <= n < last))
    return names


def _common_parts(paths: Iterable[Sequence[str]]) -> int:
    """The number of leading parts that all paths have in common."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*paths, strict=False)))
