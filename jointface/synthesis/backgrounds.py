"""Backgrounds for faces: smooth random scenery, or the user's photos."""

import math
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from jointface.errors import DataError
from jointface.files import is_clutter

PHOTOS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def random_background(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size 3"]:
    """Paints a plain wall, a gradient, or blurred scenery, sRGB in 0 ... 1."""
    cells = int(rng.choice([1, 3, 8, 20]))
    base = rng.uniform(0.05, 0.95) + rng.normal(0, 0.07, 3)
    light, tint = rng.uniform(0.02, 0.3), rng.uniform(0.0, 0.1)
    nodes = (cells + 1, cells + 1)
    grid = light * rng.standard_normal((*nodes, 1)) + tint * rng.standard_normal((*nodes, 3))
    coarse = (base + grid).clip(0, 1).astype(np.float32)
    image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    for _ in range(rng.integers(0, 9)):  # door frames, pictures, windows ...
        left, top = rng.integers(-size // 8, size, 2).tolist()
        width, height = rng.integers(size // 16, size // 2, 2).tolist()
        colour = (rng.uniform(0, 1) + rng.normal(0, 0.08, 3)).clip(0, 1).tolist()
        cv2.rectangle(image, (left, top), (left + width, top + height), colour, thickness=-1)
    blur = float(rng.uniform(0.004, 0.025)) * size
    return cv2.GaussianBlur(image, (0, 0), blur).clip(0, 1)


@lru_cache(maxsize=4)
def background_photos(folder: str) -> tuple[Path, ...]:
    """The photos of a folder and its subfolders.

    Raises:
        DataError: the folder does not exist, has no photo, or has a photo file that is not an image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DataError(
            f"no folder {root.absolute()}: looked there for background photos; set synthesis.backgrounds_dir"
        )
    photos = tuple(
        sorted(path for path in root.rglob("*") if path.suffix.lower() in PHOTOS and not is_clutter(path.name))
    )
    if not photos:
        raise DataError(
            f"{root.absolute()} holds no background photos ({', '.join(sorted(PHOTOS))}): put some there, or set "
            "synthesis.backgrounds_dir to another folder"
        )
    for path in photos:
        if not cv2.haveImageReader(str(path)):
            raise DataError(f"{path}: not an image; remove it from the backgrounds folder")
    return photos


def photo_background(rng: np.random.Generator, size: int, folder: str) -> Float[np.ndarray, "size size 3"]:
    """Cuts a random square from a random photo of the folder, sRGB in 0 ... 1.

    Raises:
        DataError: the photo cannot be read.
    """
    photos = background_photos(folder)
    path = photos[rng.integers(len(photos))]
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DataError(f"{path}: not an intact image; remove it from the backgrounds folder")
    height, width = image.shape[:2]
    side = max(1, math.floor(min(height, width) * rng.uniform(0.4, 1)))
    top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
    part = cv2.resize(image[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    return part.astype(np.float32) / 255
