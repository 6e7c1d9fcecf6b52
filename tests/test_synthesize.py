"""Synthetic faces on disk: what the loaders read is what the direct source gives."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas
import pytest
import torch

from jointface.attributes import CELEBA
from jointface.datamodules import W300LP, CelebA, CropTransform, SyntheticFaces
from jointface.errors import ConfigError, DataError
from jointface.geometry import load_bfm_3ddfa
from jointface.geometry.bfm import load_bfm2009
from jointface.synthesis.face_files import Plan, export
from jointface.synthesis.faces import FaceFactory
from jointface.synthesis.measures import SYNTHETIC
from jointface.synthesize import main
from tests.commands import run_command

FACES, SIZE = 10, 96
QUICK: dict[str, Any] = {"layouts": ["celeba"], "num_workers": 0}


@pytest.fixture(scope="module")
def folder(factory: FaceFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export(factory, {"seed": 0}, folder, Plan(FACES, extension=".png", num_workers=0))
    return folder


def test_celeba_loader_reads_the_labels_and_crops_of_the_direct_source(folder: Path) -> None:
    transform = CropTransform(SIZE)
    for split, count in (("train", 8), ("val", 1), ("test", 1)):
        files = CelebA(folder / "celeba", split, transform)
        direct = SyntheticFaces(split, transform, num_faces=count)
        assert len(files) == count
        for read, rendered in zip(files, direct, strict=True):  # type: ignore[call-overload]
            labels = dict(zip(CELEBA.attributes, read["attributes"].tolist(), strict=True))
            for name, value in zip(SYNTHETIC.attributes, rendered["attributes"].tolist(), strict=True):
                assert labels.get(name, value) == value
            difference = (read["image"].int() - rendered["image"].int()).abs().float()
            assert difference.mean() < 6  # grey levels: rendered at 136 pixels and reduced, or rendered at 96


def test_300wlp_loader_reads_the_shape_of_the_direct_source(folder: Path, factory: FaceFactory) -> None:
    model = factory.head.model
    basis = load_bfm_3ddfa(str(folder / "bfm_3ddfa"), model.num_shape, model.num_expression)
    assert basis.content_hash() == model.content_hash()
    transform = CropTransform(SIZE)
    files = W300LP(folder / "300W_LP", "train", transform, basis, ["Synthetic_train"], 0)
    direct = SyntheticFaces("train", transform, num_faces=8)
    for read, rendered in zip(files, direct, strict=True):  # type: ignore[call-overload]
        for key in ("shape_coefficients", "expression_coefficients"):
            torch.testing.assert_close(read[key], rendered[key], rtol=0, atol=0)
        read_face, rendered_face = (
            model.project(*(item[key][None] for key in ("shape_coefficients", "expression_coefficients", "camera")))
            for item in (read, rendered)
        )
        assert (read_face - rendered_face)[..., :2].abs().max() < 0.05  # pixels of 96
        assert (read["image"].int() - rendered["image"].int()).abs().float().mean() < 8


def test_face3d_reads_the_same_head(folder: Path, factory: FaceFactory) -> None:
    model = factory.head.model
    face3d = load_bfm2009(str(folder / "bfm2009" / "BFM.mat"), model.num_shape, model.num_expression)
    torch.testing.assert_close(face3d.mean, model.mean)
    torch.testing.assert_close(face3d.basis, model.basis)


def test_the_manifest_has_a_row_for_each_face(folder: Path, factory: FaceFactory) -> None:
    rows = pandas.read_csv(folder / "manifest.csv", dtype={"name": str})
    assert list(rows["name"]) == [f"{number:06d}" for number in range(1, FACES + 1)]
    assert list(rows["split"]) == ["train"] * 8 + ["val", "test"]
    assert list(rows["index"]) == [*range(8), 0, 0]
    assert rows["identity"].nunique() == FACES
    assert (rows["yaw"].abs() <= 90).all()
    attributes = factory.attributes([factory.face("train", index) for index in range(8)])
    assert (rows[list(SYNTHETIC.attributes)].to_numpy()[:8] == attributes.numpy()).all()
    assert (folder / "contact_sheet.png").stat().st_size > 50_000


def test_a_png_holds_every_rendered_pixel(folder: Path, factory: FaceFactory) -> None:
    face = factory.face("train", 3)
    side = 1.58 * 86.2  # of the crop around the face box of aligned CelebA, whose centre is (88.9, 139.8)
    to_image = torch.diag(torch.tensor([side, side, side]))
    camera = to_image @ face.camera + torch.tensor([[0, 0, 0, 20 + 88.9], [0, 0, 0, 139.8], [0, 0, 0, 0]])
    rendered = factory.render([face], camera[None], 218)[0, :, :, 20:198].movedim(0, -1).numpy()
    read = cv2.imread(str(folder / "celeba" / "img_align_celeba" / "000004.png"), cv2.IMREAD_COLOR_RGB)
    assert np.abs(read.astype(int) - rendered.astype(int)).mean() < 0.05  # alone or in a batch: rounding


# A folder that holds faces already


@pytest.mark.parametrize(
    ("layout", "lost"),
    [("celeba", "img_align_celeba/000001.jpg"), ("300wlp", "Synthetic_train/000001.jpg"),
     ("300wlp", "Synthetic_train/000001.mat")],
)  # fmt: skip
def test_a_repeated_call_writes_what_is_missing_and_keeps_the_rest(
    factory: FaceFactory, tmp_path: Path, layout: str, lost: str
) -> None:
    plan = Plan(3, val_fraction=0, test_fraction=0, layouts=[layout], num_workers=0)
    export(factory, {"seed": 0}, tmp_path, plan)
    (first,) = tmp_path.rglob(lost)
    others = {path: path.stat().st_mtime_ns for path in first.parent.iterdir() if path.stem != first.stem}
    first.unlink()
    export(factory, {"seed": 0}, tmp_path, plan)
    assert first.is_file()
    assert {path: path.stat().st_mtime_ns for path in others} == others


@pytest.mark.parametrize(("seed", "faces", "named"), [(1, 3, "seed"), (0, 5, "num_faces")])
def test_other_settings_or_numbers_are_refused(
    factory: FaceFactory, tmp_path: Path, seed: int, faces: int, named: str
) -> None:
    """Another number would shift the splits under files that are there."""
    export(factory, {"seed": 0}, tmp_path, Plan(3, **QUICK))
    with pytest.raises(ConfigError, match=rf"other settings \({named}\): choose another output_dir"):
        export(factory, {"seed": seed}, tmp_path, Plan(faces, **QUICK))


def test_unusable_folders_are_named(factory: FaceFactory, tmp_path: Path) -> None:
    (tmp_path / "settings.json").write_text("{")
    for folder, message in (
        (tmp_path, r"settings.json: not readable .*choose another output_dir"),
        (tmp_path / "settings.json", r"settings.json is a file: choose a folder"),
        (Path("/proc/nowhere"), r"cannot write /proc/nowhere/settings.json"),
    ):
        with pytest.raises((ConfigError, DataError), match=message):
            export(factory, {}, folder, Plan(3, **QUICK))


def test_a_call_that_wrote_no_face_leaves_nothing(
    factory: FaceFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise DataError("a broken photo")

    monkeypatch.setattr(FaceFactory, "render", broken)
    with pytest.raises(DataError, match="a broken photo"):
        export(factory, {"seed": 0}, tmp_path / "out", Plan(3, num_workers=0))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_file(factory: FaceFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, count = os.replace, [0]

    def full_after_five(source: str, target: str) -> None:
        count[0] += 1
        if count[0] > 5:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full_after_five)
    with pytest.raises(DataError, match="No space left"):
        export(factory, {"seed": 0}, tmp_path, Plan(12, **QUICK))
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert sorted(file.suffix for file in files) == [".jpg"] * 4 + [".json"]


# Bad input


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_faces": 0}, "num_faces=0: expected a whole number of at least 1"),
        ({"num_faces": -3}, "num_faces=-3: expected a whole number of at least 1"),
        ({"num_workers": -1}, "num_workers=-1: expected a whole number of at least 0"),
        ({"quality": 1000}, "quality=1000: expected a whole number from 1 to 100"),
        ({"val_fraction": 1.0}, "val_fraction=1.0: expected a number from 0 to below 1"),
        ({"test_fraction": -0.1}, "test_fraction=-0.1: expected a number from 0 to below 1"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "val_fraction=0.5 and test_fraction=0.5 leave no face"),
        ({"layouts": ["lfw"]}, r"layouts=\['lfw'\]: choose from celeba, 300wlp"),
        ({"layouts": []}, r"layouts=\[\]: choose from celeba, 300wlp"),
        ({"extension": ".gif"}, "extension=.gif: choose from .jpg, .png"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan(**{"num_faces": 3, **values})


# The command


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # set by the command, and inherited by processes of other tests

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["synthesize", *arguments])
        main()

    return run


def test_the_command_writes_the_faces_of_its_config(tmp_path: Path, command: Callable[..., None]) -> None:
    command("num_faces=2", "output_dir=out", "layouts=[celeba]", "num_workers=0", "synthesis.max_yaw=20")
    settings = json.loads((tmp_path / "out" / "settings.json").read_text())
    assert settings["num_faces"] == 2
    assert settings["max_yaw"] == 20
    assert "cache_dir" not in settings
    assert len(list((tmp_path / "out" / "celeba" / "img_align_celeba").iterdir())) == 2


def test_the_command_needs_a_folder(tmp_path: Path, command: Callable[..., None]) -> None:
    with pytest.raises(SystemExit, match=r"^error: Missing mandatory value: output_dir$"):
        command("num_faces=3")
    assert not list(tmp_path.iterdir())


def test_bad_input_ends_the_program_with_one_line(tmp_path: Path) -> None:
    finished = run_command("synthesize", "num_faces=0", "output_dir=out", folder=tmp_path)
    assert finished.returncode == 1
    assert finished.stderr == "error: num_faces=0: expected a whole number of at least 1\n"
    assert not list(tmp_path.iterdir())
