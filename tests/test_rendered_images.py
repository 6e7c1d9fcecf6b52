"""Drawn faces as files: written, predicted by somebody who knows the truth, judged."""

import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from jointface.datamodules import AFLW2000, CropTransform, Florence, SyntheticFaces
from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import ConfigError, DataError
from jointface.evaluate import evaluate
from jointface.evaluation.methods import LabelMethod
from jointface.evaluation.prediction_files import write_prediction
from jointface.evaluation.rendered_images import image_files, write_images
from jointface.geometry import MorphableModel
from jointface.geometry.camera import apply_camera
from tests.data.florence import data as florence_data
from tests.test_evaluate import evaluation_config

VIEWS = {"pitches": [20], "yaws": [-40, 0]}


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reports' own figures, which nobody looks at here, become empty files."""
    monkeypatch.setattr("jointface.evaluation.report._image_files", lambda figure: {"png": b"", "pdf": b""})


@pytest.fixture
def florence(tmp_path: Path, tiny_model: MorphableModel) -> Florence:
    root = florence_data.write(tmp_path / "data" / "florence", tiny_model, subjects=1)
    return Florence(root, "test", CropTransform(32), tiny_model, **VIEWS, view_size=120)


def names_of(dataset: FaceDataset) -> list[str]:
    return [dataset.name(index) for index in range(len(dataset))]


def picture(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)


def test_each_view_is_a_picture_with_the_name_that_its_prediction_has(florence: Florence, tmp_path: Path) -> None:
    names = write_images(florence, tmp_path / "out")
    assert names == ["subject_01_pitch+20_yaw-40", "subject_01_pitch+20_yaw+0"] == names_of(florence)
    boxes = pd.read_csv(tmp_path / "out" / "face_boxes.csv")
    for index, name in enumerate(names):
        sample = florence.read(index)
        assert np.array_equal(picture(tmp_path / "out" / f"{name}.png"), sample.image)
        assert boxes["file"][index] == f"{name}.png"
        assert boxes.loc[index, ["x", "y", "size"]].tolist() == pytest.approx(list(sample.box), abs=1e-3)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_a_folder_of_the_same_pictures_is_written_anew_one_of_others_is_refused(tmp_path: Path) -> None:
    dataset = SyntheticFaces("test", CropTransform(48), 2)
    write_images(dataset, tmp_path)
    (tmp_path / "synthetic_test_000001.png").write_bytes(b"cut short")
    (tmp_path / "notes.txt").write_text("stays")
    assert write_images(dataset, tmp_path) == ["synthetic_test_000000", "synthetic_test_000001"]
    assert np.array_equal(picture(tmp_path / "synthetic_test_000001.png"), dataset.read(1).image)
    assert (tmp_path / "notes.txt").read_text() == "stays"
    (tmp_path / "holiday.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds 1 other pictures, e.g. holiday.png; choose another folder"):
        write_images(dataset, tmp_path)


def test_a_scan_that_cannot_be_read_is_left_out(
    tmp_path: Path, tiny_model: MorphableModel, caplog: pytest.LogCaptureFixture
) -> None:
    root = florence_data.write(tmp_path / "florence", tiny_model)
    next(root.glob("subject_01/Model/frontal1/obj/*.bmp")).unlink()
    dataset = Florence(root, "test", CropTransform(32), tiny_model, **VIEWS, view_size=60)
    with caplog.at_level(logging.WARNING):
        names = write_images(dataset, tmp_path / "out")
    assert [name[:10] for name in names] == ["subject_02", "subject_02"]
    assert [record.getMessage().startswith("Left out: ") for record in caplog.records] == [True]
    next(root.glob("subject_02/Model/frontal1/obj/*.bmp")).unlink()
    with pytest.raises(DataError, match=r"no face can be rendered; .*no texture"):
        write_images(dataset.subset(len(dataset)), tmp_path / "none")  # which has not read the scan yet
    assert not (tmp_path / "none").exists()


def test_photos_that_are_files_are_not_drawn(tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path) -> None:
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)
    with pytest.raises(ConfigError, match=r"the photos of this benchmark are files, e.g. .*\.jpg"):
        write_images(dataset, tmp_path / "out")
    assert image_files(dataset, None)["image00002"] == dataset.path(0)
    with pytest.raises(ConfigError, match="images needs the benchmark whose faces to render"):
        evaluate(evaluation_config(tiny_data, tmp_path / "out", f"images={tmp_path / 'out'}"))
    assert not (tmp_path / "out").exists()


