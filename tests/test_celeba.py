"""CelebA's official files: aligned images and original photos, whole and broken."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from jointface.attributes import CELEBA
from jointface.command_line import CONF_DIR
from jointface.datamodules import CelebA, CropTransform
from jointface.datamodules.celeba_boxes import ALIGNED_BOX, bbox_boxes, landmark_boxes
from jointface.datamodules.celeba_files import read_label_file
from jointface.datamodules.crop import box_in_copy
from jointface.errors import ConfigError, DataError
from tests.data.celeba import data as celeba_data
from tests.faults import Fault, archived, deeper, edited, removed, renamed, without_rows, written

CROP = CropTransform(64)
# The only published rows that could be had of all three files: images 000001 to 000005, in datumaro's tests and a blog.
REAL_ALIGNED = """
69 109 106 113 77 142 73 152 108 154
69 110 107 112 81 135 70 151 108 153
76 112 104 106 108 128 74 156 98 158
72 113 108 108 101 138 71 155 101 151
66 114 112 112 86 119 71 147 104 150
"""
REAL_ORIGINAL = """
165 184 244 176 196 249 194 271 266 260
140 204 220 204 168 254 146 289 226 289
244 104 264 105 263 121 235 134 251 140
796 539 984 539 930 687 762 756 915 756
273 169 328 161 298 172 283 208 323 207
"""
REAL_BBOX = """
95 71 226 313
72 94 221 306
216 59 91 126
622 257 564 781
236 109 120 166
"""


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    """A copy to break."""
    return celeba_data.write(tmp_path / "celeba")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything that CelebA publishes, flat in one folder, to read only."""
    return celeba_data.write(tmp_path_factory.mktemp("whole") / "celeba", whole=True)


@pytest.fixture
def whole_copy(whole: Path, tmp_path: Path) -> Path:
    """The same to break."""
    return Path(shutil.copytree(whole, tmp_path / "celeba"))


def rows(text: str) -> np.ndarray:
    return np.array([line.split() for line in text.strip().splitlines()], dtype=np.int32)


def numbers(dataset: CelebA) -> list[int]:
    return [int(Path(name).stem) for name in dataset.names]


# --- items, splits, labels


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


def test_labels_are_found_by_name_whatever_the_order_of_the_files(whole_copy: Path) -> None:
    before = [CelebA(whole_copy, "val", CROP, "in_the_wild")[index] for index in range(4)]
    for name in ("list_eval_partition.txt", "identity_CelebA.txt"):
        path = whole_copy / name
        path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    for name in ("list_landmarks_celeba.txt", "list_bbox_celeba.txt"):
        lines = (whole_copy / name).read_text().splitlines()
        (whole_copy / name).write_text("\n".join(lines[:2] + lines[:1:-1]) + "\n")
    after = [CelebA(whole_copy, "val", CROP, "in_the_wild")[index] for index in range(4)]
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_identities_are_read_where_they_are_there(whole: Path) -> None:
    item = CelebA(whole, "val", CROP)[1]
    assert item["identity"].dtype == torch.int64
    assert item["identity"].item() == 100 + 14 % 5


def test_alpha_is_negatives_per_positive_of_the_split(tiny_data: Path) -> None:
    dataset = CelebA(tiny_data / "celeba", "train", CROP)
    labels = torch.stack([dataset[i]["attributes"] for i in range(len(dataset))])
    positives = labels.sum(0)
    torch.testing.assert_close(dataset.alpha(), (12 - positives) / positives)


def test_files_with_windows_line_ends_are_read(celeba: Path) -> None:
    before = CelebA(celeba, "train", CROP).attributes
    for path in celeba.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert torch.equal(CelebA(celeba, "train", CROP).attributes, before)


# --- layouts


@pytest.mark.parametrize("images", ["aligned", "aligned_png", "in_the_wild"])
def test_the_published_folders_and_a_flat_one_hold_the_same(tmp_path: Path, whole: Path, images: str) -> None:
    official = celeba_data.write(tmp_path / "CelebA", whole=True, official=True)
    assert {path.name for path in official.iterdir()} == {"Anno", "Eval", "Img"}
    for split in ("train", "val", "test"):
        one, other = (CelebA(root, split, CROP, images) for root in (official, whole))  # type: ignore[arg-type]
        assert list(one.names) == list(other.names)
        torch.testing.assert_close(one[0], other[0], rtol=0, atol=0)
    assert one.inventory() == other.inventory()


