"""Packed copies and `jointface.prepare`: the same samples, verified, resumable; and what is said of a data set."""

import csv
import json
import logging
import os
import runpy
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch.utils.data import DataLoader

from jointface.command_line import CONF_DIR
from jointface.datamodules import (
    AFLW2000,
    LFWA,
    W300LP,
    Augmentation,
    CelebA,
    CropTransform,
    FaceDataset,
    Florence,
    JointDataModule,
    PackedFaces,
    Source,
    crop_store,
)
from jointface.datamodules.crop_store import PackedReader, PackedWriter
from jointface.datamodules.loading import Batches, identity_collate
from jointface.datamodules.packed import settings_of
from jointface.datamodules.sample_check import CheckedSample
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel
from jointface.modules.source_metrics import true_face
from jointface.prepare import prepare
from tests.commands import run_command
from tests.data.celeba import data as celeba_data

SIZE = 48
CROP = CropTransform(SIZE)


def pack(dataset: Any, folder: Path, **options: Any) -> dict[str, Any]:
    """Packs it in this process."""
    settings = {"pack": True, "image_size": SIZE, "num_workers": 0, **options}
    return prepare("tiny", dataset, folder, **settings)


@pytest.fixture(scope="session")
def packed(tiny_data: Path, tiny_model: MorphableModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packed copies of three tiny data sets."""
    folder = tmp_path_factory.mktemp("packed")
    pack(partial(CelebA, root=tiny_data / "celeba"), folder / "celeba")
    fitted = {"morphable_model": tiny_model}
    pack(partial(W300LP, root=tiny_data / "300W_LP", val_fraction=0.4, **fitted), folder / "300wlp")
    pack(partial(AFLW2000, root=tiny_data / "AFLW2000", **fitted), folder / "aflw2000")
    return folder


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test packs has an empty contact sheet, which else takes most of the time."""
    monkeypatch.setattr("jointface.datamodules.description.contact_sheet", lambda pictures, captions: b"")


@pytest.fixture
def celeba_copy(packed: Path, tmp_path: Path) -> Path:
    """CelebA's packed copy, to break."""
    return Path(shutil.copytree(packed / "celeba", tmp_path / "copy"))


def difference(first: torch.Tensor, second: torch.Tensor) -> float:
    return (first.float() - second.float()).abs().mean().item()


def same_samples(copy: FaceDataset, original: FaceDataset, model: MorphableModel | None = None) -> None:
    """Equal in length, order, labels and, but for JPEG, in pixels."""
    assert len(copy) == len(original)
    for index in range(len(original)):
        theirs, ours = original[index], copy[index]
        assert set(theirs) == set(ours)
        assert difference(theirs.pop("image"), ours.pop("image")) < 4  # of 255
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, atol=2e-4 * SIZE, rtol=1e-4)
        assert copy.path(index) == original.path(index).absolute()
    assert copy.has_shape == original.has_shape
    assert copy.label_set == original.label_set


def test_a_packed_copy_holds_the_same_samples(packed: Path, tiny_data: Path, tiny_model: MorphableModel) -> None:
    for split in ("train", "val", "test"):
        same_samples(PackedFaces(packed / "celeba", split, CROP), CelebA(tiny_data / "celeba", split, CROP))
    original = W300LP(tiny_data / "300W_LP", "train", CROP, tiny_model, val_fraction=0.4)
    same_samples(PackedFaces(packed / "300wlp", "train", CROP), original)
    aflw2000 = AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model)
    same_samples(PackedFaces(packed / "aflw2000", "test", CROP), aflw2000)


def test_alpha_is_that_of_the_data_set(packed: Path, tiny_data: Path) -> None:
    copy, original = PackedFaces(packed / "celeba", "train", CROP), CelebA(tiny_data / "celeba", "train", CROP)
    torch.testing.assert_close(copy.alpha(), original.alpha())


