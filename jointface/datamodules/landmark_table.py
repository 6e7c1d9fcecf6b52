"""Any folder of photos with a table of their 68 landmarks, such as the CC0 portraits."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, read_image
from jointface.datamodules.held_out import RANGES, is_in_split
from jointface.datamodules.landmark_photos import checked_face, landmark_labels
from jointface.datamodules.on_disk import require_file, require_folder
from jointface.errors import DataError
from jointface.geometry.framing import face_box

# MediaPipe's contour runs inside the outline that other data sets mark. Stretched by this about the root of the nose
# (point 27), its boxes agree with theirs, see docs/detection.md.
CONTOUR_STRETCH = 1.05
# Places of points 0 to 8 of the 68-point scheme, ear to chin, along MediaPipe's contour: 1.27 is 27 % of the way from
# its point 1 to its point 2. They are evenly spaced on the median frontal face of FairFace's training photos.
EVEN_PLACES = (0.0, 1.27, 2.49, 3.60, 4.43, 5.24, 6.41, 7.25, 8.0)


class LandmarkTable(FaceDataset):
    """Photos with a table of their landmarks.

    On disk:

        root/landmarks68.csv      file, x0, y0, z0, x1, ... z67: pixels, 0-based, z away from the viewer
        root/photos/092.jpg ...   the files that it names, relative to the root

    Items hold `landmarks68` (68, 3), without depth (68, 2), and `landmark_mask` (68,).

    Args:
        split: "train", "val" or "test": 80, 10 and 10 % of the photos by a hash of their name.
        contour: whether points 0 to 16 are labelled, see `even_contour`.
        depth: whether z is labelled. MediaPipe guesses it; where 3D faces are trained on as well, they know it better.
    """

    has_landmarks = True
    splits = tuple(RANGES)

    def __init__(
        self, root: str | Path, split: str, transform: CropTransform, contour: bool = False, depth: bool = True
    ) -> None:
        super().__init__(split, transform)
        self.root = require_folder(Path(root), "photos with landmarks68.csv", "set paths.data_dir to the folder above")
        self.contour, self.depth = contour, depth
        files, landmarks = read_landmark_table(self.root / "landmarks68.csv")
        chosen = [is_in_split(Path(name).stem, split) for name in files]
        self.files, self.landmarks = files[chosen], landmarks[chosen]
        if not len(self.files):
            raise DataError(f"the {split} split of {self.root.absolute()} is empty: landmarks68.csv has {len(files)}")

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        return self.root / str(self.files[index])

    def read(self, index: int) -> FaceSample:
        return marked_sample(self.path(index), self.landmarks[index], self.contour, self.depth)


def marked_sample(photo: Path, landmarks: Float[np.ndarray, "68 3"], contour: bool, depth: bool) -> FaceSample:
    """A photo with landmarks of MediaPipe, framed by them with their contour stretched; `contour` and `depth` say
    whether the contour and z are labels."""
    image = read_image(photo)
    checked_face(torch.from_numpy(landmarks), image, photo)
    points = stretched(landmarks)
    labels = torch.from_numpy(even_contour(points)[:, : 2 + depth])
    return FaceSample(image, face_box(torch.from_numpy(points)), landmark_labels(labels, contour))


def stretched(landmarks: Float[np.ndarray, "*photos 68 dims"]) -> Float[np.ndarray, "*photos 68 dims"]:
    """MediaPipe's landmarks with the contour where other data sets mark it."""
    contour, root = landmarks[..., :17, :], landmarks[..., 27:28, :]
    return np.concatenate([root + CONTOUR_STRETCH * (contour - root), landmarks[..., 17:, :]], axis=-2)


def even_contour(landmarks: Float[np.ndarray, "68 dims"]) -> Float[np.ndarray, "68 dims"]:
    """MediaPipe's landmarks with the contour's points spaced as in the 68-point scheme.

    MediaPipe's points are sparse at the corners of the jaw and dense above them. The new ones divide the lines between
    them at fixed shares, so they stay the same places of the skin when the head turns.
    """
    places = np.array(EVEN_PLACES)
    places = np.concatenate([places, 16 - places[-2::-1]])
    before = np.minimum(places.astype(int), 15)
    share = (places - before)[:, None].astype(landmarks.dtype)
    contour = (1 - share) * landmarks[before] + share * landmarks[before + 1]
    return np.concatenate([contour, landmarks[17:]])


def read_landmark_table(path: Path) -> tuple[np.ndarray, Float[np.ndarray, "photos 68 3"]]:
    """Names (N,) and landmarks of a table of file, x0, y0, z0, ... z67, in which z points away from the viewer, as in
    MediaPipe; here it points towards the viewer.

    Raises:
        DataError: it is missing or damaged.
    """
    require_file(path, "a table of landmarks", "get it again")
    try:
        rows = pd.read_csv(path, dtype={"file": str}).set_index("file")
        points = rows[[f"{axis}{i}" for i in range(68) for axis in "xyz"]].to_numpy(np.float32)
    except (KeyError, ValueError) as error:
        raise DataError(f"{path}: not a table of file, x0, y0, z0, ... z67 ({' '.join(str(error).split())})") from error
    if not np.isfinite(points).all():
        row = int((~np.isfinite(points).all(1)).argmax())
        raise DataError(f"{path}, line {row + 2}: a coordinate is missing or not finite")
    return rows.index.to_numpy(dtype=np.str_), points.reshape(-1, 68, 3) * np.array([1, 1, -1], np.float32)