def test_images_unpacked_beside_the_parts_of_their_archive_are_found(tmp_path: Path) -> None:
    root = celeba_data.write(tmp_path / "CelebA", whole=True, official=True)
    parts = root / "Img" / "img_celeba.7z"
    parts.mkdir()
    (root / "Img" / "img_celeba").rename(parts / "img_celeba")
    assert len(CelebA(root, "val", CROP, "in_the_wild")) == 4


def test_png_images_are_found_though_the_lists_say_jpg(whole: Path) -> None:
    png, jpg = CelebA(whole, "train", CROP, "aligned_png"), CelebA(whole, "train", CROP)
    assert png.path(0) == whole / "img_align_celeba_png" / "000001.png"
    assert torch.equal(png.attributes, jpg.attributes)
    assert (png[0]["image"].float() - jpg[0]["image"].float()).abs().mean() < 3


def test_png_images_in_the_folder_of_aligned_images_are_found(whole_copy: Path) -> None:
    shutil.rmtree(whole_copy / "img_align_celeba")
    (whole_copy / "img_align_celeba_png").rename(whole_copy / "img_align_celeba")
    assert CelebA(whole_copy, "test", CROP).path(0).name == "000017.png"


def test_the_inventory_counts_all_splits_beside_the_published_numbers(whole: Path, tiny_data: Path) -> None:
    counts = {count.what: (count.found, count.published) for count in CelebA(whole, "val", CROP).inventory()}
    assert counts == {
        "images": (20, 202_599),
        "train": (12, 162_770),
        "val": (4, 19_867),
        "test": (4, 19_962),
        "identities": (5, 10_177),
        "attributes": (40, 40),
        "identity_CelebA.txt (optional)": (1, 1),
        "list_bbox_celeba.txt (optional)": (1, 1),
        "list_landmarks_celeba.txt (optional)": (1, 1),
        "list_landmarks_align_celeba.txt (optional)": (1, 1),
    }
    counts = {count.what: count.found for count in CelebA(tiny_data / "celeba", "val", CROP).inventory()}
    assert (counts["identities"], counts["list_bbox_celeba.txt (optional)"]) == (0, 0)


# --- framing


def test_the_box_scales_with_the_file() -> None:
    full, half = (box_in_copy(ALIGNED_BOX, (178, 218), size, Path("photo.jpg")) for size in ((178, 218), (89, 109)))
    assert (full.x, full.y, full.size) == pytest.approx((88.9, 139.8, 86.2))
    # Half-size pixels cover two by two: pixel 0 of the small image lies at 0.5 of the large one.
    assert (2 * half.x + 0.5, 2 * half.y + 0.5, 2 * half.size) == pytest.approx((88.9, 139.8, 86.2))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_original_photos_get_the_aligned_images_box(whole: Path, split: str) -> None:
    """Under any scale, turn and shift; landmarks are whole numbers, so the box is good to about a pixel."""
    dataset = CelebA(whole, split, CROP, "in_the_wild")
    assert dataset.boxes is not None
    expected = np.stack([celeba_data.original_box(number) for number in numbers(dataset)])
    np.testing.assert_allclose(dataset.boxes.numpy(), expected, atol=1.5)


def test_a_crop_of_the_original_photo_shows_what_the_aligned_crop_shows(whole: Path) -> None:
    aligned, wild = CelebA(whole, "train", CROP), CelebA(whole, "train", CROP, "in_the_wild")
    upright = [index for index, number in enumerate(numbers(wild)) if number % 2 == 0]
    crops = [(aligned[index]["image"].float(), wild[index]["image"].float()) for index in upright]
    assert len(crops) == 6
    for one, other in crops:
        assert (one - other).abs().mean() < 2  # of 255; another face differs by 20 to 70
    assert (crops[0][0] - crops[1][1]).abs().mean() > 10


