"""Reads what PRNet, 3DDFA and 3DDFA-V2 write, and makes a folder of predictions of it."""

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

# What programs call the mesh and the landmarks of a photo STEM.jpg, in order of preference.
MESH_FILES = ("{}_mesh.mat", "{}.obj", "{}_obj.obj", "{}_0.mat", "{}.mat")
LANDMARK_FILES = ("{}_kpt.txt", "{}_0.txt", "{}.txt")
VERTEX_FIELDS = ("vertices", "vertex")  # of PRNet, of 3DDFA
NAMED = 5  # photos or damaged files that a message names; it counts the others
MISSING_LIST = "missing.txt"  # in the folder of predictions: the photos that have none


def import_predictions(
    source: Path, target: Path, photos: Mapping[str, Path], triangles: Int[Tensor, "triangles 3"] | None = None
) -> list[str]:
    """Makes a folder of predictions of the files that PRNet and 3DDFA write, whole or not at all.

    Of each photo STEM.jpg it takes the first mesh and the first landmarks of this list:

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
        source: the folder of those files. target: of the .npz files, new or empty. photos: their files by stem.
        triangles: of meshes that come without, e.g. those of the 53,215 vertices of `bfm_3ddfa`.

    Returns:
        The stems of the photos that have no prediction; the target's missing.txt lists their files.

    Raises:
        DataError: the source is missing, none of its files belongs to a photo, files are damaged, or the target holds
            something. The target then stays as it was.
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
            "%s of %s predictions have neither landmarks nor the mesh of the benchmark's morphable model: no landmarks "
            "can be taken from them, so that florence alone can judge them; for the others write landmarks too "
            "(STEM_kpt.txt, PRNet's --isKpt)", f"{without_landmarks:,}", f"{len(photos) - len(missing):,}",
        )  # fmt: skip
    if missing:
        some = f": {', '.join(missing)}" if len(missing) <= NAMED else ""
        log.warning("%s of %s photos have no file in %s%s; %s lists them", f"{len(missing):,}", f"{len(photos):,}",
                    source, some, target / MISSING_LIST)  # fmt: skip
    return missing


@contextmanager
def _whole_folder(target: Path) -> Iterator[Path]:
    """A folder beside the target that becomes the target in the end, and is removed after any error."""
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


def _first(patterns: tuple[str, ...], source: Path, names: set[str], photo: Path) -> Path | None:
    paths = [source / name for pattern in patterns if (name := pattern.format(photo.stem)) in names]
    # 3DDFA writes beside the photo, where STEM.mat is the label.
    return next((path for path in paths if path.absolute() != photo.with_suffix(".mat").absolute()), None)


def _read_face(mesh: Path | None, landmarks: Path | None, photo: Path, triangles: Tensor | None) -> dict[str, Tensor]:
    """What a program wrote for a photo, in the photo's pixels."""
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
        raise DataError(f"{path}: no field {' or '.join(VERTEX_FIELDS)}; it is no mesh of PRNet or 3DDFA")
    vertices = _points_in_rows(content[field])
    if "triangles" in content:
        # Their winding is for y down; reversed, it is counter-clockwise from outside where y is up, as in the .obj.
        return vertices, content["triangles"].astype(np.int64)[:, ::-1].copy()
    if triangles is None or int(triangles.max()) + 1 != len(vertices):
        raise DataError(
            f"{path}: {len(vertices):,} vertices without triangles, and the morphable model has others; give the model "
            "that they belong to, or landmarks instead (STEM_kpt.txt)"
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
        raise DataError(f"{path}: holds no triangles; it is cut short or of another kind")
    vertices[:, 1] = read_image(photo).shape[0] - (0 if path.stem.endswith("_obj") else 1) - vertices[:, 1]
    return vertices, triangles


def _points_in_rows(points: np.ndarray) -> np.ndarray:
    """Points (N, 2) or (N, 3), whichever way they were written."""
    lies = points.ndim == 2 and points.shape[0] in (2, 3) and points.shape[1] > 3
    return np.ascontiguousarray(points.T if lies else points, dtype=np.float32)
