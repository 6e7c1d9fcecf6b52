"""Synthetic faces on disk: what the loaders read is what the direct source gives."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jointface.attributes import CELEBA
from jointface.datamodules import W300LP, CelebA, CropTransform, SyntheticFaces
from jointface.errors import ConfigError, DataError
from jointface.geometry import load_bfm_3ddfa
from jointface.geometry.bfm import load_bfm2009
from jointface.synthesis.export import export
from jointface.synthesis.faces import FaceFactory, shared_factory
from jointface.synthesis.layouts import CelebAFolder
from jointface.synthesis.measures import SYNTHETIC

FACES = 20
SIZE = 96


@pytest.fixture(scope="module")
def factory() -> FaceFactory:
    return shared_factory(seed=0, images_per_person=1, max_yaw=90.0, assets_dir=None, backgrounds_dir=None,
                          supersampling=1, cache_dir=None)  # fmt: skip


@pytest.fixture(scope="module")
def folder(factory: FaceFactory, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export(factory, {"seed": 0}, folder, FACES, extension=".png", num_workers=0)
    return folder


def test_celeba_loader_reads_the_direct_sources_labels_and_crops(folder: Path) -> None:
    transform = CropTransform(SIZE)
    for split, count in (("train", 16), ("val", 2), ("test", 2)):
        files = CelebA(folder / "celeba", split, transform)
        direct = SyntheticFaces(split, transform, num_faces=count)
        assert len(files) == count
        for read, drawn in zip(files, direct, strict=True):  # type: ignore[call-overload]
            labels = dict(zip(CELEBA.attributes, read["attributes"].tolist(), strict=True))
            for name, value in zip(SYNTHETIC.attributes, drawn["attributes"].tolist(), strict=True):
                assert labels.get(name, value) == value
            difference = (read["image"].int() - drawn["image"].int()).abs().float()
            assert difference.mean() < 6  # grey levels: drawn at 136 pixels and reduced, or drawn at 96


def test_300wlp_loader_reads_the_direct_sources_shape(folder: Path, factory: FaceFactory) -> None:
    model = factory.head.model
    basis = load_bfm_3ddfa(str(folder / "bfm_3ddfa"), model.num_shape, model.num_expression)
    assert basis.content_hash() == model.content_hash()
    transform = CropTransform(SIZE)
    files = W300LP(folder / "300W_LP", "train", transform, basis, ["Synthetic_train"], 0)
    direct = SyntheticFaces("train", transform, num_faces=16)
    for read, drawn in zip(files, direct, strict=True):  # type: ignore[call-overload]
        for key in ("shape_coefficients", "expression_coefficients"):
            torch.testing.assert_close(read[key], drawn[key], rtol=0, atol=0)
        read_face, drawn_face = (
            model.project(*(item[key][None] for key in ("shape_coefficients", "expression_coefficients", "camera")))
            for item in (read, drawn)
        )
        assert (read_face - drawn_face)[..., :2].abs().max() < 0.05  # pixels of 96
        assert (read["image"].int() - drawn["image"].int()).abs().float().mean() < 8


def test_face3d_reads_the_same_head(folder: Path, factory: FaceFactory) -> None:
    model = factory.head.model
    face3d = load_bfm2009(str(folder / "bfm2009" / "BFM.mat"), model.num_shape, model.num_expression)
    torch.testing.assert_close(face3d.mean, model.mean)
    torch.testing.assert_close(face3d.basis, model.basis)


def test_manifest_names_every_face(folder: Path) -> None:
    with (folder / "manifest.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"{number:06d}" for number in range(1, FACES + 1)]
    assert len({row["identity"] for row in rows}) == FACES
    assert all(abs(float(row["yaw"])) <= 90 for row in rows)
    assert (folder / "contact_sheet.png").stat().st_size > 50_000


def test_another_call_goes_on_where_the_first_stopped(
    factory: FaceFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(factory, {"seed": 0}, tmp_path, 9, layouts=["celeba"], num_workers=0)
    images = sorted((tmp_path / "celeba" / "img_align_celeba").iterdir())
    images[0].unlink()
    before = {image: image.stat().st_mtime_ns for image in images[1:]}
    written: list[str] = []
    write = CelebAFolder.write_image
    monkeypatch.setattr(
        CelebAFolder, "write_image", lambda self, name, image: (written.append(name), write(self, name, image))
    )
    export(factory, {"seed": 0}, tmp_path, 9, layouts=["celeba"], num_workers=0)
    assert written == ["000001"]
    assert {image: image.stat().st_mtime_ns for image in images[1:]} == before


def test_a_folder_keeps_to_its_settings(factory: FaceFactory, tmp_path: Path) -> None:
    export(factory, {"seed": 0}, tmp_path, 3, layouts=["celeba"], num_workers=0)
    with pytest.raises(ConfigError, match=r"other settings .seed.*another output_dir"):
        export(factory, {"seed": 1}, tmp_path, 3, layouts=["celeba"], num_workers=0)


def test_a_folder_keeps_to_its_number_of_faces(factory: FaceFactory, tmp_path: Path) -> None:
    """Another number would shift the splits under files that are there."""
    export(factory, {"seed": 0}, tmp_path, 3, layouts=["celeba"], num_workers=0)
    with pytest.raises(ConfigError, match=r"other settings .num_faces"):
        export(factory, {"seed": 0}, tmp_path, 5, layouts=["celeba"], num_workers=0)


def test_a_call_that_came_to_nothing_leaves_nothing(
    factory: FaceFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise DataError("a broken photo")

    monkeypatch.setattr(FaceFactory, "render", broken)
    with pytest.raises(DataError, match="a broken photo"):
        export(factory, {"seed": 0}, tmp_path / "out", 3, num_workers=0)
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
        export(factory, {"seed": 0}, tmp_path, 12, layouts=["celeba"], num_workers=0)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) == 5
    assert {file.suffix for file in files} == {".jpg", ".json"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["num_faces=0", "output_dir=OUT"], "num_faces=0: expected a whole number of at least 1"),
        (["num_faces=-3", "output_dir=OUT"], "num_faces=-3: expected a whole number"),
        (["num_faces=3", "output_dir=/proc/nowhere"], "/proc/nowhere"),
        (["num_faces=abc", "output_dir=OUT"], "num_faces=abc: expected a whole number"),
        (["num_faces=3", "output_dir=OUT", "quality=1000"], "quality=1000: expected a whole number from 1 to 100"),
        (["num_faces=3", "output_dir=OUT", "layouts=[lfw]"], "known are celeba, 300wlp"),
        (["num_faces=3", "output_dir=OUT", "synthesis.backgrounds_dir=OUT/none"], "background"),
        (["num_faces=3"], "output_dir"),
    ],
)
def test_bad_input_ends_with_one_line(tmp_path: Path, overrides: list[str], message: str) -> None:
    out = tmp_path / "out"
    arguments = [override.replace("OUT", str(out)) for override in overrides]
    process = subprocess.run(
        [sys.executable, "-m", "jointface.synthesize", *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert process.returncode == 1
    assert process.stderr.strip().count("\n") == 0
    assert message in process.stderr
    assert not out.exists()


def test_png_export_is_what_was_drawn(folder: Path, factory: FaceFactory) -> None:
    import cv2

    from jointface.synthesis.export import ALIGNED_BOX, _in_picture

    face = factory.face("train", 3)
    camera = _in_picture(face, ALIGNED_BOX._replace(x=ALIGNED_BOX.x + 20))
    drawn = factory.render([face], camera[None], 218)[0, :, :, 20:198].movedim(0, -1).numpy()
    read = cv2.imread(str(folder / "celeba" / "img_align_celeba" / "000004.png"), cv2.IMREAD_COLOR_RGB)
    assert np.abs(read.astype(int) - drawn.astype(int)).mean() < 0.05  # alone or in a batch: rounding