def test_bounding_boxes_frame_the_face_without_landmarks(whole_copy: Path) -> None:
    for path in whole_copy.glob("list_landmarks_*"):
        path.unlink()
    dataset = CelebA(whole_copy, "val", CROP, "in_the_wild", "bbox")
    assert dataset.boxes is not None
    expected = np.stack([celeba_data.original_box(number) for number in numbers(dataset)])
    np.testing.assert_allclose(dataset.boxes.numpy(), expected, atol=1.5)


def test_both_framings_agree_on_published_rows() -> None:
    landmarks = landmark_boxes(rows(REAL_ALIGNED), rows(REAL_ORIGINAL))
    bboxes = bbox_boxes(rows(REAL_BBOX))
    distance = np.linalg.norm(landmarks[:, :2] - bboxes[:, :2], axis=1) / landmarks[:, 2]
    assert np.median(distance) < 0.1
    assert distance.max() < 0.25
    assert np.median(bboxes[:, 2] / landmarks[:, 2]) == pytest.approx(1, abs=0.01)
    assert np.abs(np.log(bboxes[:, 2] / landmarks[:, 2])).max() < 0.2


def test_published_landmarks_are_a_similarity_apart() -> None:
    """So the aligned images are the originals under one; the points come back to a hundredth of the face box."""
    aligned, original = rows(REAL_ALIGNED), rows(REAL_ORIGINAL)
    boxes = landmark_boxes(aligned, original)
    scale = boxes[:, 2] / ALIGNED_BOX.size
    spread = [np.ptp(points.reshape(5, 5, 2).astype(float), axis=1).sum(1) for points in (aligned, original)]
    np.testing.assert_allclose(spread[1] / spread[0], scale, rtol=0.12)  # a turn changes the extents a little
    source, target = (points[:, 0::2] + 1j * points[:, 1::2] for points in (aligned, original))
    source, target = source - source.mean(1, keepdims=True), target - target.mean(1, keepdims=True)
    turn = (source.conj() * target).sum(1, keepdims=True)
    error = np.abs(target - turn / np.abs(turn) * scale[:, None] * source)
    assert (error.max(axis=1) / boxes[:, 2]).max() < 0.01


