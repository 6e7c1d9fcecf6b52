"""CelebA: 202,599 celebrity photos with 40 attributes each."""

import logging
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.datamodules.celeba_boxes import ALIGNED_BOX, ALIGNED_SIZE, bbox_boxes, landmark_boxes, outside_bbox
from jointface.datamodules.celeba_files import (
    ALIGNED_LANDMARKS,
    ATTRIBUTES,
    BBOX,
    IDENTITY,
    LANDMARKS,
    PARTITION,
    Table,
    locate,
    read_label_file,
)
from jointface.datamodules.crop import CropTransform, box_in_copy
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, read_image, require_choice
from jointface.datamodules.on_disk import (
    Count,
    file_names,
    find_photos,
    instead,
    log_left_out,
    photo_names,
    require_folder,
)
from jointface.errors import ConfigError, DataError
from jointface.geometry.framing import FaceBox

log = logging.getLogger(__name__)

Images = Literal["aligned", "aligned_png", "in_the_wild"]
Framing = Literal["landmarks", "bbox"]

SPLITS = {"train": 0, "val": 1, "test": 2}
FOLDERS: dict[str, tuple[str, str]] = {  # by `images`: the folder, and the archive that contains it
    "aligned": ("img_align_celeba", "img_align_celeba.zip"),
    "aligned_png": ("img_align_celeba_png", "img_align_celeba_png.7z"),
    "in_the_wild": ("img_celeba", "img_celeba.7z"),
}
PUBLISHED = {"images": 202_599, "train": 162_770, "val": 19_867, "test": 19_962, "identities": 10_177}
OPTIONAL = (IDENTITY, BBOX, LANDMARKS, ALIGNED_LANDMARKS)


