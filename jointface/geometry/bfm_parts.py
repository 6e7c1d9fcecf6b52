"""The Basel Face Model 2009 from the files that it is handed out in, by those who made each part."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from jointface.errors import ConfigError, DataError
from jointface.geometry.bfm_files import (
    assemble,
    count_rows,
    first_components,
    landmark_vertices,
    one_based,
    outward_triangles,
    read_numbers,
    require_file,
    require_numbers,
)
from jointface.geometry.morphable_model import MorphableModel

Expression = Literal["3ddfa", "facewarehouse"]

# The name of a model whose expression coefficients are not those that 300W-LP and AFLW2000-3D store.
FACEWAREHOUSE = "bfm2009_facewarehouse"

SHAPE, EXPRESSION_FILES = "01_MorphableModel.mat", {"3ddfa": "Model_Expression.mat", "facewarehouse": "Exp_Pca.bin"}
# Where each file comes from, for messages.
FROM_BASEL = "get it from the University of Basel (faces.dmi.unibas.ch/bfm, registration) into morphable_model.folder"
FROM_ZHU = "it is in 3DDFA.zip of the 3DDFA project page of Xiangyu Zhu, put it beside 01_MorphableModel.mat"
FROM_GUO = "it is in CoarseData of github.com/Juyong/3DFace, put it beside 01_MorphableModel.mat"
FROM_DENG = "it is in the folder BFM of github.com/sicxu/Deep3DFaceRecon_pytorch, put it beside 01_MorphableModel.mat"
FROM_BAS = "it is in the folder util of github.com/anilbas/3DMMasSTN, put it beside 01_MorphableModel.mat"

# Vertices of the trimmed mesh, from 1, that BFM_UV.mat puts far from their neighbours, and the neighbours whose mean
# they take instead, in this order: as face3d's generate.m does.
TRIMMED = 53_215
STRAY_UV = {10032: (10033, 10158), 10155: (10534, 10157, 10661), 10280: (10916, 10286)}


@lru_cache(maxsize=4)
def load_bfm2009_parts(
    folder: str,
    expression: Expression = "3ddfa",
    shape_components: int = 199,
    expression_components: int | None = None,
) -> MorphableModel:
    """The BFM 2009 with expressions, put together from its published parts; in micrometres.

    Of any choice of expressions the folder holds

    - `01_MorphableModel.mat` (University of Basel): shapeMU (160470, 1), mean, flat x0 y0 z0 x1 ...; shapePC
      (160470, 199), basis of unit length; tl (106466, 3), triangles, from 1. It has 53,490 vertices and no expressions;
      these are on 53,215 of them, `trimIndex` (53215, 1), from 1.
    - `BFM_UV.mat` (Bas et al., 3DMMasSTN): UV (53490, 2), or (53215, 2) as face3d writes it.

    With `expression="3ddfa"`, the files that face3d's generate.m merges into its BFM.mat (Zhu et al., 3DDFA):

    - `Model_Expression.mat`: mu_exp (159645, 1), w_exp (159645, 29).
    - `model_info.mat`: trimIndex; tri (3, 105840), keypoints (1, 68), trimmed vertices, from 1.

    The result equals `load_bfm2009` of that BFM.mat, and its coefficients are those of 300W-LP and AFLW2000-3D.

    With `expression="facewarehouse"`, those of Deep3DFaceRecon (Deng et al., CVPRW 2019):

    - `Exp_Pca.bin` (Guo et al., 3DFace, made from FaceWarehouse): little-endian int32 K = 79, float32 mean (159645,),
      float32 basis (K, 159645).
    - `std_exp.txt`: K standard deviations. They multiply the basis, so that a coefficient counts them.
    - `BFM_exp_idx.mat`: trimIndex. `BFM_front_idx.mat`: idx (35709, 1), trimmed vertices of the face's front, from 1.
      `facemodel_info.mat`: keypoints (1, 68), places in idx, from 1.

    The mean of Exp_Pca.bin is left out, as Deep3DFaceRecon does: its neutral face is shapeMU. Such a model is a space
    to predict in; it reads no fit of 300W-LP or AFLW2000-3D, whose expressions are the other ones.

    Licence: non-commercial (Basel Face Model). Cite: Paysan, Knothe, Amberg, Romdhani, Vetter, "A 3D Face Model for
    Pose and Illumination Invariant Face Recognition", AVSS 2009; for the expressions Cao, Weng, Zhou, Tong, Zhou,
    "FaceWarehouse", TVCG 2014, with Zhu et al., CVPR 2016, or Guo et al., "CNN-based Real-time Dense Face
    Reconstruction", TPAMI 2018. The same arguments give the same object.

    Args:
        folder: where the files are.
        expression: which expressions.
        shape_components: how many identity coefficients, at most 199.
        expression_components: how many expression coefficients, at most 29 or 79; None takes all.

    Raises:
        ConfigError: expression is another word.
        DataError: a file or field is missing, unreadable, or of another shape.
    """
    if expression not in EXPRESSION_FILES:
        raise ConfigError(f"expression={expression!r} is unknown, known are {', '.join(EXPRESSION_FILES)}")
    root = Path(folder)
    _require_expressions(root, expression)
    shape_file = root / SHAPE
    shape_mean = read_numbers(shape_file, "shapeMU", FROM_BASEL)
    rows = count_rows(f"{shape_file}: shapeMU", shape_mean)
    trim_file, source = (
        (root / "model_info.mat", FROM_ZHU) if expression == "3ddfa" else (root / "BFM_exp_idx.mat", FROM_DENG)
    )
    trim = one_based(f"{trim_file}: trimIndex", read_numbers(trim_file, "trimIndex", source), rows // 3)
    shape_basis = first_components(
        f"{shape_file}: shapePC", read_numbers(shape_file, "shapePC", FROM_BASEL), rows, shape_components, "shapeMU"
    )
    parts = _zhu if expression == "3ddfa" else _guo
    expression_mean, expression_basis, triangles, landmarks68 = parts(root, trim, rows // 3, expression_components)
    return assemble(
        "bfm2009" if expression == "3ddfa" else FACEWAREHOUSE,
        _trimmed(shape_mean, trim) + expression_mean,
        _trimmed(shape_basis, trim),
        expression_basis,
        triangles,
        _read_uv(root / "BFM_UV.mat", rows // 3, trim),
        landmarks68,
    )


Parts = tuple[np.ndarray | float, np.ndarray, np.ndarray, np.ndarray]  # mean and basis of expressions, tri, landmarks


def _zhu(root: Path, trim: np.ndarray, vertices: int, components: int | None) -> Parts:
    """Expressions, triangles and landmarks of 3DDFA's files."""
    file, info = root / EXPRESSION_FILES["3ddfa"], root / "model_info.mat"
    mean = read_numbers(file, "mu_exp", FROM_ZHU, (3 * len(trim), 1))
    basis = read_numbers(file, "w_exp", FROM_ZHU)
    basis = first_components(f"{file}: w_exp", basis, len(mean), components or basis.shape[-1], "mu_exp")
    triangles = outward_triangles(f"{info}: tri", read_numbers(info, "tri", FROM_ZHU), len(trim))
    keypoints = read_numbers(info, "keypoints", FROM_ZHU)
    return mean, basis, triangles, landmark_vertices(f"{info}: keypoints", keypoints, len(trim))