def test_empty_bounding_boxes_are_left_out_and_counted(whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = CelebA(whole, "train", CROP, "in_the_wild", "bbox")
    assert celeba_data.NO_BBOX not in numbers(dataset)
    assert len(dataset) == 11
    assert dataset[2]["identity"].item() == 100 + 4 % 5  # the labels keep to their image
    assert "1 faces have an empty bounding box or coinciding landmarks and are left out, e.g. 000003.jpg" in caplog.text


def test_faces_outside_their_bounding_box_are_counted_and_kept(whole: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = CelebA(whole, "train", CROP, "in_the_wild")
    assert len(dataset) == 12
    assert "the landmarks of 1 faces lie outside their published bounding box, e.g. 000005.jpg" in caplog.text


def test_a_face_outside_its_photo_is_a_broken_sample(whole: Path) -> None:
    dataset = CelebA(whole, "train", CROP, "in_the_wild", "bbox")
    index = numbers(dataset).index(celeba_data.WRONG_BBOX)
    with pytest.raises(DataError, match=r"000005.jpg: the face should be at \(\d+, \d+\), outside the \d+ x \d+ image"):
        dataset[index]


@pytest.mark.parametrize(
    ("images", "framing", "message"),
    [
        ("wild", "landmarks", "images=wild is unknown; choose from aligned, aligned_png, in_the_wild"),
        ("in_the_wild", "box", "framing=box is unknown; choose from landmarks, bbox"),
        ("aligned", "bbox", "framing=bbox needs images=in_the_wild"),
    ],
)
def test_options_that_cannot_be_are_refused(
    images: str, framing: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user has no checker of annotations
    with pytest.raises(ConfigError, match=message) as caught:
        CelebA("nowhere", "train", CROP, images, framing)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_the_config_opens_the_original_photos(whole: Path) -> None:
    config = OmegaConf.load(CONF_DIR / "source" / "celeba.yaml")
    config.dataset.update({"root": str(whole), "images": "in_the_wild"})
    dataset = instantiate(config.dataset)(split="val", transform=CROP)
    assert dataset.folder == whole / "img_celeba"


# --- broken data


def test_more_rows_than_images_and_the_reverse_are_reported(celeba: Path, caplog: pytest.LogCaptureFixture) -> None:
    (celeba / "img_align_celeba" / "000002.jpg").unlink()
    shutil.copy(celeba / "img_align_celeba" / "000001.jpg", celeba / "img_align_celeba" / "999999.jpg")
    with caplog.at_level(logging.WARNING):
        dataset = CelebA(celeba, "train", CROP)
    assert len(dataset) == 11
    assert "1 rows of the train partition have no image and are left out, e.g. 000002.jpg" in caplog.text
    assert "1 images are in no attribute list and are left out, e.g. 999999.jpg" in caplog.text


def test_rows_of_the_partition_without_attributes_are_reported(celeba: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = celeba / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(["19", *lines[1:4], *lines[5:]]) + "\n")
    with caplog.at_level(logging.WARNING):
        assert len(CelebA(celeba, "train", CROP)) == 11
    assert "1 rows of the train partition have no attributes and are left out, e.g. 000003.jpg" in caplog.text


ATTRIBUTES, PARTITION, IMAGES = "list_attr_celeba.txt", "list_eval_partition.txt", "img_align_celeba"


def row_changed(change: Callable[[str], str]) -> Fault:
    """Line 7 of the attribute file differs."""

    def fault(root: Path) -> None:
        line = (root / ATTRIBUTES).read_text().splitlines()[6]
        edited(ATTRIBUTES, 7, line, change(line))(root)

    return fault


def nested_copy(root: Path) -> None:
    shutil.copytree(root, root / "CelebA")
    removed(ATTRIBUTES, PARTITION, IMAGES)(root)


def no_images(root: Path) -> None:
    for path in (root / IMAGES).iterdir():
        path.unlink()


def no_test_split(root: Path) -> None:
    (root / PARTITION).write_text((root / PARTITION).read_text().replace(" 2", " 0"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (removed("."), "no folder .*celeba: looked there for CelebA; set paths.data_dir"),
        (nested_copy, "no folder .*img_align_celeba: .*found it one folder too deep, in .*/CelebA"),
        (deeper("CelebA/Img"), "no folder .*Img: .*found it one folder too deep, in .*celeba/CelebA: move"),
        (deeper("Images", IMAGES), "contains no .jpg or .png file; found it one folder too deep, in .*/Images"),
        (removed(IMAGES), r"no folder .*img_align_celeba: looked there for CelebA's images \(aligned\); unpack"),
        (archived(IMAGES, f"{IMAGES}.zip"), "no folder .*img_align_celeba: .*found img_align_celeba.zip there, unpack"),
        (archived(IMAGES, f"Img/{IMAGES}.zip"), "no folder .*Img/img_align_celeba: .*found img_align_celeba.zip there"),
        (renamed(IMAGES, "Img_Align_Celeba"), "found 'Img_Align_Celeba' there, rename it to 'img_align_celeba'"),
        (no_images, "img_align_celeba: contains no .jpg or .png file; unpack img_align_celeba.zip there"),
        (renamed(ATTRIBUTES, "List_Attr_CelebA.txt"), "no file .*: .*found 'List_Attr_CelebA.txt' there, rename it to"),
        (removed(ATTRIBUTES), "no file .*list_attr_celeba.txt: .*CelebA's attributes; get Anno/list_attr_celeba.txt"),
        (written(ATTRIBUTES, b""), "list_attr_celeba.txt: the file is empty"),
        (row_changed(lambda row: row.rsplit(maxsplit=1)[0]), "line 7: expected a file name and 40 whole numbers"),
        (
            row_changed(lambda row: row + " 1"),
            "list_attr_celeba.txt, line 7: expected a file name and 40 whole numbers",
        ),
        (edited(ATTRIBUTES, 7, "-1", "-l"), "line 7: expected a file name and 40 whole numbers"),
        (row_changed(lambda row: ""), "line 7: expected a file name and 40 whole numbers"),
        (edited(ATTRIBUTES, 7, "-1", " 0"), "line 7: expected a file name and 40 values from -1, 1;"),
        (edited(ATTRIBUTES, 7, "000005", "000004"), "list_attr_celeba.txt, line 7: 000004.jpg is listed twice"),
        (edited(ATTRIBUTES, 2, "Bald", "Hairless"), "line 2 the 40 names 5_o_Clock_Shadow to Young; this is another"),
        (edited(ATTRIBUTES, 2, " Young", ""), "line 2 the 40 names 5_o_Clock_Shadow to Young; this is another file"),
        (renamed(PARTITION, ATTRIBUTES), "list_attr_celeba.txt: line 1 must be the number of rows"),
        (
            without_rows(ATTRIBUTES, 7),
            "line 1 announces 20 rows, but 13 follow; the file is truncated",
        ),
        (removed(PARTITION), "no file .*list_eval_partition.txt: .*CelebA's partition; get Eval/list_eval_partition"),
        (edited(PARTITION, 13, " 1", " 7"), "list_eval_partition.txt, line 13: .* 1 values from 0, 1, 2;"),
        (no_test_split, "CelebA's test split is empty: no image in .*img_align_celeba is listed both"),
    ],
)
def test_broken_files_are_refused_in_one_line(celeba: Path, fault: Fault, message: str) -> None:
    fault(celeba)
    with pytest.raises(DataError, match=message) as caught:
        CelebA(celeba, "test", CROP)
    assert "\n" not in str(caught.value)


LANDMARKS, BBOX, IDENTITY = "list_landmarks_celeba.txt", "list_bbox_celeba.txt", "identity_CelebA.txt"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (removed("img_celeba"), r"no folder .*img_celeba: .*CelebA's images \(in_the_wild\); unpack img_celeba.7z"),
        (
            archived("img_celeba", "img_celeba.7z.001"),
            "img_celeba: .*found img_celeba.7z.001 there, unpack",
        ),
        (removed(LANDMARKS), "no file .*: looked there for CelebA's landmarks; get Anno/list_landmarks_celeba.txt"),
        (without_rows(LANDMARKS, 1, "19"), "celeba.txt: no row for 1 of 4 images, e.g. 000020.jpg; the file is"),
        (edited(LANDMARKS, 2, "lefteye_x", "eye_x"), "line 2 the 10 names lefteye_x to rightmouth_y; this is another"),
        (edited(LANDMARKS, 4, ".jpg", ".jpg 0.5"), "line 4: expected a file name and 10 whole numbers"),
        (edited(BBOX, 2, "width height", "x_2 y_2"), "line 2 the 4 names x_1 to height; this is another file"),
        (without_rows(BBOX, 1, "19"), "list_bbox_celeba.txt: no row for 1 of 4 images, e.g. 000020.jpg"),
        (without_rows(IDENTITY, 2), "identity_CelebA.txt: no row for 2 of 4 images, e.g. 000019.jpg"),
        (edited(IDENTITY, 3, "103", "Bob"), "identity_CelebA.txt, line 3: expected a file name and 1 whole numbers"),
    ],
)
def test_broken_annotations_are_refused_in_one_line(whole_copy: Path, fault: Fault, message: str) -> None:
    fault(whole_copy)
    with pytest.raises(DataError, match=message) as caught:
        CelebA(whole_copy, "test", CROP, "in_the_wild")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["celeba", "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"])
