"""CelebA photos in the wild with fitted 3D faces: both kinds of labels, and who it is, on every photo."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.datamodules.celeba import SPLITS
from jointface.datamodules.celeba_files import ATTRIBUTES, IDENTITY, PARTITION, locate, read_label_file
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, Item
from jointface.datamodules.fitted_face import FITS, FittedFaceReader, no_pairs_error
from jointface.datamodules.on_disk import log_left_out, paired_photos, require_folder
from jointface.errors import DataError
from jointface.geometry.morphable_model import MorphableModel


class FittedCelebA(FaceDataset):
    """CelebA photos with fits of the Basel Face Model beside them.

    On disk:

        root/photos/000114.jpg, 000114.mat ...    photos around the face, of any size; fits in 300W-LP's format
        root/list_attr_celeba.txt, list_eval_partition.txt, identity_CelebA.txt   their rows, in CelebA's formats

    Licence: non-commercial research, as CelebA's. Items hold `attributes`, `attribute_mask`, `shape_coefficients`,
    `expression_coefficients`, `camera` and `identity`.

    Args:
        split: "train", "val" or "test" of list_eval_partition.txt.
        morphable_model: the model that the coefficients refer to.
    """

    label_set = CELEBA
    has_shape = True
    splits = tuple(SPLITS)

    def __init__(self, root: str | Path, split: str, transform: CropTransform, morphable_model: MorphableModel) -> None:
        super().__init__(split, transform)
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
        self.attributes = torch.from_numpy(attributes.of(self.names) == 1)
        self.mask = torch.ones(len(CELEBA), dtype=torch.bool)
        self.identity = torch.from_numpy(identities.of(self.names)[:, 0]).long()

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.folder / str(self.names[index])

    def read(self, index: int) -> FaceSample:
        sample = self.reader.read(self.path(index))
        labels = {"attributes": self.attributes[index].float(), "attribute_mask": self.mask}
        sample.labels |= {**labels, "identity": self.identity[index]}
        return sample

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 3"]:
        return self.reader.landmarks(labels)
