"""Converts the output files of PRNet, 3DDFA and 3DDFA-V2 to a folder of predictions."""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import scipy.io
import trimesh
from jaxtyping import Int
from torch import Tensor

from jointface.datamodules.face_dataset import read_image
from jointface.datamodules.on_disk import file_names, require_folder
from jointface.errors import DataError
from jointface.evaluation.prediction_files import check_prediction, same_triangles, write_prediction
from jointface.files import write_atomically

log = logging.getLogger(__name__)

# The programs' file names for the mesh and the landmarks of a photo STEM.jpg, in order of preference.
MESH_FILES = ("{}_mesh.mat", "{}.obj", "{}_obj.obj", "{}_0.mat", "{}.mat")
LANDMARK_FILES = ("{}_kpt.txt", "{}_0.txt", "{}.txt")
VERTEX_FIELDS = ("vertices", "vertex")  # PRNet's and 3DDFA's
NAMED = 5  # photos or damaged files that a message names; others are only counted
MISSING_LIST = "missing.txt"  # file in the folder of predictions that lists the photos without one


def import_predictions(
    source: Path, target: Path, photos: Mapping[str, Path], triangles: Int[Tensor, "triangles 3"] | None = None
) -> list[str]:
    """Converts files written by PRNet and 3DDFA to a folder of predictions, completely or not at all.

    For each photo STEM.jpg, it uses the first mesh and the first landmarks in this list that exist:

        STEM_mesh.mat   PRNet, --isMat: `vertices` (V, 3) in the photo, y down, `triangles` from 0
        STEM.obj        PRNet, --is3d: y up, y = height - 1 - y_saved, as in its demo.py
        STEM_obj.obj    3DDFA-V2, -o obj: y up, y = height - y_saved; photos with one face
        STEM_0.mat      3DDFA: `vertex` (3, V), y down, without triangles
        STEM.mat        `vertices` in either orientation, y down, with or without triangles

        STEM_kpt.txt    PRNet, --isKpt: a row for each landmark, y down
        STEM_0.txt      3DDFA: (3, 68), y down
        STEM.txt        either

    Points are used as written. PRNet's must refer to the original photo, but its demo shrinks photos above 1,000 pixels
    and, without a detector, writes coordinates in a 256 x 256 crop. 3DDFA counts pixels of its crop from 1, which
    shifts its points by one to two pixels in photos of AFLW2000-3D, also in its own benchmark. If a photo shows several
    faces, the first one is used.

    Sources: demo.py and utils/write.py of github.com/YadiraF/PRNet, utils/inference.py of github.com/cleardusk/3DDFA,
    utils/serialization.py of github.com/cleardusk/3DDFA_V2.

    Args:
        source: the folder of those files. target: the folder for .npz files, new or empty. photos: photo files by stem.
        triangles: for meshes saved without triangles, e.g. those of `bfm_3ddfa` with its 53,215 vertices.

    Returns:
        The stems of the photos without a prediction; missing.txt in the target lists their files.

    Raises:
        DataError: the source is missing, none of its files belongs to a photo, files are damaged, or the target is not
            empty. The target is then unchanged.
    """
    require_folder(source, "the files that a method wrote", "set import=FOLDER")
    names = file_names(source)
    found = {
        stem: [_first(patterns, source, names, photo) for patterns in (MESH_FILES, LANDMARK_FILES)]
        for stem, photo in photos.items()
    }
    missing = [stem for stem, files in found.items() if not any(files)]
    if len(missing) == len(photos):
        known = ", ".join(pattern.format("STEM") for pattern in (*MESH_FILES, *LANDMARK_FILES))
        raise DataError(f"no prediction of any photo in {source.absolute()}: looked there for {known}")
    damaged, without_landmarks = [], 0
    with _whole_folder(target) as folder:
        for stem, (mesh, landmarks) in found.items():
            if stem in missing:
                continue
            try:
                face = _read_face(mesh, landmarks, photos[stem], triangles)
            except DataError as error:
                damaged.append(str(error))
                continue
            write_prediction(folder / f"{stem}.npz", **face)
            without_landmarks += "landmarks68" not in face and not same_triangles(face["triangles"], triangles)
        if damaged:
            named = "; ".join(damaged[:NAMED]) + (f"; and {len(damaged) - NAMED:,} more" if damaged[NAMED:] else "")
            raise DataError(f"damaged files in {source} ({len(damaged):,}), nothing was imported: {named}")
        if missing:
            write_atomically(folder / MISSING_LIST, "".join(f"{photos[stem].name}\n" for stem in missing).encode())
    if without_landmarks:
        log.warning(
            "%s of %s predictions have neither landmarks nor the mesh of the benchmark's morphable model, from which "
            "landmarks could be taken: only florence can evaluate them; for other benchmarks write landmarks too "
            "(STEM_kpt.txt, PRNet's --isKpt)", f"{without_landmarks:,}", f"{len(photos) - len(missing):,}",
        )  # fmt: skip
    if missing:
        some = f": {', '.join(missing)}" if len(missing) <= NAMED else ""
        log.warning("%s of %s photos have no file in %s%s; %s lists them", f"{len(missing):,}", f"{len(photos):,}",
                    source, some, target / MISSING_LIST)  # fmt: skip
    return missing


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes the target at the end of the block, and is removed after any error."""
    target = target.absolute()
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: already exists; choose another output_dir, or remove it first")
    try:
        temporary.mkdir(parents=True)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write {target} ({error.strerror or error}); choose another output_dir") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _first(patterns: tuple[str, ...], source: Path, names: set[str], photo: Path) -> Path | None:
    paths = [source / name for pattern in patterns if (name := pattern.format(photo.stem)) in names]
    # 3DDFA writes next to the photo, where STEM.mat is the label.
    return next((path for path in paths if path.absolute() != photo.with_suffix(".mat").absolute()), None)


def _read_face(mesh: Path | None, landmarks: Path | None, photo: Path, triangles: Tensor | None) -> dict[str, Tensor]:
    """Reads a program's files for a photo; points are in pixels of the photo."""
    face: dict[str, Tensor] = {}
    if landmarks is not None:
        try:
            points = np.loadtxt(landmarks, dtype=np.float32, ndmin=2)
        except (ValueError, OSError) as error:
            raise DataError(f"{landmarks}: not a table of landmarks ({error}); write it again") from error
        face |= check_prediction({"landmarks68": _points_in_rows(points)}, landmarks)
    if mesh is not None:
        read = _read_obj(mesh, photo) if mesh.suffix == ".obj" else _read_mat(mesh, triangles)
        face |= check_prediction(dict(zip(("vertices", "triangles"), read, strict=True)), mesh)
    return face


