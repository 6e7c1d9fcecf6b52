"""Folders of predictions made of the files that PRNet, 3DDFA and 3DDFA-V2 write."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.io
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.face_dataset import read_image
from jointface.datamodules.on_disk import file_names, require_folder
from jointface.errors import DataError
from jointface.evaluation.prediction_files import checked_prediction, write_prediction
from jointface.files import write_atomically

log = logging.getLogger(__name__)

# Names of meshes and landmarks that programs write for a photo STEM.jpg, the first one there is taken.
MESH_FILES = ("{}_mesh.mat", "{}.obj", "{}_obj.obj", "{}_0.mat", "{}.mat")
LANDMARK_FILES = ("{}_kpt.txt", "{}_0.txt", "{}.txt")
VERTEX_FIELDS = ("vertices", "vertex")  # of PRNet and of 3DDFA
NAMED = 5  # photos or damaged files that a message names before it only counts
MISSING_LIST = "missing.txt"  # in the folder of predictions, the photos that have none, a line each


def import_predictions(
    source: Path, target: Path, photos: Mapping[str, Path], triangles: Int[Tensor, "triangles 3"] | None = None
) -> list[str]:
    """Turns the files that PRNet and 3DDFA write into a folder of predictions, whole or not at all.

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

    Photos that have no file are listed in the folder's missing.txt, and in the log where they are few.

    Sources: demo.py and utils/write.py of github.com/YadiraF/PRNet, utils/inference.py of github.com/cleardusk/3DDFA,
    utils/serialization.py of github.com/cleardusk/3DDFA_V2.

    Args:
        source: the folder of those files. target: where the .npz files go; not there yet, or empty.
        photos: file of each photo, by stem.
        triangles: of meshes that come without, e.g. those of the 53,215 vertices of `bfm_3ddfa`.

    Returns:
        The stems of the photos that have no prediction.

    Raises:
        DataError: the source is missing, no file in it belongs to a photo, files are damaged, which are all named at
            once, or the target holds something. Nothing is left of the attempt.
    """
    require_folder(source, "the files that a method wrote", "set import=FOLDER")
    names = file_names(source)
    found = {
        stem: [_first(patterns, stem, source, names, photo) for patterns in (MESH_FILES, LANDMARK_FILES)]
        for stem, photo in photos.items()
    }
    missing = [stem for stem, files in found.items() if files == [None, None]]
    if len(missing) == len(photos):
        known = ", ".join(pattern.format("STEM") for pattern in (*MESH_FILES, *LANDMARK_FILES))
        raise DataError(f"no prediction of any photo in {source.absolute()}: looked there for {known}")
    damaged, bare = [], 0
    with _whole_folder(target) as folder:
        for stem, (mesh, landmarks) in found.items():
            if stem in missing:
                continue
            try:
                face = _read(mesh, landmarks, photos[stem], triangles)
                write_prediction(folder / f"{stem}.npz", **face)
                bare += "landmarks68" not in face and not _of_the_model(face["triangles"], triangles)
            except DataError as error:
                damaged.append(str(error))
        if damaged:
            raise DataError(_damaged(damaged, source))
        if missing:
            write_atomically(folder / MISSING_LIST, "".join(f"{photos[stem].name}\n" for stem in missing).encode())
    if bare:
        log.warning(
            "%s of %s predictions have neither landmarks nor the mesh of the benchmark's morphable model: no landmarks "
            "can be taken from them, so that florence alone can judge them; for the others write landmarks too "
            "(STEM_kpt.txt, PRNet's --isKpt)", f"{bare:,}", f"{len(photos) - len(missing):,}",
        )  # fmt: skip
    if missing:
        log.warning(_missing(missing, len(photos), source, target))
    return missing


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that takes its place in the end; nothing of it is left if anything goes wrong."""
    target = target.absolute()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: is there already; give another output_dir, or remove it first")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write {target} ({error.strerror or error}); choose another output_dir") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _damaged(reasons: Sequence[str], source: Path) -> str:
    more = f"; and {len(reasons) - NAMED:,} more" if len(reasons) > NAMED else ""
    if len(reasons) == 1:
        return f"{reasons[0]}; nothing was imported"
    return f"{len(reasons):,} files in {source} are damaged, nothing was imported: {'; '.join(reasons[:NAMED])}{more}"


def _missing(stems: Sequence[str], photos: int, source: Path, target: Path) -> str:
    named = f": {', '.join(stems)}" if len(stems) <= NAMED else ""
    return f"{len(stems):,} of {photos:,} photos have no file in {source}{named}; {target / MISSING_LIST} lists them"


def _read(mesh: Path | None, landmarks: Path | None, photo: Path, triangles: Tensor | None) -> dict[str, Tensor]:
    checked: dict[str, Tensor] = {}
    if landmarks is not None:
        checked |= checked_prediction({"landmarks68": _read_landmarks(landmarks).numpy()}, landmarks)
    if mesh is not None:
        parts = {name: part.numpy() for name, part in _read_mesh(mesh, photo, triangles).items()}
        checked |= checked_prediction(parts, mesh)
    return checked


def _of_the_model(triangles: Tensor, of_model: Tensor | None) -> bool:
    """Whether a mesh is the morphable model's, whatever the winding."""
    return of_model is not None and torch.equal(triangles.sort(1).values, of_model.sort(1).values)


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
