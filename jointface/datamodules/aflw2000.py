"""AFLW2000-3D: 2,000 photos at all poses with fitted 3D faces, the usual test set of face alignment."""

import copy
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, evenly_spaced, require_choice
from jointface.datamodules.fitted_face import FITS, FittedFaceReader, no_pairs_error
from jointface.datamodules.on_disk import Count, labels_beside, paired_photos, require_folder
from jointface.errors import DataError
from jointface.geometry.array_files import read_npy
from jointface.geometry.morphable_model import MorphableModel

Annotation = Literal["original", "reannotated"]

PHOTOS = 2_000
ORIGINAL, REANNOTATED = "AFLW2000-3D.pts68.npy", "AFLW2000-3D-Reannotated.pts68.npy"
FROM_3DDFA = "get it from test.configs/ of github.com/cleardusk/3DDFA, or set annotation=original"


class AFLW2000(FaceDataset):
    """AFLW2000-3D, a test set.

    On disk, as published:

        root/image00002.jpg, image00002.mat ...     450 x 450
        root/AFLW2000-3D-Reannotated.pts68.npy      (2000, 2, 68) float32, for annotation="reannotated" only
        root/AFLW2000-3D.pts68.npy                  (2000, 3, 68) float32, pt3d_68 in the same order; likewise

    A .mat holds Pose_Para, Shape_Para and Exp_Para as in 300W-LP, and the 68 landmarks `pt3d_68` (3, 68). Source,
    licence and paper are the same as for 300W-LP.

    Some of the original landmarks are far off, so LS3D-W re-annotated them (Bulat, Tzimiropoulos, "How far are we
    from solving the 2D & 3D Face Alignment problem?", ICCV 2017). Its own .t7 files are not read; the two .npy files
    above have the same points and come from test.configs/ of github.com/cleardusk/3DDFA. They may also lie in the
    parent folder of root.

    Items hold coefficients and `camera` as in 300W-LP. They also hold `landmarks68`, the ground truth for landmark
    errors, because the coefficients are truncated to the size of the morphable model.

    Args:
        morphable_model: the model that the coefficients refer to.
        annotation: which landmarks to use. "original": `pt3d_68`. "reannotated": x and y from LS3D-W, which has no
            depth, and z from `pt3d_68`. Faces are framed by `pt3d_68` in both cases, so the crops are the same.
    """

    has_shape = True
    splits = ("test",)

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        morphable_model: MorphableModel,
        annotation: Annotation = "original",
    ) -> None:
        super().__init__(split, transform)
        require_choice("annotation", annotation, get_args(Annotation))
        where = f"set paths.data_dir to the folder that holds {Path(root).name}/"
        self.root = require_folder(Path(root), "AFLW2000-3D", where)
        self.reader = FittedFaceReader(morphable_model)
        self.names = np.array(paired_photos(self.root, FITS, "AFLW2000-3D"), dtype=np.str_)
        if not len(self.names):
            raise no_pairs_error(self.root, "AFLW2000-3D")
        self.reannotation = Reannotation(self.root) if annotation == "reannotated" else None

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / str(self.names[index])

    def read(self, index: int) -> FaceSample:
        sample = self.reader.read(self.path(index), with_landmarks=True)
        if self.reannotation is not None:
            original = sample.labels["landmarks68"]
            points = self.reannotation.find(original, self.path(index))
            sample.labels["landmarks68"] = torch.cat([points, original[:, 2:]], dim=1)
        return sample

    def subset(self, count: int) -> "AFLW2000":
        subset = copy.copy(self)  # keeps this class: the benchmark protocol needs its re-annotated landmarks
        subset.names = self.names[evenly_spaced(len(self), count)]
        return subset

    def inventory(self) -> list[Count]:
        counts = [Count("photos", len(paired_photos(self.root, FITS)), PHOTOS)]
        if self.reannotation is not None:
            counts.append(Count("re-annotated photos", len(self.reannotation.points), PHOTOS))
        return counts


class Reannotation:
    """LS3D-W's landmarks of AFLW2000-3D, read from the files in 3DDFA's test.configs/.

    The rows carry no file names. A second file holds the original landmarks in the same order and identifies them.
    """

    def __init__(self, root: Path) -> None:
        original, points = (_read_points(root, name, axes) for name, axes in {ORIGINAL: 3, REANNOTATED: 2}.items())
        if len(original) != len(points):
            raise DataError(f"{ORIGINAL} has {len(original)} rows and {REANNOTATED} {len(points)}; {FROM_3DDFA}")
        self.original = original[:, :, :2] - 1  # 1-based like pt3d_68
        # 0-based integers: averaged over all 2,000 photos, they lie one pixel up and left of pt3d_68.
        self.points = points

    def find(self, original: Float[Tensor, "68 3"], photo: Path) -> Float[Tensor, "68 2"]:
        """The re-annotated x, y in image space of the photo that has these original landmarks."""
        distance = (self.original - original[:, :2]).abs().amax(dim=(1, 2))
        row = int(distance.argmin())
        if distance[row] > 0.1:
            raise DataError(f"{labels_beside(photo, FITS)}: no row of {ORIGINAL} matches its pt3d_68; {FROM_3DDFA}")
        return self.points[row]


def _read_points(root: Path, name: str, axes: int) -> Float[Tensor, "photos 68 axes"]:
    """Reads points stored as (N, axes, 68) from a .npy file in `root` or its parent folder."""
    path = next((folder / name for folder in (root, root.absolute().parent) if (folder / name).is_file()), root / name)
    points = read_npy(path, FROM_3DDFA)
    if points.shape[1:] != (axes, 68):
        raise DataError(f"{path}: has shape {points.shape}, expected (photos, {axes}, 68); {FROM_3DDFA}")
    return torch.from_numpy(np.ascontiguousarray(points.transpose(0, 2, 1), dtype=np.float32))
