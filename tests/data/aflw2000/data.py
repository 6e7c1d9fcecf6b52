"""A tiny AFLW2000-3D: pairs as in 300W-LP, with the 68 landmarks `pt3d_68`, and the re-annotated ones of 3DDFA."""

from pathlib import Path

import numpy as np

from jointface.geometry import MorphableModel
from tests.data.w300lp.data import write_pair


def write(folder: Path, model: MorphableModel, photos: int = 3, seed: int = 1) -> Path:
    """Writes image00002.jpg, image00002.mat and so on, and two .npy files with a row for each photo, last one first."""
    random = np.random.default_rng(seed)
    points = [write_pair(folder / f"image{2 + 2 * n:05d}", model, random, with_pt3d=True) for n in range(photos)]
    original = np.stack(points[::-1]).transpose(0, 2, 1)
    moved = original[:, :2] - 1 + random.normal(0, 3, (photos, 2, 68))
    np.save(folder / "AFLW2000-3D.pts68.npy", original.astype(np.float32))
    np.save(folder / "AFLW2000-3D-Reannotated.pts68.npy", moved.round().astype(np.float32))
    return folder
