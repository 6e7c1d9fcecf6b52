"""CelebA: 202,599 celebrity photos with 40 attributes each."""

import logging
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.attributes import CELEBA, positive_weight
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, read_image
from jointface.datamodules.on_disk import require_folder
from jointface.errors import DataError
from jointface.geometry.framing import FaceBox

log = logging.getLogger(__name__)

SPLITS = {"train": 0, "val": 1, "test": 2}
# Average landmark box of the aligned 178 x 218 images: every image gets it, scaled to its own size.
ALIGNED_WIDTH, ALIGNED_HEIGHT = 178, 218
ALIGNED_BOX = FaceBox(x=88.9, y=139.8, size=86.2)


class CelebA(FaceDataset):
    """CelebA, aligned and cropped images.

    On disk, as published:

        root/img_align_celeba/000001.jpg ...   178 x 218 (any size of the same framing works)
        root/list_attr_celeba.txt              count; 40 names; `FILE 1 -1 ...` a row
        root/list_eval_partition.txt           `FILE 0|1|2` a row: train, val, test

    Rows without an image and images without a row are left out and counted in the log. Get it from the CelebA page of
    MMLab, CUHK ("Align&Cropped Images", "Attributes Annotations", "Train/Val/Test Partitions"). Licence:
    non-commercial research. Cite: Liu, Luo, Wang, Tang, "Deep Learning Face Attributes in the Wild", ICCV 2015.

    Items hold `attributes` and `attribute_mask`, 40 each, in the order of `jointface.attributes.CELEBA`.

    Args:
        root: the folder above.
        split: "train", "val" or "test" of the official partition.
        transform: how a face is cropped.

    Raises:
        DataError: a file or folder is missing or malformed, or the split is empty.
    """

    label_set = CELEBA
    splits = tuple(SPLITS)

    def __init__(self, root: str | Path, split: str, transform: CropTransform) -> None:
        super().__init__(split, transform)
        root = Path(root)
        require_folder(root, "CelebA", "set paths.data_dir to the folder that holds celeba/")
        self.images = root / "img_align_celeba"
        require_folder(self.images, "CelebA's aligned images", "unpack img_align_celeba.zip there")
        names, labels = read_attributes(root / "list_attr_celeba.txt")
        wanted = read_partition(root / "list_eval_partition.txt", SPLITS[split])
        on_disk = {entry.name for entry in self.images.iterdir()}
        listed = set(names.tolist())
        keep = np.array([name in wanted and name in on_disk for name in names.tolist()], dtype=bool)
        _report_difference(listed, wanted, on_disk, split)
        if not keep.any():
            raise DataError(
                f"CelebA's {split} split is empty: no file of {root} is in the attribute list, the partition and the "
                "image folder"
            )
        self.names = names[keep]
        self.attributes = torch.from_numpy((labels[keep] > 0).astype(np.float32))
        self.mask = torch.ones(len(CELEBA), dtype=torch.bool)

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.images / str(self.names[index])

    def read(self, index: int) -> FaceSample:
        image = read_image(self.path(index))
        labels = {"attributes": self.attributes[index], "attribute_mask": self.mask}
        return FaceSample(image, aligned_box(image.shape[1], image.shape[0]), labels)

    def alpha(self) -> Float[Tensor, "attributes"]:
        return positive_weight(self.attributes, self.mask.expand_as(self.attributes))


def aligned_box(width: int, height: int) -> FaceBox:
    """The aligned images' face box in an image of this size; pixel centres stay at integers."""
    x, y = width / ALIGNED_WIDTH, height / ALIGNED_HEIGHT
    return FaceBox((ALIGNED_BOX.x + 0.5) * x - 0.5, (ALIGNED_BOX.y + 0.5) * y - 0.5, ALIGNED_BOX.size * (x + y) / 2)


def read_attributes(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """File names (N,) and labels (N, 40) in {-1, 1} of `list_attr_celeba.txt`."""
    header, *rows = _lines(path, "list_attr_celeba.txt")
    if not header.strip().isdigit() or len(rows) < 2 or tuple(rows[0].split()) != CELEBA.attributes:
        raise DataError(
            f"{path}: line 1 must be the number of rows and line 2 CelebA's 40 attribute names; this is another file"
        )
    names, values = zip(*((*row.split(maxsplit=1), "", "")[:2] for row in rows[1:]), strict=True)
    text = " ".join(values)
    whole_rows = all(value.count("1") == len(CELEBA) for value in values) and not set(text) - set("-1 \t")
    labels = np.fromstring(text, dtype=np.int8, sep=" ") if whole_rows else np.zeros(0, np.int8)
    if labels.size != len(names) * len(CELEBA):
        number = next((number for number, row in enumerate(rows[1:], 3) if not _is_row(row)), 3)
        raise DataError(
            f"{path}, line {number}: expected a file name and {len(CELEBA)} values -1 or 1; the file is damaged, "
            "get it again"
        )
    return np.array(names), labels.reshape(len(names), len(CELEBA))


def _is_row(row: str) -> bool:
    values = row.split()[1:]
    return len(values) == len(CELEBA) and set(values) <= {"1", "-1"}


def read_partition(path: Path, code: int) -> set[str]:
    """The file names of one split (0 train, 1 val, 2 test) in `list_eval_partition.txt`."""
    wanted = set()
    for number, line in enumerate(_lines(path, "list_eval_partition.txt"), 1):
        name, _, value = line.strip().partition(" ")
        if value.strip() not in {"0", "1", "2"}:
            raise DataError(
                f"{path}, line {number}: expected a file name and 0, 1 or 2; the file is damaged, get it again"
            )
        if int(value) == code:
            wanted.add(name)
    return wanted


def _lines(path: Path, what: str) -> list[str]:
    try:
        lines = path.read_text().rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path.absolute()}: cannot read CelebA's {what} ({error}); download it beside img_align_celeba/"
        ) from error
    if not lines:
        raise DataError(f"{path.absolute()}: the file is empty; download CelebA's {what} again")
    return lines


def _report_difference(listed: set[str], wanted: set[str], on_disk: set[str], split: str) -> None:
    """Says what is left out; images without a row are said once, with the training split."""
    for what, names in {
        "rows of the %s partition have no attributes": wanted - listed,
        "rows of the %s partition have no image": (wanted & listed) - on_disk,
    }.items():
        if names:
            log.warning(f"CelebA: %d {what} and are left out, e.g. %s", len(names), split, min(names))
    unlisted = {name for name in on_disk - listed if name.endswith((".jpg", ".png"))}
    if unlisted and split == "train":
        log.warning(
            "CelebA: %d images are in no attribute list and are left out, e.g. %s", len(unlisted), min(unlisted)
        )
