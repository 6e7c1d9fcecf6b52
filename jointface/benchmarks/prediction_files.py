"""Other methods' predictions on disk: a file STEM.npz for each photo STEM.jpg, in one folder.

    landmarks68  (68, 2) or (68, 3)    iBUG's 68 landmarks
    vertices     (V, 3)                a mesh, with
    triangles    (F, 3) whole numbers  its triangles, counted from 0
    pose         (3,)                  pitch, yaw, roll in degrees, the convention of 300W-LP's Pose_Para

A file holds `landmarks68`, or `vertices` and `triangles`, or both; `pose` is optional. Points are in pixels of the
photo as it is on disk: pixel centres at integers, (0, 0) the centre of the top-left pixel, y down, z towards the viewer
from any origin.
"""

import io
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import scipy.io
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.face_dataset import read_image
from jointface.datamodules.on_disk import file_names, require_file, require_folder
from jointface.errors import DataError
from jointface.files import write_atomically

log = logging.getLogger(__name__)

FORMAT = (
    "a folder of predictions holds STEM.npz for each photo, with landmarks68, or vertices and triangles; "
    "import=FOLDER makes one of the files that PRNet and 3DDFA write"
)
SHAPES = {"landmarks68": "(68, 2) or (68, 3)", "vertices": "(V, 3)", "triangles": "(F, 3)", "pose": "(3,)"}

# Names of meshes and landmarks that programs write for a photo STEM.jpg, the first one there is taken.
MESH_FILES = ("{}_mesh.mat", "{}.obj", "{}_obj.obj", "{}_0.mat", "{}.mat")
LANDMARK_FILES = ("{}_kpt.txt", "{}_0.txt", "{}.txt")
VERTEX_FIELDS = ("vertices", "vertex")  # of PRNet and of 3DDFA


def read_prediction(path: Path) -> dict[str, Tensor]:
    """The arrays of one file, by the names above, float32 and int64.

    Raises:
        DataError: the file is missing or damaged, holds pickled objects, lacks points, or has arrays of another shape
            or with NaN, or triangles beyond the vertices.
    """
    require_file(path, "a prediction", FORMAT)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in SHAPES if name in file.files}
    except Exception as error:  # numpy raises half a dozen unrelated types on a damaged file
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{path}: not a readable .npz file ({reason}); write it again, without pickled objects"
        ) from error
    return _checked(arrays, path)


def write_prediction(
    path: Path,
    landmarks68: Float[Tensor, "68 dims"] | None = None,
    vertices: Float[Tensor, "vertices 3"] | None = None,
    triangles: Int[Tensor, "triangles 3"] | None = None,
    pose: Float[Tensor, "3"] | None = None,
) -> None:
    """Writes one file, whole or not at all.

    Raises:
        DataError: the arrays are not those of the format, or the file cannot be written.
    """
    given = {"landmarks68": landmarks68, "vertices": vertices, "triangles": triangles, "pose": pose}
    arrays = {name: array.cpu().numpy() for name, array in given.items() if array is not None}
    small = {name: array.numpy() for name, array in _checked(arrays, path).items()}
    if triangles is not None:
        small["triangles"] = small["triangles"].astype(np.int32)
    content = io.BytesIO()
    np.savez_compressed(content, **small)  # type: ignore[arg-type]  # its stub takes keywords for allow_pickle
    write_atomically(path, content.getvalue())


def _checked(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Tensor]:
    for name, array in arrays.items():
        _require_numbers(name, array, path)
    if "landmarks68" not in arrays and "vertices" not in arrays:
        raise DataError(f"{path}: holds neither landmarks68 nor vertices; {FORMAT}")
    if ("vertices" in arrays) != ("triangles" in arrays):
        raise DataError(f"{path}: vertices and triangles belong together, one is missing; {FORMAT}")
    tensors = {name: torch.from_numpy(np.asarray(array, dtype=np.float32)) for name, array in arrays.items()}
    if "triangles" in arrays:
        triangles, count = arrays["triangles"], len(arrays["vertices"])
        if not np.issubdtype(triangles.dtype, np.integer) or triangles.min() < 0 or triangles.max() >= count:
            raise DataError(f"{path}: triangles must be whole numbers from 0 to {count - 1}, one for each vertex")
        tensors["triangles"] = torch.from_numpy(triangles.astype(np.int64))
    return tensors


def _require_numbers(name: str, array: np.ndarray, path: Path) -> None:
    match name, array.shape:
        case ("landmarks68", (68, 2 | 3)) | ("pose", (3,)):
            pass
        case ("vertices" | "triangles", (count, 3)) if count:
            pass
        case _:
            raise DataError(f"{path}: {name} has shape {array.shape}, expected {SHAPES[name]}")
    if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
        raise DataError(f"{path}: {name} holds NaN or values that are no finite numbers")


