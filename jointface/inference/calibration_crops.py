"""Face crops on which an exported network is compared and quantised."""

from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.detection.finders import FaceFinder, search
from jointface.errors import DataError, InputError
from jointface.inference.crops import cut_crop
from jointface.inference.photos import open_photo

Crops = UInt8[np.ndarray, "crops 3 size size"]


def rendered_crops(count: int, size: int, seed: int = 0) -> Crops:
    """Crops of synthetic faces of people that no training with this seed has seen."""
    faces = SyntheticFaces("val", CropTransform(size), count, labels="shape", synthesis={"seed": seed})
    images: Crops = faces.batch(list(range(count)))["image"].contiguous().numpy()
    return images


def photo_crops(folder: Path, finder: FaceFinder, count: int, size: int) -> Crops:
    """Crops of the largest face of each photo in a folder and below, of `count` photos at most.

    Raises:
        DataError: the folder is missing, or there is no face in it.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder.absolute()}: crops=FOLDER names one with photos of faces")
    crops = []
    for path in islice(sorted(path for path in folder.rglob("*") if path.is_file()), 10 * count):
        try:
            photo = open_photo(path)
        except InputError:
            continue  # another file
        if found := search(finder, photo.image).faces:
            crops.append(cut_crop(photo.image, found[0].box, size)[0].transpose(2, 0, 1))
        if len(crops) == count:
            break
    if not crops:
        raise DataError(f"no photo of a face in {folder.absolute()}; crops=null takes rendered faces")
    return np.stack(crops)
