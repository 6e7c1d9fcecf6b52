"""Finding faces: boxes and maps, the scenes that the finder learns from, its training, and the finders themselves."""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.error import URLError

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from safetensors.torch import load_file

from jointface.command_line import CONF_DIR
from jointface.datamodules import CropTransform
from jointface.datamodules.landmark_table import CONTOUR_STRETCH
from jointface.detection.boxes import REACH, decode, decode_likely, overlaps, suppress, target_maps
from jointface.detection.cutouts import Cutout, free_photos
from jointface.detection.finder_network import STRIDES, FinderNetwork, fold_batch_norm
from jointface.detection.finder_training import count_found
from jointface.detection.finder_weights import SHA256, SHIPPED, load_finder, save_weights
from jointface.detection.finders import FoundFace, GivenBoxes, OwnFinder, WholePicture, YuNet, build_finder, search
from jointface.detection.mosaics import MOST, Mosaics
from jointface.errors import CheckpointError, ConfigError, DataError, JointFaceError
from jointface.geometry.framing import CROP_MARGIN, FaceBox, crop_transform, face_box
from jointface.train import train

COUNTS = {"train": 40, "val": 4, "test": 4}


@pytest.fixture(scope="module")
def scenes() -> Mosaics:
    """Scenes of synthetic heads alone."""
    return Mosaics("val", CropTransform(160), COUNTS, dict.fromkeys(COUNTS, 8), "no such folder")


@pytest.fixture(scope="module")
def head(scenes: Mosaics) -> Cutout:
    """The first synthetic head, on grey ground."""
    cutout = scenes.heads[0]
    alpha = cutout.alpha[..., None] / np.float32(255)
    return Cutout((alpha * cutout.image + (1 - alpha) * 150).astype(np.uint8), None, cutout.landmarks)


@pytest.fixture(scope="module")
def finder() -> OwnFinder:
    return OwnFinder()


# Boxes and maps


