"""Photos that label landmarks alone: 300-W's .pts files, WFLW, FairFace, folders with a table."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from jointface.datamodules import W300LP, WFLW, CropTransform, FaceDataset, FairFace, LandmarkPhotos, LandmarkTable
from jointface.datamodules.fairface import EXPRESSIONS, FAIRFACE, NEGATIVE, POSITIVE, expressions_of
from jointface.datamodules.landmark_photos import POINTS, photo_of, read_pts
from jointface.datamodules.landmark_table import EVEN_PLACES, even_contour
from jointface.datamodules.on_disk import paired_photos
from jointface.datamodules.wflw import LISTS, TO_68
from jointface.errors import DataError
from jointface.geometry.morphable_model import MIRROR68, MorphableModel

CROP = CropTransform(32)
MARKS = np.random.default_rng(0).uniform(20, 80, (68, 2)).round(3)


def write_photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8))


def pts_text(points: np.ndarray = MARKS, header: str = "version: 1\nn_points: 68\n{\n", end: str = "}\n") -> str:
    return header + "".join(f"{x} {y}\n" for x, y in points) + end


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every layout as it is published, with 40 photos where a split takes a share of them."""
    root = tmp_path_factory.mktemp("marked")
    for number in range(40):
        photo = root / f"300W/helen/trainset/{1000 + number}_1.jpg"
        write_photo(photo)
        photo.with_suffix(".pts").write_text(pts_text())
        write_photo(root / f"WFLW/WFLW_images/0--Parade/0_{number}.jpg")
        write_photo(root / f"portraits/photos/{number:03d}.jpg")
    wide = np.random.default_rng(1).uniform(20, 80, (98, 2)).round(3)
    for part in ("train", "test"):
        rows = [
            " ".join(map(str, [*wide.ravel(), 10, 10, 90, 90, 0, 0, 0, 0, 0, 0, f"0--Parade/0_{n}.jpg"]))
            for n in range(40)
        ]
        path = root / "WFLW" / LISTS / f"list_98pt_rect_attr_{part}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(rows))
    names = [f"{axis}{i}" for i in range(68) for axis in "xyz"]
    table = pd.DataFrame([np.c_[MARKS, MARKS[:, :1]].ravel()] * 40, columns=names)
    table.assign(file=[f"photos/{n:03d}.jpg" for n in range(40)]).to_csv(root / "portraits/landmarks68.csv")
    ages, races = ["0-2", "40-49", "more than 70"], ["East Asian", "Middle Eastern", "White"]
    for part in ("train", "val"):
        files = [f"{part}/{n}.jpg" for n in range(40)]
        write_photo(root / "fairface" / files[0])
        table.assign(file=files).to_csv(root / f"fairface/landmarks68_{part}.csv", index=False)
        labels = {"file": files, "age": (ages * 14)[:40], "gender": ["Male", "Female"] * 20, "race": (races * 14)[:40]}
        pd.DataFrame(labels).assign(service_test=True).to_csv(root / f"fairface/fairface_label_{part}.csv", index=False)
    return root


def open_all(root: Path, split: str) -> dict[str, FaceDataset]:
    return {
        "300w": LandmarkPhotos(root / "300W", split, CROP),
        "wflw": WFLW(root / "WFLW", split, CROP),
        "fairface": FairFace(root / "fairface", split, CROP),
        "portraits": LandmarkTable(root / "portraits", split, CROP),
    }


def test_splits_share_no_photo_and_leave_none_out(root: Path) -> None:
    paths = {split: open_all(root, split) for split in ("train", "val", "test")}
    for name, total in {"300w": 40, "wflw": 80, "fairface": 80, "portraits": 40}.items():
        found = [{str(data[name].path(i)) for i in range(len(data[name]))} for data in paths.values()]
        assert len(set.union(*found[:2])) == len(found[0]) + len(found[1])
        assert sum(map(len, found)) == total


