"""Writers of a morphable model in the Basel Face Model's layouts, for the loaders of `bfm.py` and for other tools."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from jointface.errors import DataError
from jointface.files import write_atomically
from jointface.geometry.array_files import mat_bytes
from jointface.geometry.morphable_model import MorphableModel

NEUTRAL_TEXTURE = 128.0  # grey, of face3d's 0 ... 255


def write_bfm_3ddfa(folder: Path, model: MorphableModel) -> None:
    """Writes the seven files that `load_bfm_3ddfa` reads, and `regions.npy` with the region of each vertex, which 3DDFA
    does not know.

    Loaded with all components, the model is the same but for its mirror map, which is computed anew from the UV layout.
    A folder that this process has loaded before still gives the model of then.

    Raises:
        DataError: a file cannot be written; each file is whole or as it was.
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

    The texture that face3d asks for is grey without variation; `tri_mouth` is empty. Otherwise as `write_bfm_3ddfa`.

    Args:
        shape_sigma, expression_sigma: standard deviations of the coefficients (shapeEV, expEV), by which face3d's
            fitting weighs them; None writes ones, as a morphable model does not hold them.

    Raises:
        DataError: a file cannot be written; each file is whole or as it was.
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
    """(3V, columns), rows x0 y0 z0 x1 ..."""
    return values.cpu().reshape(-1, values.shape[-1]).numpy()


def _column(sigma: Float[Tensor, "components"] | None, components: int) -> Float[np.ndarray, "components 1"]:
    if sigma is None:
        return np.ones((components, 1), np.float32)
    if len(sigma) != components:
        raise DataError(f"{len(sigma)} standard deviations for {components} components of the morphable model")
    return sigma.cpu().float().numpy()[:, None]


def _matlab_triangles(model: MorphableModel) -> np.ndarray:
    """(3, F) 1-based, clockwise, in MATLAB's smallest integers that hold them."""
    dtype = np.uint16 if len(model.mean) <= np.iinfo(np.uint16).max else np.uint32
    return (model.triangles.cpu().numpy()[:, ::-1].T + 1).astype(dtype)
