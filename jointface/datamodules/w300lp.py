"""300W-LP: 61,225 photos of 300W turned to large poses, and their flipped twins, with fitted 3D faces."""

import hashlib
import re
from pathlib import Path

import numpy as np

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.datamodules.fitted_face import FittedFaceReader, fitted_photos
from jointface.datamodules.on_disk import require_folder
from jointface.errors import DataError
from jointface.geometry.morphable_model import MorphableModel

NO_SUBSET = {"Code", "landmarks"}  # folders of the published archive that hold no photos


class W300LP(FaceDataset):
    """300W-LP (300W across Large Poses).

    On disk, as published; any folder of `.jpg` + `.mat` pairs counts as a subset:

        root/AFW/AFW_134212_1_0.jpg, .mat ...   450 x 450; the last number counts the turned copies of a photo
        root/AFW_Flip/, HELEN/, HELEN_Flip/, IBUG/, IBUG_Flip/, LFPW/, LFPW_Flip/

    A .mat holds Pose_Para (1, 7), Shape_Para (199, 1), Exp_Para (29, 1) of BFM 2009, and pt2d. Get it from the 3DDFA
    project page of Xiangyu Zhu. Licence: research. Cite: Zhu, Lei, Liu, Shi, Li, "Face Alignment Across Large Poses: A
    3D Solution", CVPR 2016.

    Items hold `shape_coefficients`, `expression_coefficients` (as many as the morphable model has) and `camera`.

    Args:
        root: the folder above.
        split: "train" or "val". The data set has no official one; a photo is held out by a hash of its name without the
            copy number, so that all its copies and its flipped twin stay on one side, on any machine.
        transform: how a face is cropped.
        morphable_model: the model that the coefficients refer to.
        subsets: names of the subset folders; None takes all.
        val_fraction: share of the photos that is held out.

    Raises:
        DataError: the folder or a subset is missing, or the split is empty.
    """

    has_shape = True
    splits = ("train", "val")

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        morphable_model: MorphableModel,
        subsets: list[str] | None = None,
        val_fraction: float = 0.05,
    ) -> None:
        super().__init__(split, transform)
        self.root = Path(root)
        require_folder(self.root, "300W-LP", "set paths.data_dir to the folder that holds 300W_LP/")
        self.reader = FittedFaceReader(morphable_model)
        photos = [
            str(photo.relative_to(self.root))
            for subset in self._subsets(subsets)
            for photo in fitted_photos(subset, "300W-LP")
        ]
        held_out = np.array([held_out_fraction(Path(photo).stem) < val_fraction for photo in photos], dtype=bool)
        self.photos = np.array(photos)[held_out if split == "val" else ~held_out] if photos else np.array([])
        if not len(self.photos):
            raise DataError(
                f"300W-LP's {split} split is empty: {len(photos)} .jpg + .mat pairs in the subset folders of "
                f"{self.root.absolute()}"
            )

    def _subsets(self, names: list[str] | None) -> list[Path]:
        if names is None:
            return sorted(folder for folder in self.root.iterdir() if folder.is_dir() and folder.name not in NO_SUBSET)
        for name in names:
            require_folder(self.root / name, f"300W-LP's subset {name}", "unpack it there or leave it out of subsets")
        return [self.root / name for name in names]

    def __len__(self) -> int:
        return len(self.photos)

    def path(self, index: int) -> Path:
        return self.root / str(self.photos[index])

    def read(self, index: int) -> FaceSample:
        return self.reader.read(self.path(index))


def held_out_fraction(stem: str) -> float:
    """A number in [0, 1) that all turned copies `NAME_1_0`, `NAME_1_1`, ... of a photo share."""
    photo = re.sub(r"(_\d+)_\d+$", r"\1", stem)
    return int.from_bytes(hashlib.sha256(photo.encode()).digest()[:8]) / 2**64