def test_landmarks_are_read_0_based_in_the_order_of_ibug(root: Path) -> None:
    data = open_all(root, "train")
    sample = data["300w"].read(0)
    np.testing.assert_allclose(sample.labels["landmarks68"], MARKS - 1, rtol=1e-6)
    assert sample.labels["landmark_mask"].all()
    wide = np.random.default_rng(1).uniform(20, 80, (98, 2)).round(3)
    np.testing.assert_allclose(data["wflw"].read(0).labels["landmarks68"], wide[list(TO_68)], rtol=1e-6)
    for name in ("fairface", "portraits"):
        labels, item = data[name].read(0).labels, data[name][0]
        np.testing.assert_allclose(labels["landmarks68"][17:, 2], -MARKS[17:, 0], rtol=1e-6)  # towards the viewer
        assert item["landmarks68"].shape == (68, 3)
        assert item["landmarks68"].dtype == torch.float32
        assert item["landmark_mask"].tolist() == [False] * 17 + [True] * 51  # the contour only if asked for
    with_contour = FairFace(root / "fairface", "train", CROP, contour=True).read(0)
    assert with_contour.labels["landmark_mask"].all()
    assert {name for name, dataset in data.items() if dataset.has_landmarks} == set(data)


def test_mediapipes_contour_is_spaced_as_the_68_point_scheme() -> None:
    """Points of a line at the places where MediaPipe has them come out evenly spaced; the inner landmarks stay."""
    index = np.interp(np.arange(9), EVEN_PLACES, np.arange(9))
    along = np.concatenate([index, 16 - index[-2::-1]])
    landmarks = np.concatenate([along, np.arange(51)])[:, None] * [3.0, 1.0, 2.0]
    even = even_contour(landmarks)
    np.testing.assert_allclose(even[:17], np.arange(17)[:, None] * [3.0, 1.0, 2.0], atol=0.3)
    np.testing.assert_allclose(even[[0, 8, 16]], landmarks[[0, 8, 16]])
    np.testing.assert_array_equal(even[17:], landmarks[17:])
    mirrored = even_contour(np.concatenate([landmarks[16::-1], landmarks[17:]]))
    np.testing.assert_allclose(mirrored[:17], even[16::-1], atol=1e-12)


def test_the_98_points_of_wflw_mirror_like_the_68() -> None:
    """The contour mirrors as 32 - i, so a pair of landmarks is a pair of WFLW's points."""
    assert len(TO_68) == 68
    assert [TO_68[MIRROR68[i]] for i in range(17)] == [32 - TO_68[i] for i in range(17)]
    assert TO_68[30] == 54  # tip of the nose
    assert TO_68[48:60] == tuple(range(76, 88))


def test_fairface_labels_what_its_groups_say(root: Path) -> None:
    data = FairFace(root / "fairface", "test", CROP)
    known = [
        {n: int(v) for n, v, m in zip(FAIRFACE.attributes, data.attributes[i], data.mask[i], strict=True) if m}
        for i in range(3)
    ]
    assert known == [
        {"Male": 1, "Young": 1, "Asian": 1, "Black": 0, "White": 0, "Indian": 0},
        {"Male": 0, "Asian": 0, "Black": 0, "Indian": 0},  # in the forties, Middle Eastern
        {"Male": 1, "Young": 0, "Asian": 0, "Black": 0, "White": 1, "Indian": 0},
    ]
    groups = data.subset(40).groups
    assert groups is not None
    assert groups.loc[1].to_dict() == {"age": "40-49", "gender": "Female", "race": "Middle Eastern"}


@pytest.mark.parametrize("text", [pts_text(), pts_text(header="", end=""), "\ufeff" + pts_text().replace("\n", "\r\n")])
def test_a_pts_file_has_a_header_or_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "face.pts").write_text(text, encoding="utf-8")
    np.testing.assert_allclose(read_pts(tmp_path / "face.pts"), MARKS - 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (pts_text(MARKS[:29]), r"expected 68 points with finite x and y, found numbers of shape \(29, 2\)"),
        (pts_text(np.where(MARKS > 79, np.nan, MARKS)), "expected 68 points with finite x and y"),
        (pts_text(MARKS + 900), r"the face \(centre .*\) is not in the photo of 100 x 100 pixels"),
        ("<!DOCTYPE html><p>Sign in", "not a readable .pts file"),
        ("", "expected 68 points"),
    ],
)
def test_a_damaged_pts_file_is_named(tmp_path: Path, text: str, reason: str) -> None:
    for number in range(9):  # one of them is in the training split
        write_photo(tmp_path / f"afw/{number}.jpg")
        (tmp_path / f"afw/{number}.pts").write_text(text)
    data = LandmarkPhotos(tmp_path, "train", CROP)
    with pytest.raises(DataError, match=reason):
        data.read(0)
    assert data.batch([0])["broken"].tolist() == [0]


