"""LFWA: the 13,143 photos of Labeled Faces in the Wild that have 73 attributes each."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from jaxtyping import Bool, Float
from pymatreader import read_mat
from torch import Tensor

from jointface.attributes import LFWA as LFWA_ATTRIBUTES
from jointface.attributes import attribute_name
from jointface.datamodules.crop import CropTransform, box_in_copy
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, read_image
from jointface.datamodules.held_out import held_out_fraction
from jointface.datamodules.on_disk import (
    Count,
    file_names,
    find_photos,
    log_left_out,
    missing,
    photo_names,
    require_file,
    require_folder,
)
from jointface.errors import ConfigError, DataError
from jointface.files import is_clutter
from jointface.geometry.framing import FaceBox

IMAGE_FOLDERS = ("lfw", "lfw-deepfunneled", "lfw_funneled")  # as LFW's archives unpack
ATTRIBUTE_FILE, SPLIT_FILE = "lfw_att_73.mat", "indices_train_test.mat"

# Average landmark box of LFW's 250 x 250 images: CelebA's ALIGNED_BOX after the scale (1.074) and shift that map the
# mean landmarks of CelebA to those of LFW by least squares. LFW's were found by MTCNN in all 13,233 original images
# (`data/lfw_landmark.txt` of clcarwin/sphereface_pytorch; standard deviation of 4 pixels at the eyes); CelebA's are the
# first 50 rows of `list_landmarks_align_celeba.txt`; tests/test_lfwa.py repeats the fit. Funneling aligns photos with
# their average, so its folders get the same box, although no landmarks were available to check this.
LFW_SIZE = (250, 250)  # width and height
LFW_BOX = FaceBox(x=125.7, y=142.9, size=92.6)


class LFWA(FaceDataset):
    """LFWA (also LFWA+), attributes for the photos of Labeled Faces in the Wild.

    On disk, as published:

        root/lfw/Aaron_Eckhart/Aaron_Eckhart_0001.jpg ...   250 x 250 (or any size with the same framing)
        root/lfw_att_73.mat                                 MATLAB 7.3; AttrName (73 names), label (13143 x 73, 0 or 1),
                                                            name (13143 of `Aaron_Eckhart\\Aaron_Eckhart_0001.jpg`)
        root/indices_train_test.mat                         indices_img_train (6263), indices_img_test (6880), 1-based
                                                            rows of the above; indices_identity_train and _test

    90 of LFW's 13,233 photos are not labelled. Rows without an image are left out, and the log counts them. Get labels
    and split from CelebA's page ("LFWA+"), and the photos from there or from LFW's own archives. Licence:
    non-commercial research. Cite: Liu et al., "Deep Learning Face Attributes in the Wild", ICCV 2015; Huang et al.,
    "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007.

    Items hold `attributes` and `attribute_mask`, 73 each, in the order of `jointface.attributes.LFWA`, and `identity`,
    the person's index among the sorted names of the whole data set.

    Args:
        split: "train", "val" or "test". The official split is by people and has no "val". Here, people of its training
            part are held out for "val" by a hash of their name, equal on all machines; "train" is the rest.
        images: name of the image folder in root: "lfw" (the original images), "lfw-deepfunneled" or "lfw_funneled".
        val_fraction: fraction of the people in the training part that are held out.
    """

    label_set = LFWA_ATTRIBUTES
    splits = ("train", "val", "test")
    identity: Tensor

    def __init__(
        self, root: str | Path, split: str, transform: CropTransform, images: str = "lfw", val_fraction: float = 0.1
    ) -> None:
        super().__init__(split, transform)
        if not 0 <= val_fraction < 1:
            raise ConfigError(f"LFWA: val_fraction={val_fraction} must be at least 0 and below 1")
        root = require_folder(Path(root), "LFWA", "set paths.data_dir to the folder that holds LFWA/")
        self.images = root / images
        if not self.images.is_dir() and (there := [name for name in IMAGE_FOLDERS if (root / name).is_dir()]):
            raise DataError(
                f"no folder {self.images.absolute()}: looked there for LFW's images; found {', '.join(there)} there, "
                "select it with images="
            )
        self.images = require_folder(self.images, "LFW's images", "unpack them there")
        names, labels = read_attributes(root / ATTRIBUTE_FILE)
        in_train, in_test = read_split(root / SPLIT_FILE, len(names))
        people, identity = np.unique([name.partition("/")[0] for name in names.tolist()], return_inverse=True)
        held_out = np.array([held_out_fraction(person) < val_fraction for person in people.tolist()])[identity]
        part = {"train": in_train & ~held_out, "val": in_train & held_out, "test": in_test}[split]
        on_disk = image_names(self.images)
        files, has_image = find_photos(names, on_disk)
        if not has_image.any():
            raise missing(self.images / str(people[0]), "LFW's photos of a person", "unpack LFW's images there")
        keep = part & has_image
        log_left_out("LFWA", f"rows of the {split} split have no image", names[part & ~has_image])
        if not keep.any():
            raise DataError(f"LFWA's {split} split is empty: {part.sum()} of {len(names)} rows, none with an image")
        self.names = files[keep]
        self.require_published_size(LFW_SIZE)
        self.attributes = torch.from_numpy(labels[keep])
        self.identity = torch.from_numpy(identity[keep])
        self.mask = torch.ones(len(LFWA_ATTRIBUTES), dtype=torch.bool)
        self.counts = [
            Count("images", len(on_disk), 13_233),
            Count("people", len({name.partition("/")[0] for name in on_disk}), 5_749),
            Count("labelled images", int(has_image.sum()), 13_143),
            Count("training part (train and val)", int((in_train & has_image).sum()), 6_263),
            Count("test part", int((in_test & has_image).sum()), 6_880),
        ]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.images / str(self.names[index])

    def read(self, index: int) -> FaceSample:
        image = read_image(self.path(index))
        labels = {"attributes": self.attributes[index], "attribute_mask": self.mask, "identity": self.identity[index]}
        box = box_in_copy(LFW_BOX, LFW_SIZE, (image.shape[1], image.shape[0]), self.path(index))
        return FaceSample(image, box, labels)

    def inventory(self) -> list[Count]:
        return self.counts


def read_attributes(path: Path) -> tuple[np.ndarray, Float[np.ndarray, "images attributes"]]:
    """Reads image names `Person/Person_0001.jpg` (N,) and labels (N, 73) in {0, 1} from `lfw_att_73.mat`."""
    content = read_variables(path, "LFWA's 73 attributes", "AttrName", "label", "name")
    attributes = [attribute_name(str(name)) for name in np.atleast_1d(content["AttrName"])]
    names = np.array([str(name).replace("\\", "/") for name in np.atleast_1d(content["name"])])
    label = np.atleast_2d(content["label"])
    known = set(LFWA_ATTRIBUTES.attributes)
    if set(attributes) != known:
        lacking, unknown = sorted(known - set(attributes)), sorted(set(attributes) - known)
        raise DataError(
            f"{path.absolute()}: its {len(attributes)} attributes are not LFWA's {len(known)}: {len(lacking)} are "
            f"missing ({', '.join(lacking[:3])}), {len(unknown)} unknown ({', '.join(unknown[:3])}); this is another "
            f"file, use {ATTRIBUTE_FILE}"
        )
    if label.shape != (len(names), len(attributes)):
        raise DataError(
            f"{path.absolute()}: label has shape {label.shape}, but there are {len(names)} image names and "
            f"{len(attributes)} attribute names; the file is damaged, get it again"
        )
    if not np.isin(label, (0, 1)).all():
        raise DataError(f"{path.absolute()}: label holds values other than 0 and 1; the file is damaged, get it again")
    columns = [attributes.index(name) for name in LFWA_ATTRIBUTES.attributes]
    return names, label[:, columns].astype(np.float32)


def read_split(path: Path, rows: int) -> tuple[Bool[np.ndarray, "rows"], Bool[np.ndarray, "rows"]]:
    """Which rows of `lfw_att_73.mat` belong to the training and to the test part in `indices_train_test.mat`."""
    parts = []
    for field, indices in read_variables(path, "LFWA's split", "indices_img_train", "indices_img_test").items():
        values = np.atleast_1d(indices).ravel()
        if values.dtype.kind not in "iuf" or not np.isin(values, np.arange(1, rows + 1)).all():
            raise DataError(
                f"{path.absolute()}: {field} must hold row numbers from 1 to {rows}, the rows of {ATTRIBUTE_FILE}; the "
                "two files are from different releases, get both again"
            )
        parts.append(np.isin(np.arange(1, rows + 1), values))
    train, test = parts
    if (both := train & test).any():
        raise DataError(f"{path.absolute()}: {both.sum()} rows are in both parts; the file is damaged, get it again")
    return train, test


def read_variables(path: Path, what: str, *variables: str) -> dict[str, Any]:
    """Reads these variables of a MATLAB file (version 5 or 7.3); a cell array of strings becomes a list."""
    require_file(path, what, f"get it from the LFWA+ folder of the CelebA page and put it beside {IMAGE_FOLDERS[0]}/")
    try:
        cells = {}
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:  # pymatreader takes four times as long for the cells of 13,143 names
                cells = {v: _strings(file[v]) for v in variables if v in file and file[v].dtype == h5py.ref_dtype}
        content = read_mat(path, variable_names=variables, ignore_fields=list(cells)) | cells
    except Exception as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path.absolute()}: not a readable MATLAB file ({reason}); get it again") from error
    if lacking := [name for name in variables if name not in content]:
        raise DataError(
            f"{path.absolute()}: no variable {', '.join(lacking)}; the file is damaged or the wrong one, get it again"
        )
    return {name: content[name] for name in variables}


def _strings(cells: h5py.Dataset) -> list[str]:
    """Reads a cell array of strings, which is stored as references to arrays of UTF-16 units."""
    strings = []
    for cell in cells[()].ravel():
        text = h5py.h5r.dereference(cell, cells.id)
        units = np.empty(text.shape, dtype="<u2")
        text.read(h5py.h5s.ALL, h5py.h5s.ALL, units)  # half the time of h5py's own slicing
        strings.append(units.tobytes().decode("utf-16-le"))
    return strings


def image_names(folder: Path) -> set[str]:
    """The name `Person/Person_0001.jpg` of every photo."""
    with os.scandir(folder) as entries:
        people = [entry.name for entry in entries if entry.is_dir() and not is_clutter(entry.name)]
    return {f"{person}/{name}" for person in people for name in photo_names(file_names(folder / person)).values()}
