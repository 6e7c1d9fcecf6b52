"""CelebA's official files, whole and broken."""

import logging
import shutil
from pathlib import Path

import pytest
import torch

from jointface.attributes import CELEBA
from jointface.datamodules import CelebA, CropTransform
from jointface.datamodules.celeba import aligned_box, read_attributes
from jointface.errors import DataError
from tests.data.celeba import data as celeba_data

CROP = CropTransform(64)


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """A copy to break."""
    return celeba_data.write(tmp_path / "celeba")


def test_an_item_is_the_data_contract(tiny_data: Path) -> None:
    item = CelebA(tiny_data / "celeba", "train", CROP)[3]
    assert set(item) == {"image", "attributes", "attribute_mask", "index"}
    assert item["image"].shape == (3, 64, 64)
    assert item["image"].dtype == torch.uint8
    assert item["attributes"].shape == (40,)
    assert item["attributes"].dtype == torch.float32
    assert set(item["attributes"].tolist()) <= {0.0, 1.0}
    assert item["attribute_mask"].all()
    assert item["index"].item() == 3


def test_splits_are_the_official_partition(tiny_data: Path) -> None:
    names = {split: list(CelebA(tiny_data / "celeba", split, CROP).names) for split in ("train", "val", "test")}
    assert {split: len(part) for split, part in names.items()} == {"train": 12, "val": 4, "test": 4}
    assert names["val"][0] == "000013.jpg"


def test_labels_are_those_of_the_file(tiny_data: Path) -> None:
    dataset = CelebA(tiny_data / "celeba", "val", CROP)
    row = (tiny_data / "celeba" / "list_attr_celeba.txt").read_text().splitlines()[2 + 12].split()
    assert row[0] == dataset.path(0).name
    assert dataset[0]["attributes"].tolist() == [float(value == "1") for value in row[1:]]


def test_alpha_is_negatives_per_positive_of_the_split(tiny_data: Path) -> None:
    dataset = CelebA(tiny_data / "celeba", "train", CROP)
    labels = torch.stack([dataset[i]["attributes"] for i in range(len(dataset))])
    positives = labels.sum(0)
    torch.testing.assert_close(dataset.alpha(), (12 - positives) / positives)


def test_the_box_scales_with_the_file() -> None:
    whole, half = aligned_box(178, 218), aligned_box(89, 109)
    assert (whole.x, whole.y, whole.size) == pytest.approx((88.9, 139.8, 86.2))
    # Half-size pixels cover two by two: pixel 0 of the small image lies at 0.5 of the large one.
    assert (2 * half.x + 0.5, 2 * half.y + 0.5, 2 * half.size) == pytest.approx((88.9, 139.8, 86.2))


def test_more_rows_than_images_and_the_reverse_are_reported(celeba: Path, caplog: pytest.LogCaptureFixture) -> None:
    (celeba / "img_align_celeba" / "000002.jpg").unlink()
    shutil.copy(celeba / "img_align_celeba" / "000001.jpg", celeba / "img_align_celeba" / "999999.jpg")
    with caplog.at_level(logging.WARNING):
        dataset = CelebA(celeba, "train", CROP)
    assert len(dataset) == 11
    assert "1 rows of the train partition have no image and are left out, e.g. 000002.jpg" in caplog.text
    assert "1 images are in no attribute list and are left out, e.g. 999999.jpg" in caplog.text


def break_files(root: Path, change: str) -> None:
    attributes, partition = root / "list_attr_celeba.txt", root / "list_eval_partition.txt"
    lines = attributes.read_text().splitlines()
    match change:
        case "no root":
            shutil.rmtree(root)
        case "no images":
            shutil.rmtree(root / "img_align_celeba")
        case "no attributes":
            attributes.unlink()
        case "empty attributes":
            attributes.write_text("")
        case "short row":
            lines[6] = " ".join(lines[6].split()[:-1])
            attributes.write_text("\n".join(lines))
        case "short and long row":
            cells = lines[6].split()
            lines[6], lines[7] = " ".join(cells[:-1]), lines[7] + " 1"
            attributes.write_text("\n".join(lines))
        case "letter":
            lines[6] = lines[6].replace("-1", "-l", 1)
            attributes.write_text("\n".join(lines))
        case "blank line":
            lines[6] = ""
            attributes.write_text("\n".join(lines))
        case "odd value":
            lines[6] = lines[6].replace("-1", " 0", 1)
            attributes.write_text("\n".join(lines))
        case "other release":
            lines[1] = lines[1].replace("Bald", "Hairless")
            attributes.write_text("\n".join(lines))
        case "bad partition":
            partition.write_text(partition.read_text().replace(" 1", " 7", 1))
        case "empty split":
            partition.write_text(partition.read_text().replace(" 2", " 0"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no root", "no folder .*celeba: looked there for CelebA; set paths.data_dir"),
        ("no images", "no folder .*img_align_celeba: looked there for CelebA's aligned images; unpack"),
        ("no attributes", "list_attr_celeba.txt: cannot read CelebA's list_attr_celeba.txt .*download it"),
        ("empty attributes", "list_attr_celeba.txt: the file is empty"),
        ("short row", r"list_attr_celeba.txt, line 7: expected a file name and 40 values"),
        ("short and long row", r"list_attr_celeba.txt, line 7: expected a file name and 40 values"),
        ("letter", r"list_attr_celeba.txt, line 7: expected a file name and 40 values"),
        ("blank line", r"list_attr_celeba.txt, line 7: expected a file name and 40 values"),
        ("odd value", r"list_attr_celeba.txt, line 7: expected a file name and 40 values"),
        ("other release", "list_attr_celeba.txt: line 1 must be the number of rows"),
        ("bad partition", r"list_eval_partition.txt, line 13: expected a file name and 0, 1 or 2"),
        ("empty split", "CelebA's test split is empty"),
    ],
)
def test_broken_files_are_refused_in_one_line(celeba: Path, change: str, message: str) -> None:
    break_files(celeba, change)
    with pytest.raises(DataError, match=message) as caught:
        CelebA(celeba, "test", CROP)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_broken_image_is_named(celeba: Path, content: bytes | None) -> None:
    path = celeba / "img_align_celeba" / "000001.jpg"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10] if content is None else content)
    with pytest.raises(DataError, match=r"000001.jpg: not a whole image"):
        CelebA(celeba, "train", CROP)[0]


def test_real_files_are_read_with_their_prevalence(real_data: Path) -> None:
    names, labels = read_attributes(real_data / "celeba" / "list_attr_celeba.txt")
    assert len(names) == 6000
    prevalence = dict(zip(CELEBA.attributes, (labels > 0).mean(0), strict=True))
    assert prevalence["Male"] == pytest.approx(0.42, abs=0.05)
    assert prevalence["Bald"] == pytest.approx(0.02, abs=0.01)
    assert len(CelebA(real_data / "celeba", "train", CROP)) == 5500
