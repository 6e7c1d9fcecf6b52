"""A small face model in the folder layout of 3DDFA's BFM basis: a symmetric sheet bulging like a face."""

from pathlib import Path

import numpy as np
import scipy.io

from jointface.geometry import MIRROR68

SIDE = 61  # vertices along u and v
SHAPE_COMPONENTS, EXPRESSION_COMPONENTS = 40, 10


def landmark_template() -> np.ndarray:
    """(68, 2) places of iBUG's landmarks on a frontal face, x right and y up, in [-1/2, 1/2]; symmetric."""
    jaw = [(-0.42 * np.cos(np.pi * i / 16), 0.08 - 0.48 * np.sin(np.pi * i / 16)) for i in range(17)]
    brow = [(x, 0.26 + 0.03 * np.sin(np.pi * (x + 0.34) / 0.26)) for x in np.linspace(-0.34, -0.08, 5)]
    bridge = [(0.0, y) for y in np.linspace(0.16, -0.04, 4)]
    nostrils = [(x, -0.1) for x in np.linspace(-0.1, 0.1, 5)]
    angles = np.pi - np.arange(6) * np.pi / 3
    eye = [(-0.2 + 0.09 * np.cos(a), 0.14 + 0.05 * np.sin(a)) for a in angles]
    outer, inner = (np.pi - np.arange(n) * 2 * np.pi / n for n in (12, 8))
    lips = [(0.18 * np.cos(a), -0.24 + 0.09 * np.sin(a)) for a in outer]
    lips += [(0.1 * np.cos(a), -0.24 + 0.04 * np.sin(a)) for a in inner]
    points = np.full((68, 2), np.nan)
    points[0:17], points[17:22], points[27:31], points[31:36] = jaw, brow, bridge, nostrils
    points[36:42], points[48:68] = eye, lips
    mirrored = points[list(MIRROR68)] * [-1, 1]
    return np.where(np.isnan(points), mirrored, points)


def write(folder: Path, seed: int = 0) -> Path:
    """Writes the seven files of the layout."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    u, v = (axis.ravel() for axis in np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE)))
    x, y = u - 0.5, v - 0.5
    bulge = np.sqrt(np.clip(1 - 2.6 * x**2 - 1.2 * y**2, 0.05, None)) + 0.25 * np.exp(
        -((x / 0.06) ** 2) - ((y / 0.15) ** 2)
    )
    mean = np.stack([160e3 * x, 190e3 * y, 110e3 * bulge], axis=1)

    def waves(components: int, size: float) -> np.ndarray:
        basis = np.empty((len(u), 3, components))
        for k in range(components):
            for axis in range(3):
                fx, fy, phase = random.integers(0, 4), random.integers(1, 4), random.uniform(0, np.pi)
                along_x = np.sin(fx * np.pi * x) if axis == 0 else np.cos(fx * np.pi * x)  # symmetric about x = 0
                basis[:, axis, k] = size * along_x * np.cos(fy * np.pi * y + phase) / (1 + k)
        return basis.reshape(-1, components).astype(np.float32)

    row, column = (index.ravel() for index in np.mgrid[: SIDE - 1, : SIDE - 1])
    corner = row * SIDE + column
    lower = np.stack([corner, corner + SIDE, corner + 1])  # clockwise from outside, as in the published file
    upper = np.stack([corner + 1, corner + SIDE, corner + SIDE + 1])
    nearest = np.round((landmark_template() + 0.5) * (SIDE - 1)).astype(int)
    landmarks = nearest[:, 1] * SIDE + nearest[:, 0]
    keypoints = (3 * landmarks[:, None] + np.arange(3)).ravel()
    np.save(folder / "u_shp.npy", mean.reshape(-1, 1).astype(np.float32))
    np.save(folder / "u_exp.npy", np.zeros((3 * len(u), 1), np.float32))
    np.save(folder / "w_shp_sim.npy", waves(SHAPE_COMPONENTS, 0.05))
    np.save(folder / "w_exp_sim.npy", waves(EXPRESSION_COMPONENTS, 3e3))
    np.save(folder / "keypoints_sim.npy", keypoints)
    scipy.io.savemat(folder / "tri.mat", {"tri": (np.concatenate([lower, upper], axis=1) + 1).astype(np.uint16)})
    scipy.io.savemat(folder / "BFM_UV.mat", {"UV": np.stack([u, v], axis=1)})
    return folder
