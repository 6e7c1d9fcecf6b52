"""CelebA's folders and label files: finds them, and reads their rows by file name."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from jointface.attributes import CELEBA
from jointface.datamodules.on_disk import read_table, require_file
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
    archives in Img/ come in parts, inside a folder named after the archive, and are usually unpacked there.
    """
    official = root / _official_folder(name)
    places = [root / name, official / name, official / f"{name}.7z" / name]
    for place in places:
        if os.path.exists(place):
            return place
    if not os.path.isdir(official) and any(root.glob(f"*/{official.name}")):
        return official  # so that the error can point out that the data set lies one folder too deep
    return (official if os.path.isdir(official) else root) / name


def _official_folder(name: str) -> str:
    if name == PARTITION:
        return "Eval"
    return "Anno" if name.endswith(".txt") else "Img"


def image_files(names: np.ndarray, on_disk: set[str]) -> tuple[np.ndarray, np.ndarray]:
    """The image file of each listed name, and whether it exists. The label files say .jpg even for .png images."""
    there = _are_in(names, on_disk)
    if there.all():
        return names, there
    files = np.where(there, names, np.strings.replace(names, ".jpg", ".png"))
    return files, _are_in(files, on_disk)


def _are_in(names: np.ndarray, on_disk: set[str]) -> np.ndarray:
    return np.array([name in on_disk for name in names.tolist()], dtype=bool)  # ten times as fast as isin on strings


def read_label_file(path: Path) -> Table:
    """Reads one of FILES. Raises a DataError if it is missing, truncated or not the published file."""
    what, columns, values = FILES[path.name]
    how = f"get {_official_folder(path.name)}/{path.name} from CelebA's page"
    require_file(path, what, how)
    header_lines = 2 if columns else 0
    count = _read_header(path, columns, how) if columns else None
    names, numbers = read_table(path, len(columns) or 1, header_lines)
    where = path.absolute()
    if count not in (None, len(names)):
        raise DataError(
            f"{where}: line 1 announces {count} rows, but {len(names)} follow; the file is truncated or edited, {how}"
        )
    twice = pd.Index(names).duplicated()
    if twice.any():
        line = twice.argmax() + header_lines + 1
        raise DataError(f"{where}, line {line}: {names[twice][0]} is listed twice; {how}")
    if values and not (known := np.isin(numbers, values).all(axis=1)).all():
        line = known.argmin() + header_lines + 1
        raise DataError(
            f"{where}, line {line}: expected a file name and {numbers.shape[1]} values from "
            f"{', '.join(map(str, values))}; the file is damaged, get it again"
        )
    return Table(names, numbers, path)


def _read_header(path: Path, columns: tuple[str, ...], how: str) -> int:
    """The number of rows that the first line announces; the second names the columns."""
    with path.open(errors="replace") as file:
        count, header = file.readline().strip(), tuple(file.readline().split())
    if not count.isdecimal() or header not in (columns, ("image_id", *columns)):
        raise DataError(
            f"{path.absolute()}: line 1 must be the number of rows and line 2 the {len(columns)} names {columns[0]} to "
            f"{columns[-1]}; this is another file or from another release, {how}"
        )
    return int(count)
