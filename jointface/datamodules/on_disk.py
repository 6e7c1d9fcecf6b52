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
from jointface.files import disguise_of, is_clutter

log = logging.getLogger(__name__)

ARCHIVES = (".zip", ".7z", ".7z.001", ".tar", ".tar.gz", ".tgz", ".rar")
PHOTOS = (".jpg", ".jpeg", ".png")  # endings of photos, in any case, in order of preference
UNFINISHED = (".part", ".crdownload", ".download", ".filepart", ".aria2")  # downloads; .partial is a packed copy


@dataclass(frozen=True)
class Count:
    """The number of things on disk, and the published number if that is known."""

    what: str
    found: int
    published: int | None = None


def require_folder(folder: Path, what: str, how: str) -> Path:
    """Returns a folder, or the one of the same name in it, see `innermost`. Raises a DataError if it is missing or
    unreadable. The message says `what` should be there, and either what was found instead (an archive, another
    spelling, the folder one level off) or `how` to get it."""
    if not os.path.isdir(folder):
        _require_readable_parents(folder)
        raise missing(folder, what, how)
    if not os.access(folder, os.R_OK | os.X_OK):
        raise _forbidden(folder)
    return innermost(folder)


def innermost(path: Path) -> Path:
    """A file or folder, or what lies in it under its own name: some archives unpack as lfw/lfw/."""
    inner = path / path.name
    return inner if path.name not in ("", "..") and os.path.exists(inner) else path


def require_file(path: Path, what: str, how: str) -> None:
    """Like `require_folder`, for a file, which must not be empty."""
    if not os.path.isfile(path):
        _require_readable_parents(path)
        raise missing(path, what, how)
    if not os.access(path, os.R_OK):
        raise DataError(f"{path.absolute()}: no permission to read the file; allow it, e.g. with chmod u+r")
    if not path.stat().st_size:
        raise DataError(f"{path.absolute()}: the file is empty; {how}")
    if disguised := disguise_of(path):
        raise DataError(f"{path.absolute()}: this is {disguised}; {how}")


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
        raise DataError(
            f"{folder.absolute()}: cannot write to the folder, {why}; choose another with output_dir=FOLDER"
        )


def missing(path: Path, what: str, how: str) -> DataError:
    """The error for something that is not where it should be."""
    kind = "file" if path.suffix in {".txt", ".csv", ".mat", ".npy", ".bin", ".obj", ".lmdb"} else "folder"
    hint = instead(path)
    return DataError(f"no {kind} {path.absolute()}: looked there for {what}; {hint or how}")


def instead(path: Path) -> str:
    """Advice about something near a missing path that was probably meant; empty if there is nothing."""
    if os.path.islink(path):
        return f"it is a link to {os.readlink(path)}, which does not exist"
    parent = path.parent
    if not os.path.isdir(parent) or not os.access(parent, os.R_OK | os.X_OK):
        return ""
    names = sorted(entry.name for entry in parent.iterdir() if entry.name != path.name)
    alike = {_plain(path.stem), _plain(path.stem) + "3d"}  # 300W-LP for 300W_LP, AFLW2000-3D for AFLW2000
    for name in names:
        arrived = _without(name, UNFINISHED)
        ending = next((ending for ending in ARCHIVES if arrived.lower().endswith(ending)), None)
        archived = ending is not None and _plain(arrived[: -len(ending)]) in alike
        if arrived != name and (archived or arrived.lower() == path.name.lower()):
            return f"found {name} there, whose download has not ended: get it again"
        if archived:
            return f"found {name} there, unpack it"
    for name in names:
        if name.lower() == path.name.lower() or (_plain(name) in alike and (parent / name).is_dir()):
            return f"found {name!r} there, rename it to {path.name!r}"
    if deeper := sorted(parent.glob(f"*/{path.name}")):
        return f"found it one folder too deep, in {deeper[0].parent}: move its contents up or point the path there"
    if parent.parent != parent and os.path.exists(parent.parent / path.name):
        return f"found it one folder up, in {parent.parent}: move it or point the path there"
    return ""


def _without(name: str, endings: Collection[str]) -> str:
    """A file name without the first of these endings that it has, in any case."""
    return next((name[: -len(ending)] for ending in endings if name.lower().endswith(ending)), name)


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())


