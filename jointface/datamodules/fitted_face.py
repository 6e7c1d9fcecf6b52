"""The .mat file of a face fitted with the Basel Face Model, as 300W-LP and AFLW2000-3D store it beside each photo."""

import logging
from pathlib import Path

import numpy as np
import scipy.io
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.face_dataset import FaceSample, Item, read_image
from jointface.datamodules.on_disk import ARCHIVES, file_names, require_folder
from jointface.errors import ConfigError, DataError
from jointface.geometry.bfm import FACEWAREHOUSE
from jointface.geometry.camera import apply_camera, camera_from_pose
from jointface.geometry.framing import FaceBox, face_box
from jointface.geometry.morphable_model import MorphableModel, linear_faces

log = logging.getLogger(__name__)

MAX_FACE_SIZE = 20_000  # pixels
# Fields that tell whose a .mat file is that lies where a fit should be.
FOREIGN = {
    "pts_2d": "a file of 300W-LP's landmarks/ folder, not the fit that lies beside the photo",
    "shapePC": "a Basel Face Model",
    "model": "a Basel Face Model of face3d",
}


class FittedFaceReader:
    """Reads `.jpg` + `.mat` pairs into samples with coefficients and camera.

    Only the 68 landmarks of the morphable model are kept, which is what the framing needs, so that workers stay small.

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


def require_root(root: Path, what: str, archive: str) -> None:
    """The folder of a data set must be there; `archive` is what it is unpacked from."""
    if not root.is_dir() and (root.parent / archive).is_file():
        raise DataError(f"no folder {root.absolute()}: looked there for {what}; found {archive} beside it, unpack it")
    require_folder(root, what, f"set paths.data_dir to the folder that holds {root.name}/")


def no_pairs(root: Path, what: str, below: str = "") -> DataError:
    """The error for a folder of a data set that has no photo with a fit: it says what it has instead.

    Args:
        root: the folder. what: the data set. below: "*/" where the photos should be in folders below it.
    """
    photo = below + "*.[jJ][pP][gG]"
    if archive := next((name for name in sorted(file_names(root)) if name.lower().endswith(ARCHIVES)), None):
        hint = f"found {archive} there, unpack it"
    elif found := next(root.glob(photo), None):
        other_case = found.suffix != ".jpg"
        hint = f"found {found.name} in {found.parent}, " + (
            "rename the files to .jpg and .mat" if other_case else "without its .mat; unpack both"
        )
    elif found := next(root.glob(f"*/{photo}"), None):
        inner = root / found.relative_to(root).parts[0]
        hint = f"found photos one folder too deep, in {inner}: point the path there or move its content up"
    elif below and any(root.glob("*.jpg")):
        hint = "found photos in the folder itself: point the path at the folder above"
    else:
        hint = "unpack it there"
    return DataError(f"no .jpg + .mat pair of {what} in {root.absolute()}: {hint}")


def fitted_photos(folder: Path, data_set: str) -> list[str]:
    """The names, without ending and sorted, of a folder's photos that have a .mat beside them; photos and fits without
    the other, and files that end in capitals, are counted in the log."""
    photos, fits, capitals = paired_names(folder)
    for what, lonely in {
        "photos have no .mat": photos - fits,
        ".mat files have no photo": fits - photos,
        "files end in .JPG or .MAT instead of .jpg or .mat": capitals,
    }.items():
        if lonely:
            log.warning("%s: %d %s in %s and are left out, e.g. %s", data_set, len(lonely), what, folder, min(lonely))
    return sorted(photos & fits)


def count_fitted_photos(folder: Path) -> int:
    """How many of a folder's photos have a .mat beside them; 0 where there is no such folder."""
    photos, fits, _ = paired_names(folder) if folder.is_dir() else (set(), set(), set())
    return len(photos & fits)


def paired_names(folder: Path) -> tuple[set[str], set[str], set[str]]:
    """The names, without ending, of a folder's .jpg and of its .mat files; whole names of those in capitals."""
    names = file_names(folder)
    photos, fits = ({name[:-4] for name in names if name.endswith(ending)} for ending in (".jpg", ".mat"))
    capitals = {name for name in names if name[-4:] not in (".jpg", ".mat") and name[-4:].lower() in (".jpg", ".mat")}
    return photos, fits, capitals


def read_fit(path: Path, fields: list[str]) -> dict[str, np.ndarray]:
    """The named fields of a .mat file, all there and finite.

    Raises:
        DataError: the file is missing or damaged, or a field is missing or holds NaN.
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
    """What a .mat file seems to be that is no fit."""
    names = [name for name, _, _ in scipy.io.whosmat(path)]
    seems = next((f"it seems to be {kind}" for name, kind in FOREIGN.items() if name in names), "")
    return seems or f"it holds {', '.join(names) or 'nothing'}; expected a file of 300W-LP or AFLW2000-3D"


def matlab_landmarks(points: np.ndarray, path: Path) -> Float[Tensor, "68 3"]:
    """`pt3d_68` (3, 68), 1-based with y down, as (68, 3) in image space."""
    if points.shape != (3, 68):
        raise DataError(f"{path}: pt3d_68 has shape {points.shape}, expected (3, 68)")
    return torch.from_numpy((points.T - [1, 1, 0]).astype(np.float32))
