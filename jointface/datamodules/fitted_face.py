"""Photos with a face fitted by the Basel Face Model: the .jpg + .mat pairs of 300W-LP and AFLW2000-3D."""

from pathlib import Path

import numpy as np
import scipy.io
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.face_dataset import FaceSample, Item, read_image
from jointface.datamodules.on_disk import ARCHIVES, file_names, log_left_out, require_folder
from jointface.errors import ConfigError, DataError
from jointface.geometry.bfm import FACEWAREHOUSE
from jointface.geometry.camera import apply_camera, camera_from_pose
from jointface.geometry.framing import FaceBox, face_box
from jointface.geometry.morphable_model import MorphableModel, linear_faces

ENDINGS = (".jpg", ".mat")
MAX_FACE_SIZE = 20_000  # pixels
# Fields that tell what another .mat file in the place of a fit is.
FOREIGN = {
    "pts_2d": "a file of 300W-LP's landmarks/ folder, not the fit that lies beside the photo",
    "shapePC": "a Basel Face Model",
    "model": "a Basel Face Model of face3d",
}


class FittedFaceReader:
    """Reads `.jpg` + `.mat` pairs into samples with coefficients and camera.

    Of the morphable model only the 68 landmarks are kept, which the framing needs, so that workers stay small.

    Raises:
        ConfigError: the morphable model's expressions are not those that the files refer to.
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
        """The photo and its fit. `with_landmarks` adds the file's `pt3d_68` as `landmarks68`, with z in the camera's
        frame, and frames the face by them."""
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
        box = face_box(self.landmarks(labels))
        _require_size(box, f"{path}: the fitted face")
        if pose[6] <= 0:
            raise DataError(f"{path}: the scale of Pose_Para is {pose[6]:.3g}, it must be positive")
        if with_landmarks:
            labels["landmarks68"] = matlab_landmarks(fit["pt3d_68"], path)
            box = face_box(labels["landmarks68"])
            _require_size(box, f"{path}: pt3d_68")
        return FaceSample(image, box, labels)

    def landmarks(self, labels: Item) -> Float[Tensor, "68 3"]:
        """The 68 landmarks that coefficients and camera imply, in image space."""
        coefficients = torch.cat([labels["shape_coefficients"], labels["expression_coefficients"]])
        return apply_camera(labels["camera"][None], linear_faces(self.mean, self.basis, coefficients[None]))[0]


def _require_size(box: FaceBox, what: str) -> None:
    if not 1 < box.size < MAX_FACE_SIZE:
        raise DataError(
            f"{what} is {box.size:.3g} pixels large, expected between 1 and {MAX_FACE_SIZE}; the file is damaged"
        )


def open_root(root: str | Path, what: str) -> Path:
    """The folder of a data set.

    Raises:
        DataError: it is missing.
    """
    root = Path(root)
    require_folder(root, what, f"set paths.data_dir to the folder that holds {root.name}/")
    return root


def no_pairs(root: Path, what: str, below: str = "") -> DataError:
    """The error for a folder without any photo with a fit, which says what is there instead.

    Args:
        root: the folder. what: the data set. below: "*/" if the photos should be in folders below it.
    """
    photo = below + "*.[jJ][pP][gG]"
    if archive := next((name for name in sorted(file_names(root)) if name.lower().endswith(ARCHIVES)), None):
        hint = f"found {archive} there, unpack it"
    elif found := next(root.glob(photo), None):
        how = "without its .mat; unpack both" if found.suffix == ".jpg" else "rename the files to .jpg and .mat"
        hint = f"found {found.name} in {found.parent}, {how}"
    elif found := next(root.glob(f"*/{photo}"), None):
        inner = root / found.relative_to(root).parts[0]
        hint = f"found photos one folder too deep, in {inner}: point the path there or move its content up"
    elif below and any(root.glob("*.jpg")):
        hint = "found photos in the folder itself: point the path at the folder above"
    else:
        hint = "unpack it there"
    return DataError(f"no .jpg + .mat pair of {what} in {root.absolute()}: {hint}")


def fitted_photos(folder: Path, data_set: str | None = None) -> list[str]:
    """The names, sorted and without ending, of a folder's photos that have a .mat beside them.

    With a `data_set` the log counts photos and fits without the other, and files that end in capitals.
    """
    names = file_names(folder)
    photos, fits = ({name[:-4] for name in names if name.endswith(ending)} for ending in (".jpg", ".mat"))
    if data_set is not None:
        capitals = [name for name in names if name.lower().endswith((".jpg", ".mat")) and name[-4:] not in ENDINGS]
        log_left_out(data_set, f"photos have no .mat in {folder}", photos - fits)
        log_left_out(data_set, f".mat files have no photo in {folder}", fits - photos)
        log_left_out(data_set, f"files end in .JPG or .MAT instead of .jpg or .mat in {folder}", capitals)
    return sorted(photos & fits)


def read_fit(path: Path, fields: list[str]) -> dict[str, np.ndarray]:
    """The named fields of a .mat file.

    Raises:
        DataError: the file is missing or damaged, or a field is missing or not finite.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; every photo needs its .mat beside it")
    try:
        content = scipy.io.loadmat(path, variable_names=fields)
    except NotImplementedError as error:  # scipy's word for MATLAB 7.3
        raise DataError(
            f"{path}: a MATLAB 7.3 file; those of 300W-LP and AFLW2000-3D are older, get it again"
        ) from error
    except PermissionError as error:
        raise DataError(f"{path}: no permission to read the file; allow it, e.g. with chmod u+r") from error
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({error})") from error
    for field in fields:
        if field not in content:
            raise DataError(f"{path}: no field {field}; {_kind(path)}")
        if not np.issubdtype(content[field].dtype, np.number) or not np.isfinite(content[field]).all():
            raise DataError(f"{path}: {field} holds values that are no finite numbers")
    return {field: content[field] for field in fields}


def _kind(path: Path) -> str:
    """What a .mat file that is no fit seems to be."""
    names = [name for name, _, _ in scipy.io.whosmat(path)]
    seems = next((f"it seems to be {kind}" for name, kind in FOREIGN.items() if name in names), "")
    return seems or f"it holds {', '.join(names) or 'nothing'}; expected a file of 300W-LP or AFLW2000-3D"


def matlab_landmarks(points: np.ndarray, path: Path) -> Float[Tensor, "68 3"]:
    """`pt3d_68` (3, 68), 1-based with y down, as (68, 3) in image space."""
    if points.shape != (3, 68):
        raise DataError(f"{path}: pt3d_68 has shape {points.shape}, expected (3, 68)")
    return torch.from_numpy((points.T - [1, 1, 0]).astype(np.float32))