def _guo(root: Path, trim: np.ndarray, vertices: int, components: int | None) -> Parts:
    """Expressions, triangles and landmarks of Deep3DFaceRecon's files."""
    file, deviation_file = root / EXPRESSION_FILES["facewarehouse"], root / "std_exp.txt"
    basis, deviations = read_exp_pca(file, len(trim)), _read_deviations(deviation_file)
    if len(deviations) != basis.shape[1]:
        raise DataError(
            f"{deviation_file}: {len(deviations)} numbers for the {basis.shape[1]} components of {file.name}"
        )
    basis = first_components(str(file), basis * deviations, len(basis), components or basis.shape[1], "trimIndex")
    front_file, info_file, shape_file = root / "BFM_front_idx.mat", root / "facemodel_info.mat", root / SHAPE
    front = one_based(f"{front_file}: idx", read_numbers(front_file, "idx", FROM_DENG), len(trim))
    keypoints = read_numbers(info_file, "keypoints", FROM_DENG)
    landmarks68 = front[landmark_vertices(f"{info_file}: keypoints", keypoints, len(front))]
    whole = outward_triangles(f"{shape_file}: tl", read_numbers(shape_file, "tl", FROM_BASEL).T, vertices)
    return 0.0, basis, _trimmed_triangles(whole, trim, vertices), landmarks68


