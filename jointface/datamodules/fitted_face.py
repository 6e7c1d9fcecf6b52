"""The .mat file of a face fitted with the Basel Face Model, as 300W-LP and AFLW2000-3D store it beside each photo."""

import logging
from pathlib import Path

import numpy as np
import scipy.io
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.face_dataset import FaceSample, read_image
from jointface.errors import DataError
from jointface.geometry.camera import apply_camera, camera_from_pose
from jointface.geometry.framing import FaceBox, face_box
from jointface.geometry.morphable_model import MorphableModel, linear_faces

log = logging.getLogger(__name__)

MAX_FACE_SIZE = 20_000  # pixels


class FittedFaceReader:
    """Reads `.jpg` + `.mat` pairs into samples with coefficients and camera.

    Only the 68 landmarks of the morphable model are kept, which is what the framing needs, so that workers stay small.
    """

    def __init__(self, morphable_model: MorphableModel) -> None:
        self.num_shape, self.num_expression = morphable_model.num_shape, morphable_model.num_expression
        self.mean = morphable_model.mean[morphable_model.landmarks68].clone()
        self.basis = morphable_model.basis[:, morphable_model.landmarks68].clone()

    def read(self, photo: Path, with_landmarks: bool = False) -> FaceSample:
        """The photo and its fit; `with_landmarks` adds the file's own `pt3d_68` as `landmarks68`, whose z is in the
        frame of the camera."""
        path = photo.with_suffix(".mat")
        fields = {"Pose_Para": 7, "Shape_Para": self.num_shape, "Exp_Para": self.num_expression}
        fit = read_fit(path, [*fields, "pt3d_68"] if with_landmarks else [*fields])
        for field, length in fields.items():
            if fit[field].size < length:
                raise DataError(f"{path}: {field} has {fit[field].size} values, at least {length} are needed")
        image = read_image(photo)
        pose, shape, expression = (
            torch.from_numpy(fit[field].ravel()[:length].astype(np.float32)) for field, length in fields.items()
        )
        camera = camera_from_pose(pose, image.shape[0])
        labels = {"shape_coefficients": shape, "expression_coefficients": expression, "camera": camera}
        box = face_box(self.landmarks(torch.cat([shape, expression]), camera))
        _require_size(box, f"{path}: the fitted face")
        if pose[6] <= 0:
            raise DataError(f"{path}: the scale of Pose_Para is {pose[6]:.3g}, it must be positive")
        if with_landmarks:
            labels["landmarks68"] = matlab_landmarks(fit["pt3d_68"], path)
            box = face_box(labels["landmarks68"])
            _require_size(box, f"{path}: pt3d_68")
        return FaceSample(image, box, labels)

    def landmarks(
        self, coefficients: Float[Tensor, "coefficients"], camera: Float[Tensor, "3 4"]
    ) -> Float[Tensor, "68 3"]:
        """The 68 landmarks rebuilt from a fit, in image space."""
        return apply_camera(camera[None], linear_faces(self.mean, self.basis, coefficients[None]))[0]


def _require_size(box: FaceBox, what: str) -> None:
    if not 1 < box.size < MAX_FACE_SIZE:
        raise DataError(
            f"{what} is {box.size:.3g} pixels large, expected between 1 and {MAX_FACE_SIZE}; the file is damaged"
        )


def fitted_photos(folder: Path, data_set: str) -> list[Path]:
    """The photos of a folder that have a .mat beside them; photos and fits without the other are counted in the log."""
    files = {entry.name for entry in folder.iterdir()}
    photos, fits = ({Path(name).stem for name in files if name.endswith(ending)} for ending in (".jpg", ".mat"))
    for what, lonely in {"photos have no .mat": photos - fits, ".mat files have no photo": fits - photos}.items():
        if lonely:
            log.warning("%s: %d %s in %s and are left out, e.g. %s", data_set, len(lonely), what, folder, min(lonely))
    return [folder / f"{stem}.jpg" for stem in sorted(photos & fits)]


def read_fit(path: Path, fields: list[str]) -> dict[str, np.ndarray]:
    """The named fields of a .mat file, all there and finite.

    Raises:
        DataError: the file is missing or damaged, or a field is missing or holds NaN.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; every photo needs its .mat beside it")
    try:
        content = scipy.io.loadmat(path, variable_names=fields)
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({error})") from error
    for field in fields:
        if field not in content:
            raise DataError(f"{path}: no field {field}; expected a file of 300W-LP or AFLW2000-3D")
        if not np.issubdtype(content[field].dtype, np.number) or not np.isfinite(content[field]).all():
            raise DataError(f"{path}: {field} holds values that are no finite numbers")
    return {field: content[field] for field in fields}


def matlab_landmarks(points: np.ndarray, path: Path) -> Float[Tensor, "68 3"]:
    """`pt3d_68` (3, 68), 1-based with y down, as (68, 3) in image space."""
    if points.shape != (3, 68):
        raise DataError(f"{path}: pt3d_68 has shape {points.shape}, expected (3, 68)")
    return torch.from_numpy((points.T - [1, 1, 0]).astype(np.float32))