def file_names(folder: Path) -> set[str]:
    """The names of all files and folders in a folder, without hidden ones and those that systems leave there, see
    `is_clutter`. Raises a DataError if it cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if not is_clutter(entry.name)}
    except OSError as error:
        raise DataError(f"{folder.absolute()}: cannot list the folder ({error.strerror})") from error


def photo_names(names: Collection[str]) -> dict[str, str]:
    """The photos among file names, by name without ending. Of several with one name, the first in PHOTOS counts."""
    ranks = {ending: rank for rank, ending in enumerate(PHOTOS)}
    ranked = []
    for name in names:
        stem, dot, ending = name.rpartition(".")
        if (rank := ranks.get((dot + ending).lower())) is not None:
            ranked.append((-rank, ending, stem, name))  # small letters come after capitals
    return {stem: name for _, _, stem, name in sorted(ranked)}


def paired_photos(folder: Path, endings: tuple[str, ...], data_set: str | None = None) -> list[str]:
    """The photos in a folder that come with a file of labels beside them, sorted by their names without ending.

    Args:
        endings: of the labels, in order of preference, e.g. (".mat", ".MAT").
        data_set: if it is given, the log counts photos and labels that lack the other.
    """
    names = file_names(folder)
    photos = photo_names(names)
    labels = {name.rpartition(".")[0] for name in names if name.endswith(endings)}
    if data_set is not None:
        log_left_out(data_set, f"photos have no {endings[0]} in {folder}", photos.keys() - labels)
        log_left_out(data_set, f"{endings[0]} files have no photo in {folder}", labels - photos.keys())
    return [photos[name] for name in sorted(photos.keys() & labels)]


def labels_beside(photo: Path, endings: tuple[str, ...]) -> Path:
    """The file of labels of a photo, with the first of these endings that there is."""
    files = [photo.with_suffix(ending) for ending in endings]
    return next((file for file in files if file.exists()), files[0])


def find_photos(listed: np.ndarray, on_disk: Collection[str]) -> tuple[np.ndarray, np.ndarray]:
    """The photo on disk of each listed name (N,), whatever its ending, and whether there is one (N,)."""
    there = _are_in(listed, on_disk)
    if there.all():
        return listed, there
    photos = photo_names(on_disk)
    files = np.array([photos.get(name.rpartition(".")[0], name) for name in listed.tolist()], dtype=np.str_)
    files = np.where(there, listed, files)
    return files, _are_in(files, on_disk)


def _are_in(names: np.ndarray, on_disk: Collection[str]) -> np.ndarray:
    return np.array([name in on_disk for name in names.tolist()], dtype=bool)  # ten times as fast as isin on strings


def log_left_out(data_set: str, what: str, names: Collection[str]) -> None:
    """Warns about files or rows that a data set leaves out, if there are any; `what` says what is wrong with them."""
    if len(names):
        log.warning("%s: %d %s and are left out, e.g. %s", data_set, len(names), what, min(names))


def read_table(
    path: Path, columns: int, header_lines: int = 0, separator: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads file names (N,) and whole numbers (N, columns) from a UTF-8 table `NAME value value ...`, with or without
    byte order mark; None separates by blanks.

    Raises a DataError that names the first malformed row.
    """
    _require_rows(path, columns, header_lines, separator, last=header_lines + 1)  # pandas drops values of the first row
    types = dict.fromkeys(range(1, columns + 1), np.int32)
    try:
        table = pd.read_csv(
            path, sep=separator or r"\s+", header=None, skiprows=header_lines, names=list(range(columns + 1)),
            index_col=False, dtype={0: str, **types}, skip_blank_lines=False, encoding="utf-8-sig",
            encoding_errors="replace", keep_default_na=False, na_values=[""],  # "NA" and "null" are ordinary names
        )  # fmt: skip
    except (ValueError, OSError) as error:  # pandas' own parser errors are ValueErrors
        _require_rows(path, columns, header_lines, separator)
        why = " ".join(str(error).split())
        raise DataError(
            f"{path.absolute()}: not the expected table ({why}); it is damaged or from another release, get it again"
        ) from error
    return table[0].to_numpy(dtype=np.str_), table.iloc[:, 1:].to_numpy()


def _require_rows(path: Path, columns: int, header_lines: int, separator: str | None, last: int | None = None) -> None:
    """Raises a DataError for the first line up to `last`, counted from 1, that is not a name and whole numbers."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        for number, line in islice(enumerate(lines, start=1), header_lines, last):
            values = line.split(separator)[1:]
            if len(values) != columns or not all(re.fullmatch(r"\s*[-+]?\d+\s*", value) for value in values):
                raise DataError(
                    f"{path.absolute()}, line {number}: expected a file name and {columns} whole numbers; the file is "
                    "damaged or from another release, get it again"
                )
