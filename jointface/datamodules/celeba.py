"""CelebA: 202,599 celebrity photos with 40 attributes each."""

import logging
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.attributes import CELEBA, positive_weight
from jointface.datamodules import celeba_files as files
from jointface.datamodules.celeba_boxes import ALIGNED_BOX, aligned_box, bbox_boxes, beside, landmark_boxes
from jointface.datamodules.celeba_files import Table, locate, read_attributes
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, read_image
from jointface.datamodules.on_disk import Count, file_names, instead, require_folder
from jointface.errors import ConfigError, DataError
from jointface.geometry.framing import FaceBox

__all__ = ["ALIGNED_BOX", "SPLITS", "CelebA", "aligned_box", "read_attributes"]

log = logging.getLogger(__name__)

Images = Literal["aligned", "aligned_png", "in_the_wild"]
Framing = Literal["landmarks", "bbox"]

SPLITS = {"train": 0, "val": 1, "test": 2}
FOLDERS: dict[Images, str] = {
    "aligned": "img_align_celeba", "aligned_png": "img_align_celeba_png", "in_the_wild": "img_celeba",
}  # fmt: skip
ARCHIVES: dict[Images, str] = {
    "aligned": "img_align_celeba.zip", "aligned_png": "img_align_celeba_png.7z", "in_the_wild": "img_celeba.7z",
}  # fmt: skip
FRAMINGS = ("landmarks", "bbox")
ENDINGS = (".jpg", ".png")
PUBLISHED = {"images": 202_599, "train": 162_770, "val": 19_867, "test": 19_962, "identities": 10_177}
OPTIONAL = (files.IDENTITY, files.BBOX, files.LANDMARKS, files.ALIGNED_LANDMARKS)


