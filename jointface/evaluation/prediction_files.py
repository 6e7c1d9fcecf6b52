"""The file format of other methods' predictions: a folder with a file STEM.npz for each photo STEM.jpg.

    landmarks68  (68, 2) or (68, 3)    iBUG's 68 landmarks
    vertices     (V, 3)                a mesh, with
    triangles    (F, 3) whole numbers  its triangles, counted from 0
    pose         (3,)                  pitch, yaw, roll in degrees, in the convention of 300W-LP's Pose_Para

A file holds `landmarks68`, or `vertices` and `triangles`, or both; `pose` is optional. Points are in pixels of the
photo file: pixel centres at integers, (0, 0) the centre of the top-left pixel, y down, z towards the viewer with any
origin.
"""

import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.face_dataset import FaceSample
from jointface.datamodules.on_disk import file_names, require_file, require_folder
from jointface.errors import DataError
from jointface.files import write_atomically

FORMAT = (
    "a folder of predictions holds STEM.npz for each photo, with landmarks68, or vertices and triangles; "
    "import=FOLDER makes one of the files that PRNet and 3DDFA write"
)
SHAPES = {"landmarks68": "(68, 2) or (68, 3)", "vertices": "(V, 3)", "triangles": "(F, 3)", "pose": "(3,)"}

# Bounds of a plausible prediction. They are wide: a bad method passes, but another coordinate system does not.
NORMALISED = 2.0  # largest coordinate of points normalised to 0..1 or -1..1, allowing for some outside
FAR = 0.75  # distance between the centres of the predicted and the true face box, in sizes of the true one
SIZES = (0.2, 5.0)  # size of the predicted face box, in sizes of the true one
DEPTHS = (0.1, 4.0)  # range of z divided by the larger side of the face: 0.5 for a frontal face, 1.3 for a profile
CHIN, NOSE_BRIDGE = 8, 27


def list_predictions(method: str, folder: Path) -> frozenset[str]:
    """The names of the .npz files in a method's folder. Raises a DataError where it is missing or holds none."""
    require_folder(folder, f"the predictions of {method}", "set compare=[NAME:FOLDER]")
    files = frozenset(file for file in file_names(folder) if file.endswith(".npz"))
    if not files:
        raise DataError(f"no .npz file in {folder.absolute()}: looked there for predictions; {FORMAT}")
    return files


def read_prediction(path: Path) -> dict[str, Tensor]:
    """Reads the arrays of a file by name, float32 and int64. Raises a DataError if it is missing, damaged or not in
    this format."""
    require_file(path, "a prediction", FORMAT)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in SHAPES if name in file.files}
    except Exception as error:  # numpy raises half a dozen unrelated types on a damaged file
        reason = " ".join(str(error).split())[:200]
        if "pickle" in reason:  # numpy suggests allowing pickles for every file that it does not recognise
            reason = "it is another kind of file, or holds pickled objects, which are not read"
        raise DataError(f"{path}: not a readable .npz file ({reason}); write it again") from error
    return check_prediction(arrays, path)


def write_prediction(path: Path, **arrays: Tensor | None) -> None:
    """Writes the arrays to a file, completely or not at all; arrays that are None are left out. Raises a DataError if
    they do not match the format, or the file cannot be written."""
    given = {name: array.cpu().numpy() for name, array in arrays.items() if array is not None}
    small = {name: array.numpy() for name, array in check_prediction(given, path).items()}
    if "triangles" in small:
        small["triangles"] = small["triangles"].astype(np.int32)
    content = io.BytesIO()
    np.savez_compressed(content, **small)  # type: ignore[arg-type]  # its stub takes keywords for allow_pickle
    write_atomically(path, content.getvalue())


def check_prediction(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Tensor]:
    """The arrays as float32 and int64 tensors; `path` names their file in errors.

    Raises:
        DataError: points are missing, an array has another shape or holds NaN, or triangles do not fit the vertices.
    """
    for name, array in arrays.items():
        match name, array.shape:
            case ("landmarks68", (68, 2 | 3)) | ("pose", (3,)):
                pass
            case ("vertices" | "triangles", (count, 3)) if count:
                pass
            case _:
                raise DataError(f"{path}: {name} has shape {array.shape}, expected {SHAPES[name]}")
        if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
            raise DataError(f"{path}: {name} holds values that are not finite numbers")
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


def same_triangles(triangles: Int[Tensor, "triangles 3"] | None, others: Int[Tensor, "others 3"] | None) -> bool:
    """Whether two meshes have the same triangles in the same order, ignoring the winding, in which programs differ."""
    if triangles is None or others is None:
        return False
    return torch.equal(triangles.sort(1).values, others.sort(1).values)


def likely_mistake(
    landmarks68: Float[Tensor, "68 dims"] | None, vertices: Float[Tensor, "vertices 3"] | None, sample: FaceSample
) -> str | None:
    """Why a prediction is probably not in pixels of its photo, worded to follow "the predictions"; None if it may be.
    Landmarks are checked if there are any, else vertices."""
    return next(_mistakes(landmarks68, vertices, sample), None)


def _mistakes(landmarks68: Tensor | None, vertices: Tensor | None, sample: FaceSample) -> Iterator[str]:
    """All likely mistakes, the most specific one first."""
    points = landmarks68 if landmarks68 is not None else vertices
    assert points is not None
    if points[:, :2].abs().max() <= NORMALISED:
        yield "all lie within two pixels of the photo's corner: normalised to 0..1 instead of pixels?"
    low, high = points.aminmax(dim=0)
    x, y = ((low + high) / 2)[:2].tolist()
    height, width = sample.image.shape[:2]
    if -height <= y < 0:
        yield "lie above the photo: is y counted upwards?"
    if not (0 <= x < width and 0 <= y < height):
        yield "lie outside the photo: in pixels of a resized photo?"
    distance = torch.tensor([x - sample.box.x, y - sample.box.y]).norm() / sample.box.size
    size = (high - low)[:2].mean() / sample.box.size
    if distance > FAR or not SIZES[0] <= size <= SIZES[1]:
        yield "lie far from the face: in pixels of a crop or a resized photo, or another face?"
    if landmarks68 is not None and "landmarks68" in sample.labels:
        shapes = (landmarks68, sample.labels["landmarks68"])
        down, true_down = (shape[CHIN, :2] - shape[NOSE_BRIDGE, :2] for shape in shapes)
        if (down * true_down).sum() < 0:
            yield "are upside down: is y counted upwards?"
    if points.shape[1] == 3:
        breadth, depth = (high - low)[:2].max(), (high - low)[2]
        if depth == 0:
            yield "have the same z everywhere: landmarks without depth are (68, 2)."
        if not DEPTHS[0] <= depth / breadth <= DEPTHS[1]:
            yield "have z in another scale than x and y: not in pixels of the photo?"
