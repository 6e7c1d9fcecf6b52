"""Whole evaluations on tiny data: what they leave, that numbers do not hang on the batch, what is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from matplotlib.figure import Figure
from omegaconf import DictConfig

from jointface.command_line import CONF_DIR
from jointface.datamodules import AFLW2000, CropTransform
from jointface.errors import CheckpointError, ConfigError, DataError, JointFaceError
from jointface.evaluate import evaluate
from jointface.evaluation import shape_figures
from jointface.evaluation.prediction_files import write_prediction
from jointface.evaluation.shape_figures import errors_by_method
from jointface.geometry import MorphableModel
from jointface.train import train
from tests.data.florence import data as florence_data
from tests.data.prnet.data import write_3ddfa
from tests.test_training import tiny_config


@pytest.fixture(scope="module")
def checkpoint(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joint checkpoint after two steps."""
    folder = tmp_path_factory.mktemp("runs") / "joint" / "2026-01-01_10-00-00"
    train(tiny_config(tiny_data, folder, "trainer.max_steps=2", "~callbacks.figures"))
    return folder / "checkpoints" / "best.ckpt"


def evaluation_config(data: Path, output_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        given = [f"paths.data_dir={data}", f"output_dir={output_dir}", "device=cpu", *overrides]
        return compose("evaluate", overrides=given)


@pytest.fixture(scope="module")
def shape_report(checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aflw2000")
    evaluate(evaluation_config(tiny_data, folder, "benchmark=aflw2000", f"checkpoint={checkpoint}"))
    return folder


@pytest.fixture(scope="module")
def attribute_report(checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("celeba")
    evaluate(evaluation_config(tiny_data, folder, "benchmark=celeba", f"checkpoint={checkpoint}"))
    return folder


def methods(metrics: dict[str, float]) -> set[str]:
    """Whom the keys of metrics.json are about."""
    return {key.split("/")[1] for key in metrics} - {"num_images", "num_subjects"}


# --- what a run leaves


def test_aflw2000_leaves_numbers_tables_figures_and_the_page(shape_report: Path) -> None:
    metrics = json.loads((shape_report / "metrics.json").read_text())
    for method in ("joint", "labels", "mean face"):
        for metric in ("nme_2d_68", "nme_3d_dense", "pose_error", "nme_2d_68/auc"):
            assert np.isfinite(metrics[f"aflw2000/{method}/{metric}"])
    assert metrics["aflw2000/num_images"] == 3
    per_image = pd.read_csv(shape_report / "per_image" / "aflw2000.csv")
    assert len(per_image) == 9  # three photos, three methods
    joint = per_image[per_image["method"] == "joint"]
    assert joint["nme_2d_68"].mean() == pytest.approx(metrics["aflw2000/joint/nme_2d_68"], rel=1e-4)
    figures = {path.name for path in (shape_report / "figures").iterdir()}
    for stem in ("nme-2d-68-curve", "nme-2d-68-by-yaw", "faces", "errors-on-the-mean-face"):
        assert {f"aflw2000_{stem}.png", f"aflw2000_{stem}.pdf"} <= figures
    tables = [path.read_text() for path in (shape_report / "tables").glob("*.md")]
    assert any("| joint |" in table and "PRNet" in table for table in tables)
    assert all(r"\toprule" in path.read_text() for path in (shape_report / "tables").glob("*.tex"))
    page = (shape_report / "report.html").read_text()
    for text in ("image00002.jpg", "joint", "data:image/png;base64", "data:image/jpeg;base64", "2026-01-01_10-00-00"):
        assert text in page
    assert not list(shape_report.rglob("*.tmp"))
    assert not (shape_report / "missing.csv").exists()  # nothing is missing


def test_celeba_leaves_each_attribute(attribute_report: Path) -> None:
    metrics = json.loads((attribute_report / "metrics.json").read_text())
    assert 0 <= metrics["celeba/joint/balanced_accuracy/Smiling"] <= 1
    assert "celeba/joint/calibration_error" in metrics
    assert metrics["celeba/num_images"] == 4
    assert metrics["celeba/joint/num_attributes"] == metrics["celeba/trivial/num_attributes"]
    assert "000017.jpg" in (attribute_report / "report.html").read_text()
    per_image = pd.read_csv(attribute_report / "per_image" / "celeba.csv")
    assert per_image["index"].tolist() == [0, 1, 2, 3]
    assert {".md", ".tex"} == {path.suffix for path in (attribute_report / "tables").iterdir()}


@pytest.mark.parametrize("benchmark", ["aflw2000", "celeba"])
def test_numbers_do_not_hang_on_the_batch_size(
    benchmark: str, checkpoint: Path, tiny_data: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    first = request.getfixturevalue("shape_report" if benchmark == "aflw2000" else "attribute_report")
    evaluate(
        evaluation_config(tiny_data, tmp_path, f"benchmark={benchmark}", f"checkpoint={checkpoint}", "batch_size=1")
    )
    expected, found = (json.loads((folder / "metrics.json").read_text()) for folder in (first, tmp_path))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=1e-5, abs=1e-5), key


def test_the_same_run_twice_gives_the_same_files(
    shape_report: Path, checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    evaluate(evaluation_config(tiny_data, tmp_path, "benchmark=aflw2000", f"checkpoint={checkpoint}"))
    for name in ("metrics.json", "per_image/aflw2000.csv", "report.html"):
        assert (tmp_path / name).read_bytes() == (shape_report / name).read_bytes(), name


def test_florence_shows_faces_beside_scans(
    checkpoint: Path, tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    florence_data.write(tmp_path / "florence", tiny_model)
    overrides = (f"checkpoint={checkpoint}", f"paths.bfm_dir={tiny_data}/bfm_3ddfa")
    views = ("benchmarks.florence.data.dataset.yaws=[0]", "benchmarks.florence.data.dataset.pitches=[-15]")
    out = tmp_path / "out"
    metrics = evaluate(evaluation_config(tmp_path, out, "benchmark=florence", "num_images=1", *overrides, *views))
    assert metrics["florence/joint/nme"] > 0
    assert methods(metrics) == {"joint", "mean face"}
    assert (out / "figures" / "florence_faces.pdf").is_file()
    assert not list(out.glob("figures/*mean-face*"))  # scans have other vertices
    assert "subject_01_pitch-15_yaw+0" in (out / "per_image" / "florence.csv").read_text()


def test_all_runs_what_it_can_and_names_the_rest(checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    metrics = evaluate(evaluation_config(tiny_data, tmp_path, f"checkpoint={checkpoint}", "~benchmarks.synthetic"))
    assert {key.split("/")[0] for key in metrics} == {"aflw2000", "celeba", "lfwa"}
    assert "florence was not run: no folder" in (tmp_path / "report.html").read_text()


def test_checkpoints_of_one_task_take_part_where_they_can(checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "shape_only"
    train(tiny_config(tiny_data, run, "experiment=shape_300wlp", "trainer.max_steps=2", "~callbacks.figures"))
    shape_only = run / "checkpoints" / "best.ckpt"
    both = f"checkpoint=[{checkpoint},{shape_only}]"
    metrics = evaluate(evaluation_config(tiny_data, tmp_path / "a", "benchmark=celeba", both))
    assert methods(metrics) == {"joint", "trivial"}
    assert "shape_only is left out: it has no attributes" in (tmp_path / "a" / "report.html").read_text()
    metrics = evaluate(evaluation_config(tiny_data, tmp_path / "b", "benchmark=aflw2000", both))
    assert methods(metrics) == {"joint", "shape_only", "labels", "mean face"}
    with pytest.raises(ConfigError, match="benchmark celeba asks for attributes, which shape_only predicts none of"):
        evaluate(evaluation_config(tiny_data, tmp_path / "c", "benchmark=celeba", f"checkpoint={shape_only}"))
    assert not (tmp_path / "c").exists()


def test_another_morphable_model_is_compared_where_landmarks_are(
    checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The same photos and labels, read with fewer coefficients: the checkpoint's vertices are then another model's."""
    overrides = ("benchmark=aflw2000", f"checkpoint={checkpoint}", "morphable_model.shape_components=2")
    metrics = evaluate(evaluation_config(tiny_data, tmp_path, *overrides))
    assert "aflw2000/joint/nme_2d_68" in metrics
    assert "aflw2000/joint/nme_3d_dense" not in metrics
    assert "joint predicts the vertices of another morphable model" in (tmp_path / "report.html").read_text()


# --- other methods


def predictions(folder: Path, data: Path, model: MorphableModel, photos: int) -> Path:
    """The true landmarks, five pixels to the right."""
    dataset = AFLW2000(data / "AFLW2000", "test", CropTransform(64), model)
    for index in range(photos):
        moved = dataset.read(index).labels["landmarks68"] + torch.tensor([5.0, 0.0, 0.0])
        write_prediction(folder / f"{dataset.path(index).stem}.npz", landmarks68=moved)
    return folder


def test_other_methods_stand_in_the_same_tables(
    checkpoint: Path, tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    folder = predictions(tmp_path / "theirs", tiny_data, tiny_model, photos=2)
    out = tmp_path / "out"
    compare = f"compare=[Theirs:{folder}]"
    metrics = evaluate(evaluation_config(tiny_data, out, "benchmark=aflw2000", f"checkpoint={checkpoint}", compare))
    assert 0 < metrics["aflw2000/Theirs/nme_2d_68"] < 0.1
    page = (out / "report.html").read_text()
    assert "Theirs has no prediction for 1 of 3 photos, which its errors leave out; missing.csv lists them." in page
    assert (out / "missing.csv").read_text() == "benchmark,method,file\naflw2000,Theirs,image00006.jpg\n"
    assert (metrics["aflw2000/num_images"], metrics["aflw2000/Theirs/num_images"]) == (3, 2)
    assert "not ranked: Theirs." in page
    assert "image00006" in page
    alone = evaluate(evaluation_config(tiny_data, tmp_path / "alone", "benchmark=aflw2000", compare))
    assert alone["aflw2000/Theirs/nme_2d_68"] == metrics["aflw2000/Theirs/nme_2d_68"]


def test_files_of_other_programs_become_predictions(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    for index in range(len(dataset)):
        landmarks = dataset.read(index).labels["landmarks68"].numpy()
        np.savetxt(source / f"{dataset.path(index).stem}_kpt.txt", landmarks)
    evaluate(evaluation_config(tiny_data, made, "benchmark=aflw2000", f"import={source}"))
    assert sorted(path.name for path in made.iterdir()) == ["image00002.npz", "image00004.npz", "image00006.npz"]
    metrics = evaluate(evaluation_config(tiny_data, tmp_path / "out", "benchmark=aflw2000", f"compare=[PRNet:{made}]"))
    assert metrics["aflw2000/PRNet/nme_2d_68"] < 1e-3


def test_what_no_method_predicts_has_no_table_and_no_curve(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    """Landmarks alone: there is no dense face and no pose to compare, only those of the references."""
    folder = predictions(tmp_path / "theirs", tiny_data, tiny_model, photos=3)
    config = evaluation_config(tiny_data, tmp_path / "out", "benchmark=aflw2000", f"compare=[Theirs:{folder}]")
    metrics = evaluate(config)
    assert "aflw2000/labels/nme_3d_dense/auc" not in metrics
    left = {path.name for path in (tmp_path / "out").rglob("*.*")}
    assert "aflw2000_nme-2d-68-curve.png" in left
    assert not any("dense-curve" in name or "mean-face" in name or "head-pose" in name for name in left)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Tables left out, for no method has a number there: AFLW2000-3D, head pose." in page


def test_what_is_wrong_with_predictions_is_said_once(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One prediction of three, with coordinates from 0 to 1."""
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)
    folder, out = tmp_path / "theirs", tmp_path / "out"
    write_prediction(folder / f"{dataset.path(0).stem}.npz", landmarks68=dataset.read(0).labels["landmarks68"] / 450)
    evaluate(evaluation_config(tiny_data, out, "benchmark=aflw2000", f"compare=[Theirs:{folder}]"))
    printed = " ".join("".join(capsys.readouterr()).split())
    assert printed.count("has no prediction for 2 of 3 photos") == 1
    assert "image00004" not in printed
    assert printed.count("Theirs: 1 of 1 predictions, e.g. image00002.npz, lie all within two pixels of") == 1
    assert "Theirs: 1 of 1 predictions, e.g. image00002.npz" in (out / "report.html").read_text()


@pytest.mark.slow
def test_predictions_of_one_benchmark_are_left_out_of_the_others(
    checkpoint: Path, tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    florence_data.write(tmp_path / "florence", tiny_model)
    folder = predictions(tmp_path / "theirs", tiny_data, tiny_model, photos=3)
    overrides = (
        "benchmark=all", f"checkpoint={checkpoint}", f"compare=[Theirs:{folder}]", "~benchmarks.synthetic",
        "~benchmarks.celeba", "~benchmarks.lfwa", f"benchmarks.florence.data.dataset.root={tmp_path / 'florence'}",
        "benchmarks.florence.data.dataset.yaws=[0]", "benchmarks.florence.data.dataset.pitches=[-15]", "num_images=3",
    )  # fmt: skip
    metrics = evaluate(evaluation_config(tiny_data, tmp_path / "out", *overrides))
    assert {key.split("/")[0] for key in metrics if "/Theirs/" in key} == {"aflw2000"}
    assert "Theirs is left out: it has no prediction for any photo." in (tmp_path / "out" / "report.html").read_text()


def test_3ddfas_meshes_take_the_triangles_of_the_benchmarks_model(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    for index in range(len(dataset)):
        labels = dataset.read(index).labels
        keys = ("shape_coefficients", "expression_coefficients", "camera")
        vertices = tiny_model.project(*(labels[key][None] for key in keys))[0].numpy()
        write_3ddfa(source, dataset.path(index).stem, vertices, labels["landmarks68"].numpy())
    evaluate(evaluation_config(tiny_data, made, "benchmark=aflw2000", f"import={source}"))
    metrics = evaluate(evaluation_config(tiny_data, tmp_path / "out", "benchmark=aflw2000", f"compare=[3DDFA:{made}]"))
    assert metrics["aflw2000/3DDFA/nme_3d_dense"] < 1e-4


# --- subsets


def test_a_quick_look_says_so(checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    overrides = ("benchmark=aflw2000", f"checkpoint={checkpoint}", "num_images=1")
    evaluate(evaluation_config(tiny_data, tmp_path, *overrides))
    assert len(pd.read_csv(tmp_path / "per_image" / "aflw2000.csv")) == 3
    assert "a quick look: at most 1" in (tmp_path / "report.html").read_text()


def test_what_the_numbers_are_over_travels_with_the_tables(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    folder = predictions(tmp_path / "theirs", tiny_data, tiny_model, photos=1)
    given = ("benchmark=aflw2000", f"compare=[Theirs:{folder}]")
    evaluate(evaluation_config(tiny_data, tmp_path / "whole", *given))
    evaluate(evaluation_config(tiny_data, tmp_path / "quick", *given, "num_images=2"))
    for table in [*tmp_path.glob("whole/tables/*.md"), *tmp_path.glob("whole/tables/*.tex")]:
        text = table.read_text()
        assert "Theirs (1 of 3)" in text, table
        assert "Only 3 of the 2,000 published" in text, table
    for table in [*tmp_path.glob("quick/tables/*.md"), *tmp_path.glob("quick/tables/*.tex")]:
        assert "A quick look at 2 images." in table.read_text(), table


def test_a_quick_look_says_how_many_faces_thresholds_come_from(
    checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    overrides = ("benchmark=celeba", f"checkpoint={checkpoint}", "num_images=3")
    evaluate(evaluation_config(tiny_data, tmp_path, *overrides))
    tables = [path.read_text() for path in (tmp_path / "tables").glob("*mean-over*.md")]
    assert tables
    assert all("thresholds from 3 validation faces" in table for table in tables)


def test_the_heat_map_and_the_table_agree(
    checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both divide by the box of the data set's own landmarks."""
    means = {}

    def note_means(_: np.ndarray, __: np.ndarray, errors: dict[str, np.ndarray], label: str) -> Figure:
        means.update({name: np.nanmean(values) for name, values in errors.items()})
        return Figure()

    monkeypatch.setattr(shape_figures, "error_heat_map", note_means)
    metrics = evaluate(evaluation_config(tiny_data, tmp_path, "benchmark=aflw2000", f"checkpoint={checkpoint}"))
    assert means["joint"] == pytest.approx(100 * metrics["aflw2000/joint/nme_3d_dense"], rel=1e-4)


def test_a_mesh_without_landmarks_is_refused_where_it_cannot_be_compared(
    checkpoint: Path, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The importer warns, the benchmark ends."""
    source, made = tmp_path / "source", tmp_path / "made"
    source.mkdir()
    (source / "image00002.obj").write_text("v 1 2 3\nv 4 2 3\nv 1 9 3\nf 1 2 3\n")
    evaluate(evaluation_config(tiny_data, made, "benchmark=aflw2000", f"import={source}"))
    assert "1 of 1 predictions have neither landmarks nor the mesh" in caplog.text
    given = ("benchmark=aflw2000", f"checkpoint={checkpoint}", f"compare=[Theirs:{made}]")
    with pytest.raises(DataError, match=r"nothing of Theirs can be compared on AFLW2000-3D: .*landmarks68") as caught:
        evaluate(evaluation_config(tiny_data, tmp_path / "out", *given))
    assert "\n" not in str(caught.value)


def test_an_image_without_a_prediction_has_no_error() -> None:
    per_image = pd.DataFrame({
        "method": ["b", "b", "a", "a", "c"], "index": [1, 0, 0, 1, 1], "error": [1.0, np.nan, np.nan, np.nan, 3.0],
    })  # fmt: skip
    errors = errors_by_method(per_image, "error")
    assert list(errors) == ["b", "c"]
    np.testing.assert_array_equal(errors["b"], [np.nan, 1])
    np.testing.assert_array_equal(errors["c"], [np.nan, 3])  # without a row of its own
    assert errors_by_method(per_image, "another") == {}


# --- what is refused


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["checkpoint=null"], ConfigError, "nothing to evaluate: set checkpoint="),
        (["checkpoint=nowhere.ckpt"], CheckpointError, "no checkpoint at .*nowhere.ckpt"),
        (["batch_size=0"], ConfigError, "batch_size=0: expected a whole number above 0"),
        (["num_images=few"], ConfigError, "num_images=few: expected a whole number above 0"),
        (["device=abacus"], ConfigError, "device=abacus: there is no such device here"),
        (["precision=float16"], ConfigError, "precision=float16: known are float64, float32"),
        (["compare=[PRNet]"], ConfigError, "compare=PRNet: expected NAME:FOLDER"),
        (["compare=[PRNet:nowhere]"], DataError, "no folder .*nowhere"),
        (["compare=[joint:nowhere]"], ConfigError, "two methods are called 'joint'"),
        (["compare=[a/b:nowhere]"], ConfigError, "a method's name is a word or more, without /"),
        (
            ["paths.data_dir=nowhere", "paths.bfm_dir=DATA/bfm_3ddfa"],
            DataError,
            "^paths.data_dir=nowhere is no folder: .*AFLW2000",
        ),
        (["paths.data_dir=nowhere"], DataError, "^paths.data_dir=nowhere is no folder: set it to the one that holds"),
        (["checkpoint=RUN"], CheckpointError, "the folder of a run, not a checkpoint; give .*checkpoints/best.ckpt"),
        (["paths.bfm_dir=nowhere"], DataError, "no folder .*nowhere: looked there for u_shp.npy"),
        (["benchmark=all", "import=somewhere"], ConfigError, "import needs to know whose photos"),
        (["benchmark=all", "compare=[PRNet:nowhere]"], DataError, "no folder .*nowhere"),
        (["import=nowhere"], DataError, "no folder .*nowhere"),
        (["benchmark=florence"], DataError, "no folder .*florence: looked there for MICC Florence"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    overrides: list[str],
    error: type[JointFaceError],
    message: str,
    checkpoint: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    given = ["benchmark=aflw2000", f"checkpoint={checkpoint}"]
    keys = {override.split("=")[0] for override in overrides}
    run = str(checkpoint.parent.parent)
    overrides = [override.replace("DATA", str(tiny_data)).replace("RUN", run) for override in overrides]
    overrides = [entry for entry in given if entry.split("=")[0] not in keys] + overrides
    with pytest.raises((JointFaceError, InstantiationException)) as caught:
        evaluate(evaluation_config(tiny_data, tmp_path / "out", *overrides))
    wrapped = isinstance(caught.value, InstantiationException)  # by Hydra, while it built a class
    reason = caught.value.__cause__ if wrapped else caught.value
    assert isinstance(reason, error)
    assert re.search(message, str(reason)), str(reason)
    assert "\n" not in str(reason)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("empty folder", "no .npz file in .*theirs: looked there for predictions"),
        (
            "of other photos",
            r"none of the 3 .npz files in .*theirs is named after a photo of aflw2000: looked for image00002.npz, "
            r"image00004.npz, image00006.npz; there is other_image00002.npz, .*; name the file for STEM.jpg STEM.npz",
        ),
        ("damaged", "image00002.npz: not a readable .npz file"),
        ("pickled", "image00002.npz: not a readable .npz file"),
        ("text", "image00002.npz: not a readable .npz file"),
    ],
)
def test_broken_predictions_are_refused_in_one_line(
    change: str, message: str, tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    folder = predictions(tmp_path / "theirs", tiny_data, tiny_model, photos=3)
    path = folder / "image00002.npz"
    if change == "damaged":
        path.write_bytes(path.read_bytes()[:100])
    elif change == "text":
        path.write_text("68 landmarks")
    elif change == "pickled":
        np.savez(path, landmarks68=np.array([{}], dtype=object))
    else:
        for file in list(folder.iterdir()):
            if change == "of other photos":
                shutil.copy(file, folder / f"other_{file.name}")
            file.unlink()
    config = evaluation_config(tiny_data, tmp_path / "out", "benchmark=aflw2000", f"compare=[Theirs:{folder}]")
    with pytest.raises(DataError, match=message) as caught:
        evaluate(config)
    assert "\n" not in str(caught.value)
    assert "allow_pickle" not in str(caught.value)


def test_all_with_nothing_to_run_says_why(checkpoint: Path, tmp_path: Path) -> None:
    config = evaluation_config(
        tmp_path / "nowhere", tmp_path / "out", f"checkpoint={checkpoint}", "~benchmarks.synthetic"
    )
    with pytest.raises(ConfigError, match=r"no benchmark could be run; aflw2000 was not run: .*; florence was not run"):
        evaluate(config)


def command(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "jointface.evaluate", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_command_prints_tables_and_where_the_report_is(checkpoint: Path, tiny_data: Path, tmp_path: Path) -> None:
    result = command(
        f"checkpoint={checkpoint}", "benchmark=aflw2000", f"paths.data_dir={tiny_data}", "device=cpu", folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "mean face" in result.stdout
    report = tmp_path / "evaluation" / "aflw2000" / "report.html"
    assert f"The report is {report}" in result.stdout
    assert report.is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation"}


@pytest.mark.slow
def test_an_import_goes_to_a_folder_of_its_own(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "PRNet").mkdir()
    np.savetxt(tmp_path / "PRNet" / "image00002_kpt.txt", np.ones((68, 3)))
    result = command("import=PRNet", "benchmark=aflw2000", f"paths.data_dir={tiny_data}", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    made = tmp_path / "predictions" / "aflw2000" / "PRNet"
    assert sorted(path.name for path in made.iterdir()) == ["image00002.npz", "missing.txt"]
    assert "compare=[PRNet:predictions/aflw2000/PRNet]" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["benchmark=aflw2001"], "aflw2001"),
        pytest.param(["checkpoint=nowhere.ckpt"], "no checkpoint at", marks=pytest.mark.slow),
        pytest.param(["batchsize=3"], "batchsize", marks=pytest.mark.slow),
    ],
)
def test_the_command_line_answers_mistakes_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = command(*arguments, folder=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# --- the real files


def test_the_labels_of_the_real_files_are_the_floor(real_data: Path, tmp_path: Path) -> None:
    """NME of the six files' own coefficients: what their pt3d_68 differs from the 40 + 10 basis."""
    folder = tmp_path / "any"
    folder.mkdir()
    np.savez(folder / "image00050.npz", landmarks68=np.zeros((68, 2)))
    config = evaluation_config(real_data, tmp_path / "out", "benchmark=aflw2000", f"compare=[Any:{folder}]")
    metrics = evaluate(config)
    assert metrics["aflw2000/labels/nme_2d_68"] < 0.015
    assert metrics["aflw2000/mean face/nme_2d_68"] > 0.1