class CelebA(FaceDataset):
    """CelebA, with either the aligned and cropped images or the original photos.

    On disk as published, or with everything directly in root/ as torchvision keeps it, or with the tables as .csv
    (comma, `image_id` first) as Kaggle has them:

        root/Img/img_align_celeba/000001.jpg ...        images=aligned: 178 x 218, or any size with the same framing
        root/Img/img_align_celeba_png/000001.png ...    images=aligned_png: the same, lossless
        root/Img/img_celeba/000001.jpg ...              images=in_the_wild: the original photos, of any size
        root/Anno/list_attr_celeba.txt                  count; 40 names; rows of `FILE 1 -1 ...`
        root/Eval/list_eval_partition.txt               rows of `FILE 0|1|2`: train, val, test
        root/Anno/identity_CelebA.txt                   rows of `FILE NUMBER`; optional
        root/Anno/list_landmarks_celeba.txt             count; 10 names; rows of `FILE x y ...`, five points in the
                                                        original photo; for in_the_wild
        root/Anno/list_landmarks_align_celeba.txt       the same points in the aligned image; for in_the_wild
        root/Anno/list_bbox_celeba.txt                  count; `image_id x_1 y_1 width height`; rows of these in the
                                                        original photo; for framing=bbox, else an optional check

    Rows without an image, images without a row and faces with an empty bounding box are left out, and the log counts
    them. Get the data from the CelebA page of MMLab, CUHK; identities are available on request. Licence:
    non-commercial research. Cite: Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.

    Items hold `attributes` and `attribute_mask`, 40 each, in the order of `jointface.attributes.CELEBA`. They also hold
    `identity` if its file exists.

    Args:
        split: "train", "val" or "test" of the official partition.
        images: which of the published sets of images to use.
        framing: how faces are located in the original photos. "landmarks": the crop covers the same region as the
            aligned image, but upright in the photo; the log counts faces outside their published bounding box.
            "bbox": the crop follows the published bounding box, like a detector's, for tests without landmarks.
    """

    label_set = CELEBA
    splits = tuple(SPLITS)

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        images: Images = "aligned",
        framing: Framing = "landmarks",
    ) -> None:
        super().__init__(split, transform)
        require_choice("CelebA: images", images, tuple(FOLDERS))
        require_choice("CelebA: framing", framing, get_args(Framing))
        if framing == "bbox" and images != "in_the_wild":
            raise ConfigError("CelebA: framing=bbox needs images=in_the_wild, whose bounding boxes are published")
        self.framing = framing
        self.root = require_folder(Path(root), "CelebA", "set paths.data_dir to the folder that holds celeba/")
        folder, archive = FOLDERS[images]
        what, how = f"CelebA's images ({images})", f"unpack {archive} there"
        self.folder = require_folder(locate(self.root, folder), what, how)
        on_disk = self._images()
        attributes = self._read(ATTRIBUTES)
        if not on_disk:
            hint = instead(self.folder / str(attributes.names[0])) or how
            raise DataError(f"{self.folder.absolute()}: contains no .jpg or .png file; {hint}")
        rows, self.names = self._rows(attributes, on_disk)
        listed = attributes.names[rows]
        self.boxes: Float[Tensor, "images 3"] | None = None
        if images == "in_the_wild":
            boxes = self._boxes(listed)
            usable = boxes[:, 2] >= 1  # pixel
            log_left_out("CelebA", "faces have an empty bounding box or coinciding landmarks", listed[~usable])
            rows, listed, self.names = rows[usable], listed[usable], self.names[usable]
            self.boxes = torch.from_numpy(boxes[usable]).float()
        if not len(rows):
            raise DataError(
                f"CelebA's {split} split is empty: no image in {self.folder.absolute()} is listed both in the "
                "attributes and in that part of the partition"
            )
        if self.boxes is None:
            self.require_published_size(ALIGNED_SIZE)
        self.attributes = torch.from_numpy(attributes.values[rows] == 1)
        self.mask = torch.ones(len(CELEBA), dtype=torch.bool)
        identities = self._identities()
        self.identity = None if identities is None else torch.from_numpy(identities.of(listed)[:, 0]).long()

    def _read(self, name: str) -> Table:
        return read_label_file(locate(self.root, name))

    def _identities(self) -> Table | None:
        return self._read(IDENTITY) if locate(self.root, IDENTITY).is_file() else None

    def _images(self) -> set[str]:
        return set(photo_names(file_names(self.folder)).values())

    def _rows(self, attributes: Table, on_disk: set[str]) -> tuple[Int[np.ndarray, "images"], np.ndarray]:
        """The rows of the attribute list that belong to the split and have an image, and the files of these images."""
        partition, names = self._read(PARTITION), attributes.names
        files, there = find_photos(names, on_disk)
        places = partition.positions(names)
        wanted = partition.values[:, 0] == SPLITS[self.split]
        in_split = (places >= 0) & wanted[places]
        wanted[places[places >= 0]] = False
        rows = f"rows of the {self.split} partition"
        log_left_out("CelebA", f"{rows} have no attributes", partition.names[wanted])
        log_left_out("CelebA", f"{rows} have no image", names[in_split & ~there])
        if self.split == "train":  # logged for one split only
            log_left_out("CelebA", "images are in no attribute list", on_disk.difference(files.tolist()))
        keep = in_split & there
        return np.flatnonzero(keep), files[keep]

    def _boxes(self, names: np.ndarray) -> Float[np.ndarray, "images 3"]:
        """Face boxes (x, y, size) in the original photos."""
        if self.framing == "bbox":
            return bbox_boxes(self._read(BBOX).of(names))
        aligned, original = (self._read(name).of(names) for name in (ALIGNED_LANDMARKS, LANDMARKS))
        boxes = landmark_boxes(aligned, original)
        if locate(self.root, BBOX).is_file():
            doubtful = names[outside_bbox(boxes, self._read(BBOX).of(names))]
            if len(doubtful):
                log.warning(
                    "CelebA: the landmarks of %d faces lie outside their published bounding box, e.g. %s; one of the "
                    "two is wrong, and framing=landmarks uses the landmarks", len(doubtful), doubtful[0],
                )  # fmt: skip
        return boxes

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.folder / str(self.names[index])

    def read(self, index: int) -> FaceSample:
        image = read_image(self.path(index))
        labels = {"attributes": self.attributes[index].float(), "attribute_mask": self.mask}
        if self.identity is not None:
            labels["identity"] = self.identity[index]
        return FaceSample(image, self._box(index, image.shape[1], image.shape[0]), labels)

    def _box(self, index: int, width: int, height: int) -> FaceBox:
        if self.boxes is None:
            return box_in_copy(ALIGNED_BOX, ALIGNED_SIZE, (width, height), self.path(index))
        box = FaceBox(*self.boxes[index].tolist())
        if not (0 <= box.x < width and 0 <= box.y < height):
            raise DataError(
                f"{self.path(index)}: the face should be at ({box.x:.0f}, {box.y:.0f}), outside the {width} x {height} "
                "image; the image does not have its original size or the annotation is wrong"
            )
        return box

    def inventory(self) -> list[Count]:
        on_disk, partition, identities = self._images(), self._read(PARTITION), self._identities()
        _, there = find_photos(partition.names, on_disk)
        found = {
            "images": len(on_disk),
            **{split: int((there & (partition.values[:, 0] == code)).sum()) for split, code in SPLITS.items()},
            "identities": 0 if identities is None else len(np.unique(identities.values)),
        }
        return [
            *(Count(what, found[what], number) for what, number in PUBLISHED.items()),
            Count("attributes", self.attributes.shape[1], len(CELEBA)),
            *(Count(f"{name} (optional)", int(locate(self.root, name).is_file()), 1) for name in OPTIONAL),
        ]