class CelebA(FaceDataset):
    """CelebA, the aligned and cropped images or the original ones.

    On disk as published, or everything flat in root/ as torchvision keeps it:

        root/Img/img_align_celeba/000001.jpg ...        images=aligned: 178 x 218, any size of the same framing works
        root/Img/img_align_celeba_png/000001.png ...    images=aligned_png: the same without loss
        root/Img/img_celeba/000001.jpg ...              images=in_the_wild: the original photos, of any size
        root/Anno/list_attr_celeba.txt                  count; 40 names; `FILE 1 -1 ...` a row
        root/Eval/list_eval_partition.txt               `FILE 0|1|2` a row: train, val, test
        root/Anno/identity_CelebA.txt                   `FILE NUMBER` a row; optional
        root/Anno/list_landmarks_celeba.txt             count; 10 names; `FILE x y ...` a row, five points in the
                                                        original photo; for in_the_wild
        root/Anno/list_landmarks_align_celeba.txt       the same points in the aligned image; for in_the_wild
        root/Anno/list_bbox_celeba.txt                  count; `image_id x_1 y_1 width height`; the same a row, in the
                                                        original photo; for framing=bbox, else an optional check

    Rows without an image, images without a row and faces without extent (empty bounding boxes) are left out and
    counted in the log. Get it from the CelebA page of MMLab, CUHK; the identities are given on request. Licence:
    non-commercial research. Cite: Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.

    Items hold `attributes` and `attribute_mask`, 40 each, in the order of `jointface.attributes.CELEBA`, and `identity`
    where its file is there.

    Args:
        root: the folder above.
        split: "train", "val" or "test" of the official partition.
        transform: how a face is cropped.
        images: which of the published images.
        framing: how faces are found in the original photos. "landmarks": the crop is that of the aligned image, upright
            in the photo; faces that lie outside their published bounding box are counted in the log. "bbox": from the
            published bounding box, as a detector would find them, for tests that are to use no landmarks.

    Raises:
        ConfigError: images or framing is unknown, or framing=bbox with aligned images.
        DataError: a file or folder is missing or malformed, an optional file has no row for an image, or the split is
            empty.
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
        require_known(images, framing)
        self.root, self.kind, self.framing = Path(root), images, framing
        require_folder(self.root, "CelebA", "set paths.data_dir to the folder that holds celeba/")
        self.folder = locate(self.root, FOLDERS[images])
        how = f"unpack {ARCHIVES[images]} there"
        require_folder(self.folder, f"CelebA's images ({images})", how)
        on_disk = {name for name in file_names(self.folder) if name.endswith(ENDINGS)}
        attributes = read_attributes(locate(self.root, files.ATTRIBUTES))
        partition = files.read_partition(locate(self.root, files.PARTITION))
        if not on_disk:
            inner = self.folder / self.folder.name
            deeper = f"found it one folder too deep, in {inner}: move its content up" if inner.is_dir() else ""
            hint = deeper or instead(self.folder / str(attributes.names[0]))
            raise DataError(f"{self.folder.absolute()}: no .jpg or .png file in it; {hint or how}")

        rows, names = self._rows(split, attributes, partition, on_disk)
        listed = attributes.names[rows]
        self.boxes: Float[Tensor, "images 3"] | None = None
        if images == "in_the_wild":
            boxes = self._boxes(listed)
            usable = _usable(boxes, listed)
            rows, names, listed = rows[usable], names[usable], listed[usable]
            self.boxes = torch.from_numpy(boxes[usable]).float()
        if not len(rows):
            raise DataError(
                f"CelebA's {split} split is empty: no image of {self.folder.absolute()} is in the attribute list and "
                "in that part of the partition"
            )
        self.names = names
        self.attributes = torch.from_numpy(attributes.values[rows])
        self.mask = torch.ones(len(CELEBA), dtype=torch.bool)
        identities = self._identities()
        self.identity = None if identities is None else torch.from_numpy(identities.of(listed)[:, 0]).long()

    def _rows(
        self, split: str, attributes: Table, partition: Table, on_disk: set[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows of the attribute list that are in the split and have an image, and its file names."""
        names, there = files.image_files(attributes.names, on_disk)
        places = partition.positions(attributes.names)
        wanted = partition.values[:, 0] == SPLITS[split]
        in_split = (places >= 0) & wanted[places]
        wanted[places[places >= 0]] = False
        _report(f"rows of the {split} partition have no attributes", partition.names[wanted])
        _report(f"rows of the {split} partition have no image", attributes.names[in_split & ~there])
        if split == "train":  # said once
            _report("images are in no attribute list", np.array(sorted(on_disk.difference(names.tolist()))))
        keep = in_split & there
        return np.flatnonzero(keep), names[keep]

    def _boxes(self, names: np.ndarray) -> Float[np.ndarray, "images 3"]:
        bbox_path = locate(self.root, files.BBOX)
        if self.framing == "bbox":
            return bbox_boxes(files.read_bboxes(bbox_path).of(names))
        aligned, original = (
            files.read_landmarks(locate(self.root, name)).of(names)
            for name in (files.ALIGNED_LANDMARKS, files.LANDMARKS)
        )
        boxes = landmark_boxes(aligned, original)
        if bbox_path.is_file():
            doubtful = names[beside(boxes, files.read_bboxes(bbox_path).of(names))]
            if len(doubtful):
                log.warning(
                    "CelebA: %d faces lie by their landmarks outside their published bounding box, e.g. %s; one of the "
                    "two is wrong, and framing=landmarks follows the landmarks", len(doubtful), doubtful[0],
                )  # fmt: skip
        return boxes

    def _identities(self) -> Table | None:
        path = locate(self.root, files.IDENTITY)
        return files.read_identities(path) if path.is_file() else None

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
            return aligned_box(width, height)
        box = FaceBox(*self.boxes[index].tolist())
        if not (0 <= box.x < width and 0 <= box.y < height):
            raise DataError(
                f"{self.path(index)}: the face should be at ({box.x:.0f}, {box.y:.0f}), outside the {width} x {height} "
                "image; it is not the original size or its annotation is wrong"
            )
        return box

    def alpha(self) -> Float[Tensor, "attributes"]:
        return positive_weight(self.attributes.float(), self.mask.expand_as(self.attributes))

    def inventory(self) -> list[Count]:
        on_disk = file_names(self.folder)
        partition = files.read_partition(locate(self.root, files.PARTITION))
        _, there = files.image_files(partition.names, on_disk)
        identities = self._identities()
        found = {
            "images": sum(name.endswith(ENDINGS) for name in on_disk),
            **{split: int((there & (partition.values[:, 0] == code)).sum()) for split, code in SPLITS.items()},
            "identities": 0 if identities is None else len(np.unique(identities.values)),
        }
        return [
            *(Count(what, found[what], number) for what, number in PUBLISHED.items()),
            Count("attributes", self.attributes.shape[1], len(CELEBA)),
            *(Count(f"{name} (optional)", int(locate(self.root, name).is_file()), 1) for name in OPTIONAL),
        ]


def require_known(images: str, framing: str) -> None:
    """Images and framing must be known and go together.

    Raises:
        ConfigError: they do not.
    """
    for option, value, known in (("images", images, tuple(FOLDERS)), ("framing", framing, FRAMINGS)):
        if value not in known:
            raise ConfigError(f"CelebA: {option}={value}: known are {', '.join(known)}")
    if framing == "bbox" and images != "in_the_wild":
        raise ConfigError(
            "CelebA: framing=bbox needs images=in_the_wild: the bounding boxes are those of the original photos"
        )


def _usable(boxes: Float[np.ndarray, "images 3"], names: np.ndarray) -> np.ndarray:
    """Whether a box has an extent."""
    usable = boxes[:, 2] >= 1  # pixel
    _report("faces have an empty bounding box or coinciding landmarks", names[~usable])
    return usable


def _report(what: str, names: np.ndarray) -> None:
    if len(names):
        log.warning(f"CelebA: %d {what} and are left out, e.g. %s", len(names), min(names))
