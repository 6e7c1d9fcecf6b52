"""What methods are called: NAME of NAME:PATH, else the shortest part of a checkpoint's path that tells it apart."""

import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from jointface.errors import ConfigError

# Parts of a path that name no run: dates, numbers of a sweep's jobs, and what every run has.
_OF_EVERY_RUN = re.compile(r"best|last|\d+|\d{4}-\d{2}-\d{2}.*|multirun_.*|(epoch|step)=.*")


def named_checkpoints(entries: Sequence[str]) -> dict[str, Path]:
    """Checkpoints by name, in their order.

    `NAME:PATH` is called NAME. `PATH` is called after its run: runs/joint/2026-11-22_20-02-27/checkpoints/best.ckpt is
    joint, A.ckpt is A. Runs of one name are told apart by the parts of their paths that differ: real/0 and real/1 are
    jobs of one sweep, joint/best and joint/last two checkpoints of one run.

    Raises:
        ConfigError: two have one name, or a name is empty or has a slash.
    """
    given = [_split(entry) for entry in entries]
    unnamed = [path for name, path in given if name is None]
    shortest = iter(_shortest_names(unnamed))
    names = [next(shortest) if name is None else name for name, _ in given]
    require_different(names)
    return dict(zip(names, (path for _, path in given), strict=True))


def named_folders(entries: Sequence[str]) -> dict[str, Path]:
    """Folders of predictions by name, of NAME:FOLDER each.

    Raises:
        ConfigError: an entry has no name, or two have the same.
    """
    given = [_named_folder(entry) for entry in entries]
    require_different([name for name, _ in given])
    return dict(given)


def require_different(names: Sequence[str]) -> None:
    """Raises a ConfigError where two methods have one name."""
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two methods are called {repeated[0]!r}: write NAME:PATH to name one otherwise")


def _split(entry: str) -> tuple[str | None, Path]:
    name, colon, path = entry.partition(":")
    if not colon or Path(entry).exists():
        return None, Path(entry)
    return _checked(name, entry), Path(path)


def _named_folder(entry: str) -> tuple[str, Path]:
    name, colon, folder = entry.partition(":")
    if not colon:
        raise ConfigError(f"compare={entry}: expected NAME:FOLDER, the name of the method and its predictions")
    return _checked(name, entry), Path(folder)


def _checked(name: str, entry: str) -> str:
    if not name or "/" in name:
        raise ConfigError(f"{entry}: a method's name is a word or more, without /, before the colon")
    return name


def _shortest_names(paths: Sequence[Path]) -> list[str]:
    parts = [
        tuple(part for part in path.absolute().with_suffix("").parts[1:] if part != "checkpoints") for path in paths
    ]
    runs = [_run(of_path) for of_path in parts]
    alike: dict[str, list[tuple[str, ...]]] = {}
    for of_path, run in zip(parts, runs, strict=True):
        alike.setdefault(of_path[run], []).append(of_path)
    return [_name(of_path, run, alike[of_path[run]]) for of_path, run in zip(parts, runs, strict=True)]


def _run(parts: tuple[str, ...]) -> int:
    """The place of the part that names the run: the last one that not every run has."""
    places = [place for place, part in enumerate(parts) if not _OF_EVERY_RUN.fullmatch(part)]
    return places[-1] if places else len(parts) - 1


def _name(parts: tuple[str, ...], run: int, alike: Sequence[tuple[str, ...]]) -> str:
    """The run, and between what all paths of runs of that name begin and end with, what differs."""
    first = _shared(alike)
    last = len(parts) - _shared([other[first:][::-1] for other in alike])
    return "/".join(part for place, part in enumerate(parts) if place == run or first <= place < last)


def _shared(sequences: Sequence[Sequence[str]]) -> int:
    """How many parts all of them begin with."""
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False)))
