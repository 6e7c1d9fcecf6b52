"""Writers of labelled faces in the layouts of CelebA and 300W-LP, which this package's data sets and others read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.errors import ConfigError, DataError
from jointface.files import write_atomically
from jointface.geometry.basis_files import mat_bytes
from jointface.geometry.camera import is_mirrored, pose_from_camera

Split = Literal["train", "val", "test"]
# CelebA's codes. Not imported from its data set, which would bring lightning and albumentations into every renderer.
PARTITION: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


@dataclass(frozen=True)
class Record:
    """What CelebA's label files say of one image.

    name: its file name without the ending, e.g. "000001". split: where it belongs. identity: number of its subject.
    attributes: by CelebA's names, present or not.
    """

    name: str
    split: Split
    identity: int
    attributes: Mapping[str, bool]


class CelebAFolder:
    """Writes faces as CelebA is published.

        root/img_align_celeba/000001.jpg ...   images, any size of the aligned images' framing
        root/list_attr_celeba.txt              count; 40 names; `FILE  1 -1 ...` a row
        root/list_eval_partition.txt           `FILE 0|1|2` a row: train, val, test
        root/identity_CelebA.txt               `FILE NUMBER` a row

    Args:
        root: the folder above; made with the first file.
        extension: ".jpg" as CelebA's, or ".png", which is lossless.
        quality: of JPEG, 1 to 100.

    Raises:
        ConfigError: another extension.
    """

    def __init__(self, root: Path, extension: str = ".jpg", quality: int = 95) -> None:
        if extension not in {".jpg", ".png"}:
            raise ConfigError(f"images cannot be written as {extension!r}, only as .jpg or .png")
        self.root, self.extension, self.quality = Path(root), extension, quality

    def image_path(self, name: str) -> Path:
        return self.root / "img_align_celeba" / f"{name}{self.extension}"

    def exists(self, name: str) -> bool:
        """Whether the image is already there; what is there is whole."""
        return self.image_path(name).is_file()

    def write_image(self, name: str, image: UInt8[np.ndarray, "height width 3"]) -> None:
        """Writes an RGB image.

        Raises:
            DataError: it cannot be encoded or written; nothing of it stays.
        """
        path = self.image_path(name)
        write_atomically(path, encode_image(path, image, self.quality))

    def write_labels(self, records: Sequence[Record]) -> None:
        """Writes the three label files, with rows in the order of the names.

        CelebA's format has no "unlabelled": an attribute that a record does not have is written as -1, absent.

        Raises:
            DataError: two records have one name, an attribute is none of CelebA's 40, or a file cannot be written.
        """
        _require_sound(records)
        rows = [(f"{record.name}{self.extension}", record) for record in sorted(records, key=lambda r: r.name)]
        header = [str(len(rows)), " ".join(CELEBA.attributes) + " "]  # the published file has that blank
        self._write("list_attr_celeba.txt", [*header, *(f"{file} {_labels(record)}" for file, record in rows)])
        self._write("list_eval_partition.txt", [f"{file} {PARTITION[record.split]}" for file, record in rows])
        self._write("identity_CelebA.txt", [f"{file} {record.identity}" for file, record in rows])

    def _write(self, name: str, lines: list[str]) -> None:
        write_atomically(self.root / name, "".join(f"{line}\n" for line in lines).encode())


def _labels(record: Record) -> str:
    return " ".join(" 1" if record.attributes.get(name, False) else "-1" for name in CELEBA.attributes)


def _require_sound(records: Sequence[Record]) -> None:
    names: set[str] = set()
    for record in records:
        if record.name in names:
            raise DataError(f"two faces are named {record.name!r}; their labels cannot be told apart")
        if unknown := set(record.attributes) - set(CELEBA.attributes):
            raise DataError(f"face {record.name}: {', '.join(sorted(unknown))} is no attribute of CelebA")
        names.add(record.name)


class W300LPFolder:
    """Writes faces with their 3D labels as 300W-LP is published, one subset folder for each split.

        root/Synthetic_train/000001.jpg, .mat ...
        root/Synthetic_val/...
        root/Synthetic_test/...

    A .mat holds Pose_Para (1, 7), Shape_Para (Ks, 1), Exp_Para (Ke, 1), pt2d (2, 68) and, as AFLW2000-3D, pt3d_68
    (3, 68).

    300W-LP has no official splits, and `W300LP` holds photos out by a hash of their names. The folders take its place:
    `W300LP(root, "train", ..., subsets=["Synthetic_train"], val_fraction=0)` reads the faces for training and
    `W300LP(root, "val", ..., subsets=["Synthetic_val"], val_fraction=1)` those held out. In a config these are two
    sources, with `splits: {train: train}` and `splits: {val: val}`. All subsets together mix the splits.
    `AFLW2000(root / "Synthetic_test", ...)` reads the faces to test with, pt3d_68 included.

    Args:
        root: the folder above; made with the first file.
        subset: what the subset folders' names begin with.
        quality: of JPEG, 1 to 100.
    """

    def __init__(self, root: Path, subset: str = "Synthetic", quality: int = 95) -> None:
        self.root, self.subset, self.quality = Path(root), subset, quality

    def photo_path(self, name: str, split: Split) -> Path:
        return self.root / f"{self.subset}_{split}" / f"{name}.jpg"

    def exists(self, name: str, split: Split) -> bool:
        """Whether photo and .mat are already there; what is there is whole."""
        photo = self.photo_path(name, split)
        return photo.is_file() and photo.with_suffix(".mat").is_file()

    def write_face(
        self,
        name: str,
        split: Split,
        image: UInt8[np.ndarray, "height width 3"],
        camera: Float[Tensor, "3 4"],
        shape: Float[Tensor, "shape"],
        expression: Float[Tensor, "expression"],
        landmarks68: Float[Tensor, "68 3"],
    ) -> None:
        """Writes an RGB photo and its labels.

        Args:
            name: file name without the ending.
            split: which subset folder it goes to.
            image: (H, W, 3) uint8 RGB.
            camera: (3, 4) affine map from model space to the image, pixel centres at integers from 0, y down. What
                Pose_Para holds is a turn, a uniform scale and a shift, so it must be neither mirrored nor sheared.
            shape, expression: (Ks,) and (Ke,) coefficients.
            landmarks68: (68, 3) in the image; z in pixels towards the viewer, in the frame of the camera.

        Raises:
            DataError: Pose_Para cannot hold the camera, a label is not finite, or a file cannot be written. Each file
                is whole or as it was; `exists` says whether both are there.
        """
        photo = self.photo_path(name, split)
        points = landmarks68.double().cpu().numpy().T + np.array([[1], [1], [0]])  # MATLAB counts pixels from 1
        fit = {
            "Pose_Para": plain_pose(camera, image.shape[0], f"face {name}")[None].numpy(),
            "Shape_Para": shape.double().cpu().numpy()[:, None],
            "Exp_Para": expression.double().cpu().numpy()[:, None],
            "pt2d": points[:2],
            "pt3d_68": points.astype(np.float32),
        }
        if broken := [field for field, values in fit.items() if not np.isfinite(values).all()]:
            raise DataError(f"face {name}: {', '.join(broken)} would hold values that are no finite numbers")
        write_atomically(photo.with_suffix(".mat"), mat_bytes(fit))
        write_atomically(photo, encode_image(photo, image, self.quality))


def plain_pose(camera: Float[Tensor, "3 4"], image_height: int, what: str) -> Float[Tensor, "7"]:
    """Pose_Para of a camera to an image of this height; float32, computed in double.

    It gives the camera back to 1e-3 pixels up to a yaw of 1.55 (89 degrees), and to 0.05 where it is straight sideways,
    where pitch and roll turn the same way.

    Raises:
        DataError: the camera is mirrored or sheared, or scales the axes differently (by more than 0.1 %).
    """
    camera = camera.double().cpu()
    linear = camera[:, :3]
    scale = linear.norm(dim=1).mean()
    error = (linear @ linear.T / scale**2 - torch.eye(3, dtype=torch.float64)).abs().max()
    if not error < 2e-3 or is_mirrored(camera):  # not <, so that NaN does not pass
        raise DataError(
            f"{what}: Pose_Para holds a turn, a uniform scale and a shift only, and this camera mirrors or shears"
        )
    return pose_from_camera(camera, image_height).float()


def encode_image(path: Path, image: UInt8[np.ndarray, "height width 3"], quality: int) -> bytes:
    """An RGB image in the format that the path's ending names.

    Raises:
        DataError: the format cannot hold it.
    """
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    try:
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    except cv2.error as error:
        raise DataError(f"{path}: an image of shape {image.shape} cannot be encoded ({error.err})") from error
    if not done:
        raise DataError(f"{path}: an image of shape {image.shape} cannot be encoded as {path.suffix}")
    return data.tobytes()
