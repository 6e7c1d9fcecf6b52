"""FairFace: photos balanced over seven races, with gender and age group (CC BY 4.0)."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jointface.attributes import LabelSet
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample
from jointface.datamodules.held_out import held_out_fraction
from jointface.datamodules.landmark_table import marked_sample, read_landmark_table
from jointface.datamodules.on_disk import Count, require_file, require_folder
from jointface.errors import DataError

FAIRFACE = LabelSet("fairface", ("Male", "Young", "Asian", "Black", "White", "Indian"))
EXPRESSIONS = LabelSet("fairface_expressions", (*FAIRFACE.attributes, "Smiling", "Mouth_Slightly_Open"))
# Shares of the photos with the smallest and the largest measure that count as negative and as positive.
NEGATIVE, POSITIVE = 0.45, 0.4
PUBLISHED = {"train": 86_744, "val": 10_954}
GENDERS = {"Female": 0, "Male": 1}
# Young in the sense of CelebA; people in their forties count neither way.
AGES = {
    "0-2": 1, "3-9": 1, "10-19": 1, "20-29": 1, "30-39": 1, "40-49": None, "50-59": 0, "60-69": 0, "more than 70": 0,
}  # fmt: skip
# The attribute of each race. Latino_Hispanic and Middle Eastern have none: they are negatives of Asian, Black and
# Indian, and unlabelled for White.
RACES = {
    "East Asian": "Asian", "Southeast Asian": "Asian", "Black": "Black", "White": "White", "Indian": "Indian",
    "Latino_Hispanic": None, "Middle Eastern": None,
}  # fmt: skip


class FairFace(FaceDataset):
    """FairFace.

    On disk, as published with margin 0.25, beside a table of landmarks for each part:

        root/fairface_label_train.csv, fairface_label_val.csv   file, age, gender, race, service_test
        root/train/1.jpg ..., root/val/1.jpg ...                 224 x 224
        root/landmarks68_train.csv, landmarks68_val.csv          file, x0, y0, z0, ... z67 in pixels, 0-based

    FairFace itself has no landmarks; the tables are MediaPipe's, and photos without a row in them are left out. Get it
    from github.com/joojs/fairface. Licence: CC BY 4.0. Cite: Karkkainen and Joo, "FairFace: Face Attribute Dataset for
    Balanced Race, Gender, and Age for Bias Measurement and Mitigation", WACV 2021.

    Items hold `attributes` and `attribute_mask` of FAIRFACE or EXPRESSIONS, `landmarks68` (68, 3), without depth
    (68, 2), and `landmark_mask` (68,).

    Args:
        split: "train", "val" or "test". FairFace's training photos are "train", but for 5 % by a hash of their name,
            which are "val"; its validation photos are "test".
        expressions: whether "Smiling" and "Mouth_Slightly_Open" are labels too, see `expressions_of`.
        depth, contour: whether z and the contour of the landmarks are labelled, see `LandmarkTable`.
    """

    has_landmarks = True
    splits = ("train", "val", "test")

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        expressions: bool = False,
        depth: bool = True,
        contour: bool = False,
    ) -> None:
        super().__init__(split, transform)
        self.label_set = EXPRESSIONS if expressions else FAIRFACE  # type: ignore[misc]
        self.depth, self.contour = depth, contour
        self.root = require_folder(Path(root), "FairFace", "set paths.data_dir to the folder that holds fairface/")
        part = "val" if split == "test" else "train"
        files, landmarks = read_landmark_table(self.root / f"landmarks68_{part}.csv")
        labels = read_labels(self.root / f"fairface_label_{part}.csv").reindex(files)
        chosen = labels["gender"].notna().to_numpy(copy=True)  # torch warns of arrays that cannot be written
        if split != "test":
            held_out = np.array([held_out_fraction(Path(name).stem) < 0.05 for name in files])
            chosen = chosen & (held_out if split == "val" else ~held_out)
        if not chosen.any():
            raise DataError(f"FairFace's {split} split in {self.root.absolute()} is empty: no file is in both tables")
        self.files, self.landmarks = files[chosen], landmarks[chosen]
        self.groups = labels[chosen].reset_index(drop=True)
        self.attributes, self.mask = attributes_of(self.groups)
        if expressions:
            values, known = expressions_of(landmarks)
            self.attributes = torch.cat([self.attributes, values[chosen]], dim=1)
            self.mask = torch.cat([self.mask, known[chosen]], dim=1)

    def __len__(self) -> int:
        return len(self.files)

    def path(self, index: int) -> Path:
        return self.root / str(self.files[index])

    def read(self, index: int) -> FaceSample:
        sample = marked_sample(self.path(index), self.landmarks[index], self.contour, self.depth)
        sample.labels |= {"attributes": self.attributes[index], "attribute_mask": self.mask[index]}
        return sample

    def inventory(self) -> list[Count]:
        return [
            Count(f"{part} photos", sum(1 for _ in (self.root / part).glob("*.jpg")), number)
            for part, number in PUBLISHED.items()
        ]


def read_labels(path: Path) -> pd.DataFrame:
    """The columns age, gender and race of a published table, by file.

    Raises:
        DataError: it is missing or damaged, or has a group that FairFace does not have.
    """
    require_file(path, "FairFace's labels", "get them from github.com/joojs/fairface")
    try:
        table = pd.read_csv(path, dtype=str).set_index("file")[["age", "gender", "race"]]
    except (KeyError, ValueError) as error:
        raise DataError(
            f"{path}: not FairFace's table of file, age, gender, race ({' '.join(str(error).split())})"
        ) from error
    groups: dict[str, Collection[str]] = {"age": AGES, "gender": GENDERS, "race": RACES}
    for column, known in groups.items():
        if unknown := set(table[column]) - set(known):
            raise DataError(f"{path}: {column} {min(map(str, unknown))!r} is unknown; expected {', '.join(known)}")
    return table


def attributes_of(
    groups: pd.DataFrame,
) -> tuple[Float[Tensor, "photos attributes"], Bool[Tensor, "photos attributes"]]:
    """Labels and mask of FAIRFACE for rows of age, gender and race."""
    race = groups["race"].map(RACES)
    columns = {"Male": groups["gender"].map(GENDERS), "Young": groups["age"].map(AGES)}
    columns |= {name: (race == name).astype(float) for name in ("Asian", "Black", "White", "Indian")}
    columns["White"] = columns["White"].where(race.notna())
    values = torch.from_numpy(pd.DataFrame(columns)[list(FAIRFACE.attributes)].to_numpy(np.float32))
    return values.nan_to_num(), ~values.isnan()


def expressions_of(
    landmarks: Float[np.ndarray, "photos 68 3"],
) -> tuple[Float[Tensor, "photos 2"], Bool[Tensor, "photos 2"]]:
    """Labels and mask of "Smiling" and "Mouth_Slightly_Open", measured on the landmarks of all photos.

    Distances are those of the landmarks, divided by that of the outer eye corners. On CelebA, the width of the mouth
    predicts the label "Smiling" with an area under the ROC curve of 0.96, and the gap between the lips predicts
    "Mouth_Slightly_Open" with 0.92 (docs/free.md). The thresholds are quantiles of all photos, so they need no labels;
    photos between them are unlabelled.
    """
    measures = expression_measures(landmarks)
    low, high = measures.quantile(torch.tensor([NEGATIVE, 1 - POSITIVE], dtype=measures.dtype), dim=0)
    return (measures >= high).float(), (measures <= low) | (measures >= high)


def expression_measures(landmarks: Float[np.ndarray, "photos 68 3"]) -> Float[Tensor, "photos 2"]:
    """The width of the mouth and the mean gap between the lips, relative to the distance of the outer eye corners."""
    eyes = _distance(landmarks, 36, 45)
    width = _distance(landmarks, 48, 54) / eyes
    gap = sum(_distance(landmarks, above, below) for above, below in ((61, 67), (62, 66), (63, 65))) / eyes
    return torch.from_numpy(np.stack([width, gap], axis=1))


def _distance(landmarks: Float[np.ndarray, "photos 68 3"], a: int, b: int) -> Float[np.ndarray, "photos"]:
    return np.linalg.norm(landmarks[:, a] - landmarks[:, b], axis=1)
