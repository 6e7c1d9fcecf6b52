"""Loads the Basel Face Model 2009 from its three common layouts: 3DDFA's, face3d's, and the published parts.

Vertices are in micrometres. Calls with the same arguments return the same object, so that data sets and network share
one copy. Licence: non-commercial (Basel Face Model). Cite: Paysan, Knothe, Amberg, Romdhani, Vetter, "A 3D Face Model
for Pose and Illumination Invariant Face Recognition", AVSS 2009.
"""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from jointface.errors import ConfigError, DataError
from jointface.geometry.array_files import checked_numbers, read_mat, read_mat_variable, read_npy, require_file
from jointface.geometry.morphable_model import MorphableModel, mirror_from_uv

Expression = Literal["3ddfa", "facewarehouse"]

# Name of the model whose expression coefficients differ from those that 300W-LP and AFLW2000-3D store.
FACEWAREHOUSE = "bfm2009_facewarehouse"

# Where to get each file; used in error messages.
FROM_3DDFA = "point paths.bfm_dir at the folder of the BFM basis that 3DDFA ships"
FROM_FACE3D = (
    "morphable_model.path must name the BFM.mat that face3d's generate.m writes; the University of Basel's own "
    "01_MorphableModel.mat is read by morphable_model=bfm2009_parts"
)
NO_EXPRESSIONS = (
    "the University of Basel's model has no expressions; face3d's generate.m takes them from 3DDFA's "
    "Model_Expression.mat: run it with that file, or use morphable_model=bfm2009_parts"
)
UV_OF_FACE3D = "face3d's generate.m writes it with BFM.mat; put both into one folder"
FROM_BASEL = "get it from the University of Basel (faces.dmi.unibas.ch/bfm, registration) into morphable_model.folder"
FROM_ZHU = "it is in 3DDFA.zip on Xiangyu Zhu's 3DDFA project page; put it beside 01_MorphableModel.mat"
OR_EXP_PCA = f"{FROM_ZHU}, or use Exp_Pca.bin with morphable_model.expression=facewarehouse"
FROM_GUO = (
    "it is in CoarseData of github.com/Juyong/3DFace; put it beside 01_MorphableModel.mat, or use Model_Expression.mat "
    "with morphable_model.expression=3ddfa"
)
FROM_DENG = "it is in the folder BFM of github.com/sicxu/Deep3DFaceRecon_pytorch; put it beside 01_MorphableModel.mat"
FROM_BAS = "it is in the folder util of github.com/anilbas/3DMMasSTN; put it beside 01_MorphableModel.mat"

# BFM_UV.mat places these 1-based vertices of the trimmed mesh far from their neighbours. As in face3d's generate.m,
# each is moved, in this order, to the mean of the listed neighbours.
TRIMMED = 53_215
STRAY_UV = {10032: (10033, 10158), 10155: (10534, 10157, 10661), 10280: (10916, 10286)}


