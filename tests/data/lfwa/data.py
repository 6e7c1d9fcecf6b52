"""A tiny LFWA: LFW's folders of people and the two MATLAB 7.3 files, as MATLAB writes them."""

from pathlib import Path

import cv2
import h5py
import numpy as np

from jointface.attributes import LFWA

# People with their number of photos: of the training part, then of the test part.
TRAIN = {"Aaron_Eckhart": 1, "George_W_Bush": 6, "Hamid_Karzai": 1, "Jose_Sarney": 3, "Laura_Bush": 3, "Yao_Ming": 2}
TEST = {"Aaron_Guiel": 1, "Colin_Powell": 4, "Serena_Williams": 3}
PUBLISHED = {"5_o_Clock_Shadow": "5 o' Clock Shadow"}  # spelled otherwise than with blanks for underscores


def write(folder: Path, seed: int = 0) -> Path:
    """Writes lfw/, lfw_att_73.mat and indices_train_test.mat. A photo's brightness follows Male and its hue Asian, so
    that they can be learned; one photo, Yao_Ming_0003.jpg, is not labelled."""
    random = np.random.default_rng(seed)
    people = sorted(TRAIN | TEST)
    names = [
        f"{person}\\{person}_{number:04d}.jpg" for person in people for number in range(1, (TRAIN | TEST)[person] + 1)
    ]
    labels = random.integers(0, 2, (len(names), len(LFWA)))
    for name, values in zip([*names, "Yao_Ming\\Yao_Ming_0003.jpg"], [*labels, labels[0]], strict=True):
        photo = folder / "lfw" / name.replace("\\", "/")
        photo.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(photo), draw(values, random))
    is_train = np.array([name.split("\\")[0] in TRAIN for name in names])
    write_attributes(
        folder / "lfw_att_73.mat", [PUBLISHED.get(a, a.replace("_", " ")) for a in LFWA.attributes], labels, names
    )
    write_split(folder / "indices_train_test.mat", np.flatnonzero(is_train) + 1, np.flatnonzero(~is_train) + 1)
    return folder


def draw(values: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A 250 x 250 picture of noise, as bright and as blue as the first two labels say."""
    blob = cv2.resize(random.integers(0, 60, (6, 6, 3)).astype(np.float32), (250, 250), interpolation=cv2.INTER_CUBIC)
    return np.clip(blob + 90 + 60 * values[0] + [40 * values[1], 0, 0], 0, 255).astype(np.uint8)


def write_attributes(path: Path, attributes: list[str], labels: np.ndarray, names: list[str]) -> None:
    with mat73(path) as file:
        _cells(file, "AttrName", attributes)
        _matrix(file, "label", labels)
        _cells(file, "name", names)
    _sign(path)


def write_split(path: Path, train: np.ndarray, test: np.ndarray) -> None:
    """The image indices and, as people count from 1 in the order of their names, those of the people."""
    people = sorted(TRAIN | TEST)
    with mat73(path) as file:
        _matrix(file, "indices_img_train", np.asarray(train)[:, None])
        _matrix(file, "indices_img_test", np.asarray(test)[:, None])
        for part, members in {"train": TRAIN, "test": TEST}.items():
            _matrix(file, f"indices_identity_{part}", np.array([[people.index(person) + 1] for person in members]))
    _sign(path)


def mat73(path: Path) -> h5py.File:
    """An HDF5 file with room for MATLAB's header."""
    return h5py.File(path, "w", userblock_size=512)


def _sign(path: Path) -> None:
    header = b"MATLAB 7.3 MAT-file, Platform: PCWIN64, Created on: Thu Oct 01 12:00:00 2015 HDF5 schema 1.00 ."
    with path.open("r+b") as file:
        file.write(header.ljust(116) + bytes(8) + b"\x00\x02IM")


def _matrix(file: h5py.File, name: str, values: np.ndarray) -> None:
    """Doubles, column by column: the dataset is the transposed matrix."""
    file.create_dataset(name, data=values.T.astype(np.float64)).attrs["MATLAB_class"] = np.bytes_("double")


def _cells(file: h5py.File, name: str, strings: list[str]) -> None:
    """An n x 1 cell array: references to columns of UTF-16 units in the group #refs#."""
    group, cells = file.require_group("#refs#"), np.empty((1, len(strings)), dtype=h5py.ref_dtype)
    for place, string in enumerate(strings):
        units = np.frombuffer(string.encode("utf-16-le"), np.uint16)[:, None]
        text = group.create_dataset(f"{name}{place}", data=units)
        text.attrs["MATLAB_class"] = np.bytes_("char")
        text.attrs["MATLAB_int_decode"] = np.int32(2)
        cells[0, place] = text.ref
    file.create_dataset(name, data=cells).attrs["MATLAB_class"] = np.bytes_("cell")
