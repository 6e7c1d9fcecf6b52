"""Writes labelled faces in the layouts of CelebA and 300W-LP, for this package's data sets and other tools."""

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
# CelebA's codes. Importing them from its data set would import Lightning and albumentations into every renderer.
PARTITION: dict[Split, int] = {"train": 0, "val": 1, "test": 2}


def write_celeba_labels(folder: Path, faces: pandas.DataFrame) -> None:
    """Writes CelebA's three label files, sorted by image file.

        folder/img_align_celeba/000001.jpg ...   images of any size with the framing of the aligned images
        folder/list_attr_celeba.txt              count; 40 names; then rows `FILE  1 -1 ...`
        folder/list_eval_partition.txt           rows `FILE 0|1|2`: train, val, test
        folder/identity_CelebA.txt               rows `FILE NUMBER`

    CelebA's format cannot express "unlabelled": attributes without a column are written as absent (-1).

    Args:
        faces: one row per image, with columns file, split, identity, and a boolean column for each labelled attribute.

    Raises:
        DataError: a file cannot be written.
    """
    faces = faces.sort_values("file")
    present = faces.reindex(columns=list(CELEBA.attributes), fill_value=False).astype(bool)
    labels = [" ".join(row) for row in np.where(present, " 1", "-1")]
    header = [str(len(faces)), " ".join(CELEBA.attributes) + " "]  # trailing space as in the published file
    files = {
        "list_attr_celeba.txt": [*header, *(faces["file"] + " " + labels)],
        "list_eval_partition.txt": faces["file"] + " " + faces["split"].map(PARTITION).astype(str),
        "identity_CelebA.txt": faces["file"] + " " + faces["identity"].astype(str),
    }
    for name, lines in files.items():
        write_atomically(folder / name, "".join(f"{line}\n" for line in lines).encode())


def write_300wlp_face(
    photo: Path,
    image: UInt8[np.ndarray, "height width 3"],
    camera: Float[Tensor, "3 4"],
    shape: Float[Tensor, "shape"],
    expression: Float[Tensor, "expression"],
    landmarks68: Float[Tensor, "68 3"],
    quality: int = 95,
) -> None:
    """Writes an RGB image to the .jpg `photo`, and its labels to a .mat beside it, in 300W-LP's format.

    The .mat holds Pose_Para (1, 7), Shape_Para (Ks, 1), Exp_Para (Ke, 1), pt2d (2, 68) and, like AFLW2000-3D, pt3d_68
    (3, 68).

    Args:
        camera: affine map from model space to the image (0-based pixel centres, y down), without mirroring or shear.
        landmarks68: in the image; z in pixels towards the viewer, in the frame of the camera.
        quality: JPEG quality, 1 to 100.

    Raises:
        DataError: Pose_Para cannot represent the camera, a label is not finite, or a file cannot be written. Each file
            is complete or unchanged.
    """
    points = landmarks68.double().cpu().numpy().T + np.array([[1], [1], [0]])  # MATLAB counts pixels from 1
    fit = {
        "Pose_Para": _pose_para(camera, image.shape[0], photo.stem)[None].numpy(),
        "Shape_Para": shape.double().cpu().numpy()[:, None],
        "Exp_Para": expression.double().cpu().numpy()[:, None],
        "pt2d": points[:2],
        "pt3d_68": points.astype(np.float32),
    }
    if broken := [field for field, values in fit.items() if not np.isfinite(values).all()]:
        raise DataError(f"face {photo.stem}: {', '.join(broken)} would hold values that are not finite")
    write_atomically(photo.with_suffix(".mat"), mat_bytes(fit))
    write_image(photo, image, quality)


def _pose_para(camera: Float[Tensor, "3 4"], image_height: int, name: str) -> Float[Tensor, "7"]:
    """Pose_Para of a camera in float32, computed in double precision.

    It reproduces the camera to within 1e-3 pixels up to a yaw of 1.55 (89 degrees), and to within 0.05 pixels in full
    profile, where pitch and roll are the same rotation.
    """
    camera = camera.double().cpu()
    linear = camera[:, :3]
    scale = linear.norm(dim=1).mean()
    error = (linear @ linear.T / scale**2 - torch.eye(3, dtype=torch.float64)).abs().max()
    if not error < 2e-3 or is_mirrored(camera):  # scales may differ by 0.1 %; "not <" also catches NaN
        held = "a rotation, a uniform scale and a translation"
        raise DataError(f"face {name}: Pose_Para holds {held}, but this camera mirrors or shears")
    return pose_from_camera(camera, image_height).float()


def write_image(path: Path, image: UInt8[np.ndarray, "height width 3"], quality: int = 95) -> None:
    """Writes an RGB image in the format given by the path's suffix, with this JPEG quality.

    Raises:
        DataError: the image cannot be encoded or written; no partial file remains.
    """
    parameters = [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else []
    try:
        done, data = cv2.imencode(path.suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), parameters)
    except cv2.error as error:
        raise DataError(f"{path}: an image of shape {image.shape} cannot be encoded ({error.err})") from error
    if not done:
        raise DataError(f"{path}: an image of shape {image.shape} cannot be encoded as {path.suffix}")
    write_atomically(path, data.tobytes())
