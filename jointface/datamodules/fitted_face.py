"""Photos with a face fitted by the Basel Face Model: the .jpg + .mat pairs of 300W-LP and AFLW2000-3D."""

from pathlib import Path

import numpy as np
import scipy.io
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.datamodules.face_dataset import FaceSample, Item, read_image
from jointface.datamodules.on_disk import ARCHIVES, file_names, labels_beside
from jointface.errors import ConfigError, DataError
from jointface.files import disguise_of
from jointface.geometry.array_files import checked_numbers
from jointface.geometry.bfm import FACEWAREHOUSE
from jointface.geometry.camera import apply_camera, camera_from_pose
from jointface.geometry.framing import FaceBox, face_box
from jointface.geometry.morphable_model import MorphableModel, linear_faces

FITS = (".mat", ".MAT")
MAX_FACE_SIZE = 20_000  # pixels
MIN_INSIDE = 0.75  # smallest share of landmarks inside the photo; all of them in every photo that was looked at
# Fields that identify other kinds of .mat file found in place of a fit.
FOREIGN = {
    "pts_2d": "a file of 300W-LP's landmarks/ folder, not the fit that lies beside the photo",
    "shapePC": "a Basel Face Model",
    "model": "a Basel Face Model of face3d",
}


class FittedFaceReader:
    """Reads `.jpg` + `.mat` pairs into samples with coefficients and camera.

    Only the 68 landmarks of the morphable model are kept, for framing, which saves memory in the workers. Raises a
    ConfigError if the files refer to other expressions than the model has.
    """

    def __init__(self, morphable_model: MorphableModel) -> None:
        if morphable_model.name == FACEWAREHOUSE:
            raise ConfigError(
                "the fits of 300W-LP and AFLW2000-3D refer to 3DDFA's 29 expressions, not to those of Exp_Pca.bin: set "
                "morphable_model.expression=3ddfa, or leave these data sets out"
            )
        self.num_shape, self.num_expression = morphable_model.num_shape, morphable_model.num_expression
        self.mean = morphable_model.mean[morphable_model.landmarks68].clone()
        self.basis = morphable_model.basis[:, morphable_model.landmarks68].clone()

    def read(self, photo: Path, with_landmarks: bool = False) -> FaceSample:
        """The photo and its fit. `with_landmarks` adds the file's `pt3d_68` as `landmarks68`, with z in the camera
        frame, and frames the face by these landmarks."""
        path = labels_beside(photo, FITS)
        lengths = {"Pose_Para": 7, "Shape_Para": self.num_shape, "Exp_Para": self.num_expression}
        fit = read_fit(path, [*lengths, "pt3d_68"] if with_landmarks else [*lengths])
        values = []
        for field, length in lengths.items():
            if fit[field].size < length:
                raise DataError(f"{path}: {field} has {fit[field].size} values, at least {length} are needed")
            values.append(torch.from_numpy(fit[field].ravel()[:length].astype(np.float32)))
        pose, shape, expression = values
        image = read_image(photo)
        camera = camera_from_pose(pose, image.shape[0])
        labels = {"shape_coefficients": shape, "expression_coefficients": expression, "camera": camera}
        box = _checked_box(self.landmarks(labels), f"{path}: the fitted face")
        if pose[6] <= 0:
            raise DataError(f"{path}: the scale of Pose_Para is {pose[6]:.3g}, it must be positive")
        _require_inside(self.landmarks(labels), image, photo)
        if with_landmarks:
            points = checked_numbers(f"{path}: pt3d_68", fit["pt3d_68"], (3, 68))  # 1-based, y down
            labels["landmarks68"] = torch.from_numpy((points.T - [1, 1, 0]).astype(np.float32))
            box = _checked_box(labels["landmarks68"], f"{path}: pt3d_68")
        return FaceSample(image, box, labels)

    def landmarks(self, labels: Item) -> Float[Tensor, "68 3"]:
        """The 68 landmarks in image space that follow from coefficients and camera."""
        coefficients = torch.cat([labels["shape_coefficients"], labels["expression_coefficients"]])
        return apply_camera(labels["camera"][None], linear_faces(self.mean, self.basis, coefficients[None]))[0]


def _require_inside(landmarks: Float[Tensor, "68 3"], image: UInt8[np.ndarray, "height width 3"], photo: Path) -> None:
    """Raises a DataError if many landmarks lie outside the image: it was resized or cropped, and its fit was not."""
    height, width = image.shape[:2]
    inside = ((landmarks[:, :2] >= 0) & (landmarks[:, :2] < landmarks.new_tensor([width, height]))).all(1)
    if inside.float().mean() < MIN_INSIDE:
        raise DataError(
            f"{photo}: only {int(inside.sum())} of the fit's 68 landmarks lie inside the {width} x {height} image, so "
            "it does not have its published size; use the published photo"
        )


def _checked_box(landmarks: Float[Tensor, "68 3"], what: str) -> FaceBox:
    box = face_box(landmarks)
    if not 1 < box.size < MAX_FACE_SIZE:
        raise DataError(
            f"{what} is {box.size:.3g} pixels large, expected between 1 and {MAX_FACE_SIZE}; the file is damaged"
        )
    return box


def no_pairs_error(root: Path, what: str, below: str = "") -> DataError:
    """The error for a folder without any fitted photo; it says what is there instead. `below` is "*/" if the photos
    should be in its subfolders."""
    photo = below + "*.[jJ][pP]*[gG]"
    if archive := next((name for name in sorted(file_names(root)) if name.lower().endswith(ARCHIVES)), None):
        hint = f"found {archive} there, unpack it"
    elif found := next(root.glob(photo), None):
        hint = f"found {found.name} in {found.parent}, without its .mat; unpack both"
    elif found := next(root.glob(f"*/{photo}"), None):
        inner = root / found.relative_to(root).parts[0]
        hint = f"found photos one folder too deep, in {inner}: point the path there or move its contents up"
    elif below and any(root.glob("*.jpg")):
        hint = "found photos in the folder itself: point the path to its parent folder"
    else:
        hint = "unpack it there"
    return DataError(f"no .jpg + .mat pair of {what} in {root.absolute()}: {hint}")


def read_fit(path: Path, fields: list[str]) -> dict[str, np.ndarray]:
    """Reads these fields of a .mat file. Raises a DataError if it is damaged, or a field is missing or not finite."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; every photo needs its .mat beside it")
    try:
        content = scipy.io.loadmat(path, variable_names=fields)
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        newer = "it is in the format of MATLAB 7.3, the published ones are older; get it again"
        disguised = disguise_of(path)
        why = newer if isinstance(error, NotImplementedError) else f"it is {disguised}" if disguised else error
        raise DataError(f"{path}: not a readable MATLAB file ({why})") from error
    for field in fields:
        if field not in content:
            names = [name for name, _, _ in scipy.io.whosmat(path)]
            seems = next((f"it seems to be {kind}" for name, kind in FOREIGN.items() if name in names), "")
            holds = f"it holds {', '.join(names) or 'nothing'}; expected a file of 300W-LP or AFLW2000-3D"
            raise DataError(f"{path}: no field {field}; {seems or holds}")
    return {field: checked_numbers(f"{path}: {field}", content[field]) for field in fields}
