"""WFLW: 10,000 photos with 98 hand-marked landmarks, many of them turned, occluded, blurred or made up."""

from pathlib import Path

import numpy as np
import torch

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, read_image
from jointface.datamodules.held_out import held_out_fraction
from jointface.datamodules.landmark_photos import checked_face, landmark_labels
from jointface.datamodules.on_disk import Count, require_file, require_folder
from jointface.errors import DataError

PUBLISHED = {"train": 7_500, "test": 2_500}
LISTS = Path("WFLW_annotations/list_98pt_rect_attr_train_test")
# For each of the 68 landmarks, the one of WFLW's 98 at its place: every other point of the contour, the upper edges of
# the brows, nose, eyes and mouth.
TO_68 = (
    *range(0, 33, 2), *range(33, 38), *range(42, 47), *range(51, 60),
    60, 61, 63, 64, 65, 67, 68, 69, 71, 72, 73, 75, *range(76, 96),
)  # fmt: skip


class WFLW(FaceDataset):
    """Wider Facial Landmarks in-the-wild.

    On disk, as published:

        root/WFLW_annotations/list_98pt_rect_attr_train_test/list_98pt_rect_attr_train.txt, ..._test.txt
            a row a face: 98 x and y in pixels, 0-based; x and y of two corners of a box; six attributes; image name
        root/WFLW_images/0--Parade/0_Parade_marchingband_1_116.jpg ...

    Get it from wywu.github.io/projects/LAB/WFLW.html. Licence: research. Cite: Wu et al., "Look at Boundary: A
    Boundary-Aware Face Alignment Algorithm", CVPR 2018.

    Items hold `landmarks68` (68, 2) and `landmark_mask` (68,).

    Args:
        split: "train", "val" or "test". Of the published training faces 5 % are "val", by a hash of their photo's name.
    """

    has_landmarks = True
    splits = ("train", "val", "test")

    def __init__(self, root: str | Path, split: str, transform: CropTransform) -> None:
        super().__init__(split, transform)
        self.root = require_folder(Path(root), "WFLW", "set paths.data_dir to the folder that holds WFLW/")
        names, landmarks = read_list(self.root / LISTS, "test" if split == "test" else "train")
        if split != "test":
            held_out = np.array([held_out_fraction(Path(name).stem) < 0.05 for name in names])
            chosen = held_out if split == "val" else ~held_out
            names, landmarks = names[chosen], landmarks[chosen]
        if not len(names):
            raise DataError(f"WFLW's {split} split in {self.root.absolute()} is empty")
        self.names, self.landmarks = names, torch.from_numpy(landmarks)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.root / "WFLW_images" / str(self.names[index])

    def name(self, index: int) -> str:
        return f"{index:05d}_{self.path(index).stem}"  # a photo may show several faces

    def read(self, index: int) -> FaceSample:
        image, landmarks = read_image(self.path(index)), self.landmarks[index]
        return FaceSample(image, checked_face(landmarks, image, self.path(index)), landmark_labels(landmarks))

    def inventory(self) -> list[Count]:
        return [
            Count(f"{part} faces", len(read_list(self.root / LISTS, part)[0]), number)
            for part, number in PUBLISHED.items()
        ]


def read_list(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Image names (N,) and the 68 landmarks (N, 68, 2) in a published list, "train" or "test".

    Raises:
        DataError: it is missing or damaged.
    """
    path = folder / f"list_98pt_rect_attr_{part}.txt"
    require_file(path, "WFLW's landmarks", "unpack WFLW_annotations.tar.gz there")
    rows = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    if wrong := next((number for number, row in enumerate(rows, 1) if len(row) != 196 + 4 + 6 + 1), None):
        raise DataError(f"{path}, line {wrong}: expected 207 values, found {len(rows[wrong - 1])}; get the file again")
    try:
        points = np.array([row[:196] for row in rows], np.float32).reshape(-1, 98, 2)
    except ValueError as error:
        raise DataError(f"{path}: not numbers ({error}); get the file again") from error
    return np.array([row[-1] for row in rows], dtype=np.str_), points[:, TO_68]
