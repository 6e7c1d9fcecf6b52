"""Writes a morphable model in layouts of the Basel Face Model, for the loaders in `bfm.py` and for other tools."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from jointface.errors import DataError
from jointface.files import write_atomically
from jointface.geometry.array_files import mat_bytes
from jointface.geometry.morphable_model import MorphableModel

NEUTRAL_TEXTURE = 128.0  # grey, in face3d's range 0 ... 255


def write_bfm_3ddfa(folder: Path, model: MorphableModel) -> None:
    """Writes the seven files of 3DDFA's layout that `load_bfm_3ddfa` reads, and `regions.npy` with the vertex regions.

    Loading the files with all components gives the same model except for its mirror map, which is recomputed from the
    UV layout. The loader caches: a folder that this process has loaded before still gives the earlier model.

    Raises:
        DataError: a file cannot be written; each file is complete or unchanged.
    """
    landmarks68 = model.landmarks68.cpu().numpy()
    arrays = {
        "u_shp.npy": _flat(model.mean[..., None]),
        "u_exp.npy": np.zeros((model.mean.numel(), 1), np.float32),
        "w_shp_sim.npy": _flat(model.shape_basis),
        "w_exp_sim.npy": _flat(model.expression_basis),
        "regions.npy": model.regions.cpu().numpy(),
        "keypoints_sim.npy": (3 * landmarks68[:, None] + np.arange(3)).ravel(),
    }
    for name, array in arrays.items():
        np.save(buffer := io.BytesIO(), array)
        write_atomically(folder / name, buffer.getvalue())
    write_atomically(folder / "tri.mat", mat_bytes({"tri": _matlab_triangles(model)}))
    write_atomically(folder / "BFM_UV.mat", mat_bytes({"UV": model.uv.cpu().double().numpy()}))


def write_bfm2009(
    folder: Path,
    model: MorphableModel,
    shape_sigma: Float[Tensor, "shape"] | None = None,
    expression_sigma: Float[Tensor, "expression"] | None = None,
) -> None:
    """Writes the `BFM.mat` and `BFM_UV.mat` that face3d and `load_bfm2009` read.

    The texture that face3d requires is a constant grey; `tri_mouth` is empty. Otherwise like `write_bfm_3ddfa`.

    Args:
        shape_sigma, expression_sigma: standard deviations of the coefficients (shapeEV, expEV), which face3d's fitting
            uses as weights. None writes ones, because a morphable model does not store them.

    Raises:
        DataError: a file cannot be written; each file is complete or unchanged.
    """
    shape_basis = _flat(model.shape_basis)
    fields = {
        "shapeMU": _flat(model.mean[..., None]),
        "shapePC": shape_basis,
        "shapeEV": _column(shape_sigma, model.num_shape),
        "texMU": np.full((len(shape_basis), 1), NEUTRAL_TEXTURE, np.float32),
        "texPC": np.zeros_like(shape_basis),
        "texEV": np.zeros((model.num_shape, 1), np.float32),
        "expMU": np.zeros((len(shape_basis), 1), np.float32),
        "expPC": _flat(model.expression_basis),
        "expEV": _column(expression_sigma, model.num_expression),
        "tri": _matlab_triangles(model),
        "tri_mouth": np.zeros((3, 0), np.uint16),
        "kpt_ind": model.landmarks68.cpu().numpy()[None] + 1,
    }
    write_atomically(folder / "BFM.mat", mat_bytes({"model": fields}))
    write_atomically(folder / "BFM_UV.mat", mat_bytes({"UV": model.uv.cpu().double().numpy()}))


def _flat(values: Float[Tensor, "vertices 3 columns"]) -> Float[np.ndarray, "rows columns"]:
    """Flattens to (3V, columns) with rows x0 y0 z0 x1 ..."""
    return values.cpu().reshape(-1, values.shape[-1]).numpy()


def _column(sigma: Float[Tensor, "components"] | None, components: int) -> Float[np.ndarray, "components 1"]:
    if sigma is None:
        return np.ones((components, 1), np.float32)
    if len(sigma) != components:
        raise DataError(f"{len(sigma)} standard deviations for {components} components of the morphable model")
    return sigma.cpu().float().numpy()[:, None]


def _matlab_triangles(model: MorphableModel) -> np.ndarray:
    """Converts triangles to (3, F) 1-based, clockwise ones, in the smallest unsigned integer type that holds them."""
    dtype = np.uint16 if len(model.mean) <= np.iinfo(np.uint16).max else np.uint32
    return (model.triangles.cpu().numpy()[:, ::-1].T + 1).astype(dtype)
