"""300W-LP: 61,225 photos of 300W turned to large poses, and their mirrored copies, with fitted 3D faces."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, Item, require_choice
from jointface.datamodules.fitted_face import FITS, FittedFaceReader, no_pairs_error, read_fit
from jointface.datamodules.held_out import held_out_fraction
from jointface.datamodules.on_disk import (
    Count,
    file_names,
    innermost,
    labels_beside,
    log_left_out,
    paired_photos,
    require_folder,
)
from jointface.errors import ConfigError, DataError
from jointface.geometry.array_files import checked_numbers
from jointface.geometry.morphable_model import MIRROR68, MorphableModel
from jointface.settings import as_list

Landmarks = Literal["fit", "file"]

PUBLISHED = {"AFW": 5_207, "HELEN": 37_676, "IBUG": 1_786, "LFPW": 16_556}  # plus the same number of mirrored copies
FLIP = "_Flip"
LANDMARKS = "landmarks"
NO_SUBSET = {"Code", LANDMARKS}  # folders of the published archive that hold no photos


class W300LP(FaceDataset):
    """300W-LP (300W across Large Poses).

    On disk, as published; any folder of `.jpg` + `.mat` pairs is a subset:

        root/AFW/AFW_134212_1_0.jpg, .mat ...   450 x 450; the last number counts the turned copies of a photo
        root/AFW_Flip/AFW_134212_1_0.jpg ...    the same photos, mirrored, under the same names
        root/HELEN/, HELEN_Flip/, IBUG/, IBUG_Flip/, LFPW/, LFPW_Flip/
        root/landmarks/AFW/AFW_134212_1_0_pts.mat ... of the unflipped photos

    A .mat holds Pose_Para (1, 7), Shape_Para (199, 1), Exp_Para (29, 1) of BFM 2009, and pt2d. A file of landmarks/
    holds pts_2d (68, 2), the visible contour, and pts_3d (68, 2), the projected 3D landmarks. Get it as 300W-LP.zip
    from the 3DDFA project page. Licence: research. Cite: Zhu et al., "Face Alignment Across Large Poses: A 3D
    Solution", CVPR 2016.

    Items hold `camera`, `shape_coefficients` and `expression_coefficients` (as many as the morphable model has), and
    with `landmarks="file"` also `landmarks68`.

    Args:
        split: "train" or "val". There is no official split: photos are held out by a hash of their name without the
            copy number. All copies of a photo, mirrored or not, are therefore in one split, the same on any machine.
        morphable_model: the model that the coefficients refer to.
        subsets: names of the subset folders; None takes all.
        val_fraction: fraction of the photos that are held out.
        landmarks: "fit": landmarks follow from the coefficients. "file": items hold landmarks with x and y of pts_3d in
            landmarks/, taken as 1-based like every label of the archive, and z of the fit. A mirrored photo without
            such a file uses the mirrored landmarks of its original. Photos without either are left out, and the log
            counts them. Faces are framed by the fit in both cases.
        num_photos: number of training photos to use, None for all. They are chosen by the same hash, so a smaller
            choice is part of a larger one, and the held-out photos do not change.
    """

    has_shape = True
    splits = ("train", "val")

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        morphable_model: MorphableModel,
        subsets: str | Sequence[str] | None = None,
        val_fraction: float = 0.05,
        landmarks: Landmarks = "fit",
        num_photos: int | None = None,
    ) -> None:
        super().__init__(split, transform)
        require_choice("landmarks", landmarks, get_args(Landmarks))
        where = f"set paths.data_dir to the folder that holds {Path(root).name}/"
        self.root = require_folder(Path(root), "300W-LP", where)
        self.reader = FittedFaceReader(morphable_model)
        self.with_landmarks = landmarks == "file"
        chosen = subset_names(self.root) if subsets is None else as_list(subsets)
        for name in chosen:
            require_folder(self.root / name, f"300W-LP's subset {name}", "unpack it there or leave it out of subsets")
        photos = [photo for subset in chosen for photo in self._photos(subset)]
        if not photos:
            raise no_pairs_error(self.root, "300W-LP", below="*/")
        fractions = np.array([held_out_fraction(original_name(PurePosixPath(photo).stem)) for photo in photos])
        held_out = fractions < val_fraction
        self.photos = np.array(photos)[held_out if split == "val" else ~held_out]
        if split == "train" and num_photos is not None:
            if not 1 <= num_photos <= len(self.photos):
                raise ConfigError(f"300W-LP: num_photos={num_photos}: there are {len(self.photos)} to choose from")
            self.photos = self.photos[np.sort(np.argsort(fractions[~held_out], kind="stable")[:num_photos])]
        if not len(self.photos):
            raise DataError(
                f"300W-LP's {split} split is empty: {len(photos)} photos in {self.root.absolute()}, val_fraction is "
                f"{val_fraction}"
            )

    def _photos(self, subset: str) -> list[str]:
        """The labelled photos in a subset, relative to the root."""
        folder = innermost(self.root / subset)
        photos = [(folder / name).relative_to(self.root).as_posix() for name in paired_photos(folder, FITS, "300W-LP")]
        if not self.with_landmarks:
            return photos
        marked = self._marked(subset) | self._marked(subset.removesuffix(FLIP))
        kept = [photo for photo in photos if f"{PurePosixPath(photo).stem}_pts" in marked]
        if photos and not kept:
            raise DataError(
                f"no landmarks of {subset} in {(self.root / LANDMARKS).absolute()}: looked there for "
                f"{subset.removesuffix(FLIP)}/{PurePosixPath(photos[0]).stem}_pts.mat; get 300W-LP with its "
                f"landmarks/, leave {subset} out of subsets, or set landmarks=fit"
            )
        log_left_out("300W-LP", f"photos of {subset} have no landmarks", set(photos) - set(kept))
        return kept

    def _marked(self, subset: str) -> set[str]:
        folder = innermost(self.root / LANDMARKS / subset)
        return {name[:-4] for name in file_names(folder) if name.endswith(FITS)} if folder.is_dir() else set()

    def __len__(self) -> int:
        return len(self.photos)

    def path(self, index: int) -> Path:
        return self.root / str(self.photos[index])

    def read(self, index: int) -> FaceSample:
        photo = self.path(index)
        sample = self.reader.read(photo)
        if self.with_landmarks:
            depth = self.reader.landmarks(sample.labels)[:, 2:]
            sample.labels["landmarks68"] = torch.cat([self._landmarks(photo, sample.image.shape[1]), depth], dim=1)
        return sample

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 3"]:
        return labels["landmarks68"] if "landmarks68" in labels else self.reader.landmarks(labels)

    def _landmarks(self, photo: Path, width: int) -> Float[Tensor, "68 2"]:
        """Reads x, y of a photo's landmarks in image space."""
        subset, name = photo.parent.name, f"{photo.stem}_pts.mat"
        own = labels_beside(innermost(self.root / LANDMARKS / subset) / name, FITS)
        if own.is_file() or not subset.endswith(FLIP):
            return read_landmarks(own)
        twin = read_landmarks(labels_beside(innermost(self.root / LANDMARKS / subset.removesuffix(FLIP)) / name, FITS))
        return (twin * torch.tensor([-1.0, 1.0]) + torch.tensor([width - 1.0, 0.0]))[list(MIRROR68)]

    def inventory(self) -> list[Count]:
        published = {f"{subset}{flip}": count for subset, count in PUBLISHED.items() for flip in ("", FLIP)}
        subsets = [*published, *(name for name in subset_names(self.root) if name not in published)]
        folders = {subset: self.root / subset for subset in subsets}
        photos = {
            subset: len(paired_photos(innermost(folder), FITS)) if folder.is_dir() else 0
            for subset, folder in folders.items()
        }
        counts = [Count(f"{subset} photos", photos[subset], published.get(subset)) for subset in subsets]
        counts.append(Count("photos", sum(photos.values()), sum(published.values())))
        if (self.root / LANDMARKS).is_dir():
            counts += [Count(f"{subset} landmarks", len(self._marked(subset)), n) for subset, n in PUBLISHED.items()]
        return counts


def subset_names(root: Path) -> list[str]:
    """The folders that may hold photos, sorted."""
    return sorted(name for name in file_names(root) - NO_SUBSET if (root / name).is_dir())


def read_landmarks(path: Path) -> Float[Tensor, "68 2"]:
    """Reads `pts_3d` (68, 2), 1-based with y down, from a file in landmarks/, and returns it in image space."""
    points = checked_numbers(f"{path}: pts_3d", read_fit(path, ["pts_3d"])["pts_3d"], (68, 2))
    return torch.from_numpy((points - 1).astype(np.float32))


def original_name(stem: str) -> str:
    """The name of the photo whose turned copies are `NAME_1_0`, `NAME_1_1`, ..."""
    return re.sub(r"(_\d+)_\d+$", r"\1", stem)
