"""Files of the Basel Face Model: reading them, checking them, and putting a model together."""

import os
from pathlib import Path

import numpy as np
import scipy.io
import torch

from jointface.errors import DataError
from jointface.geometry.morphable_model import MorphableModel, mirror_from_uv


def assemble(
    name: str,
    mean: np.ndarray,
    shape_basis: np.ndarray,
    expression_basis: np.ndarray,
    triangles: np.ndarray,
    uv: np.ndarray,
    landmarks68: np.ndarray,
    regions: np.ndarray | None = None,
) -> MorphableModel:
    """The model of flat (3V, ...) means and bases, (F, 3) triangles, (V, 2) UV and (68,) vertices."""
    uv_tensor, landmarks_tensor = torch.from_numpy(uv.astype(np.float32)), torch.from_numpy(landmarks68)
    return MorphableModel(
        name=name,
        mean=torch.from_numpy(mean.reshape(-1, 3)),
        shape_basis=torch.from_numpy(shape_basis).unflatten(0, (-1, 3)),
        expression_basis=torch.from_numpy(expression_basis).unflatten(0, (-1, 3)),
        triangles=torch.from_numpy(triangles),
        uv=uv_tensor,
        landmarks68=landmarks_tensor,
        mirror=mirror_from_uv(uv_tensor, landmarks_tensor),
        regions=torch.from_numpy(regions) if regions is not None else None,
    )


def count_rows(what: str, mean: np.ndarray) -> int:
    """3V of a mean (3V, 1)."""
    if mean.ndim != 2 or mean.shape[0] % 3 or mean.shape[1] != 1:
        raise DataError(f"{what}: expected shape (3 x vertices, 1), found {mean.shape}")
    return len(mean)


def first_components(what: str, basis: np.ndarray, rows: int, components: int, mean: str) -> np.ndarray:
    """The first components of a basis (3V, K), which must fit the mean of that name."""
    if basis.ndim != 2 or len(basis) != rows or basis.shape[1] < components:
        raise DataError(f"{what}: expected shape ({rows}, at least {components}) to match {mean}, found {basis.shape}")
    return np.ascontiguousarray(basis[:, :components])


def outward_triangles(what: str, triangles: np.ndarray, vertices: int) -> np.ndarray:
    """(F, 3) from 0, counter-clockwise, of the files' (3, F) from 1.

    `tri` of Zhu et al.'s `model_info.mat`, which the other layouts take over, winds clockwise.
    """
    if triangles.ndim != 2 or triangles.shape[0] != 3 or not 1 <= triangles.min() <= triangles.max() <= vertices:
        raise DataError(
            f"{what}: expected 1-based vertex indices of shape (3, triangles), found {triangles.shape} with values "
            f"{triangles.min()} ... {triangles.max()} for {vertices} vertices"
        )
    return triangles.T[:, ::-1].astype(np.int64) - 1


def one_based(what: str, indices: np.ndarray, count: int, name: str = "vertex indices") -> np.ndarray:
    """Indices (N,) from 0 of the files' (N, 1) or (1, N) from 1, which must not exceed a count."""
    flat = indices.ravel()
    if not 1 <= flat.min() <= flat.max() <= count:
        raise DataError(f"{what}: expected {name} in 1 ... {count}, found {flat.min()} ... {flat.max()}")
    return flat.astype(np.int64) - 1


def landmark_vertices(what: str, indices: np.ndarray, vertices: int) -> np.ndarray:
    """(68,) vertices of the landmarks from 0, of the files' (1, 68) from 1."""
    if indices.size != 68 or not 1 <= indices.min() <= indices.max() <= vertices:
        raise DataError(f"{what}: expected 68 vertex indices in 1 ... {vertices}, found {indices.size}")
    return one_based(what, indices, vertices)


def read_npy(path: Path, source: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The numbers of a .npy file; `source` says in messages where to get it."""
    require_file(path, source)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable .npy file ({error})") from error
    return require_numbers(str(path), array, shape)


def read_numbers(path: Path, name: str, source: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """One variable of a .mat file, checked to be numbers (of that shape)."""
    return require_numbers(f"{path}: {name}", read_variable(path, name, source), shape)


def read_variable(path: Path, name: str, source: str) -> np.ndarray:
    """One variable of a .mat file; `source` says in messages where to get it."""
    require_file(path, source)
    try:
        content = scipy.io.loadmat(path, variable_names=[name])
    except NotImplementedError as error:  # scipy's word for MATLAB 7.3
        raise DataError(f"{path}: a MATLAB 7.3 file, the published one is older; {source}") from error
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({error})") from error
    if name not in content:
        found = ", ".join(variable for variable, _, _ in scipy.io.whosmat(path))
        raise DataError(f"{path}: no variable {name!r} in it, it holds {found or 'none'}; {source}")
    return content[name]


def require_file(path: Path, source: str) -> None:
    """The file must be there and readable; `source` says in messages where to get it."""
    if not path.parent.is_dir():
        raise DataError(f"no folder {path.parent.resolve()}: looked there for {path.name}; {source}")
    if not path.is_file():
        raise DataError(f"no {path.name} in {path.parent.resolve()}: {source}")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read the file; allow it, e.g. with chmod u+r")


def require_numbers(what: str, array: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The array, checked."""
    if shape is not None and array.shape != shape:
        raise DataError(f"{what}: expected shape {shape}, found {array.shape}")
    if not np.issubdtype(array.dtype, np.number) or not array.size:
        raise DataError(f"{what}: expected numbers, found {array.size} values of type {array.dtype}")
    if not np.isfinite(array).all():
        raise DataError(f"{what}: holds NaN or infinite values; the file is damaged, get it again")
    return array
