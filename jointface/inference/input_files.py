"""The photos that a person means with paths, folders and patterns, and what their results are called."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from jointface.errors import InputError

LONGEST = 200  # bytes of a name; file systems take 255, endings included


class InputFile(NamedTuple):
    """A file that should be a photo. name: of its results, a path without ending; no two are the same."""

    path: Path
    name: str


def find_files(inputs: Sequence[str], leave_out: Iterable[Path] = ()) -> list[InputFile]:
    """The files of all inputs, in their order, each once.

    Args:
        inputs: files, folders, which mean all files in and below them, and patterns such as photos/*.jpg or
            photos/**/*.png. Hidden files in folders are left out.
        leave_out: files and folders that folders and patterns do not mean: the results themselves.

    Raises:
        InputError: there is no such file or folder, or nothing matches a pattern.
    """
    left_out = [os.path.abspath(path) for path in leave_out]
    paths: dict[str, None] = {}
    roots = []
    for given in inputs:
        root, found = _expand(given)
        roots.append(root)
        fresh = {os.path.abspath(path): None for path in found}
        paths |= fresh if os.path.isfile(given) else {path: None for path in fresh if not _is_below(path, left_out)}
    if not paths:
        raise InputError(f"input={','.join(inputs)[:300]}: no file in it")
    names = _names([*paths], os.path.commonpath([os.path.abspath(root) for root in roots]))
    return [InputFile(_short(path), name) for path, name in zip(paths, names, strict=True)]


def _expand(given: str) -> tuple[str, Iterable[str]]:
    """The folder that the names of the results start from, and the files."""
    given = os.path.expanduser(given)
    if os.path.isfile(given):
        return os.path.dirname(given), [given]
    if os.path.isdir(given):
        return given, _files_below(given)
    if not glob.has_magic(given):
        raise InputError(f"input={given[:300]}: no such file or folder")
    found = sorted(path for path in glob.iglob(given, recursive=True) if os.path.isfile(path))
    if not found:
        raise InputError(f"input={given[:300]}: no file matches this pattern")
    parts = Path(given).parts
    plain = parts[: next(place for place, part in enumerate(parts) if glob.has_magic(part))]
    return os.path.join("", *plain), found


def _files_below(folder: str) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(path, name) for name in sorted(files) if not name.startswith("."))


def _is_below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + os.sep) for folder in folders)


def _short(path: str) -> Path:
    """Relative to the working folder where the file is below it, as people write it."""
    absolute = Path(path)
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def _names(paths: Sequence[str], root: str) -> list[str]:
    """Names without endings; with them where two photos differ in nothing else."""
    relative = [Path(path).relative_to(root) for path in paths]
    plain = [path.with_name(_shortened(path.stem)).as_posix() for path in relative]
    counts = Counter(map(_key, plain))
    taken = {key for key, count in counts.items() if count == 1}
    names = []
    for path, name in zip(relative, plain, strict=True):
        if counts[_key(name)] > 1:
            name = f"{name}_{path.suffix[1:]}"
            while _key(name) in taken:
                name += "_"
            taken.add(_key(name))
        names.append(name)
    return names


def _shortened(stem: str) -> str:
    """A name to which endings can be added, in UTF-8."""
    return os.fsencode(stem)[:LONGEST].decode(errors="replace").replace("\ufffd", "_")


def _key(name: str) -> str:
    """The same for names that some file systems (cases) or readers of .obj (blanks) do not tell apart."""
    return "_".join(name.lower().split())
