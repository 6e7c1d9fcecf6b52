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
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.on_disk import require_file
from jointface.errors import DataError
from jointface.files import write_atomically

FORMAT = (
    "a folder of predictions holds STEM.npz for each photo, with landmarks68, or vertices and triangles; "
    "import=FOLDER makes one of the files that PRNet and 3DDFA write"
)
SHAPES = {"landmarks68": "(68, 2) or (68, 3)", "vertices": "(V, 3)", "triangles": "(F, 3)", "pose": "(3,)"}


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
        raise DataError(f"{path}: not a readable .npz file ({_reason(error)}); write it again") from error
    return checked_prediction(arrays, path)


def _reason(error: Exception) -> str:
    """numpy's words, but not its advice to allow pickles, which it gives for any file that it does not know."""
    words = " ".join(str(error).split())[:200]
    return "it is of another kind, or holds pickled objects, which are not read" if "pickle" in words else words


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
    small = {name: array.numpy() for name, array in checked_prediction(arrays, path).items()}
    if triangles is not None:
        small["triangles"] = small["triangles"].astype(np.int32)
    content = io.BytesIO()
    np.savez_compressed(content, **small)  # type: ignore[arg-type]  # its stub takes keywords for allow_pickle
    write_atomically(path, content.getvalue())


def checked_prediction(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Tensor]:
    """The arrays as float32 and int64 tensors, of the file that an error names.

    Raises:
        DataError: they are not those of the format.
    """
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
