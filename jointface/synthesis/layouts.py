"""Writes labelled faces in the layouts of CelebA and 300W-LP, which this package's data sets and other tools read."""

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pandas
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.errors import DataError
from jointface.files import write_atomically
from jointface.geometry.array_files import mat_bytes
from jointface.geometry.camera import is_mirrored, pose_from_camera

Split = Literal["train", "val", "test"]
# CelebA's codes. Its data set has them too, but would import Lightning and albumentations into every renderer.
PARTITION: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


class CelebAFolder:
    """Writes faces as CelebA is published.

        root/img_align_celeba/000001.jpg ...   images of any size with the framing of the aligned images
        root/list_attr_celeba.txt              count; 40 names; `FILE  1 -1 ...` a row
        root/list_eval_partition.txt           `FILE 0|1|2` a row: train, val, test
        root/identity_CelebA.txt               `FILE NUMBER` a row

    Args:
        root: the folder above; made with the first file.
        extension: ".jpg" like CelebA, or ".png", which is lossless.
        quality: of JPEG, 1 to 100.
    """

    def __init__(self, root: Path, extension: str = ".jpg", quality: int = 95) -> None:
        self.root, self.extension, self.quality = root, extension, quality

    def image_path(self, name: str) -> Path:
        return self.root / "img_align_celeba" / f"{name}{self.extension}"

    def write_labels(self, faces: pandas.DataFrame) -> None:
        """Writes the three label files, sorted by name.

        CelebA's format has no "unlabelled": attributes without a column are written as absent (-1).

        Args:
            faces: a row a face. name: of its file, without the ending. split, identity: see above. Columns named like
                CelebA's attributes: whether the attribute is present.

        Raises:
            DataError: a file cannot be written.
        """
        faces = faces.sort_values("name")
        files = faces["name"] + self.extension
        present = faces.reindex(columns=list(CELEBA.attributes), fill_value=False).astype(bool)
        labels = [" ".join(row) for row in np.where(present, " 1", "-1")]
        header = [str(len(faces)), " ".join(CELEBA.attributes) + " "]  # the published file has this blank
        self._write("list_attr_celeba.txt", [*header, *(files + " " + labels)])
        self._write("list_eval_partition.txt", files + " " + faces["split"].map(PARTITION).astype(str))
        self._write("identity_CelebA.txt", files + " " + faces["identity"].astype(str))

    def _write(self, name: str, lines: "list[str] | pandas.Series[str]") -> None:
        write_atomically(self.root / name, "".join(f"{line}\n" for line in lines).encode())


class W300LPFolder:
    """Writes faces with their 3D labels as 300W-LP is published, one subset folder for each split.

        root/Synthetic_train/000001.jpg, .mat ...
        root/Synthetic_val/...
        root/Synthetic_test/...

    A .mat holds Pose_Para (1, 7), Shape_Para (Ks, 1), Exp_Para (Ke, 1), pt2d (2, 68) and, like AFLW2000-3D, pt3d_68
    (3, 68).

    300W-LP has no official splits, and `W300LP` holds photos out by a hash of their names. Here the folders decide:
    `W300LP(root, "train", ..., subsets=["Synthetic_train"], val_fraction=0)` reads the faces for training and
    `W300LP(root, "val", ..., subsets=["Synthetic_val"], val_fraction=1)` those held out. In a config these are two
    sources, with `splits: {train: train}` and `splits: {val: val}`; reading all subsets as one source would mix the
    splits. `AFLW2000(root / "Synthetic_test", ...)` reads the test faces with their pt3d_68.

    Args:
        root: the folder above; made with the first file.
        quality: of JPEG, 1 to 100.
    """

    def __init__(self, root: Path, quality: int = 95) -> None:
        self.root, self.quality = root, quality

    def photo_path(self, name: str, split: Split) -> Path:
        return self.root / f"Synthetic_{split}" / f"{name}.jpg"

    def exists(self, name: str, split: Split) -> bool:
        """Whether both photo and .mat are there; each of them is written whole or not at all."""
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
            name: file name without the ending. split: which subset folder it goes to.
            camera: affine map from model space to the image (0-based pixel centres, y down). Pose_Para holds a
                rotation, a uniform scale and a translation, so the camera must not mirror or shear.
            landmarks68: in the image; z in pixels towards the viewer, in the frame of the camera.

        Raises:
            DataError: Pose_Para cannot hold the camera, a label is not finite, or a file cannot be written. Each file
                is whole or unchanged; `exists` says whether both are there.
        """
        photo = self.photo_path(name, split)
        points = landmarks68.double().cpu().numpy().T + np.array([[1], [1], [0]])  # MATLAB counts pixels from 1
        fit = {
            "Pose_Para": _pose_para(camera, image.shape[0], name)[None].numpy(),
            "Shape_Para": shape.double().cpu().numpy()[:, None],
            "Exp_Para": expression.double().cpu().numpy()[:, None],
            "pt2d": points[:2],
            "pt3d_68": points.astype(np.float32),
        }
        if broken := [field for field, values in fit.items() if not np.isfinite(values).all()]:
            raise DataError(f"face {name}: {', '.join(broken)} would hold values that are not finite")
        write_atomically(photo.with_suffix(".mat"), mat_bytes(fit))
        write_image(photo, image, self.quality)


def _pose_para(camera: Float[Tensor, "3 4"], image_height: int, name: str) -> Float[Tensor, "7"]:
    """Pose_Para of a camera; float32, computed in double.

    It gives the camera back to 1e-3 pixels up to a yaw of 1.55 (89 degrees), and to 0.05 pixels in full profile, where
    pitch and roll are the same rotation.

    Raises:
        DataError: the camera mirrors or shears, or its scales differ by more than 0.1 %.
    """
    camera = camera.double().cpu()
    linear = camera[:, :3]
    scale = linear.norm(dim=1).mean()
    error = (linear @ linear.T / scale**2 - torch.eye(3, dtype=torch.float64)).abs().max()
    if not error < 2e-3 or is_mirrored(camera):  # "not <" also catches NaN
        raise DataError(
            f"face {name}: Pose_Para holds a rotation, a uniform scale and a translation, but this camera mirrors or "
            "shears"
        )
    return pose_from_camera(camera, image_height).float()


def write_image(path: Path, image: UInt8[np.ndarray, "height width 3"], quality: int) -> None:
    """Writes an RGB image in the format that the path's ending names; `quality` is that of JPEG.

    Raises:
        DataError: the image cannot be encoded or written; nothing of it stays.
    """
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    try:
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    except cv2.error as error:
        raise DataError(f"{path}: an image of shape {image.shape} cannot be encoded ({error.err})") from error
    if not done:
        raise DataError(f"{path}: an image of shape {image.shape} cannot be encoded as {path.suffix}")
    write_atomically(path, data.tobytes())
