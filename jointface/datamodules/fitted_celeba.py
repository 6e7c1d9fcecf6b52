"""CelebA photos in the wild with fitted 3D faces: both kinds of labels, and who it is, on every photo."""

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.datamodules.celeba import SPLITS
from jointface.datamodules.celeba_files import ATTRIBUTES, IDENTITY, PARTITION, locate, read_label_file
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, Item, require_choice
from jointface.datamodules.fitted_face import FITS, FittedFaceReader, no_pairs_error
from jointface.datamodules.on_disk import log_left_out, paired_photos, require_folder
from jointface.errors import ConfigError, DataError
from jointface.geometry.morphable_model import MorphableModel

Labels = Literal["both", "shape", "attributes"]
SERIES = 5


class FittedCelebA(FaceDataset):
    """CelebA photos with fits of the Basel Face Model beside them.

    On disk:

        root/photos/000114.jpg, 000114.mat ...    photos around the face, of any size; fits in 300W-LP's format
        root/list_attr_celeba.txt, list_eval_partition.txt, identity_CelebA.txt   their rows, in CelebA's formats

    Licence: non-commercial research, as CelebA's. Items hold `identity`; with the attributes `attributes` and
    `attribute_mask`; with the shape `shape_coefficients`, `expression_coefficients` and `camera`.

    Args:
        split: "train", "val" or "test" of list_eval_partition.txt.
        morphable_model: the model that the coefficients refer to.
        labels: "both", or "shape" or "attributes" alone.
        num_photos: number of training photos to use, None for all. They come in series of `SERIES` photos of a person,
            one of each person first, see `by_series`. So a smaller choice is part of a larger one.
    """

    splits = tuple(SPLITS)
    identity: Tensor

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        morphable_model: MorphableModel,
        labels: Labels = "both",
        num_photos: int | None = None,
    ) -> None:
        super().__init__(split, transform)
        require_choice("labels", labels, get_args(Labels))
        self.label_set = None if labels == "shape" else CELEBA  # type: ignore[misc]
        self.has_shape = labels != "attributes"  # type: ignore[misc]
        self.root = require_folder(Path(root), "CelebA photos with fits", "set paths.data_dir to the folder above")
        self.folder = require_folder(self.root / "photos", "photos with their fits", "move them there")
        self.reader = FittedFaceReader(morphable_model)
        photos = np.array(paired_photos(self.folder, FITS, "fitted CelebA"), dtype=np.str_)
        if not len(photos):
            raise no_pairs_error(self.folder, "fitted CelebA")
        attributes, partition, identities = (
            read_label_file(locate(self.root, name)) for name in (ATTRIBUTES, PARTITION, IDENTITY)
        )
        listed = np.all([table.positions(photos) >= 0 for table in (attributes, partition, identities)], axis=0)
        log_left_out("fitted CelebA", "photos are not in all three lists", photos[~listed])
        photos = photos[listed]
        self.names = photos[partition.of(photos)[:, 0] == SPLITS[split]]
        if not len(self.names):
            raise DataError(f"the {split} split of {self.root.absolute()} is empty: {len(photos)} photos are listed")
        people = identities.of(self.names)[:, 0]
        if split == "train" and num_photos is not None:
            if not 1 <= num_photos <= len(people):
                raise ConfigError(f"fitted CelebA: num_photos={num_photos}: there are {len(people)} to choose from")
            chosen = by_series(people)[:num_photos]
            self.names, people = self.names[chosen], people[chosen]
        self.attributes = torch.from_numpy(attributes.of(self.names) == 1)
        self.mask = torch.ones(len(CELEBA), dtype=torch.bool)
        self.identity = torch.from_numpy(people).long()

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.folder / str(self.names[index])

    def read(self, index: int) -> FaceSample:
        sample = self.reader.read(self.path(index))
        if not self.has_shape:
            sample.labels.clear()
        if self.label_set is not None:
            sample.labels |= {"attributes": self.attributes[index].float(), "attribute_mask": self.mask}
        sample.labels["identity"] = self.identity[index]
        return sample

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 3"] | None:
        return self.reader.landmarks(labels) if self.has_shape else None


def by_series(people: Int[np.ndarray, "photos"]) -> Int[np.ndarray, "photos"]:
    """The places of the photos, ordered so that the first `SERIES` photos of each person come first, person after
    person, then the next `SERIES`, and so on. Photos that do not fill a series come last."""
    by_person = pd.Series(people).groupby(people)
    place, count = by_person.cumcount().to_numpy(), by_person.transform("size").to_numpy()
    left_over = place >= count // SERIES * SERIES
    return np.lexsort((place, people, place // SERIES, left_over))
