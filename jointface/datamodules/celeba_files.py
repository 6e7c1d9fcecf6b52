"""CelebA's folders and label files: finds them, and reads their rows by file name."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jointface.attributes import CELEBA
from jointface.datamodules.on_disk import innermost, read_table, require_file
from jointface.errors import DataError

ATTRIBUTES, PARTITION, IDENTITY = "list_attr_celeba.txt", "list_eval_partition.txt", "identity_CelebA.txt"
BBOX = "list_bbox_celeba.txt"
LANDMARKS, ALIGNED_LANDMARKS = "list_landmarks_celeba.txt", "list_landmarks_align_celeba.txt"
POINTS = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")  # left as the viewer sees it


class LabelFile(NamedTuple):
    """Describes a label file: its name in messages, the column names in its second line (below the number of rows;
    files without a header have one column), and the values it may hold (empty: any)."""

    what: str
    columns: tuple[str, ...] = ()
    values: tuple[int, ...] = ()


FILES = {
    ATTRIBUTES: LabelFile("CelebA's attributes", CELEBA.attributes, (-1, 1)),
    PARTITION: LabelFile("CelebA's partition", values=(0, 1, 2)),  # train, val, test
    IDENTITY: LabelFile("CelebA's identities"),
    BBOX: LabelFile("CelebA's bounding boxes", ("x_1", "y_1", "width", "height")),
    **dict.fromkeys(
        (LANDMARKS, ALIGNED_LANDMARKS),
        LabelFile("CelebA's landmarks", tuple(f"{point}_{axis}" for point in POINTS for axis in "xy")),
    ),
}


class Table(NamedTuple):
    """The rows of a label file, as file names (N,) and their values (N, columns), and the file's path."""

    names: np.ndarray
    values: np.ndarray
    path: Path

    def positions(self, names: np.ndarray) -> np.ndarray:
        """The row number of each name, -1 for names without a row."""
        if np.array_equal(names, self.names):  # as in all published files
            return np.arange(len(names))
        return pd.Index(self.names).get_indexer(pd.Index(names))

    def of(self, names: np.ndarray) -> np.ndarray:
        """The values of each name. Raises a DataError if a row is missing; published files have one for every image."""
        positions = self.positions(names)
        if len(absent := names[positions < 0]):
            raise DataError(
                f"{self.path.absolute()}: no row for {len(absent)} of {len(names)} images, e.g. {absent[0]}; the file "
                "is truncated or from another release, get it again"
            )
        return self.values[positions]


def locate(root: Path, name: str) -> Path:
    """The path of a published file or folder, or the path where it should be if it does not exist.

    CelebA is published as Anno/, Eval/ and Img/; torchvision and others keep everything in one folder. Two image
    archives in Img/ come in parts, inside a folder named after the archive, and are usually unpacked there. Kaggle's
    copy has its tables as .csv, which are taken where there is no .txt.
    """
    official = root / _official_folder(name)
    for wanted in dict.fromkeys((name, name.replace(".txt", ".csv"))):
        for place in (root / wanted, official / wanted, official / f"{name}.7z" / name):
            if os.path.exists(place):
                return innermost(place)
    if not os.path.isdir(official) and any(root.glob(f"*/{official.name}")):
        return official  # so that the error can point out that the data set lies one folder too deep
    return (official if os.path.isdir(official) else root) / name


def _official_folder(name: str) -> str:
    if Path(name).stem == Path(PARTITION).stem:
        return "Eval"
    return "Anno" if name.endswith((".txt", ".csv")) else "Img"


def read_label_file(path: Path) -> Table:
    """Reads one of FILES, as published or as .csv. Raises a DataError if it is missing, truncated or another file."""
    what, columns, values = FILES[path.with_suffix(".txt").name]
    how = f"get {_official_folder(path.name)}/{path.with_suffix('.txt').name} from CelebA's page"
    require_file(path, what, how)
    head = _read_head(path, columns, how)
    names, numbers = read_table(path, len(columns) or 1, head.lines, head.separator)
    where = path.absolute()
    if head.rows not in (None, len(names)):
        raise DataError(
            f"{where}: line 1 announces {head.rows} rows, but {len(names)} follow; the file is truncated or edited, "
            f"{how}"
        )
    twice = pd.Index(names).duplicated()
    if twice.any():
        line = twice.argmax() + head.lines + 1
        raise DataError(f"{where}, line {line}: {names[twice][0]} is listed twice; {how}")
    if values and not (known := np.isin(numbers, values).all(axis=1)).all():
        line = known.argmin() + head.lines + 1
        raise DataError(
            f"{where}, line {line}: expected a file name and {numbers.shape[1]} values from "
            f"{', '.join(map(str, values))}; the file is damaged, get it again"
        )
    return Table(names, numbers, path)


class _Head(NamedTuple):
    """What a label file says before its rows: in how many lines, the separator (None: blanks), the announced rows."""

    lines: int
    separator: str | None
    rows: int | None


def _read_head(path: Path, columns: tuple[str, ...], how: str) -> _Head:
    """Published files with columns begin with the number of rows and the names of the columns, others with their rows.
    A .csv begins with the names."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first, second = file.readline(), file.readline()
    separator = "," if "," in first else None
    if not columns:
        is_header = separator and not first.split(separator)[-1].strip().isdecimal()
        return _Head(1 if is_header else 0, separator, None)
    lines = 2 if separator is None else 1
    names = tuple(name.strip().strip('"') for name in (first if separator else second).split(separator))
    rows = first.strip()
    if names not in (columns, ("image_id", *columns)) or (separator is None and not rows.isdecimal()):
        expected = (
            "line 1 must be the number of rows and line 2" if separator is None else "line 1 must be image_id and"
        )
        raise DataError(
            f"{path.absolute()}: {expected} the {len(columns)} names {columns[0]} to {columns[-1]}; this is another "
            f"file or from another release, {how}"
        )
    return _Head(lines, separator, None if separator else int(rows))