def import_predictions(
    source: Path, target: Path, photos: Mapping[str, Path], triangles: Int[Tensor, "triangles 3"] | None = None
) -> list[str]:
    """Turns the files that PRNet and 3DDFA write into a folder of predictions.

    For the photo STEM.jpg the first of each row is taken, a mesh and landmarks where there are both:

        STEM_mesh.mat   PRNet, --isMat: `vertices` (V, 3) in the photo, y down, `triangles` from 0
        STEM.obj        PRNet, --is3d: y up, y = height - 1 - y_saved, as its demo.py has it
        STEM_obj.obj    3DDFA-V2, -o obj: y up, y = height - y_saved; photos with one face
        STEM_0.mat      3DDFA: `vertex` (3, V), y down, without triangles
        STEM.mat        `vertices` in either orientation, y down, with or without triangles

        STEM_kpt.txt    PRNet, --isKpt: a row for each landmark, y down
        STEM_0.txt      3DDFA: (3, 68), y down
        STEM.txt        either

    Points are taken as written. PRNet's must be of the whole photo: its demo shrinks photos above 1,000 pixels, and
    without a detector it writes coordinates of a 256 x 256 crop. 3DDFA counts pixels of its crop from 1, which shifts
    its points by one to two pixels in a photo of AFLW2000-3D, as in its own benchmark. Of several faces in a photo the
    first one is taken.

    Sources: demo.py and utils/write.py of github.com/YadiraF/PRNet, utils/inference.py of github.com/cleardusk/3DDFA,
    utils/serialization.py of github.com/cleardusk/3DDFA_V2.

    Args:
        source: the folder of those files. target: where the .npz files go. photos: file of each photo, by stem.
        triangles: of meshes that come without, e.g. those of the 53,215 vertices of `bfm_3ddfa`.

    Returns:
        The stems of the photos that have no prediction, which the log counts.

    Raises:
        DataError: the folder is missing, no file in it belongs to a photo, or one is damaged.
    """
    require_folder(source, "the files that a method wrote", "set import=FOLDER")
    names = file_names(source)
    missing = []
    for stem, photo in photos.items():
        mesh, landmarks = (_first(patterns, stem, source, names, photo) for patterns in (MESH_FILES, LANDMARK_FILES))
        if mesh is None and landmarks is None:
            missing.append(stem)
            continue
        parts: dict[str, Tensor] = {} if landmarks is None else {"landmarks68": _read_landmarks(landmarks)}
        if mesh is not None:
            parts |= _read_mesh(mesh, photo, triangles)
        write_prediction(target / f"{stem}.npz", **parts)
    if len(missing) == len(photos):
        known = ", ".join(pattern.format("STEM") for pattern in (*MESH_FILES, *LANDMARK_FILES))
        raise DataError(f"no prediction of any photo in {source.absolute()}: looked there for {known}")
    if missing:
        log.warning("%d of %d photos have no file in %s, e.g. %s", len(missing), len(photos), source, missing[0])
    return missing


def _first(patterns: tuple[str, ...], stem: str, source: Path, names: set[str], photo: Path) -> Path | None:
    paths = (source / pattern.format(stem) for pattern in patterns if pattern.format(stem) in names)
    # 3DDFA writes beside the photo, where STEM.mat is the label.
    return next((path for path in paths if path.absolute() != photo.with_suffix(".mat").absolute()), None)


def _read_landmarks(path: Path) -> Float[Tensor, "68 dims"]:
    try:
        points = np.loadtxt(path, dtype=np.float32, ndmin=2)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a table of landmarks ({error}); write it again") from error
    return _points(points, path, 68)


def _read_mesh(path: Path, photo: Path, triangles: Tensor | None) -> dict[str, Tensor]:
    if path.suffix == ".obj":
        vertices, found = _read_obj(path)
        top = read_image(photo).shape[0] - (0 if path.stem.endswith("_obj") else 1)
        return {
            "vertices": vertices * torch.tensor([1.0, -1.0, 1.0]) + torch.tensor([0.0, top, 0.0]),
            "triangles": found,
        }
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({' '.join(str(error).split())})") from error
    field = next((field for field in VERTEX_FIELDS if field in content), None)
    if field is None:
        raise DataError(f"{path}: no field {' or '.join(VERTEX_FIELDS)}; it is no mesh of PRNet or 3DDFA")
    vertices = _points(content[field], path)
    if "triangles" in content:
        # For y down; turned over, so that they are counter-clockwise from outside where y is up, as in the .obj.
        return {
            "vertices": vertices,
            "triangles": torch.from_numpy(content["triangles"].astype(np.int64)[:, ::-1].copy()),
        }
    if triangles is None or int(triangles.max()) + 1 != len(vertices):
        raise DataError(
            f"{path}: {len(vertices):,} vertices without triangles, and the morphable model has others; give the model "
            "that they belong to, or landmarks instead (STEM_kpt.txt)"
        )
    return {"vertices": vertices, "triangles": triangles}


def _read_obj(path: Path) -> tuple[Tensor, Tensor]:
    try:
        mesh = trimesh.load_mesh(path, file_type="obj", process=False, maintain_order=True, skip_materials=True)
        if not isinstance(mesh, trimesh.Trimesh):
            raise ValueError("more than one mesh, or none")
        vertices, triangles = np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.int64)
    except Exception as error:  # trimesh raises many unrelated types on a damaged file
        raise DataError(f"{path}: not a readable .obj file ({' '.join(str(error).split())})") from error
    if not len(triangles):
        raise DataError(f"{path}: holds no triangles; it is cut short or of another kind")
    return torch.from_numpy(vertices.copy()), torch.from_numpy(triangles.copy())


def _points(points: np.ndarray, path: Path, count: int | None = None) -> Float[Tensor, "points dims"]:
    """Points in rows, whichever way they were written."""
    if points.ndim == 2 and points.shape[0] in (2, 3) and points.shape[1] > 3:
        points = points.T
    if points.ndim != 2 or points.shape[1] not in (2, 3) or (count is not None and len(points) != count):
        raise DataError(f"{path}: points of shape {points.shape}, expected ({count or 'V'}, 3)")
    return torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
