"""A morphable model as the parts that BFM 2009 is handed out in, with both kinds of expressions."""

from pathlib import Path

import numpy as np
import scipy.io

from jointface.geometry import MorphableModel


def write(folder: Path, model: MorphableModel, untrimmed: int = 12, seed: int = 0) -> Path:
    """Writes the model, with some vertices among its own that the expressions do not know."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    vertices = len(model.mean)
    trim = np.sort(random.permutation(vertices + untrimmed)[:vertices])

    def whole(values: np.ndarray) -> np.ndarray:
        """(3(V + untrimmed), K) of (V, 3, K), the further vertices anywhere."""
        rows = random.uniform(-1e6, 1e6, (vertices + untrimmed, *values.shape[1:])).astype(np.float32)
        rows[trim] = values
        return rows.reshape(-1, values.shape[-1])

    mean = model.mean.numpy()[..., None]
    neutral = (0.98 * mean).astype(np.float32)
    clockwise = model.triangles.numpy()[:, ::-1]
    further = np.setdiff1d(np.arange(vertices + untrimmed), trim)
    closing = np.stack([further, np.roll(further, 1), trim[: len(further)]], axis=1)
    scipy.io.savemat(
        folder / "01_MorphableModel.mat",
        {
            "shapeMU": whole(neutral),
            "shapePC": whole(model.shape_basis.numpy()),
            "shapeEV": np.ones((model.num_shape, 1), np.float32),
            "tl": np.concatenate([closing, trim[clockwise]]).astype(np.float64) + 1,
            "segbin": np.zeros((vertices + untrimmed, 4), np.uint8),
        },
    )
    uv = random.uniform(0, 1, (vertices + untrimmed, 2))
    uv[trim] = model.uv.numpy()
    scipy.io.savemat(folder / "BFM_UV.mat", {"UV": uv})
    _write_3ddfa(folder, model, trim, mean.astype(np.float64) - neutral)
    _write_facewarehouse(folder, model, trim, random)
    return folder


def _write_3ddfa(folder: Path, model: MorphableModel, trim: np.ndarray, mean: np.ndarray) -> None:
    basis = model.expression_basis.double().numpy()
    expressions = {"mu_exp": mean.reshape(-1, 1), "w_exp": basis.reshape(-1, basis.shape[-1])}
    sigma = np.ones((basis.shape[-1], 1))
    scipy.io.savemat(folder / "Model_Expression.mat", {**expressions, "sigma_exp": sigma})
    info = {
        "trimIndex": (trim + 1)[:, None].astype(np.uint16),
        "tri": (model.triangles.numpy()[:, ::-1].T + 1).astype(np.float64),
        "keypoints": (model.landmarks68.numpy() + 1)[None].astype(np.uint16),
        "symlist": np.zeros((len(trim), 1), np.uint16),
    }
    scipy.io.savemat(folder / "model_info.mat", info)


def _write_facewarehouse(folder: Path, model: MorphableModel, trim: np.ndarray, random: np.random.Generator) -> None:
    components = model.num_expression
    deviations = 2.0 ** np.arange(components, 0, -1)  # exact in the text and in the quotient
    basis = model.expression_basis.numpy().reshape(-1, components) / deviations
    mean = random.normal(0, 1e3, len(basis))
    content = np.concatenate([mean, basis.T.ravel()]).astype("<f4").tobytes()
    (folder / "Exp_Pca.bin").write_bytes(np.array([components], "<i4").tobytes() + content)
    (folder / "std_exp.txt").write_text(" ".join(f"{value:g}" for value in deviations))
    scipy.io.savemat(folder / "BFM_exp_idx.mat", {"trimIndex": (trim + 1)[:, None].astype(np.uint16)})
    landmarks68 = model.landmarks68.numpy()
    front = np.union1d(landmarks68, np.arange(0, len(trim), 2))
    keypoints = np.searchsorted(front, landmarks68)
    scipy.io.savemat(folder / "BFM_front_idx.mat", {"idx": (front + 1)[:, None].astype(np.float32)})
    scipy.io.savemat(folder / "facemodel_info.mat", {"keypoints": (keypoints + 1)[None].astype(np.float32)})
