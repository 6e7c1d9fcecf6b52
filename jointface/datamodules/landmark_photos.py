"""Photos with 68 hand-marked landmarks: the .jpg + .pts pairs of 300-W (HELEN, LFPW, AFW, IBUG)."""

import re
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, Item, read_image
from jointface.datamodules.fitted_face import FITS, FittedFaceReader, no_pairs_error
from jointface.datamodules.held_out import RANGES, is_in_split
from jointface.datamodules.on_disk import Count, labels_beside, log_left_out, paired_photos, require_folder
from jointface.errors import DataError
from jointface.files import disguise_of
from jointface.geometry.framing import FaceBox, face_box
from jointface.geometry.morphable_model import MorphableModel
from jointface.settings import as_list

PUBLISHED = {
    "afw": 337, "helen/trainset": 2_000, "helen/testset": 330, "ibug": 135, "lfpw/trainset": 811, "lfpw/testset": 224,
}  # fmt: skip
POINTS = (".pts", ".PTS")


class LandmarkPhotos(FaceDataset):
    """300-W's photos, or any folder of photos that have a .pts file beside them.

    On disk, as published; any folder at any depth that holds pairs is a subset:

        root/afw/134212_1.jpg, 134212_1.pts ...        .png where the original is one
        root/helen/trainset/, root/helen/testset/, root/lfpw/trainset/, root/lfpw/testset/, root/ibug/

    A .pts file lists 68 points, x and y in pixels, 1-based, in braces after a header (`version`, `n_points`); the
    header may be missing. The contour (points 0 to 16) marks the visible outline of the face, not fixed places on the
    skin. Get it from the 300-W challenge's page. Licence: research. Cite: Sagonas et al., "300 Faces In-The-Wild
    Challenge: Database and Results", Image and Vision Computing 2016.

    Items hold `landmarks68` (68, 2) and `landmark_mask` (68,). With a morphable model they hold `camera`,
    `shape_coefficients` and `expression_coefficients` instead, of a fit to the marks that lies beside the photo in
    300W-LP's format (NAME.mat). Photos without a fit are then left out, and the log counts them.

    Args:
        split: "train", "val" or "test": 80, 10 and 10 % of the photos by a hash of their name, the same on any machine.
            Several faces of one photo, and its mirror image, are in one split.
        subsets: names of the folders, such as "helen/trainset"; None takes all that hold pairs, and the root.
        morphable_model: the model that the fits refer to; None reads no fits.
    """

    splits = tuple(RANGES)

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        subsets: list[str] | str | None = None,
        morphable_model: MorphableModel | None = None,
    ) -> None:
        super().__init__(split, transform)
        where = f"set paths.data_dir to the folder that holds {Path(root).name}/"
        self.root = require_folder(Path(root), "300-W", where)
        for name in as_list(subsets):
            require_folder(self.root / name, f"300-W's subset {name}", "unpack it there or leave it out of subsets")
        folders = as_list(subsets) or subset_names(self.root)
        photos = [f"{name}/{photo}" for name in folders for photo in paired_photos(self.root / name, POINTS, "300-W")]
        if not photos:
            raise DataError(f"no photo with a .pts file in {self.root.absolute()}: unpack 300-W there")
        chosen = [photo for photo in photos if is_in_split(photo_of(PurePosixPath(photo).stem), split)]
        if not chosen:
            raise DataError(f"300-W's {split} split is empty: {len(photos)} photos in {self.root.absolute()}")
        self.fits = None if morphable_model is None else FittedFaceReader(morphable_model)
        self.has_shape, self.has_landmarks = self.fits is not None, self.fits is None  # type: ignore[misc]
        if self.fits is not None:
            fitted = [photo for photo in chosen if labels_beside(self.root / photo, FITS).is_file()]
            if not fitted:
                raise no_pairs_error(self.root, "300-W with fits", below="*/")
            log_left_out("300-W", "photos have no fit", set(chosen) - set(fitted))
            chosen = fitted
        self.photos = np.array(chosen)

    def __len__(self) -> int:
        return len(self.photos)

    def path(self, index: int) -> Path:
        return self.root / str(self.photos[index])

    def read(self, index: int) -> FaceSample:
        photo = self.path(index)
        if self.fits is not None:
            return self.fits.read(photo)
        marks = labels_beside(photo, POINTS)
        image, landmarks = read_image(photo), read_pts(marks)
        return FaceSample(image, checked_face(landmarks, image, marks), landmark_labels(landmarks))

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 dims"]:
        return labels["landmarks68"] if self.fits is None else self.fits.landmarks(labels)

    def inventory(self) -> list[Count]:
        names = [*PUBLISHED, *(name for name in subset_names(self.root) if name not in PUBLISHED)]
        there = {name for name in names if (self.root / name).is_dir()}
        found = {name: len(paired_photos(self.root / name, POINTS)) for name in there}
        return [Count(f"{name} photos", found.get(name, 0), PUBLISHED.get(name)) for name in names]


def landmark_labels(landmarks: Float[Tensor, "68 dims"], contour: bool = True) -> Item:
    """`landmarks68` and `landmark_mask` of a sample; without the contour, points 0 to 16 count as unlabelled."""
    mask = torch.ones(68, dtype=torch.bool)
    mask[:17] = contour
    return {"landmarks68": landmarks, "landmark_mask": mask}


def checked_face(landmarks: Float[Tensor, "68 dims"], image: np.ndarray, what: Path) -> FaceBox:
    """The face box of landmarks. Raises a DataError if it is not a face in this image."""
    box, (height, width) = face_box(landmarks), image.shape[:2]
    if not (0 <= box.x < width and 0 <= box.y < height and 1 < box.size < 2 * max(height, width)):
        raise DataError(
            f"{what}: the face (centre {box.x:.0f}, {box.y:.0f}, size {box.size:.0f}) is not in the photo of "
            f"{width} x {height} pixels; the file is damaged or belongs to another photo"
        )
    return box


def read_pts(path: Path) -> Float[Tensor, "68 2"]:
    """Reads a .pts file of 68 points, with or without header, and returns them 0-based.

    Raises:
        DataError: the file is missing, damaged, or has another number of points.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        body = text[text.index("{") + 1 : text.index("}")] if "{" in text else text
        points = np.array([line.split() for line in body.splitlines() if line.strip()], dtype=np.float32)
    except (OSError, ValueError) as error:
        disguised = disguise_of(path) if path.is_file() else "missing"
        raise DataError(f"{path}: not a readable .pts file ({disguised or error})") from error
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise DataError(f"{path}: expected 68 points with finite x and y, found numbers of shape {points.shape}")
    return torch.from_numpy(points - 1)


def subset_names(root: Path) -> list[str]:
    """The root and the folders below it that hold .pts files, relative to the root, sorted."""
    folders = {path.parent for ending in POINTS for path in root.rglob(f"*{ending}")}
    return sorted(folder.relative_to(root).as_posix() for folder in folders)


def photo_of(stem: str) -> str:
    """The name of the photo to which a face belongs: without `_mirror` and without the face's number."""
    return re.sub(r"_\d+$", "", stem.removesuffix("_mirror"))