def test_augmented_crops_find_pixels_in_the_margin(packed: Path, tiny_data: Path, tiny_model: MorphableModel) -> None:
    """Turned and shifted crops of the copy are those of the photo itself, to the corners."""
    vary = CropTransform(SIZE, Augmentation(rotation=12, scale=0.1, shift=0.02, flip=0.5))
    copy = PackedFaces(packed / "aflw2000", "test", vary)
    original = AFLW2000(tiny_data / "AFLW2000", "test", vary, tiny_model)
    for seed in range(4):
        torch.manual_seed(seed)
        ours = copy.batch([0, 1, 2])
        torch.manual_seed(seed)
        theirs = original.batch([0, 1, 2])
        assert difference(ours["image"], theirs["image"]) < 8  # sharp dots, interpolated twice
        torch.testing.assert_close(ours["landmarks68"], theirs["landmarks68"], atol=0.02, rtol=0)
        landmarks, vertices = true_face(tiny_model, ours)
        torch.testing.assert_close(landmarks, vertices[:, tiny_model.landmarks68], atol=0.03, rtol=0)


def test_a_smaller_crop_may_be_cut_from_it_and_a_larger_may_not(packed: Path, tiny_data: Path) -> None:
    small = CropTransform(SIZE // 2)
    ours, theirs = PackedFaces(packed / "celeba", "train", small), CelebA(tiny_data / "celeba", "train", small)
    assert difference(ours[2]["image"], theirs[2]["image"]) < 6
    with pytest.raises(ConfigError, match=f"packed for crops of {SIZE} pixels, image_size=64 is larger"):
        PackedFaces(packed / "celeba", "train", CropTransform(64))


def test_workers_read_it_beside_each_other_and_the_main_process(packed: Path) -> None:
    dataset = PackedFaces(packed / "300wlp", "train", CROP)
    first = dataset[0]["image"]  # the file is open here when workers are forked
    loader = DataLoader(Batches(dataset), batch_size=4, num_workers=2, collate_fn=identity_collate)
    for _ in range(2):
        seen = torch.cat([batch["index"] for batch in loader])
        assert sorted(seen.tolist()) == list(range(len(dataset)))
    assert torch.equal(dataset[0]["image"], first)


def test_the_joint_datamodule_reads_packed_copies(packed: Path, tiny_data: Path, tiny_model: MorphableModel) -> None:
    sources = {
        "celeba": Source(partial(CelebA, root=tiny_data / "celeba"), {"train": "train"}, 4, packed="celeba"),
        "w300lp": Source(
            partial(W300LP, root=tiny_data / "300W_LP", val_fraction=0.4, morphable_model=tiny_model),
            {"train": "train"}, 2, packed="300wlp",
        ),
    }  # fmt: skip
    datamodule = JointDataModule(sources, image_size=SIZE, num_workers=0, packed_dir=str(packed))
    datamodule.setup("fit")
    assert all(isinstance(dataset, PackedFaces) for dataset in datamodule.datasets["train"].values())
    batch, _, _ = next(iter(datamodule.train_dataloader()))
    assert batch["celeba"]["image"].shape == (4, 3, SIZE, SIZE)
    assert batch["w300lp"]["camera"].shape == (2, 3, 4)


# Refused


def test_a_copy_made_with_other_settings_is_refused(packed: Path, tiny_data: Path, tiny_model: MorphableModel) -> None:
    other = partial(W300LP, root=tiny_data / "300W_LP", val_fraction=0.1, morphable_model=tiny_model)
    with pytest.raises(DataError, match=r"packed with other settings \(val_fraction=0.4 there, 0.1 now\)"):
        PackedFaces(packed / "300wlp", "train", CROP, settings_of(other), tiny_model)


def test_a_copy_of_another_morphable_model_is_refused(packed: Path, tiny_model: MorphableModel) -> None:
    changed = MorphableModel(
        name=tiny_model.name, mean=tiny_model.mean + 1, shape_basis=tiny_model.shape_basis,
        expression_basis=tiny_model.expression_basis, triangles=tiny_model.triangles, uv=tiny_model.uv,
        landmarks68=tiny_model.landmarks68, mirror=tiny_model.mirror,
    )  # fmt: skip
    with pytest.raises(DataError, match="coefficients refer to another morphable model"):
        PackedFaces(packed / "300wlp", "train", CROP, None, changed)


def test_missing_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no file .*train.lmdb: .*write it with `python -m jointface.prepare"):
        PackedReader(tmp_path / "train.lmdb")
    (tmp_path / "train.lmdb.partial").touch()
    with pytest.raises(DataError, match=r"no file .*train.lmdb: .*repeat the command to finish it"):
        PackedReader(tmp_path / "train.lmdb")
    (tmp_path / "val.lmdb").write_bytes(b"not LMDB" * 100)
    with pytest.raises(DataError, match=r"val.lmdb: not a packed split"):
        PackedReader(tmp_path / "val.lmdb")


def change_record(path: Path, index: int) -> None:
    """Flips a bit of a picture."""
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as writing:
        key = index.to_bytes(8, "big")
        record = bytearray(writing.get(key))
        record[len(record) // 2] ^= 1
        writing.put(key, bytes(record))


def test_a_flipped_bit_is_a_broken_sample(celeba_copy: Path) -> None:
    change_record(celeba_copy / "train.lmdb", 3)
    dataset = PackedFaces(celeba_copy, "train", CROP)
    with pytest.raises(DataError, match=r"wrong checksum of sample 3 \(img_align_celeba/000004.jpg\); repeat"):
        dataset[3]
    batch = dataset.batch([2, 3, 4])
    assert batch["index"].tolist() == [2, 4]
    assert batch["broken"].tolist() == [3]


def test_damaged_labels_are_refused(celeba_copy: Path) -> None:
    path = celeba_copy / "train.lmdb"
    with lmdb.open(str(path), subdir=False, lock=False) as environment, environment.begin(write=True) as writing:
        writing.put(b"columns", b"0000" + bytes(writing.get(b"columns"))[4:])
    with pytest.raises(DataError, match="not a complete packed split; delete it and pack"):
        PackedReader(path)


@pytest.mark.parametrize("share", [0.95, 0.5, 0.1, 0.03])
def test_a_file_that_was_cut_short_is_refused(celeba_copy: Path, share: float) -> None:
    """Reading it would end the process with SIGBUS."""
    path = celeba_copy / "train.lmdb"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match=r"train.lmdb: (truncated|not a packed split)"):
        PackedReader(path)


# Broken samples, and interruptions


@pytest.fixture
def broken_celeba(tmp_path: Path) -> Path:
    """CelebA with a cut image."""
    root = celeba_data.write(tmp_path / "celeba")
    image = root / "img_align_celeba" / "000003.jpg"
    image.write_bytes(image.read_bytes()[:500])
    return root


@pytest.mark.parametrize("packing", [True, False])
def test_a_broken_sample_is_listed_and_stays_one(broken_celeba: Path, tmp_path: Path, packing: bool) -> None:
    report = pack(partial(CelebA, root=broken_celeba), tmp_path / "out", pack=packing)
    (row,) = csv.DictReader((tmp_path / "out" / "broken.csv").open())
    assert (row["split"], row["index"]) == ("train", "2")
    assert row["file"].endswith("000003.jpg")
    assert "not an intact image" in row["reason"]
    assert report["broken"][0]["index"] == 2
    assert report["attributes"][0]["labelled"] == 11
    if packing:
        dataset = PackedFaces(tmp_path / "out", "train", CROP)
        assert len(dataset) == 12
        with pytest.raises(DataError, match=r"000003.jpg: not an intact image"):
            dataset[2]
        assert dataset.alpha().isfinite().all()


def test_an_interrupted_packing_goes_on_where_it_was(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("jointface.datamodules.sample_check.CHUNK", 4)
    dataset = partial(CelebA, root=tiny_data / "celeba")
    write, written = PackedWriter.write, []

    def interrupted(writer: PackedWriter, samples: list[CheckedSample]) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append([sample.index for sample in samples])
        write(writer, samples)

    with monkeypatch.context() as patch:
        patch.setattr(PackedWriter, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(dataset, tmp_path)
    assert written == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert not (tmp_path / "train.lmdb").exists()
    assert (tmp_path / "train.lmdb.partial").exists()
    with caplog.at_level(logging.INFO):
        pack(dataset, tmp_path)
    assert "tiny train: 8 of 12 samples are packed already" in caplog.text
    same_samples(PackedFaces(tmp_path, "train", CROP), CelebA(tiny_data / "celeba", "train", CROP))
    assert sorted(path.name for path in tmp_path.glob("*.lmdb*")) == ["test.lmdb", "train.lmdb", "val.lmdb"]


def test_a_finished_copy_is_described_again_and_never_overwritten_by_another_size(
    tiny_data: Path, celeba_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, first = partial(CelebA, root=tiny_data / "celeba"), json.loads((celeba_copy / "report.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr("jointface.datamodules.packed.PackedWriter", None)
        assert pack(dataset, celeba_copy) == first
    with pytest.raises(DataError, match=r"packed with other settings \(image_size=48 there, 64 now, .*choose another"):
        pack(dataset, celeba_copy, image_size=64)
    assert PackedReader(celeba_copy / "val.lmdb").meta["image_size"] == SIZE


def test_repeating_the_command_repairs_what_can_be_read_by_now(broken_celeba: Path, tmp_path: Path) -> None:
    """A damaged record and a sample that was broken are repaired; a damaged one whose file is broken too is not."""
    dataset, images = partial(CelebA, root=broken_celeba), broken_celeba / "img_align_celeba"
    pack(dataset, tmp_path / "out")
    for index in (3, 7):
        change_record(tmp_path / "out" / "train.lmdb", index)
    (images / "000003.jpg").write_bytes((images / "000005.jpg").read_bytes())
    whole = (images / "000004.jpg").read_bytes()
    (images / "000004.jpg").write_bytes(b"damaged")
    assert [row["index"] for row in pack(dataset, tmp_path / "out")["broken"]] == [3]
    assert not PackedFaces(tmp_path / "out", "train", CROP).labels["attribute_mask"][3].any()
    (images / "000004.jpg").write_bytes(whole)
    assert pack(dataset, tmp_path / "out")["broken"] == []
    assert not (tmp_path / "out" / "broken.csv").exists()
    same_samples(PackedFaces(tmp_path / "out", "train", CROP), CelebA(broken_celeba, "train", CROP))


def test_a_copy_that_only_lacks_its_name_keeps_its_labels(tiny_data: Path, celeba_copy: Path) -> None:
    """The writer may be stopped between its last transaction and the renaming."""
    (celeba_copy / "train.lmdb").rename(celeba_copy / "train.lmdb.partial")
    pack(partial(CelebA, root=tiny_data / "celeba"), celeba_copy)
    same_samples(PackedFaces(celeba_copy, "train", CROP), CelebA(tiny_data / "celeba", "train", CROP))


def test_a_file_grows_beyond_the_address_space_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointface.datamodules.crop_store.MAP_SIZE", 1 << 17)
    picture = np.random.default_rng(0).bytes(100_000)
    with PackedWriter(tmp_path / "train.lmdb", {"format": 1}) as writer:
        for index in range(8):
            writer.write([CheckedSample(index, {"index": np.array(index)}, picture)])
        writer.finish(np.array(["photo"] * 8))
    reader = PackedReader(tmp_path / "train.lmdb")
    assert [reader.picture(index).tobytes() for index in range(8)] == [picture] * 8


def test_systems_that_cannot_fork_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "register_at_fork")
    assert runpy.run_path(crop_store.__file__)["PackedReader"]


def test_two_cannot_pack_one_file(tmp_path: Path) -> None:
    with PackedWriter(tmp_path / "train.lmdb", {}), pytest.raises(DataError, match="another process is packing it"):
        PackedWriter(tmp_path / "train.lmdb", {})
    assert [path.name for path in tmp_path.iterdir()] == ["train.lmdb.partial"]


def test_a_data_set_of_broken_samples_is_described_all_the_same(tmp_path: Path) -> None:
    root = celeba_data.write(tmp_path / "celeba")
    for image in (root / "img_align_celeba").iterdir():
        image.write_bytes(b"damaged")
    report = pack(partial(CelebA, root=root), tmp_path / "out")
    assert len(report["broken"]) == 20
    with pytest.raises(DataError, match="all its samples are broken"):
        PackedFaces(tmp_path / "out", "train", CROP).alpha()


def test_splits_that_are_not_there_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = celeba_data.write(tmp_path / "celeba")
    for number in range(13, 21):  # those of val and test
        (root / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        assert pack(partial(CelebA, root=root), tmp_path / "out", pack=False)["samples"] == {"train": 12}
    assert "tiny: val is left out: CelebA's val split is empty" in caplog.text


def test_an_output_folder_that_cannot_be_is_refused_at_once(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"cannot write to the folder, .*file is a file; choose another"):
            pack(partial(CelebA, root=tiny_data / "celeba"), folder)


def test_a_key_that_the_class_does_not_have_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"source.dataset cannot be opened: .*colour"):
        pack(partial(CelebA, root=tiny_data / "celeba", colour="blue"), tmp_path)


def test_a_refused_command_leaves_the_users_files_alone(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / ".hydra").mkdir()
    for name in ("mine.log", ".hydra/config.yaml"):
        (tmp_path / name).write_text("mine")
    done = run_command("prepare", "source=celeba", "paths.data_dir=nowhere", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no folder")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == [".hydra", "config.yaml", "mine.log"]


# The description


def test_the_description_says_what_the_labels_say(packed: Path, tiny_data: Path) -> None:
    report = json.loads((packed / "celeba" / "report.json").read_text())
    dataset = CelebA(tiny_data / "celeba", "train", CROP)
    labels = torch.stack([dataset[index]["attributes"] for index in range(12)])
    rows = [row for row in report["attributes"] if row["split"] == "train"]
    assert [row["attribute"] for row in rows] == list(dataset.label_set.attributes)  # type: ignore[union-attr]
    assert [row["positives"] for row in rows] == labels.sum(0).tolist()
    assert [row["prevalence"] for row in rows] == pytest.approx(labels.mean(0).tolist(), abs=1e-4)
    assert [row["alpha"] for row in rows] == pytest.approx(dataset.alpha().tolist(), abs=1e-4)
    assert {count["what"]: count["published"] for count in report["inventory"]}["images"] == 202599
    assert not (packed / "celeba" / "broken.csv").exists()
    assert not (packed / "celeba" / "yaw.csv").exists()


def test_the_yaw_histogram_is_that_of_the_poses(packed: Path, tiny_data: Path) -> None:
    import scipy.io

    yaws = [scipy.io.loadmat(path)["Pose_Para"][0, 1] for path in (tiny_data / "AFLW2000").glob("image*.mat")]
    expected, _ = np.histogram(np.rad2deg(yaws), np.arange(-90, 91, 10))
    rows = list(csv.DictReader((packed / "aflw2000" / "yaw.csv").open()))
    assert [int(row["faces"]) for row in rows] == expected.tolist()
    assert (rows[0]["from_degrees"], rows[-1]["to_degrees"]) == ("-90", "90")


@pytest.mark.parametrize("name", ["celeba", "300wlp", "aflw2000"])
def test_the_pictures_are_there(packed: Path, name: str) -> None:
    sheet = cv2.imread(str(packed / name / "contact_sheet.png"))
    assert sheet.std() > 20
    assert (packed / name / "yaw.png").exists() == (name != "celeba")


def test_every_data_set_can_be_prepared(tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path) -> None:
    """LFWA and Florence too; the others are packed above."""
    from tests.data.florence import data as florence_data

    pack(partial(LFWA, root=tiny_data / "LFWA"), tmp_path / "lfwa")
    assert len(json.loads((tmp_path / "lfwa" / "report.json").read_text())["attributes"]) == 3 * 73
    florence_data.write(tmp_path / "florence", tiny_model, subjects=1)
    views = partial(
        Florence, root=tmp_path / "florence", morphable_model=tiny_model, pitches=[0], yaws=[-40, 40], view_size=120
    )
    report = pack(views, tmp_path / "out")
    assert report["samples"] == {"test": 2}
    assert PackedFaces(tmp_path / "out", "test", CROP)[1]["identity"].item() == 1
    faces = {(row["from_degrees"], row["to_degrees"]): row["faces"] for row in report["yaw"] if row["faces"]}
    assert faces == {(-40, -30): 1, (40, 50): 1}


def test_names_on_the_command_line(tiny_data: Path) -> None:
    published = [path.stem for path in (CONF_DIR / "source").glob("*.yaml") if not path.stem.startswith("synthetic")]
    for source in sorted(published):
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            config = compose("prepare", overrides=[f"source={source}", f"paths.data_dir={tiny_data}"])
        assert config.output_dir == f"{tiny_data}/prepared/{source}"
        if source == "florence":
            assert instantiate(config.source.dataset, morphable_model=None).func is Florence


@pytest.mark.parametrize("options", [{"image_size": 8}, {"margin": -1}, {"quality": 0}, {"num_workers": -1}])
def test_odd_numbers_are_refused(tiny_data: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(options))}="):
        pack(partial(CelebA, root=tiny_data / "celeba"), tmp_path, **options)
    assert not list(tmp_path.iterdir())
