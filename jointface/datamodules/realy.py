"""REALY: rendered photos of 100 scanned people, with the scan cut into nose, mouth, forehead and cheeks."""

import copy
import re
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, FindBox, box_in_photo, evenly_spaced, read_image
from jointface.datamodules.on_disk import (
    Count,
    file_names,
    innermost,
    log_left_out,
    missing,
    photo_names,
    require_file,
    require_folder,
)
from jointface.errors import DataError
from jointface.geometry.scan import read_points, read_surface

REGIONS = ("nose", "mouth", "forehead", "cheek")
KEYPOINTS, SCANS, IMAGES = "REALY_HIFI3D_keypoints", "REALY_scan_region", "REALY_image"
SCALE = "metrical_scale.txt"
NUM_KEYPOINTS = 85
FROM_REALY = "get it from data/ of github.com/czh-98/REALY"


class REALY(FaceDataset):
    """The REALY benchmark.

    On disk, as published:

        root/REALY_image/crop_image_frontal_512x512/1.png ...   the number is the person's; in multi-view sets 1_1.png
        root/REALY_HIFI3D_keypoints/1.obj ...                   85 points on the scan: iBUG's 68 and 17 on the cheeks
        root/REALY_scan_region/1/nose.obj, mouth.obj, forehead.obj, cheek.obj
        root/metrical_scale.txt                                 millimetres per unit of each scan, a row for each person

    The first three come with the Headspace data set (www-users.york.ac.uk/~np7/research/Headspace) on agreement, the
    last one from data/ of github.com/czh-98/REALY. Licence: non-commercial research. Cite: Chai et al., "REALY:
    Rethinking the Evaluation of 3D Face Reconstruction", ECCV 2022.

    Items hold `identity`, the person's number. `regions`, `keypoints` and `millimetres` give the ground truth.

    Args:
        find_box: the box of the largest face in a photo, or None, see `jointface.detection.finders.largest_face`.
        images: the folder of REALY_image to read.
    """

    splits = ("test",)

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        find_box: FindBox,
        images: str = "crop_image_frontal_512x512",
    ) -> None:
        super().__init__(split, transform)
        self.root = require_folder(Path(root), "REALY", "set paths.data_dir to the folder that holds REALY/")
        self.find_box = find_box
        folder = innermost(self.root / IMAGES) / images
        self.photos = require_folder(folder, "REALY's photos", "unpack REALY_image there or choose a folder by images=")
        photos = photo_names(file_names(self.photos))
        known = {stem: int(stem.partition("_")[0]) for stem in photos if re.fullmatch(r"\d+(_\d+)*", stem)}
        log_left_out("REALY", "photos are not named by a person's number", photos.keys() - known.keys())
        self.names = np.array([photos[stem] for stem in sorted(known, key=_numbers)], dtype=np.str_)
        if not len(self.names):
            raise missing(self.photos / "1.png", "REALY's first photo", "unpack REALY_image there")
        self.people = torch.tensor([known[stem] for stem in sorted(known, key=_numbers)])
        self.scales = _read_scales(self.root / SCALE)
        for person in self.people.unique().tolist():
            for path in (self._keypoint_file(person), *(self._region_file(person, region) for region in REGIONS)):
                require_file(path, "REALY's truth of a person", "unpack the benchmark there")
        if (last := int(self.people.max())) > len(self.scales):
            raise DataError(f"{(self.root / SCALE).absolute()}: no row for person {last}; {FROM_REALY}")

    def _keypoint_file(self, person: int) -> Path:
        return innermost(self.root / KEYPOINTS) / f"{person}.obj"

    def _region_file(self, person: int, region: str) -> Path:
        return innermost(self.root / SCANS) / str(person) / f"{region}.obj"

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.photos / str(self.names[index])

    def read(self, index: int) -> FaceSample:
        image = read_image(self.path(index))
        box = box_in_photo(self.find_box, image, self.path(index))
        return FaceSample(image, box, {"identity": self.people[index]})

    def regions(self, index: int) -> dict[str, tuple[Float[Tensor, "vertices 3"], Int[Tensor, "triangles 3"]]]:
        """The scan's regions by name, in the scan's unit."""
        person = int(self.people[index])
        return {region: read_surface(self._region_file(person, region)) for region in REGIONS}

    def keypoints(self, index: int) -> Float[Tensor, "85 3"]:
        """The keypoints on the scan, in the scan's unit."""
        path = self._keypoint_file(int(self.people[index]))
        points = read_points(path)
        if len(points) != NUM_KEYPOINTS:
            raise DataError(f"{path}: holds {len(points)} points, expected {NUM_KEYPOINTS}; get it again")
        return points

    def millimetres(self, index: int) -> float:
        """The unit of the scan in millimetres."""
        return float(self.scales[int(self.people[index]) - 1])

    def subset(self, count: int) -> "REALY":
        subset, chosen = copy.copy(self), evenly_spaced(len(self), count)
        subset.names, subset.people = self.names[chosen], self.people[chosen]
        return subset

    def inventory(self) -> list[Count]:
        return [Count("people", len(self.people.unique()), 100), Count("photos", len(self))]


def _numbers(stem: str) -> list[int]:
    return [int(part) for part in stem.split("_")]


def _read_scales(path: Path) -> Float[np.ndarray, "people"]:
    require_file(path, "the unit of REALY's scans", FROM_REALY)
    try:
        scales = np.loadtxt(path, ndmin=1)
    except ValueError as error:
        raise DataError(f"{path}: expected one number in each row ({error}); {FROM_REALY}") from error
    if scales.ndim != 1 or not (np.isfinite(scales) & (scales > 0)).all():
        raise DataError(f"{path}: expected one positive number in each row; {FROM_REALY}")
    return scales
