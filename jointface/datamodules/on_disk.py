"""Published data sets on disk: checks that folders and files exist, reads tables, and counts what is there."""

import logging
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from jointface.errors import DataError

log = logging.getLogger(__name__)

ARCHIVES = (".zip", ".7z", ".7z.001", ".tar", ".tar.gz", ".tgz", ".rar")


@dataclass(frozen=True)
class Count:
    """The number of things on disk, and the published number if that is known."""

    what: str
    found: int
    published: int | None = None


def require_folder(folder: Path, what: str, how: str) -> None:
    """Raises a DataError if a folder is missing or unreadable. The message says `what` should be there, and either what
    was found instead (an archive, another spelling, the folder one level off) or `how` to get it."""
    if not os.path.isdir(folder):
        _require_readable_parents(folder)
        raise missing(folder, what, how)
    if not os.access(folder, os.R_OK | os.X_OK):
        raise _forbidden(folder)


def require_file(path: Path, what: str, how: str) -> None:
    """Like `require_folder`, for a file, which must not be empty."""
    if not os.path.isfile(path):
        _require_readable_parents(path)
        raise missing(path, what, how)
    if not os.access(path, os.R_OK):
        raise DataError(f"{path.absolute()}: no permission to read the file; allow it, e.g. with chmod u+r")
    if not path.stat().st_size:
        raise DataError(f"{path.absolute()}: the file is empty; {how}")


def _require_readable_parents(path: Path) -> None:
    # Depending on Python's version, files in a forbidden folder seem to be missing or raise a PermissionError.
    for parent in path.absolute().parents:
        if os.path.isdir(parent):
            if not os.access(parent, os.X_OK):
                raise _forbidden(parent)
            return


def _forbidden(folder: Path) -> DataError:
    return DataError(f"{folder.absolute()}: no permission to read the folder; allow it, e.g. with chmod -R u+rX")


def require_room_for(folder: Path) -> None:
    """Raises a DataError if a folder cannot be created and written to; does not create it."""
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.exists(path))
    if not os.path.isdir(place) or not os.access(place, os.W_OK | os.X_OK):
        why = "no permission to write there" if os.path.isdir(place) else f"{place} is a file"
        raise DataError(f"{folder.absolute()}: cannot write to the folder, {why}; choose another")


def missing(path: Path, what: str, how: str) -> DataError:
    """The error for something that is not where it should be."""
    kind = "file" if path.suffix in {".txt", ".mat", ".npy", ".bin", ".obj", ".lmdb"} else "folder"
    hint = instead(path)
    return DataError(f"no {kind} {path.absolute()}: looked there for {what}; {hint or how}")


def instead(path: Path) -> str:
    """Advice about something near a missing path that was probably meant; empty if there is nothing."""
    parent = path.parent
    if not os.path.isdir(parent) or not os.access(parent, os.R_OK | os.X_OK):
        return ""
    names = sorted(entry.name for entry in parent.iterdir() if entry.name != path.name)
    alike = {_plain(path.stem), _plain(path.stem) + "3d"}  # 300W-LP for 300W_LP, AFLW2000-3D for AFLW2000
    for name in names:
        ending = next((ending for ending in ARCHIVES if name.lower().endswith(ending)), None)
        if ending is not None and _plain(name[: -len(ending)]) in alike:
            return f"found {name} there, unpack it"
    for name in names:
        if name.lower() == path.name.lower() or (_plain(name) in alike and (parent / name).is_dir()):
            return f"found {name!r} there, rename it to {path.name!r}"
    if deeper := sorted(parent.glob(f"*/{path.name}")):
        return f"found it one folder too deep, in {deeper[0].parent}: move its contents up or point the path there"
    if parent.parent != parent and os.path.exists(parent.parent / path.name):
        return f"found it one folder up, in {parent.parent}: move it or point the path there"
    return ""


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def file_names(folder: Path) -> set[str]:
    """The names of all files and folders in a folder. Raises a DataError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except OSError as error:
        raise DataError(f"{folder.absolute()}: cannot list the folder ({error.strerror})") from error


def log_left_out(data_set: str, what: str, names: Collection[str]) -> None:
    """Warns about files or rows that a data set leaves out, if there are any; `what` says what is wrong with them."""
    if len(names):
        log.warning("%s: %d %s and are left out, e.g. %s", data_set, len(names), what, min(names))


def read_table(path: Path, columns: int, header_lines: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Reads file names (N,) and whole numbers (N, columns) from a table `NAME value value ...`, separated by blanks.

    Raises a DataError that names the first malformed row.
    """
    _require_rows(path, columns, header_lines, last=header_lines + 1)  # pandas drops extra values of the first row
    types = dict.fromkeys(range(1, columns + 1), np.int32)
    try:
        table = pd.read_csv(
            path, sep=r"\s+", header=None, skiprows=header_lines, names=list(range(columns + 1)), index_col=False,
            dtype={0: str, **types}, skip_blank_lines=False, encoding_errors="replace",
            keep_default_na=False, na_values=[""],  # "NA" and "null" are ordinary names
        )  # fmt: skip
    except (ValueError, OSError) as error:  # pandas' own parser errors are ValueErrors
        _require_rows(path, columns, header_lines)
        why = " ".join(str(error).split())
        raise DataError(
            f"{path.absolute()}: not the expected table ({why}); it is damaged or from another release, get it again"
        ) from error
    return table[0].to_numpy(dtype=np.str_), table.iloc[:, 1:].to_numpy()


def _require_rows(path: Path, columns: int, header_lines: int, last: int | None = None) -> None:
    """Raises a DataError for the first line up to `last`, counted from 1, that is not a name and whole numbers."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in islice(enumerate(lines, start=1), header_lines, last):
            values = line.split()[1:]
            if len(values) != columns or not all(re.fullmatch(r"[-+]?\d+", value) for value in values):
                raise DataError(
                    f"{path.absolute()}, line {number}: expected a file name and {columns} whole numbers; the file is "
                    "damaged or from another release, get it again"
                )