@lru_cache(maxsize=4)
def load_bfm_3ddfa(folder: str, shape_components: int = 40, expression_components: int = 10) -> MorphableModel:
    """Loads the basis that 3DDFA ships (Guo et al., github.com/cleardusk/3DDFA), 53,215 vertices.

    Folder: `u_shp.npy`, `u_exp.npy` (3V, 1) means, flat x0 y0 z0 x1 ...; `w_shp_sim.npy` (3V, 40), `w_exp_sim.npy`
    (3V, 10); `keypoints_sim.npy` (204,) flat indices of 68 landmarks; `tri.mat` tri (3, F), 1-based; `BFM_UV.mat`
    UV (V, 2); optionally `regions.npy` (V,), as `write_bfm_3ddfa` writes it.

    Raises:
        DataError: a file is missing or unreadable, or has the wrong shape.
    """
    root = Path(folder)
    mean_shape = read_npy(root / "u_shp.npy", FROM_3DDFA)
    rows = _count_rows(root / "u_shp.npy", mean_shape)
    mean = mean_shape + read_npy(root / "u_exp.npy", FROM_3DDFA, (rows, 1))
    shape_basis, expression_basis = (
        _first_components(root / name, read_npy(root / name, FROM_3DDFA), rows, components, "u_shp.npy")
        for name, components in {"w_shp_sim.npy": shape_components, "w_exp_sim.npy": expression_components}.items()
    )
    keypoints = read_npy(root / "keypoints_sim.npy", FROM_3DDFA, (204,))
    if not 0 <= keypoints.min() <= keypoints.max() < rows:
        raise DataError(f"{root / 'keypoints_sim.npy'}: indices must lie in 0 ... {rows - 1}")
    triangles = _outward_triangles(root / "tri.mat", read_mat(root / "tri.mat", "tri", FROM_3DDFA), rows // 3)
    uv = read_mat(root / "BFM_UV.mat", "UV", FROM_3DDFA, (rows // 3, 2))
    file = root / "regions.npy"
    regions = read_npy(file, FROM_3DDFA, (rows // 3,)) if file.is_file() else None
    landmarks68 = keypoints[::3].astype(np.int64) // 3
    return _build_model("bfm_3ddfa", mean, shape_basis, expression_basis, triangles, uv, landmarks68, regions)


@lru_cache(maxsize=4)
def load_bfm2009(path: str, shape_components: int = 199, expression_components: int = 29) -> MorphableModel:
    """Loads the basis that face3d writes (Feng, github.com/YadiraF/face3d), 53,215 vertices.

    face3d's `examples/Data/BFM/generate.m` writes `BFM.mat` to `Out/`: a struct `model` with the means shapeMU and
    expMU (3V, 1), flat x0 y0 z0 x1 ..., the bases shapePC (3V, 199) and expPC (3V, 29), and the 1-based vertices tri
    (3, F) and kpt_ind (1, 68). Other fields are not read. `BFM_UV.mat` with UV (V, 2) must be in the same folder.

    Vertices and coefficients are those of `load_bfm_3ddfa` with all components: v = shapeMU + expMU + shapePC a +
    expPC b with 300W-LP's a and b, which are not divided by their standard deviations.

    Raises:
        DataError: a file or field is missing or unreadable, or has the wrong shape.
    """
    file = Path(path)
    model = read_mat_variable(file, "model", FROM_FACE3D)
    if model.dtype.names is None or model.size != 1:
        raise DataError(f"{path}: 'model' is no struct; {FROM_FACE3D}")
    names = ("shapeMU", "shapePC", "expMU", "expPC", "tri", "kpt_ind")
    if missing := [name for name in names if name not in model.dtype.names]:
        how = NO_EXPRESSIONS if {"expMU", "expPC"} & set(missing) else FROM_FACE3D
        raise DataError(f"{path}: no field {', '.join(missing)} in 'model'; {how}")
    fields = {name: checked_numbers(f"{path}: {name}", model.ravel()[0][name]) for name in names}
    rows = _count_rows(f"{path}: shapeMU", fields["shapeMU"])
    mean = fields["shapeMU"] + checked_numbers(f"{path}: expMU", fields["expMU"], (rows, 1))
    shape_basis, expression_basis = (
        _first_components(f"{path}: {name}", fields[name], rows, components, "shapeMU")
        for name, components in {"shapePC": shape_components, "expPC": expression_components}.items()
    )
    landmarks68 = _zero_based(f"{path}: kpt_ind", fields["kpt_ind"], rows // 3, 68)
    uv = read_mat(file.with_name("BFM_UV.mat"), "UV", UV_OF_FACE3D, (rows // 3, 2))
    triangles = _outward_triangles(f"{path}: tri", fields["tri"], rows // 3)
    return _build_model("bfm2009", mean, shape_basis, expression_basis, triangles, uv, landmarks68)


@lru_cache(maxsize=4)
def load_bfm2009_parts(
    folder: str,
    expression: Expression = "3ddfa",
    shape_components: int = 199,
    expression_components: int | None = None,
) -> MorphableModel:
    """Assembles the model with expressions from its published parts. All indices in the files are 1-based.

    - `01_MorphableModel.mat` (University of Basel): shapeMU (160470, 1), mean, flat x0 y0 z0 x1 ...; shapePC
      (160470, 199), basis of unit length; tl (106466, 3), triangles. It has 53,490 vertices and no expressions;
      expressions exist for 53,215 of them, `trimIndex` (53215, 1).
    - `BFM_UV.mat` (Bas et al., 3DMMasSTN): UV (53490, 2), or (53215, 2) as face3d writes it.

    With `expression="3ddfa"` (Zhu et al., CVPR 2016) the result equals `load_bfm2009` of the BFM.mat that face3d makes
    of these files, and the coefficients are those of 300W-LP and AFLW2000-3D:

    - `Model_Expression.mat`: mu_exp (159645, 1), w_exp (159645, 29).
    - `model_info.mat`: trimIndex; tri (3, 105840), keypoints (1, 68), trimmed vertices.

    With `expression="facewarehouse"` the expressions are those of Deep3DFaceRecon (Deng et al., CVPRW 2019):

    - `Exp_Pca.bin` (Guo et al., TPAMI 2018, from FaceWarehouse, Cao et al., TVCG 2014): little-endian int32 K = 79,
      float32 mean (159645,), float32 basis (K, 159645).
    - `std_exp.txt`: K standard deviations. They scale the basis, so that coefficients are in standard deviations.
    - `BFM_exp_idx.mat`: trimIndex. `BFM_front_idx.mat`: idx (35709, 1), trimmed vertices of the front of the face.
      `facemodel_info.mat`: keypoints (1, 68), positions in idx.

    The mean of Exp_Pca.bin is left out, as in Deep3DFaceRecon, whose neutral face is shapeMU. This model can be used
    for prediction, but cannot read the fits of 300W-LP and AFLW2000-3D, which use 3DDFA's expressions.

    There are at most 199 shape components, and 29 or 79 expression components; None takes all.

    Raises:
        ConfigError: `expression` has an unknown value.
        DataError: a file or field is missing or unreadable, or has the wrong shape.
    """
    if expression not in ("3ddfa", "facewarehouse"):
        raise ConfigError(f"expression={expression!r} is unknown; choose from 3ddfa, facewarehouse")
    root, is_3ddfa = Path(folder), expression == "3ddfa"
    file = root / "01_MorphableModel.mat"
    shape_mean, shape_basis = (read_mat(file, name, FROM_BASEL) for name in ("shapeMU", "shapePC"))
    rows = _count_rows(f"{file}: shapeMU", shape_mean)
    shape_basis = _first_components(f"{file}: shapePC", shape_basis, rows, shape_components, "shapeMU")
    read_expressions = _read_3ddfa_expressions if is_3ddfa else _read_facewarehouse_expressions
    trim, mean, basis, triangles, landmarks68 = read_expressions(root, rows // 3, expression_components)
    return _build_model(
        "bfm2009" if is_3ddfa else FACEWAREHOUSE,
        _trim_rows(shape_mean, trim) + mean,
        _trim_rows(shape_basis, trim),
        basis,
        triangles,
        _read_uv(root / "BFM_UV.mat", rows // 3, trim),
        landmarks68,
    )


Expressions = tuple[np.ndarray, np.ndarray | float, np.ndarray, np.ndarray, np.ndarray]
"""Indices of the trimmed vertices; mean and basis of the expressions, triangles and landmarks on these vertices."""


def _read_3ddfa_expressions(root: Path, vertices: int, components: int | None) -> Expressions:
    file, info = root / "Model_Expression.mat", root / "model_info.mat"
    require_file(file, OR_EXP_PCA)
    trim = _read_indices(info, "trimIndex", FROM_ZHU, vertices)
    mean = read_mat(file, "mu_exp", FROM_ZHU, (3 * len(trim), 1))
    basis = _first_components(f"{file}: w_exp", read_mat(file, "w_exp", FROM_ZHU), len(mean), components, "mu_exp")
    triangles = _outward_triangles(f"{info}: tri", read_mat(info, "tri", FROM_ZHU), len(trim))
    return trim, mean, basis, triangles, _read_indices(info, "keypoints", FROM_ZHU, len(trim), 68)


def _read_facewarehouse_expressions(root: Path, vertices: int, components: int | None) -> Expressions:
    file, shape_file = root / "Exp_Pca.bin", root / "01_MorphableModel.mat"
    require_file(file, FROM_GUO)
    trim = _read_indices(root / "BFM_exp_idx.mat", "trimIndex", FROM_DENG, vertices)
    basis = _read_exp_pca(file, len(trim))
    basis = basis * _read_deviations(root / "std_exp.txt", basis.shape[1])
    basis = _first_components(file, basis, len(basis), components, "trimIndex")
    front = _read_indices(root / "BFM_front_idx.mat", "idx", FROM_DENG, len(trim))
    landmarks68 = front[_read_indices(root / "facemodel_info.mat", "keypoints", FROM_DENG, len(front), 68)]
    whole = _outward_triangles(f"{shape_file}: tl", read_mat(shape_file, "tl", FROM_BASEL).T, vertices)
    new_row = np.full(vertices, -1)
    new_row[trim] = np.arange(len(trim))
    triangles = new_row[whole]
    return trim, 0.0, basis, triangles[(triangles >= 0).all(axis=1)], landmarks68


def _read_exp_pca(path: Path, vertices: int) -> np.ndarray:
    """Reads the basis (3V, K) from `Exp_Pca.bin`."""
    components = int(np.fromfile(path, "<i4", count=1).sum())  # 0 if the file has fewer than four bytes
    expected = 4 + 4 * 3 * vertices * (1 + components)
    if components < 1 or path.stat().st_size != expected:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes, but {components} components of {vertices} vertices take "
            f"{expected}; the file is cut short or the wrong one, get it again: {FROM_GUO}"
        )
    values = np.fromfile(path, "<f4", offset=4).reshape(1 + components, 3 * vertices)
    return checked_numbers(path, values[1:].T)


def _read_deviations(path: Path, components: int) -> np.ndarray:
    require_file(path, FROM_DENG)
    try:
        deviations = checked_numbers(path, np.loadtxt(path, dtype=np.float32, ndmin=1))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a row of numbers ({error}); {FROM_DENG}") from error
    if len(deviations) != components:
        raise DataError(f"{path}: {len(deviations)} numbers for the {components} components of Exp_Pca.bin")
    return deviations


def _read_uv(path: Path, vertices: int, trim: np.ndarray) -> np.ndarray:
    """Reads UV (V, 2) of the trimmed vertices from a file for the full or the trimmed mesh, and repairs STRAY_UV."""
    uv = read_mat(path, "UV", FROM_BAS)
    if uv.shape == (len(trim), 2):
        return uv
    if uv.shape != (vertices, 2):
        raise DataError(f"{path}: UV: expected shape {(vertices, 2)} or {(len(trim), 2)}, found {uv.shape}")
    uv = uv[trim]
    if len(uv) == TRIMMED:
        for stray, neighbours in STRAY_UV.items():
            uv[stray - 1] = uv[np.array(neighbours) - 1].mean(axis=0)
    return uv


def _trim_rows(rows: np.ndarray, trim: np.ndarray) -> np.ndarray:
    """Selects the rows (3V, ...) of the trimmed vertices."""
    return rows.reshape(-1, 3, rows.shape[1])[trim].reshape(-1, rows.shape[1])


def _build_model(
    name: str,
    mean: np.ndarray,
    shape_basis: np.ndarray,
    expression_basis: np.ndarray,
    triangles: np.ndarray,
    uv: np.ndarray,
    landmarks68: np.ndarray,
    regions: np.ndarray | None = None,
) -> MorphableModel:
    """Builds the model from flat (3V, ...) mean and bases, (F, 3) triangles, (V, 2) UV and (68,) landmark vertices."""
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
        regions=torch.from_numpy(regions.astype(np.uint8)) if regions is not None else None,
    )


def _count_rows(what: str | Path, mean: np.ndarray) -> int:
    """Returns 3V for a mean of shape (3V, 1)."""
    if mean.ndim != 2 or mean.shape[0] % 3 or mean.shape[1] != 1:
        raise DataError(f"{what}: expected shape (3 x vertices, 1), found {mean.shape}")
    return len(mean)


def _first_components(what: str | Path, basis: np.ndarray, rows: int, components: int | None, mean: str) -> np.ndarray:
    """Returns the first components (None: all) of a basis (3V, K). Errors refer to the mean it must match by name."""
    components = components or basis.shape[-1]
    if basis.ndim != 2 or len(basis) != rows or basis.shape[1] < components:
        raise DataError(f"{what}: expected shape ({rows}, at least {components}) to match {mean}, found {basis.shape}")
    return np.ascontiguousarray(basis[:, :components])


def _outward_triangles(what: str | Path, triangles: np.ndarray, vertices: int) -> np.ndarray:
    """Converts the files' (3, F) 1-based, clockwise triangles to (F, 3) 0-based, counter-clockwise ones."""
    if triangles.ndim != 2 or triangles.shape[0] != 3 or not 1 <= triangles.min() <= triangles.max() <= vertices:
        raise DataError(
            f"{what}: expected 1-based vertex indices of shape (3, triangles), found {triangles.shape} with values "
            f"{triangles.min()} ... {triangles.max()} for {vertices} vertices"
        )
    return triangles.T[:, ::-1].astype(np.int64) - 1


def _read_indices(path: Path, name: str, source: str, limit: int, count: int | None = None) -> np.ndarray:
    """Reads a variable of a .mat file and passes it to `_zero_based`."""
    return _zero_based(f"{path}: {name}", read_mat(path, name, source), limit, count)


def _zero_based(what: str | Path, indices: np.ndarray, limit: int, count: int | None = None) -> np.ndarray:
    """Converts (N, 1) or (1, N) indices in 1 ... limit to (N,) 0-based ones. If `count` is given, N must equal it."""
    if count not in (None, indices.size) or not 1 <= indices.min() <= indices.max() <= limit:
        number = f"{count} " if count else ""
        raise DataError(
            f"{what}: expected {number}vertex indices in 1 ... {limit}, found {indices.size} in "
            f"{indices.min():g} ... {indices.max():g}"
        )
    return indices.ravel().astype(np.int64) - 1