def _require_expressions(root: Path, expression: Expression) -> None:
    """The expressions must be there; the University of Basel's model comes without."""
    if not (root / SHAPE).is_file() or (root / EXPRESSION_FILES[expression]).is_file():
        return
    for other, name in EXPRESSION_FILES.items():
        if (root / name).is_file():
            raise DataError(
                f"no {EXPRESSION_FILES[expression]} in {root.resolve()}, but {name}: set "
                f"morphable_model.expression={other}"
            )
    raise DataError(
        f"{(root / SHAPE).resolve()} has no expressions: Model_Expression.mat supplies them ({FROM_ZHU}), or, with "
        f"morphable_model.expression=facewarehouse, Exp_Pca.bin ({FROM_GUO})"
    )


def read_exp_pca(path: Path, vertices: int) -> np.ndarray:
    """The basis (3V, K) of `Exp_Pca.bin`.

    Raises:
        DataError: the file is missing, cut short, or of another mesh.
    """
    require_file(path, FROM_GUO)
    components = int(np.fromfile(path, "<i4", count=1).sum())  # 0 where there are no four bytes
    expected = 4 + 4 * 3 * vertices * (1 + components)
    if components < 1 or path.stat().st_size != expected:
        raise DataError(
            f"{path}: {path.stat().st_size} bytes, where {components} components of {vertices} vertices take "
            f"{expected}; the file is cut short or another one, get it again: {FROM_GUO}"
        )
    values = np.fromfile(path, "<f4", offset=4).reshape(1 + components, 3 * vertices)
    return require_numbers(str(path), values[1:].T)


def _read_deviations(path: Path) -> np.ndarray:
    """(K,) standard deviations."""
    require_file(path, FROM_DENG)
    try:
        return require_numbers(str(path), np.loadtxt(path, dtype=np.float32, ndmin=1))
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: not a row of numbers ({error}); {FROM_DENG}") from error


def _trimmed(rows: np.ndarray, trim: np.ndarray) -> np.ndarray:
    """The rows (3V, ...) of some vertices."""
    return rows.reshape(-1, 3, rows.shape[1])[trim].reshape(-1, rows.shape[1])


def _trimmed_triangles(triangles: np.ndarray, trim: np.ndarray, vertices: int) -> np.ndarray:
    """The triangles whose vertices are all kept, as these are counted then."""
    place = np.full(vertices, -1)
    place[trim] = np.arange(len(trim))
    renamed = place[triangles]
    return renamed[(renamed >= 0).all(axis=1)]


def _read_uv(path: Path, vertices: int, trim: np.ndarray) -> np.ndarray:
    """(V, 2) of the trimmed vertices; the whole mesh's are trimmed, and their strays put between their neighbours."""
    uv = read_numbers(path, "UV", FROM_BAS)
    if uv.shape == (len(trim), 2):
        return uv
    if uv.shape != (vertices, 2):
        raise DataError(f"{path}: UV: expected shape {(vertices, 2)} or {(len(trim), 2)}, found {uv.shape}")
    uv = uv[trim]
    if len(uv) == TRIMMED:
        for stray, neighbours in STRAY_UV.items():
            uv[stray - 1] = uv[np.array(neighbours) - 1].mean(axis=0)
    return uv