def test_views_of_florence_predicted_by_who_knows_the_scans_have_no_error(
    florence: Florence, tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    views = [f"benchmarks.florence.data.dataset.{key}={value}" for key, value in VIEWS.items()]
    given = ["benchmark=florence", f"paths.bfm_dir={tiny_data}/bfm_3ddfa", *views]
    images, theirs = tmp_path / "images", tmp_path / "theirs"
    evaluate(evaluation_config(tmp_path / "data", tmp_path / "none", *given, f"images={images}"))
    assert not (tmp_path / "none").exists()
    person = torch.from_numpy(florence_data.vertices(tiny_model, seed=1)).float()
    florence.view_size = 450
    for index, path in enumerate(sorted(images.glob("*.png"), key=lambda path: names_of(florence).index(path.stem))):
        assert picture(path).shape == (450, 450, 3)
        vertices = apply_camera(florence.view_camera(index)[None], person[None])[0]
        write_prediction(theirs / f"{path.stem}.npz", vertices=vertices, triangles=tiny_model.triangles)
    out = tmp_path / "out"
    metrics = evaluate(evaluation_config(tmp_path / "data", out, *given, f"compare=[Theirs:{theirs}]"))
    assert metrics["florence/Theirs/nme"] < 1e-3
    assert metrics["florence/num_images"] == 2
    assert metrics["florence/num_subjects"] == 1
    assert "florence/Theirs/num_images" not in metrics
    assert json.loads((out / "metrics.json").read_text()) == pytest.approx(metrics)


def test_synthetic_faces_predicted_by_who_knows_the_labels_have_no_error(tmp_path: Path) -> None:
    images, theirs, out = (tmp_path / name for name in ("images", "theirs", "out"))
    given = ["benchmark=synthetic", "num_images=2"]
    evaluate(evaluation_config(tmp_path, out, *given, f"images={images}"))
    assert sorted(path.name for path in images.glob("*.png")) == [
        "synthetic_test_000000.png", "synthetic_test_000001.png"
    ]  # fmt: skip
    dataset = SyntheticFaces("test", CropTransform(256), 2)
    truth = LabelMethod(dataset.factory.head.model)
    for index, name in enumerate(names_of(dataset)):
        sample = dataset.read(index)
        assert np.array_equal(picture(images / f"{name}.png"), sample.image)
        (face,) = truth.predict([sample], [name])
        assert face is not None
        faces = {"landmarks68": face.landmarks68, "vertices": face.vertices, "triangles": face.triangles}
        write_prediction(theirs / f"{name}.npz", **faces, pose=face.pose)
    metrics = evaluate(evaluation_config(tmp_path, out, *given, f"compare=[Theirs:{theirs}]"))
    for error in ("nme_2d_68", "nme_3d_dense", "dense_mm", "pose_error"):
        assert metrics[f"synthetic/Theirs/{error}"] < 1e-3
    assert metrics["synthetic/num_images"] == 2
    rows = pd.read_csv(out / "per_image" / "synthetic.csv")
    assert {"yaw", "yaw_error", "pitch_error", "roll_error"} < set(rows.columns)
    assert set(rows["file"]) == {"synthetic_test_000000", "synthetic_test_000001"}


def test_what_other_programs_made_of_the_pictures_is_imported(
    florence: Florence, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="import: the faces of this benchmark are rendered; also set images=FOLDER"):
        image_files(florence, None)
    views = [f"benchmarks.florence.data.dataset.{key}={value}" for key, value in VIEWS.items()]
    given = ["benchmark=florence", f"paths.bfm_dir={tiny_data}/bfm_3ddfa", *views, f"images={tmp_path / 'images'}"]
    evaluate(evaluation_config(tmp_path / "data", tmp_path / "none", *given))
    (tmp_path / "prnet").mkdir()
    landmarks = np.arange(204.0).reshape(68, 3)
    for name in names_of(florence):
        np.savetxt(tmp_path / "prnet" / f"{name}_kpt.txt", landmarks)
    made = tmp_path / "made"
    evaluate(evaluation_config(tmp_path / "data", made, *given, f"import={tmp_path / 'prnet'}"))
    assert sorted(path.stem for path in made.glob("*.npz")) == sorted(names_of(florence))