def test_only_pairs_count(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.jpg", "b.jpg", "unmarked.jpg"):
        write_photo(tmp_path / name)
    for name in ("a.pts", "b.PTS", "alone.pts"):
        (tmp_path / name).write_text(pts_text())
    assert paired_photos(tmp_path, POINTS, "300-W") == ["a.jpg", "b.jpg"]
    assert "1 photos have no .pts" in caplog.text
    assert "1 .pts files have no photo" in caplog.text


def test_a_subset_may_be_a_word_and_photos_may_lie_in_the_root(root: Path, tmp_path: Path) -> None:
    by_word = LandmarkPhotos(root / "300W", "train", CROP, subsets="helen/trainset")
    assert len(by_word) == len(LandmarkPhotos(root / "300W", "train", CROP))
    assert len(LandmarkPhotos(root / "300W/helen/trainset", "train", CROP)) == len(by_word)
    with pytest.raises(DataError, match=r"no photo with a \.pts file in .*: unpack 300-W there"):
        LandmarkPhotos(tmp_path, "train", CROP)


def test_faces_of_one_photo_stay_together() -> None:
    assert {photo_of(stem) for stem in ("134212_1", "134212_2", "134212_1_mirror")} == {"134212"}


@pytest.mark.parametrize(
    ("folder", "replace", "reason"),
    [
        ("fairface/fairface_label_val.csv", ("White", "Purple"), "race 'Purple' is unknown; expected East Asian"),
        ("fairface/landmarks68_val.csv", ("x0", "left"), "not a table of file, x0, y0, z0"),
        ("WFLW/" + str(LISTS / "list_98pt_rect_attr_test.txt"), (" 10 10 ", " "), "line 1: expected 207 values"),
    ],
)
def test_a_damaged_table_is_named(root: Path, folder: str, replace: tuple[str, str], reason: str) -> None:
    path = root / folder
    whole = path.read_text()
    path.write_text(whole.replace(*replace))
    try:
        with pytest.raises(DataError, match=reason):
            open_all(root, "test")
    finally:
        path.write_text(whole)
    assert len(open_all(root, "test")["fairface"]) == 40
    assert torch.equal(open_all(root, "test")["fairface"][0]["attributes"], torch.tensor([1.0, 1, 1, 0, 0, 0]))


def test_fits_beside_hand_marked_photos_are_read_as_shape_labels(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    for folder in (path for path in (tiny_data / "300W_LP").iterdir() if path.is_dir() and path.name != "landmarks"):
        shutil.copytree(folder, tmp_path / folder.name)
    photos = list(tmp_path.glob("*/*.jpg"))
    for photo in photos:
        photo.with_suffix(".pts").write_text(pts_text())
    data = LandmarkPhotos(tmp_path, "train", CROP, morphable_model=tiny_model)
    assert data.has_shape
    assert not data.has_landmarks
    assert data[0].keys() == W300LP(tiny_data / "300W_LP", "train", CROP, tiny_model)[0].keys()
    data.path(0).with_suffix(".mat").unlink()
    assert len(LandmarkPhotos(tmp_path, "train", CROP, morphable_model=tiny_model)) == len(data) - 1


def test_expressions_of_fairface_are_the_widest_mouths_and_the_widest_gaps(root: Path) -> None:
    landmarks = np.random.default_rng(0).uniform(20, 80, (200, 68, 3))
    landmarks[:, [36, 45]] = [[0, 0, 0], [60, 0, 0]]
    width = np.linalg.norm(landmarks[:, 48] - landmarks[:, 54], axis=1)
    values, known = expressions_of(landmarks)
    assert known.float().mean(0).tolist() == pytest.approx([NEGATIVE + POSITIVE] * 2, abs=0.02)
    assert values[:, 0].sum() == pytest.approx(POSITIVE * 200, abs=2)
    smiles = values[:, 0].bool().numpy()
    assert width[smiles].min() > width[~smiles & known[:, 0].numpy()].max()
    data = FairFace(root / "fairface", "test", CROP, expressions=True, depth=False)
    assert data[0]["landmarks68"].shape == (68, 2)  # without the depth that MediaPipe guesses
    assert data.label_set == EXPRESSIONS
    assert data.attributes.shape == data.mask.shape == (len(data), len(EXPRESSIONS))
