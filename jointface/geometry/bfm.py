"""Loaders of the Basel Face Model in the layouts that people have."""

from functools import lru_cache
from pathlib import Path

import numpy as np

from jointface.errors import DataError
from jointface.geometry.bfm_files import (
    assemble,
    count_rows,
    first_components,
    landmark_vertices,
    outward_triangles,
    read_npy,
    read_numbers,
    read_variable,
    require_numbers,
)
from jointface.geometry.morphable_model import MorphableModel

# What to do where a file is not what it should be.
FROM_3DDFA = "point paths.bfm_dir at the folder of the BFM basis that 3DDFA ships"
FROM_FACE3D = (
    "morphable_model.path must name the BFM.mat that face3d's generate.m writes; the University of Basel's own "
    "01_MorphableModel.mat is read by morphable_model=bfm2009_parts"
)
NO_EXPRESSIONS = (
    "the University of Basel's model has no expressions, face3d's generate.m takes them from 3DDFA's "
    "Model_Expression.mat: run it with that file, or use morphable_model=bfm2009_parts"
)
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
    mean_shape = read_npy(mean_path, FROM_3DDFA)
    rows = count_rows(str(mean_path), mean_shape)
    mean = mean_shape + read_npy(root / "u_exp.npy", FROM_3DDFA, (rows, 1))
    shape_basis, expression_basis = (
        first_components(str(root / name), read_npy(root / name, FROM_3DDFA), rows, components, "u_shp.npy")
        for name, components in {"w_shp_sim.npy": shape_components, "w_exp_sim.npy": expression_components}.items()
    )
    keypoints = read_npy(root / "keypoints_sim.npy", FROM_3DDFA, (204,))
    if not 0 <= keypoints.min() <= keypoints.max() < rows:
        raise DataError(f"{root / 'keypoints_sim.npy'}: indices must lie in 0 ... {rows - 1}")
    triangles = read_numbers(triangle_path, "tri", FROM_3DDFA)
    uv = read_numbers(root / "BFM_UV.mat", "UV", FROM_3DDFA, (rows // 3, 2))
    landmarks68 = keypoints[::3].astype(np.int64) // 3
    triangles = outward_triangles(str(triangle_path), triangles, rows // 3)
    own = root / "regions.npy"
    regions = read_npy(own, FROM_3DDFA, (rows // 3,)).astype(np.uint8) if own.is_file() else None
    return assemble("bfm_3ddfa", mean, shape_basis, expression_basis, triangles, uv, landmarks68, regions)


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
    rows = count_rows(f"{path}: shapeMU", mean_shape)
    mean = mean_shape + require_numbers(f"{path}: expMU", fields["expMU"], (rows, 1))
    shape_basis, expression_basis = (
        first_components(f"{path}: {name}", fields[name], rows, components, "shapeMU")
        for name, components in {"shapePC": shape_components, "expPC": expression_components}.items()
    )
    landmarks68 = landmark_vertices(f"{path}: kpt_ind", fields["kpt_ind"], rows // 3)
    uv = read_numbers(uv_path, "UV", UV_OF_FACE3D, (rows // 3, 2))
    triangles = outward_triangles(f"{path}: tri", fields["tri"], rows // 3)
    return assemble("bfm2009", mean, shape_basis, expression_basis, triangles, uv, landmarks68)


def _struct(path: Path) -> dict[str, np.ndarray]:
    """The numeric fields of face3d's struct `model` that are read."""
    model = read_variable(path, "model", FROM_FACE3D)
    if model.dtype.names is None or model.size != 1:
        raise DataError(f"{path}: 'model' is no struct; {FROM_FACE3D}")
    names = ("shapeMU", "shapePC", "expMU", "expPC", "tri", "kpt_ind")
    if missing := [name for name in names if name not in model.dtype.names]:
        how = NO_EXPRESSIONS if {"expMU", "expPC"} & set(missing) else FROM_FACE3D
        raise DataError(f"{path}: no field {', '.join(missing)} in 'model'; {how}")
    return {name: require_numbers(f"{path}: {name}", model.ravel()[0][name]) for name in names}
