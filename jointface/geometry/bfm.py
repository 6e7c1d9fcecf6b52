"""Loaders of the Basel Face Model in the layouts that people have."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.io
import torch

from jointface.errors import DataError
from jointface.geometry.morphable_model import MorphableModel, mirror_from_uv


@lru_cache(maxsize=4)
def load_bfm_3ddfa(folder: str, shape_components: int = 40, expression_components: int = 10) -> MorphableModel:
    """The BFM 2009 basis as 3DDFA ships it (Guo et al., 3DDFA), 53,215 vertices, in micrometres.

    Folder: `u_shp.npy`, `u_exp.npy` (3V, 1) means, flat x0 y0 z0 x1 ...; `w_shp_sim.npy` (3V, 40), `w_exp_sim.npy`
    (3V, 10); `keypoints_sim.npy` (204,) flat indices of 68 landmarks; `tri.mat` tri (3, F), 1-based; `BFM_UV.mat`
    UV (V, 2). It comes with the 3DDFA code (github.com/cleardusk/3DDFA); licence: non-commercial (Basel Face Model).
    The same folder gives the same object, so that data sets and network share one copy.

    Raises:
        DataError: a file is missing, unreadable, or of another shape.
    """
    root = Path(folder)
    mean_shape = _array(root / "u_shp.npy")
    if mean_shape.ndim != 2 or mean_shape.shape[0] % 3 or mean_shape.shape[1] != 1:
        raise DataError(f"{root / 'u_shp.npy'}: expected shape (3 x vertices, 1), found {mean_shape.shape}")
    rows = len(mean_shape)
    mean = mean_shape + _array(root / "u_exp.npy", (rows, 1))
    shape_basis = _basis(root / "w_shp_sim.npy", rows, shape_components)
    expression_basis = _basis(root / "w_exp_sim.npy", rows, expression_components)
    keypoints = _array(root / "keypoints_sim.npy", (204,))
    if not 0 <= keypoints.min() <= keypoints.max() < rows:
        raise DataError(f"{root / 'keypoints_sim.npy'}: indices must lie in 0 ... {rows - 1}")
    triangles = _variable(root / "tri.mat", "tri")
    uv = _variable(root / "BFM_UV.mat", "UV", (rows // 3, 2))
    if (
        triangles.ndim != 2
        or triangles.shape[0] != 3
        or not triangles.size
        or not 1 <= triangles.min() <= triangles.max() <= rows // 3
    ):
        raise DataError(
            f"{root / 'tri.mat'}: expected 1-based vertex indices of shape (3, triangles), found {triangles.shape}"
        )
    landmarks68 = torch.from_numpy(keypoints[::3].astype(np.int64) // 3)
    uv_tensor = torch.from_numpy(uv.astype(np.float32))
    return MorphableModel(
        name="bfm_3ddfa",
        mean=torch.from_numpy(mean.reshape(-1, 3)),
        shape_basis=torch.from_numpy(shape_basis).unflatten(0, (-1, 3)),
        expression_basis=torch.from_numpy(expression_basis).unflatten(0, (-1, 3)),
        triangles=torch.from_numpy(triangles.T[:, ::-1].astype(np.int64) - 1),  # the file's winding is clockwise
        uv=uv_tensor,
        landmarks68=landmarks68,
        mirror=mirror_from_uv(uv_tensor, landmarks68),
    )


def _basis(path: Path, rows: int, components: int) -> np.ndarray:
    basis = _array(path)
    if basis.ndim != 2 or len(basis) != rows or basis.shape[1] < components:
        raise DataError(
            f"{path}: expected shape ({rows}, at least {components}) to match u_shp.npy, found {basis.shape}"
        )
    return np.ascontiguousarray(basis[:, :components])


def _array(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    _require(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable .npy file ({error})") from error
    return _checked(path, array, shape)


def _variable(path: Path, name: str, shape: tuple[int, ...] | None = None) -> np.ndarray:
    _require(path)
    try:
        content = scipy.io.loadmat(path, variable_names=[name])
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({error})") from error
    if name not in content:
        raise DataError(f"{path}: no variable {name!r} in it; the folder must be the one that 3DDFA ships")
    return _checked(path, content[name], shape)


def _require(path: Path) -> None:
    if not path.is_file():
        raise DataError(
            f"no {path.name} in {path.parent.resolve()}: point paths.bfm_dir at the folder of the BFM basis that 3DDFA "
            "ships"
        )


def _checked(path: Path, array: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    if shape is not None and array.shape != shape:
        raise DataError(f"{path}: expected shape {shape}, found {array.shape}")
    if not np.issubdtype(array.dtype, np.number) or not array.size:
        raise DataError(f"{path}: expected numbers, found {array.size} values of type {array.dtype}")
    if not np.isfinite(array).all():
        raise DataError(f"{path}: holds NaN or infinite values; the file is damaged, get it again")
    return array
