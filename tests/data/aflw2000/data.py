"""A tiny AFLW2000-3D: pairs as in 300W-LP, with the 68 landmarks `pt3d_68`."""

from pathlib import Path

import numpy as np

from jointface.geometry import MorphableModel
from tests.data.w300lp.data import write_pair


def write(folder: Path, model: MorphableModel, photos: int = 3, seed: int = 1) -> Path:
    """Writes image00002.jpg, image00002.mat and so on."""
    random = np.random.default_rng(seed)
    for number in range(photos):
        write_pair(folder / f"image{2 + 2 * number:05d}", model, random, with_pt3d=True)
    return folder