def test_what_may_not_be_read_is_named(celeba: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != name and allowed(path, mode))
    with pytest.raises(DataError, match=rf"{name}: no permission to read the (folder|file)") as caught:
        CelebA(celeba, "train", CROP)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_broken_image_is_named(celeba: Path, content: bytes | None) -> None:
    path = celeba / "img_align_celeba" / "000001.jpg"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10] if content is None else content)
    with pytest.raises(DataError, match=r"000001.jpg: not an intact image"):
        CelebA(celeba, "train", CROP)[0]


# --- the real files


def test_real_files_are_read_with_their_prevalence(real_data: Path) -> None:
    table = read_label_file(real_data / "celeba" / "list_attr_celeba.txt")
    assert len(table.names) == 6000
    prevalence = dict(zip(CELEBA.attributes, (table.values == 1).mean(0), strict=True))
    assert prevalence["Male"] == pytest.approx(0.42, abs=0.05)
    assert prevalence["Bald"] == pytest.approx(0.02, abs=0.01)
    dataset = CelebA(real_data / "celeba", "train", CROP)
    assert len(dataset) == 5500
    counts = {count.what: count.found for count in dataset.inventory()}
    assert [counts[what] for what in ("images", "train", "val", "test")] == [6000, 5500, 250, 250]