def _read_mat(path: Path, triangles: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({' '.join(str(error).split())})") from error
    field = next((field for field in VERTEX_FIELDS if field in content), None)
    if field is None:
        raise DataError(f"{path}: no field {' or '.join(VERTEX_FIELDS)}; it is not a mesh of PRNet or 3DDFA")
    vertices = _points_in_rows(content[field])
    if "triangles" in content:
        # Their winding is for y down. Reversed, it is counter-clockwise from outside for y up, as in the .obj files.
        return vertices, content["triangles"].astype(np.int64)[:, ::-1].copy()
    if triangles is None or int(triangles.max()) + 1 != len(vertices):
        raise DataError(
            f"{path}: {len(vertices):,} vertices without triangles, and the morphable model has other vertices; set "
            "the model that they belong to, or provide landmarks instead (STEM_kpt.txt)"
        )
    return vertices, triangles.numpy()


def _read_obj(path: Path, photo: Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        mesh = trimesh.load_mesh(path, file_type="obj", process=False, maintain_order=True, skip_materials=True)
        if not isinstance(mesh, trimesh.Trimesh):
            raise ValueError("more than one mesh, or none")
        vertices, triangles = np.array(mesh.vertices, np.float32), np.array(mesh.faces, np.int64)
    except Exception as error:  # trimesh raises many unrelated types on a damaged file
        raise DataError(f"{path}: not a readable .obj file ({' '.join(str(error).split())})") from error
    if not len(triangles):
        raise DataError(f"{path}: holds no triangles; it is truncated or another kind of file")
    vertices[:, 1] = read_image(photo).shape[0] - (0 if path.stem.endswith("_obj") else 1) - vertices[:, 1]
    return vertices, triangles


def _points_in_rows(points: np.ndarray) -> np.ndarray:
    """Returns points as (N, 2) or (N, 3), whether they were written as rows or as columns."""
    lies = points.ndim == 2 and points.shape[0] in (2, 3) and points.shape[1] > 3
    return np.ascontiguousarray(points.T if lies else points, dtype=np.float32)
