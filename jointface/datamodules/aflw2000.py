"""AFLW2000-3D: 2,000 photos at all poses with fitted 3D faces, the usual test set of face alignment."""

from pathlib import Path

import numpy as np

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.datamodules.fitted_face import FittedFaceReader, fitted_photos
from jointface.datamodules.on_disk import require_folder
from jointface.errors import DataError
from jointface.geometry.morphable_model import MorphableModel


class AFLW2000(FaceDataset):
    """AFLW2000-3D, a test set.

    On disk, as published:

        root/image00002.jpg, image00002.mat ...   450 x 450

    A .mat holds Pose_Para, Shape_Para, Exp_Para as in 300W-LP and the 68 landmarks `pt3d_68` (3, 68). Get it from the
    3DDFA project page of Xiangyu Zhu. Licence: research. Cite: Zhu, Lei, Liu, Shi, Li, "Face Alignment Across Large
    Poses: A 3D Solution", CVPR 2016.

    Items hold coefficients and `camera` as in 300W-LP, and `landmarks68` from `pt3d_68`: the ground truth of landmark
    errors, since the coefficients are cut to the morphable model's size.

    Args:
        root: the folder above.
        split: "test", the only one.
        transform: how a face is cropped.
        morphable_model: the model that the coefficients refer to.

    Raises:
        DataError: the folder is missing or holds no .jpg + .mat pair.
    """

    has_shape = True
    splits = ("test",)

    def __init__(self, root: str | Path, split: str, transform: CropTransform, morphable_model: MorphableModel) -> None:
        super().__init__(split, transform)
        self.root = Path(root)
        require_folder(self.root, "AFLW2000-3D", "set paths.data_dir to the folder that holds AFLW2000/")
        self.reader = FittedFaceReader(morphable_model)
        self.names = np.array([photo.name for photo in fitted_photos(self.root, "AFLW2000-3D")])
        if not len(self.names):
            raise DataError(f"no .jpg + .mat pair in {self.root.absolute()}: unpack AFLW2000-3D there")

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / str(self.names[index])

    def read(self, index: int) -> FaceSample:
        return self.reader.read(self.path(index), with_landmarks=True)
