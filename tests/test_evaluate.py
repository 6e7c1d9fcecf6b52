"""Whole evaluations on tiny data: what they write, who takes part in which benchmark, what is refused."""

import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, InstantiationException
from matplotlib.figure import Figure
from omegaconf import DictConfig

from jointface.command_line import CONF_DIR
from jointface.datamodules import AFLW2000, CropTransform
from jointface.errors import CheckpointError, ConfigError, DataError, JointFaceError
from jointface.evaluate import evaluate
from jointface.evaluation import report as report_files
from jointface.evaluation import shape_figures
from jointface.evaluation.prediction_files import write_prediction
from jointface.evaluation.shape_figures import errors_by_method
from jointface.geometry import MorphableModel
from jointface.train import train
from tests.commands import run_command
from tests.data.florence import data as florence_data
from tests.data.prnet.data import write_3ddfa
from tests.test_training import tiny_config

Report = tuple[Path, dict[str, float]]


def evaluation_config(data: Path, output_dir: Path | str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        given = [f"paths.data_dir={data}", f"output_dir={output_dir}", "device=cpu", *overrides]
        return compose("evaluate", overrides=given)


DRAW = report_files._image_files


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Iterator[None]:
    """Figures become empty files where nobody looks at them: drawing takes most of the time of an evaluation."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_files, "_image_files", lambda figure: {"png": b"", "pdf": b""})
        yield


@pytest.fixture(scope="module")
def checkpoint(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A joint checkpoint after two steps."""
    folder = tmp_path_factory.mktemp("runs") / "joint" / "2026-01-01_10-00-00"
    train(tiny_config(tiny_data, folder, "trainer.max_steps=2", "~callbacks.figures"))
    return folder / "checkpoints" / "best.ckpt"


@pytest.fixture(scope="module")
def shape_only(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without an attribute classifier."""
    run = tmp_path_factory.mktemp("runs") / "shape_only"
    train(tiny_config(tiny_data, run, "experiment=shape_300wlp", "trainer.max_steps=2", "~callbacks.figures"))
    return run / "checkpoints" / "best.ckpt"


@pytest.fixture
def aflw2000(tiny_data: Path, tiny_model: MorphableModel) -> AFLW2000:
    return AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)


def predictions(folder: Path, data: Path, model: MorphableModel, photos: int) -> Path:
    """The true landmarks, five pixels to the right."""
    dataset = AFLW2000(data / "AFLW2000", "test", CropTransform(64), model)
    for index in range(photos):
        moved = dataset.read(index).labels["landmarks68"] + torch.tensor([5.0, 0.0, 0.0])
        write_prediction(folder / f"{dataset.name(index)}.npz", landmarks68=moved)
    return folder


@pytest.fixture(scope="module")
def report(
    checkpoint: Path,
    shape_only: Path,
    tiny_data: Path,
    tiny_model: MorphableModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Report:
    """Several benchmarks of two checkpoints and a folder with predictions for two of AFLW2000's three photos."""
    folder = tmp_path_factory.mktemp("all")
    theirs = predictions(folder / "theirs", tiny_data, tiny_model, photos=2)
    florence = florence_data.write(folder / "florence", tiny_model, subjects=1)
    metrics = evaluate(
        evaluation_config(
            tiny_data, folder / "out", f"checkpoint=[{checkpoint},{shape_only}]", f"compare=[Theirs:{theirs}]",
            "~benchmarks.synthetic", "benchmarks.lfwa.data.dataset.root=nowhere",
            f"benchmarks.florence.data.dataset.root={florence}", "benchmarks.florence.data.dataset.yaws=[0]",
            "benchmarks.florence.data.dataset.pitches=[-15]",
        )
    )  # fmt: skip
    return folder / "out", metrics


@pytest.fixture(scope="module")
def quick(checkpoint: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A quick look, with figures, at two images of a data set of shape and one of attributes."""
    folder = tmp_path_factory.mktemp("quick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_files, "_image_files", DRAW)
        return folder, evaluate(evaluation_config(tiny_data, folder, *quick_look(checkpoint)))


def quick_look(checkpoint: Path) -> list[str]:
    others = [f"~benchmarks.{name}" for name in ("florence", "lfwa", "synthetic")]
    return [f"checkpoint={checkpoint}", "num_images=2", *others]


# --- what a run writes


def test_a_report_holds_metrics_tables_errors_figures_and_a_page(report: Report) -> None:
    folder, metrics = report
    assert json.loads((folder / "metrics.json").read_text()) == pytest.approx(metrics)
    for method in ("joint", "labels", "mean face"):
        for metric in ("nme_2d_68", "nme_3d_dense", "pose_error", "nme_2d_68/auc"):
            assert np.isfinite(metrics[f"aflw2000/{method}/{metric}"])
    per_image = pd.read_csv(folder / "per_image" / "aflw2000.csv")
    joint = per_image[per_image["method"] == "joint"]
    assert len(joint) == metrics["aflw2000/num_images"] == 3
    assert joint["nme_2d_68"].mean() == pytest.approx(metrics["aflw2000/joint/nme_2d_68"], rel=1e-4)
    figures = {path.name for path in (folder / "figures").iterdir()}
    for stem in ("nme-2d-68-curve", "nme-2d-68-by-yaw", "faces", "errors-on-the-mean-face"):
        assert {f"aflw2000_{stem}.png", f"aflw2000_{stem}.pdf"} <= figures
    tables = [path.read_text() for path in (folder / "tables").glob("*.md")]
    assert any("| joint |" in table and "PRNet" in table for table in tables)
    assert all(r"\toprule" in path.read_text() for path in (folder / "tables").glob("*.tex"))
    page = (folder / "report.html").read_text()
    for text in ("image00002.jpg", "joint", "data:image/png;base64", "data:image/jpeg;base64", "2026-01-01_10-00-00"):
        assert text in page
    assert not list(folder.rglob("*.tmp"))


def test_each_attribute_is_in_the_report(report: Report) -> None:
    folder, metrics = report
    assert 0 <= metrics["celeba/joint/balanced_accuracy/Smiling"] <= 1
    assert "celeba/joint/calibration_error" in metrics
    assert metrics["celeba/num_images"] == 4
    assert metrics["celeba/joint/num_attributes"] == metrics["celeba/trivial/num_attributes"]
    assert "000017.jpg" in (folder / "report.html").read_text()
    assert pd.read_csv(folder / "per_image" / "celeba.csv")["index"].tolist() == [0, 1, 2, 3]


def test_views_of_scans_are_shown_without_the_mean_face_whose_vertices_scans_lack(report: Report) -> None:
    folder, metrics = report
    assert metrics["florence/joint/nme"] > 0
    assert (folder / "figures" / "florence_faces.pdf").is_file()
    assert not list(folder.glob("figures/florence*mean-face*"))
    assert "subject_01_pitch-15_yaw+0" in (folder / "per_image" / "florence.csv").read_text()


def test_the_numbers_do_not_depend_on_the_batch_size(
    quick: Report, checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    found = evaluate(evaluation_config(tiny_data, tmp_path, *quick_look(checkpoint), "batch_size=1"))
    assert found == pytest.approx(quick[1], rel=1e-5, abs=1e-5, nan_ok=True)


# --- who takes part


def methods(metrics: dict[str, float], benchmark: str) -> set[str]:
    return {key.split("/")[1] for key in metrics if key.startswith(benchmark)} - {"num_images", "num_subjects"}


def test_everyone_takes_part_where_they_can(report: Report) -> None:
    folder, metrics = report
    assert methods(metrics, "aflw2000") == {"joint", "shape_only", "Theirs", "labels", "mean face"}
    assert methods(metrics, "florence") == {"joint", "shape_only", "mean face"}
    assert methods(metrics, "celeba") == {"joint", "trivial"}
    assert {key.split("/")[0] for key in metrics} == {"aflw2000", "florence", "celeba"}
    page = (folder / "report.html").read_text()
    assert "lfwa was not run: no folder" in page
    assert "shape_only is left out: it has no attributes" in page
    assert "Theirs is left out: it has no prediction for any photo." in page


def test_photos_without_a_prediction_are_counted_and_listed(report: Report) -> None:
    folder, metrics = report
    assert 0 < metrics["aflw2000/Theirs/nme_2d_68"] < 0.1
    assert (metrics["aflw2000/num_images"], metrics["aflw2000/Theirs/num_images"]) == (3, 2)
    assert (folder / "missing.csv").read_text() == "benchmark,method,file\naflw2000,Theirs,image00006.jpg\n"
    page = (folder / "report.html").read_text()
    assert "Theirs has no prediction for 1 of 3 photos, which its errors leave out; missing.csv lists them." in page
    assert "not ranked: Theirs." in page


def test_a_checkpoint_without_the_task_of_the_benchmark_is_refused(
    shape_only: Path, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="benchmark celeba needs attributes, which none of shape_only predicts"):
        evaluate(evaluation_config(tiny_data, tmp_path / "out", "benchmark=celeba", f"checkpoint={shape_only}"))
    assert not (tmp_path / "out").exists()


def test_another_morphable_model_is_compared_by_landmarks_and_pose(
    checkpoint: Path, tiny_data: Path, tmp_path: Path
) -> None:
    """The same labels read with fewer coefficients: the checkpoint's vertices are then another model's."""
    overrides = ("benchmark=aflw2000", f"checkpoint={checkpoint}", "morphable_model.shape_components=2", "num_images=1")
    metrics = evaluate(evaluation_config(tiny_data, tmp_path, *overrides))
    assert "aflw2000/joint/nme_2d_68" in metrics
    assert "aflw2000/joint/nme_3d_dense" not in metrics
    assert "joint predicts the vertices of another morphable model" in (tmp_path / "report.html").read_text()


# --- other methods alone


@pytest.fixture(scope="module")
def theirs(
    tiny_data: Path, tiny_model: MorphableModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, float], str]:
    """Landmarks of one photo of three, in coordinates from 0 to 1: the report's folder, metrics and printed words."""
    folder = tmp_path_factory.mktemp("theirs")
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)
    landmarks = dataset.read(0).labels["landmarks68"] / 450
    write_prediction(folder / "npz" / f"{dataset.name(0)}.npz", landmarks68=landmarks)
    config = evaluation_config(tiny_data, folder / "out", "benchmark=aflw2000", f"compare=[Theirs:{folder / 'npz'}]")
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        metrics = evaluate(config)
    return folder / "out", metrics, " ".join(printed.getvalue().split())


def test_what_no_method_predicts_has_no_table_and_no_curve(theirs: tuple[Path, dict[str, float], str]) -> None:
    """Of landmarks alone there is no dense face and no pose to compare, only those of the references."""
    folder, metrics, _ = theirs
    assert "aflw2000/labels/nme_3d_dense/auc" not in metrics
    names = {path.name for path in folder.rglob("*.*")}
    assert "aflw2000_nme-2d-68-curve.png" in names
    assert not any("dense-curve" in name or "mean-face" in name or "head-pose" in name for name in names)
    page = (folder / "report.html").read_text()
    assert "Tables left out because no method has a number there: AFLW2000-3D, head pose." in page


def test_problems_with_predictions_are_printed_once(theirs: tuple[Path, dict[str, float], str]) -> None:
    folder, _, printed = theirs
    assert printed.count("has no prediction for 2 of 3 photos") == 1
    assert "image00004" not in printed
    assert printed.count("Theirs: 1 of 1 predictions, e.g. image00002.npz, all lie within two pixels of") == 1
    assert "Theirs: 1 of 1 predictions, e.g. image00002.npz" in (folder / "report.html").read_text()


def test_tables_say_which_images_their_numbers_cover(theirs: tuple[Path, dict[str, float], str], quick: Report) -> None:
    for path in [*theirs[0].glob("tables/*.md"), *theirs[0].glob("tables/*.tex")]:
        assert "Theirs (1 of 3)" in path.read_text(), path
        assert "Only 3 of the 2,000 published" in path.read_text(), path
    for path in [*quick[0].glob("tables/*.md"), *quick[0].glob("tables/*.tex")]:
        assert "A quick look at 2 images." in path.read_text(), path
    assert "a quick look: at most 2" in (quick[0] / "report.html").read_text()
    assert len(pd.read_csv(quick[0] / "per_image" / "aflw2000.csv")) == 6  # two photos, three methods
    means = [path.read_text() for path in quick[0].glob("tables/*mean-over*.md")]
    assert means
    assert all("thresholds from 2 validation faces" in table for table in means)


def test_files_of_other_programs_become_predictions(
    aflw2000: AFLW2000, tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meshes of 3DDFA, which come without triangles, take those of the benchmark's morphable model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "3DDFA").mkdir()
    for index in range(len(aflw2000)):
        labels = aflw2000.read(index).labels
        keys = ("shape_coefficients", "expression_coefficients", "camera")
        vertices = tiny_model.project(*(labels[key][None] for key in keys))[0].numpy()
        write_3ddfa(tmp_path / "3DDFA", aflw2000.name(index), vertices, labels["landmarks68"].numpy())
    evaluate(evaluation_config(tiny_data, "null", "benchmark=aflw2000", "import=3DDFA", "name=aflw2000"))
    made = tmp_path / "predictions" / "aflw2000" / "3DDFA"
    assert sorted(path.name for path in made.iterdir()) == ["image00002.npz", "image00004.npz", "image00006.npz"]
    metrics = evaluate(evaluation_config(tiny_data, tmp_path / "out", "benchmark=aflw2000", f"compare=[3DDFA:{made}]"))
    assert metrics["aflw2000/3DDFA/nme_2d_68"] < 1e-3
    assert metrics["aflw2000/3DDFA/nme_3d_dense"] < 1e-4


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


# --- figures


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
        (["batch_size=0"], ConfigError, "batch_size=0: expected a whole number of at least 1"),
        (["num_images=few"], ConfigError, "num_images=few: expected a whole number of at least 1"),
        (["seed=-1"], ConfigError, "seed=-1: expected a whole number of at least 0"),
        (["device=abacus"], ConfigError, "device=abacus: there is no such device here"),
        (["precision=float16"], ConfigError, "precision=float16: choose from float64, float32"),
        (["compare=[PRNet]"], ConfigError, "compare=PRNet: expected NAME:FOLDER"),
        (["compare=[PRNet:nowhere]"], DataError, "no folder .*nowhere"),
        (["compare=[joint:nowhere]"], ConfigError, "two methods are called 'joint'"),
        (["compare=[a/b:nowhere]"], ConfigError, "expected the name of the method, without /"),
        (
            ["paths.data_dir=nowhere", "paths.bfm_dir=DATA/bfm_3ddfa"],
            DataError,
            "^paths.data_dir=nowhere is not a folder: .*AFLW2000",
        ),
        (
            ["paths.data_dir=nowhere"],
            DataError,
            "^paths.data_dir=nowhere is not a folder: set it to the one that holds",
        ),
        (
            ["checkpoint=RUN"],
            CheckpointError,
            "this is the folder of a run, not a checkpoint; use .*checkpoints/best.ckpt",
        ),
        (["paths.bfm_dir=nowhere"], DataError, "no folder .*nowhere: looked there for u_shp.npy"),
        (["benchmark=all", "import=somewhere"], ConfigError, "import needs the benchmark whose photos"),
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
            r"image00004.npz, image00006.npz; found other_image00002.npz, .*; name the file for STEM.jpg STEM.npz",
        ),
        ("damaged", "image00002.npz: not a readable .npz file"),
    ],
)
def test_broken_folders_of_predictions_are_refused_in_one_line(
    change: str, message: str, tiny_data: Path, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    folder = predictions(tmp_path / "theirs", tiny_data, tiny_model, photos=3)
    for path in list(folder.iterdir()):
        match change:
            case "damaged":
                path.write_bytes(path.read_bytes()[:100])
            case "of other photos":
                path.rename(folder / f"other_{path.name}")
            case _:
                path.unlink()
    config = evaluation_config(tiny_data, tmp_path / "out", "benchmark=aflw2000", f"compare=[Theirs:{folder}]")
    with pytest.raises(DataError, match=message) as caught:
        evaluate(config)
    assert "\n" not in str(caught.value)


def test_all_with_nothing_to_run_says_why(checkpoint: Path, tmp_path: Path) -> None:
    config = evaluation_config(
        tmp_path / "nowhere", tmp_path / "out", f"checkpoint={checkpoint}", "~benchmarks.synthetic"
    )
    with pytest.raises(ConfigError, match=r"no benchmark could be run; aflw2000 was not run: .*; florence was not run"):
        evaluate(config)


def test_the_command_prints_tables_and_where_the_report_is_which_is_the_same_as_before(
    quick: Report, checkpoint: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_files, "_image_files", DRAW)
    arguments = [*quick_look(checkpoint), f"paths.data_dir={tiny_data}", "device=cpu"]
    result = run_command("evaluate", *arguments, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "mean face" in result.stdout
    written = tmp_path / "evaluation" / "all"
    assert f"The report is {written / 'report.html'}" in result.stdout
    for name in ("metrics.json", "per_image/aflw2000.csv", "per_image/celeba.csv", "report.html"):
        assert (written / name).read_bytes() == (quick[0] / name).read_bytes(), name
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation"}


def test_the_command_line_answers_mistakes_in_one_line(tmp_path: Path) -> None:
    result = run_command("evaluate", "benchmark=aflw2001", folder=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "aflw2001" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_setting_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigCompositionException, match="batchsize"):
        evaluation_config(tmp_path, tmp_path, "batchsize=3")


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
