"""CelebA's folders and label files: where they lie, and their rows by file name."""

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

BBOX_COLUMNS = ("x_1", "y_1", "width", "height")
LANDMARK_COLUMNS = tuple(
    f"{part}_{axis}" for part in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"
)


class Table(NamedTuple):
    """Rows of a label file: file names (N,), what it says of each (N, columns), and where it lies."""

    names: np.ndarray
    values: np.ndarray
    path: Path

    def positions(self, names: np.ndarray) -> np.ndarray:
        """The row of each name, -1 where there is none."""
        if np.array_equal(names, self.names):  # as in all published files
            return np.arange(len(names))
        return pd.Index(self.names).get_indexer(pd.Index(names))

    def of(self, names: np.ndarray) -> np.ndarray:
        """The values of each name.

        Raises:
            DataError: a name has no row. Published files have one for every image, so the file was cut.
        """
        positions = self.positions(names)
        if len(absent := names[positions < 0]):
            raise DataError(
                f"{self.path.absolute()}: no row for {len(absent)} of {len(names)} images, e.g. {absent[0]}; the file "
                "is cut or of another release, get it again"
            )
        return self.values[positions]


def locate(root: Path, name: str) -> Path:
    """Where a published file or folder lies, or should lie if it is nowhere.

    CelebA is published as Anno/, Eval/ and Img/; torchvision and others keep everything flat in one folder. Img/ has
    two images archives in parts, each in a folder of the archive's name, where people unpack them.
    """
    official = root / _official_folder(name)
    places = [root / name, official / name, official / f"{name}.7z" / name]
    for place in places:
        if os.path.exists(place):
            return place
    if not os.path.isdir(official) and any(root.glob(f"*/{official.name}")):
        return official  # so that the error finds the whole data set one folder too deep
    return (official if os.path.isdir(official) else root) / name


def _official_folder(name: str) -> str:
    if name == PARTITION:
        return "Eval"
    return "Anno" if name.endswith(".txt") else "Img"


def image_files(names: np.ndarray, on_disk: set[str]) -> tuple[np.ndarray, np.ndarray]:
    """The image file of each listed name, and whether it is there.

    The label files say .jpg of every image, of the .png files too.
    """
    there = _are_in(names, on_disk)
    if there.all():
        return names, there
    files = np.where(there, names, np.strings.replace(names, ".jpg", ".png"))
    return files, _are_in(files, on_disk)


def _are_in(names: np.ndarray, on_disk: set[str]) -> np.ndarray:
    return np.array([name in on_disk for name in names.tolist()], dtype=bool)  # ten times as fast as isin on strings


def read_attributes(path: Path) -> Table:
    """Which of the 40 attributes are present, (N, 40) bool, of `list_attr_celeba.txt`.

    Raises:
        DataError: the file is missing, damaged or another, or a value is neither -1 nor 1.
    """
    table = _read_counted(path, "CelebA's attributes", CELEBA.attributes)
    wrong = (np.abs(table.values) != 1).any(axis=1)
    if wrong.any():
        raise DataError(
            f"{path.absolute()}, line {wrong.argmax() + 3}: expected a file name and {len(CELEBA)} values -1 or 1; the "
            "file is damaged, get it again"
        )
    return table._replace(values=table.values == 1)


def read_partition(path: Path) -> Table:
    """The split of each image, (N, 1): 0 train, 1 val, 2 test, of `list_eval_partition.txt`.

    Raises:
        DataError: the file is missing or damaged, or has another code.
    """
    table = _read(path, "CelebA's partition", columns=1)
    known = np.isin(table.values[:, 0], (0, 1, 2))
    if not known.all():
        raise DataError(
            f"{path.absolute()}, line {known.argmin() + 1}: expected a file name and 0, 1 or 2; the file is damaged, "
            "get it again"
        )
    return table


def read_identities(path: Path) -> Table:
    """The subject of each image, (N, 1), of `identity_CelebA.txt`."""
    return _read(path, "CelebA's identities", columns=1)


def read_bboxes(path: Path) -> Table:
    """The published bounding boxes of the original images, (N, 4): x_1, y_1, width, height."""
    return _read_counted(path, "CelebA's bounding boxes", BBOX_COLUMNS)


def read_landmarks(path: Path) -> Table:
    """Eyes, nose and mouth corners, (N, 10): x and y of each, left as the viewer sees it."""
    return _read_counted(path, "CelebA's landmarks", LANDMARK_COLUMNS)


def _read_counted(path: Path, what: str, columns: tuple[str, ...]) -> Table:
    """A table under two lines: the number of rows, and the names of the columns."""
    require_file(path, what, _how(path))
    with path.open(errors="replace") as file:
        count, header = file.readline().strip(), tuple(file.readline().split())
    if not count.isdecimal() or header not in (columns, ("image_id", *columns)):
        raise DataError(
            f"{path.absolute()}: line 1 must be the number of rows and line 2 the {len(columns)} names {columns[0]} to "
            f"{columns[-1]}; this is another file or of another release, {_how(path)}"
        )
    table = _read(path, what, len(columns), header_lines=2)
    if len(table.names) != int(count):
        raise DataError(
            f"{path.absolute()}: line 1 announces {count} rows and there are {len(table.names)}; the file is cut or "
            f"edited, {_how(path)}"
        )
    return table


def _read(path: Path, what: str, columns: int, header_lines: int = 0) -> Table:
    require_file(path, what, _how(path))
    names, values = read_table(path, what, columns, header_lines)
    twice = pd.Index(names).duplicated()
    if twice.any():
        line = twice.argmax() + header_lines + 1
        raise DataError(f"{path.absolute()}, line {line}: {names[twice][0]} is listed twice; {_how(path)}")
    return Table(names, values, path)


def _how(path: Path) -> str:
    return f"get {_official_folder(path.name)}/{path.name} from CelebA's page"