@pytest.mark.parametrize("size", [9.0, 20.0, 40.0, 60.0, 100.0, 300.0])
def test_a_face_of_any_size_is_read_back_from_the_maps_that_describe_it(size: float) -> None:
    face = torch.tensor([[150.3, 171.8, size]])
    maps = [target_maps(face, 320 // stride, 320 // stride, stride) for stride in STRIDES]
    logits = [torch.cat([torch.where(part[:1] > 0, 9.0, -9.0), part[1:4]]) for part in maps]
    found = decode([part[None] for part in logits])[0]
    found = found[found[:, 3] > 0.5]
    assert len(found)
    assert torch.allclose(decode_likely([part[None] for part in logits], 0.5), found, atol=1e-3)
    assert (found[:, :3] - face).abs().max() < 1e-3
    assert len(suppress(found, 0.5)) == 1
    for part in maps:  # every stride that answers for the face weighs it as one, however many cells answer
        assert part[4].sum().item() == pytest.approx(float(part[0].any()))


def test_the_nearest_cell_answers_for_a_face_that_is_smaller_than_a_cell() -> None:
    maps = target_maps(torch.tensor([[19.5, 19.5, 2.0], [0.0, 0.0, 0.0]]), 8, 8, 8)
    assert REACH * 2.0 < 4.0
    assert maps[0].nonzero().tolist() == [[2, 2]]


def test_faces_whose_centre_is_outside_the_picture_are_none() -> None:
    boxes = torch.tensor([[-3.0, 20.0, 30.0], [20.0, 66.0, 30.0]])
    assert not target_maps(boxes, 8, 8, 8).any()


def test_of_overlapping_boxes_the_surest_is_kept() -> None:
    found = torch.tensor([[10, 10, 8, 0.6], [11, 10, 8, 0.9], [30, 10, 8, 0.7], [50, 10, 8, 0.2]])
    assert suppress(found, 0.5)[:, 3].tolist() == pytest.approx([0.9, 0.7])
    assert overlaps(found[:1], found[:1]).item() == 1.0
    assert overlaps(found[:1], torch.tensor([[14.0, 10.0, 8.0]])).item() == pytest.approx(1 / 3)


def test_found_missed_and_false_faces_are_counted() -> None:
    faces = torch.tensor([[10.0, 10.0, 8.0], [40.0, 40.0, 8.0]])
    assert count_found(torch.tensor([[11.0, 10.0, 8.0], [80.0, 10.0, 8.0]]), faces).tolist() == [1, 1, 1]
    assert count_found(faces[:0], faces).tolist() == [0, 2, 0]
    assert count_found(faces, faces[:0]).tolist() == [0, 0, 2]


# Scenes


def test_a_scene_is_the_same_in_any_process_and_another_in_another_split(scenes: Mosaics) -> None:
    again = Mosaics("val", CropTransform(160), COUNTS, dict.fromkeys(COUNTS, 8), "no such folder")
    again.heads = scenes.heads
    for index in range(4):
        (image, boxes), (same_image, same_boxes) = scenes.scene(index), again.scene(index)
        assert (image == same_image).all()
        assert (boxes == same_boxes).all()
    other = Mosaics("test", CropTransform(160), COUNTS, dict.fromkeys(COUNTS, 8), "no such folder")
    other.heads = scenes.heads
    assert (other.scene(0)[0] != scenes.scene(0)[0]).any()


def test_an_item_holds_picture_and_boxes_followed_by_zeros(scenes: Mosaics) -> None:
    batch = scenes.batch([0, 1, 2, 3])
    assert batch["image"].shape == (4, 3, 160, 160)
    assert batch["image"].dtype == torch.uint8
    assert batch["boxes"].shape == (4, MOST, 3)
    for index, padded in enumerate(batch["boxes"]):
        boxes = torch.from_numpy(scenes.scene(index)[1])
        assert torch.equal(padded[: len(boxes)], boxes)
        assert not padded[len(boxes) :].any()
        assert ((boxes[:, 2] > 5) & (boxes[:, 2] < 320)).all()


def test_a_synthetic_head_is_cut_out_with_room_around_its_face(head: Cutout, scenes: Mosaics) -> None:
    box, alpha = face_box(torch.from_numpy(head.landmarks)), scenes.heads[0].alpha
    assert box.size == pytest.approx(160 / 2.4, rel=0.01)
    assert alpha[round(box.y), round(box.x)] == 255
    assert alpha[0, 0] == 0


def write_photos(folder: Path, face: Cutout, count: int) -> Path:
    """The free photos as they are published, all of them one face."""
    columns = [f"{axis}{i}" for i in range(68) for axis in "xyz"]
    row = np.column_stack([face.landmarks, np.zeros(68)]).ravel()
    for place, table in (
        ("fairface", "landmarks68_train.csv"),
        ("fairface", "landmarks68_val.csv"),
        ("portraits", "landmarks68.csv"),
    ):
        (folder / place).mkdir(parents=True, exist_ok=True)
        names = [f"{index}.png" for index in range(count)]
        pd.DataFrame([row] * count, columns=columns, index=pd.Index(names, name="file")).to_csv(folder / place / table)
        for name in names:
            cv2.imwrite(str(folder / place / name), face.image[..., ::-1])
    return folder


def test_photos_are_split_without_a_photo_in_two_splits(head: Cutout, tmp_path: Path) -> None:
    folder = write_photos(tmp_path, head, 10)
    assert free_photos(tmp_path / "nothing", "train") is None
    files = {split: [str(path.relative_to(folder)) for path, _ in free_photos(folder, split).files] for split in COUNTS}
    portraits = {split: {name for name in names if "portraits" in name} for split, names in files.items()}
    assert {split: len(names) for split, names in portraits.items()} == {"train": 8, "val": 0, "test": 2}
    assert not portraits["train"] & portraits["test"]
    assert not {*files["val"]} & {*files["test"]}
    landmarks = free_photos(folder, "val")[0].landmarks
    assert np.allclose(landmarks[17:], head.landmarks[17:], atol=1e-3)
    reach = [np.linalg.norm(points[:17] - points[27], axis=1) for points in (landmarks, head.landmarks)]
    assert np.allclose(reach[0], CONTOUR_STRETCH * reach[1], rtol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_photo_that_fills_a_scene_brings_its_box(seed: int, scenes: Mosaics) -> None:
    """The face is a bright square, off the middle, on black."""
    image, landmarks = np.zeros((160, 160, 3), np.uint8), np.full((68, 2), 80.0)
    image[70:91, 60:81], landmarks[0], landmarks[1] = 255, (60, 70), (80, 90)
    scenes = copy.copy(scenes)
    scenes.photos = [Cutout(image, None, landmarks)]  # type: ignore[assignment]
    boxes: list[FaceBox] = []
    picture = scenes._whole_photo(np.random.default_rng(seed), boxes)
    (box,) = boxes
    rows, columns = np.nonzero(picture[..., 0] > 127)
    assert (box.x, box.y) == pytest.approx((columns.mean(), rows.mean()), abs=1)
    assert box.size == pytest.approx(np.ptp(columns), abs=2)


def test_the_network_has_a_map_for_each_stride_of_pictures_of_any_multiple_of_32() -> None:
    maps = FinderNetwork(width=4)(torch.zeros(1, 3, 96, 160))
    assert [part.shape[1:] for part in maps] == [(4, 12, 20), (4, 6, 10), (4, 3, 5), (4, 2, 3)]


def test_a_broken_photo_is_left_out_and_named_and_a_damaged_table_refused(
    head: Cutout, scenes: Mosaics, tmp_path: Path
) -> None:
    folder = write_photos(tmp_path, head, 2)
    mosaics = Mosaics("test", CropTransform(160), {"test": 60}, dict.fromkeys(COUNTS, 8), str(folder))
    mosaics.heads = scenes.heads
    for photo in folder.glob("*/*.png"):
        photo.write_bytes(b"no image")
    batch = mosaics.batch(range(60))
    broken = batch["broken"].tolist()
    assert len(batch["image"]) == 60 - len(broken)
    assert broken
    assert "not an intact image" in mosaics.why_broken(broken[0])
    (folder / "portraits" / "landmarks68.csv").write_text("file,x0\na.png,1\n")
    with pytest.raises(DataError, match="not a table of file, x0, y0"):
        free_photos(folder, "train")


# Training


def tiny_config(run_dir: Path, *overrides: str) -> DictConfig:
    """A config of a few steps on few and small scenes."""
    dataset = "data.sources.mosaics.dataset"
    tiny = [
        "experiment=finder", "image_size=96", "batch_size.scenes=2", "model.width=4", f"{dataset}.num_scenes.val=2",
        f"{dataset}.num_scenes.test=2", f"{dataset}.num_heads={{train: 8, val: 8, test: 8}}", "~model/scheduler",
        "trainer.max_steps=4", "trainer.val_check_interval=2", "+trainer.enable_progress_bar=false",
        "~callbacks.progress_bar", "name=tiny", f"paths.run_dir={run_dir}", "paths.data_dir=nothing",
    ]  # fmt: skip
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=[*tiny, *overrides])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four steps."""
    folder = tmp_path_factory.mktemp("finder")
    train(tiny_config(folder))
    return folder


def test_the_train_command_trains_a_finder(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert {"train/loss_score", "train/loss_box", "val/error", "test/mosaics/recall"} <= {*metrics}
    assert (run / "checkpoints" / "best.ckpt").is_file()


def test_a_resumed_training_ends_as_if_it_had_not_stopped(run: Path, tmp_path: Path) -> None:
    train(tiny_config(tmp_path / "first", "trainer.max_steps=2"))
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    train(tiny_config(tmp_path / "second", f"checkpoint={last}"))
    ends = [torch.load(path / "checkpoints" / "last.ckpt")["state_dict"] for path in (run, tmp_path / "second")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.width=8"], "network.finder.width is 4 in the checkpoint and 8 in the config"),
        (["model.optimizer._target_=torch.optim.RMSprop"], "trained by torch.optim.adamw.AdamW"),
        (["data.sources.mosaics.dataset.num_heads.train=0"], "num_heads.train=0 must be at least 1"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(run: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(JointFaceError, match=message):
        train(tiny_config(tmp_path, f"checkpoint={run / 'checkpoints' / 'last.ckpt'}", *overrides))


def test_a_dry_run_says_how_large_the_finder_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(tiny_config(tmp_path, "dry_run=true")) == {}
    assert "parameters" in capsys.readouterr().out


# Weights


def test_the_weights_that_ship_are_small_and_those_of_the_docs() -> None:
    data = SHIPPED.read_bytes()
    assert len(data) < 2**20
    assert hashlib.sha256(data).hexdigest() == SHA256
    assert SHA256 in (Path(__file__).parents[1] / "docs" / "detection.md").read_text()
    assert all(value.isfinite().all() for value in load_file(SHIPPED).values())


def test_folding_the_batch_norms_changes_nothing() -> None:
    network = FinderNetwork(4)
    for part in network.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean)
            torch.nn.init.uniform_(part.running_var, 0.5, 2)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = network.eval()(images)
        after = fold_batch_norm(network)(images)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(before, after, strict=True))
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in network.modules())


def test_a_checkpoint_becomes_weights_that_find_the_same(run: Path, tmp_path: Path) -> None:
    checkpoint, file = run / "checkpoints" / "best.ckpt", tmp_path / "finder.safetensors"
    save_weights(checkpoint, file)
    images = torch.rand(1, 3, 64, 64)
    maps = [load_finder(path)(images) for path in (checkpoint, file)]
    assert all(torch.allclose(a, b, atol=0.02) for a, b in zip(*maps, strict=True))  # float16
    file.write_bytes(file.read_bytes()[:-9])
    for path, message in ((file, "not a whole safetensors file"), (tmp_path / "none.safetensors", "no file")):
        load_finder.cache_clear()
        with pytest.raises(CheckpointError, match=message):
            build_finder(str(path))


# Finders


def photo_of(head: Cutout, height: int, width: int, boxes: Sequence[FaceBox]) -> np.ndarray:
    """The head at each of the boxes in a grey photo."""
    photo = np.full((height, width, 3), 150, np.uint8)
    own = face_box(torch.from_numpy(head.landmarks))
    for box in boxes:
        side = round(head.image.shape[0] * box.size / own.size)
        scale = side / head.image.shape[0]
        picture = cv2.resize(head.image, (side, side), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        left, top = round(box.x - (own.x + 0.5) * scale + 0.5), round(box.y - (own.y + 0.5) * scale + 0.5)
        x0, y0 = max(left, 0), max(top, 0)
        part = picture[y0 - top : height - top, x0 - left : width - left]
        photo[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    return photo


GRID = [FaceBox(70 + 125 * (i % 5), 60 + 115 * (i // 5), 40) for i in range(20)]


@pytest.mark.parametrize(
    ("size", "boxes"),
    [
        ((480, 640), []),
        ((480, 640), [FaceBox(300, 200, 90)]),
        ((480, 640), [FaceBox(180, 200, 110), FaceBox(450, 260, 60)]),
        ((480, 640), GRID),
        ((32, 32), [FaceBox(16, 15, 18)]),
        ((480, 640), [FaceBox(320, 230, 32)]),
        ((4400, 4400), [FaceBox(2200, 2100, 3000)]),
        ((3000, 12000), [FaceBox(9000, 1500, 400), FaceBox(1500, 1400, 500)]),
        ((1, 1), []),
    ],
    ids=["0 faces", "1 face", "2 faces", "20 faces", "tiny photo", "32 pixels", "3,000 pixels", "panorama", "1 x 1"],
)
def test_the_finder_finds_the_faces_that_are_there_and_no_others(
    finder: OwnFinder, head: Cutout, size: tuple[int, int], boxes: list[FaceBox]
) -> None:
    photo = photo_of(head, *size, boxes)
    photo.flags.writeable = False
    found = finder(photo)
    assert len(found) == len(boxes)
    assert [face.box.size for face in found] == sorted((face.box.size for face in found), reverse=True)
    if boxes:
        common = overlaps(torch.tensor([face.box for face in found]), torch.tensor(boxes, dtype=torch.float32))
        assert common.max(dim=0).values.min() > 0.5


@pytest.mark.parametrize(
    ("cells", "expected", "best_score"),
    [
        # 12 pixels are half of SMALL, and 0.88 less than the largest face: doubts grow by 1.25 and by 1.352
        ([[300, 200, 100, 0.6], [90, 90, 12, 0.6], [500, 300, 12, 0.9]], {100: 0.6, 12: 1 - 0.1 * 1.25 * 1.352}, 0.875),
        ([[300, 200, 100, 0.44], [90, 90, 12, 0.5]], {}, 0.44),
        ([], {}, 0.0),
    ],
)
def test_the_smaller_a_face_the_surer_the_network_has_to_be(
    cells: list[list[float]], expected: dict[int, float], best_score: float, finder: OwnFinder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    looks = iter([torch.tensor(cells, dtype=torch.float32).view(-1, 4), torch.zeros(0, 4)])
    monkeypatch.setattr("jointface.detection.finders.decode_likely", lambda maps, lowest: next(looks))
    found = finder.search(np.zeros((480, 640, 3), np.uint8))
    assert {face.box.size: face.score for face in found.faces} == pytest.approx(expected)
    assert found.best_score == pytest.approx(best_score)


@pytest.mark.parametrize(("sizes", "widths"), [([100], [640]), ([100, 170], [640, 160]), ([], [640, 160])])
def test_faces_that_fill_the_photo_are_sought_where_there_may_be_one(
    sizes: list[float], widths: list[int], finder: OwnFinder, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []

    def look(picture: np.ndarray) -> torch.Tensor:
        searched.append(picture.shape[1])
        return torch.tensor([[300, 200, size, 0.6] for size in sizes if len(searched) == 1]).view(-1, 4)

    monkeypatch.setattr(finder, "_look", look)
    found = finder(np.zeros((480, 640, 3), np.uint8))
    assert searched == widths
    assert [face.box.size for face in found] == sizes[:1]  # that of 170 is left to the last look


BOXES = [FaceBox(20, 30, 10), FaceBox(60, 30, 16)]


@pytest.mark.parametrize(
    "found",
    [
        [FoundFace(box, 1.0) for box in BOXES],
        BOXES,
        [tuple(box) for box in BOXES],
        [[*box, 1.0] for box in BOXES],
        np.array(BOXES),
        torch.tensor(BOXES),
    ],
)
def test_a_finder_may_be_a_function_to_boxes_of_any_kind(found: Any) -> None:
    faces, best_score = search(lambda photo: found, np.zeros((50, 90, 3), np.uint8))
    assert faces == [FoundFace(box, 1.0) for box in BOXES[::-1]]  # the largest first
    assert best_score == 1.0


@pytest.mark.parametrize("found", [None, [3.0], [(1, 2)], [(10, 20, 30, 40)], [(1, 2, -3)], [(1, 2, 3, 0.5, 6)], "box"])
def test_what_is_no_face_of_a_function_is_shown_with_what_is_expected(found: Any) -> None:
    with pytest.raises(ConfigError, match=r"the finder returned .*: expected a list of FoundFace\(box, score\)"):
        search(lambda photo: found, np.zeros((50, 90, 3), np.uint8))


def test_threads_share_a_finder(finder: OwnFinder, head: Cutout) -> None:
    photos = [photo_of(head, 200, 240 + 40 * i, [FaceBox(100 + 20 * i, 90, 40 + 5 * i)]) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(finder, photos)) == [finder(photo) for photo in photos]


def test_boxes_that_are_given_are_every_photos_faces() -> None:
    box = FaceBox(20, 30, 10)
    assert GivenBoxes([box])(np.zeros((50, 50, 3), np.uint8)) == [FoundFace(box, 1.0)]
    with pytest.raises(ConfigError, match="size above 0"):
        GivenBoxes([FaceBox(1, 2, 0)])


def test_a_picture_that_is_a_crop_frames_its_face_as_crops_do() -> None:
    (face,) = WholePicture()(np.zeros((96, 96, 3), np.uint8))
    assert torch.allclose(crop_transform(face.box, 96), torch.eye(2, 3), atol=1e-4)
    assert face.box.size == pytest.approx(96 / CROP_MARGIN)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build_finder("haar"), "finder=haar: choose from finder, yunet, none"),
        (lambda: build_finder("nowhere.onnx"), "no file .*nowhere.onnx: looked there for YuNet"),
        (lambda: YuNet(__file__), "not face_detection_yunet_2023mar.onnx of OpenCV's model zoo"),
        (lambda: OwnFinder(threshold=0), "lowest score of a face: 0, expected one above 0"),
    ],
)
def test_a_finder_that_cannot_be_made_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_without_a_network_yunet_is_refused_with_where_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(ConfigError, match=r"cannot be downloaded .*no network.*: save https://github.com/opencv"):
        build_finder("yunet")


def test_both_finders_frame_real_faces_alike(finder: OwnFinder, real_data: Path) -> None:
    yunet = build_finder(str(real_data / "detectors" / "face_detection_yunet_2023mar.onnx"))
    for path, _ in free_photos(real_data, "test").files[-8:]:
        photo = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
        own, other = (torch.tensor([face.box for face in find(photo)]) for find in (finder, yunet))
        assert overlaps(own, other[:1]).max().item() > 0.6
