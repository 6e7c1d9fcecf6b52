"""Loaders of the Basel Face Model in the layouts that people have."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import scipy.io
import torch

from jointface.errors import DataError
from jointface.geometry.morphable_model import MorphableModel, mirror_from_uv

# What to do where a file is not what it should be.
FROM_3DDFA = "point paths.bfm_dir at the folder of the BFM basis that 3DDFA ships"
FROM_FACE3D = "morphable_model.path must name the BFM.mat that face3d's generate.m writes"
UV_OF_FACE3D = "face3d's generate.m writes it with BFM.mat, put both into one folder"


@lru_cache(maxsize=4)
def load_bfm_3ddfa(folder: str, shape_components: int = 40, expression_components: int = 10) -> MorphableModel:
    """The BFM 2009 basis as 3DDFA ships it (Guo et al., 3DDFA), 53,215 vertices, in micrometres.

    Folder: `u_shp.npy`, `u_exp.npy` (3V, 1) means, flat x0 y0 z0 x1 ...; `w_shp_sim.npy` (3V, 40), `w_exp_sim.npy`
    (3V, 10); `keypoints_sim.npy` (204,) flat indices of 68 landmarks; `tri.mat` tri (3, F), 1-based; `BFM_UV.mat`
    UV (V, 2); `regions.npy` (V,) where `write_bfm_3ddfa` wrote it. The basis comes with the 3DDFA code
    (github.com/cleardusk/3DDFA); licence: non-commercial (Basel Face Model). The same folder gives
    the same object, so that data sets and network share one copy.

    Raises:
        DataError: a file is missing, unreadable, or of another shape.
    """
    root = Path(folder)
    mean_path, triangle_path = root / "u_shp.npy", root / "tri.mat"
    mean_shape = _array(mean_path)
    rows = _rows(str(mean_path), mean_shape)
    mean = mean_shape + _array(root / "u_exp.npy", (rows, 1))
    shape_basis, expression_basis = (
        _basis(str(root / name), _array(root / name), rows, components, "u_shp.npy")
        for name, components in {"w_shp_sim.npy": shape_components, "w_exp_sim.npy": expression_components}.items()
    )
    keypoints = _array(root / "keypoints_sim.npy", (204,))
    if not 0 <= keypoints.min() <= keypoints.max() < rows:
        raise DataError(f"{root / 'keypoints_sim.npy'}: indices must lie in 0 ... {rows - 1}")
    triangles = _number(str(triangle_path), _variable(triangle_path, "tri", FROM_3DDFA))
    uv = _number(str(root / "BFM_UV.mat"), _variable(root / "BFM_UV.mat", "UV", FROM_3DDFA), (rows // 3, 2))
    landmarks68 = keypoints[::3].astype(np.int64) // 3
    triangles = _triangles(str(triangle_path), triangles, rows // 3)
    own = root / "regions.npy"
    regions = _array(own, (rows // 3,)).astype(np.uint8) if own.is_file() else None
    return _model("bfm_3ddfa", mean, shape_basis, expression_basis, triangles, uv, landmarks68, regions)


@lru_cache(maxsize=4)
def load_bfm2009(path: str, shape_components: int = 199, expression_components: int = 29) -> MorphableModel:
    """The BFM 2009 basis as face3d writes it (Feng, github.com/YadiraF/face3d), 53,215 vertices, in micrometres.

    `BFM.mat` is what its `examples/Data/BFM/generate.m` leaves in `Out/`. It holds one struct `model`, of which are
    read: shapeMU (3V, 1) and expMU (3V, 1), means, flat x0 y0 z0 x1 ...; shapePC (3V, 199) and expPC (3V, 29);
    tri (3, F) and kpt_ind (1, 68), vertices counted from 1. `BFM_UV.mat` with UV (V, 2) must lie beside it.

    Vertices and coefficients are those of `load_bfm_3ddfa` with all components: v = shapeMU + expMU + shapePC a +
    expPC b, where a and b are those of 300W-LP, not divided by their standard deviations shapeEV and expEV. Those, the
    texture and tri_mouth, which closes the mouth, are not read. Licence: non-commercial (Basel Face Model). The same
    path gives the same object.

    Raises:
        DataError: a file or field is missing, unreadable, or of another shape.
    """
    file = Path(path)
    uv_path = file.with_name("BFM_UV.mat")
    fields = _struct(file)
    mean_shape = fields["shapeMU"]
    rows = _rows(f"{path}: shapeMU", mean_shape)
    mean = mean_shape + _number(f"{path}: expMU", fields["expMU"], (rows, 1))
    shape_basis, expression_basis = (
        _basis(f"{path}: {name}", fields[name], rows, components, "shapeMU")
        for name, components in {"shapePC": shape_components, "expPC": expression_components}.items()
    )
    keypoints = fields["kpt_ind"].ravel()
    if len(keypoints) != 68 or not 1 <= keypoints.min() <= keypoints.max() <= rows // 3:
        raise DataError(f"{path}: kpt_ind: expected 68 vertex indices in 1 ... {rows // 3}, found {len(keypoints)}")
    uv = _number(str(uv_path), _variable(uv_path, "UV", UV_OF_FACE3D), (rows // 3, 2))
    triangles = _triangles(f"{path}: tri", fields["tri"], rows // 3)
    return _model("bfm2009", mean, shape_basis, expression_basis, triangles, uv, keypoints.astype(np.int64) - 1)


def _model(
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


def _rows(what: str, mean: np.ndarray) -> int:
    """3V of a mean (3V, 1)."""
    if mean.ndim != 2 or mean.shape[0] % 3 or mean.shape[1] != 1:
        raise DataError(f"{what}: expected shape (3 x vertices, 1), found {mean.shape}")
    return len(mean)


def _basis(what: str, basis: np.ndarray, rows: int, components: int, mean: str) -> np.ndarray:
    """The first components of a basis (3V, K), which must fit the mean of that name."""
    if basis.ndim != 2 or len(basis) != rows or basis.shape[1] < components:
        raise DataError(f"{what}: expected shape ({rows}, at least {components}) to match {mean}, found {basis.shape}")
    return np.ascontiguousarray(basis[:, :components])


def _triangles(what: str, triangles: np.ndarray, vertices: int) -> np.ndarray:
    """(F, 3) from 0, counter-clockwise, of the files' (3, F) from 1.

    Both layouts take `tri` from the `model_info.mat` of Zhu et al., whose winding is clockwise.
    """
    if triangles.ndim != 2 or triangles.shape[0] != 3 or not 1 <= triangles.min() <= triangles.max() <= vertices:
        raise DataError(
            f"{what}: expected 1-based vertex indices of shape (3, triangles), found {triangles.shape} with values "
            f"{triangles.min()} ... {triangles.max()} for {vertices} vertices"
        )
    return triangles.T[:, ::-1].astype(np.int64) - 1


def _struct(path: Path) -> dict[str, np.ndarray]:
    """The numeric fields of face3d's struct `model` that are read."""
    model = _variable(path, "model", FROM_FACE3D)
    if model.dtype.names is None or model.size != 1:
        raise DataError(f"{path}: 'model' is no struct; {FROM_FACE3D}")
    names = ("shapeMU", "shapePC", "expMU", "expPC", "tri", "kpt_ind")
    if missing := [name for name in names if name not in model.dtype.names]:
        raise DataError(f"{path}: no field {', '.join(missing)} in 'model'; {FROM_FACE3D}")
    return {name: _number(f"{path}: {name}", model.ravel()[0][name]) for name in names}


def _array(path: Path, shape: tuple[int, ...] | None = None) -> np.ndarray:
    _require(path, FROM_3DDFA)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not a readable .npy file ({error})") from error
    return _number(str(path), array, shape)


def _variable(path: Path, name: str, source: str) -> np.ndarray:
    _require(path, source)
    try:
        content = scipy.io.loadmat(path, variable_names=[name])
    except Exception as error:  # scipy raises a dozen unrelated types on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({error})") from error
    if name not in content:
        raise DataError(f"{path}: no variable {name!r} in it; {source}")
    return content[name]


def _require(path: Path, source: str) -> None:
    if not path.is_file():
        raise DataError(f"no {path.name} in {path.parent.resolve()}: {source}")


def _number(what: str, array: np.ndarray, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """The array, checked."""
    if shape is not None and array.shape != shape:
        raise DataError(f"{what}: expected shape {shape}, found {array.shape}")
    if not np.issubdtype(array.dtype, np.number) or not array.size:
        raise DataError(f"{what}: expected numbers, found {array.size} values of type {array.dtype}")
    if not np.isfinite(array).all():
        raise DataError(f"{what}: holds NaN or infinite values; the file is damaged, get it again")
    return array
