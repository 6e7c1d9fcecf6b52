"""Whole runs on tiny data: what they leave, what checkpoints hold, what is refused before training."""

import copy
import csv
import json
import math
import re
import shutil
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from jaxtyping import TypeCheckError
from omegaconf import DictConfig, OmegaConf

from jointface.command_line import CONF_DIR, without_group
from jointface.datamodules import CelebA, CropTransform, JointDataModule
from jointface.errors import CheckpointError, ConfigError, DataError, InputError, JointFaceError
from jointface.geometry import MorphableModel
from jointface.modules import JointFaceModule, load_model
from jointface.modules.checkpoint import KEY, read_checkpoint, require_same_model
from jointface.running.finished_runs import find_runs
from jointface.train import build_module, train
from tests.commands import run_command

TINY = [
    "scale=small",
    "model/backbone=resnet18_half",
    "image_size=64",
    "batch_size={shape: 4, attributes: 4}",
    "num_workers=0",
    "model.backbone.embedding_size=8",
    "model.backbone.hidden_sizes=[8,8,16,16]",
    "model.backbone.depths=[1,1,1,1]",
    "trainer.max_steps=4",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
    "~callbacks.progress_bar",
    "callbacks.figures.num_faces=2",
    "name=tiny",
]


def tiny_config(data: Path, run_dir: Path, *overrides: str) -> DictConfig:
    """A config of a few steps on the tiny data."""
    if not any(override.startswith("experiment=") for override in overrides):
        overrides = ("experiment=joint_celeba_300wlp", *overrides)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=[*TINY, f"paths.data_dir={data}", f"paths.run_dir={run_dir}", *overrides])


@pytest.fixture(scope="module")
def run(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a joint run leaves."""
    folder = tmp_path_factory.mktemp("run")
    train(tiny_config(tiny_data, folder, "experiment=joint_celeba_300wlp"))
    return folder


def test_a_run_leaves_what_the_readme_says(run: Path) -> None:
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert {
        "config.yaml",
        "metrics.csv",
        "metrics.json",
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "figures/val/celeba/attributes.png",
        "figures/val/w300lp/shape.png",
        "figures/test/celeba/attributes.png",
        "figures/test/aflw2000/shape.png",
    } == left


def test_metrics_json_is_flat_by_split_data_set_and_metric(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    for name in (
        "train/loss_shape",
        "train/loss_attributes",
        "val/error",
        "val/celeba/balanced_accuracy",
        "val/w300lp/nme_2d_68",
        "test/celeba/accuracy",
        "test/celeba/accuracy/Male",
        "test/aflw2000/nme_3d_dense",
        "test/aflw2000/trivial/nme_2d_68",
        "test/celeba/trivial/accuracy",
    ):
        assert math.isfinite(metrics[name]), name
    assert metrics["test/celeba/trivial/balanced_accuracy"] == 0.5
    assert metrics["val/error"] == pytest.approx(
        metrics["val/w300lp/nme_2d_68"] + 1 - metrics["val/celeba/balanced_accuracy"], rel=1e-5
    )


def test_metrics_csv_has_both_losses_at_every_step(run: Path) -> None:
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    steps = [row for row in rows if row["train/loss_shape"]]
    assert [int(row["step"]) for row in steps] == [0, 1, 2, 3]
    assert all(float(row["train/loss_attributes"]) > 0 for row in steps)


def test_means_and_single_attributes_of_a_validation_share_a_row(run: Path) -> None:
    rows = [row for row in csv.DictReader((run / "metrics.csv").open()) if row["val/error"]]
    assert [row["step"] for row in rows] == ["1", "3"]
    last = {name: float(value) for name, value in rows[-1].items() if name.startswith("val/celeba/accuracy")}
    assert len(last) == 41
    assert last.items() <= json.loads((run / "metrics.json").read_text()).items()


def test_config_yaml_repeats_the_run(run: Path, tmp_path: Path) -> None:
    """It is resolved, and training from it gives the same numbers."""
    assert "${" not in (run / "config.yaml").read_text()
    config = OmegaConf.load(run / "config.yaml")
    OmegaConf.update(config, "paths.run_dir", str(tmp_path))
    del config.callbacks.figures
    metrics = train(config)
    first = json.loads((run / "metrics.json").read_text())
    assert metrics["test/aflw2000/nme_2d_68"] == pytest.approx(first["test/aflw2000/nme_2d_68"], rel=1e-4)


def test_every_setting_of_the_model_reaches_it(tiny_data: Path, tmp_path: Path) -> None:
    settings = {
        "contour": "fixed", "landmark_weight": 2.5, "foreign_labels": "landmarks", "rms": True, "detach_points": False,
        "prior_weight": 0.25, "shuffle_attributes": True, "log_gradients_every_n_steps": 7, "weights": "free",
        "part_weights": {"identity": 1.0, "expression": 2.0, "pose": 3.0},
    }  # fmt: skip
    overrides = [f"model.{key}={value}".replace("'", "") for key, value in settings.items()]
    datamodule = Mock(spec=JointDataModule)
    datamodule.label_sets.return_value = datamodule.label_models.return_value = {}
    datamodule.shape_sources.return_value = {"w300lp"}
    with patch("jointface.train.JointFaceModule", return_value=Mock(spec=JointFaceModule)) as made:
        build_module(tiny_config(tiny_data, tmp_path, *overrides), datamodule)
    given = made.call_args.kwargs
    assert {key: given[key] for key in settings} == settings


def test_broken_samples_are_counted_in_metrics_json(tiny_data: Path, tmp_path: Path) -> None:
    """The run goes on, with loader processes as well."""
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    (data / "celeba" / "img_align_celeba" / "000005.jpg").write_bytes(b"")
    (data / "AFLW2000" / "image00004.mat").write_bytes(b"")
    once = ["trainer.max_steps=3", "trainer.val_check_interval=3"]
    train(tiny_config(data, tmp_path / "run", "num_workers=1", "~callbacks.figures", *once))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["train/celeba/broken_samples"] == 1
    assert metrics["test/aflw2000/broken_samples"] == 1


def test_half_precision_keeps_coordinates_whole(run: Path, tiny_data: Path, tiny_model: MorphableModel) -> None:
    """Under autocast the network's landmarks stay within half a per cent of the crop."""
    network = load_model(run / "checkpoints" / "best.ckpt")
    image = CelebA(tiny_data / "celeba", "train", CropTransform(64))[0]["image"][None]
    with torch.no_grad():
        exact = network(image).vertices
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(image).vertices
    assert rough.dtype == torch.float32
    assert (rough - exact).abs().max() < 0.005 * 64


def test_a_checkpoint_rebuilds_the_network_from_itself_alone(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((run / "checkpoints" / "best.ckpt").read_bytes())
    network = load_model(alone)
    assert not network.training
    celeba = network.label_sets["celeba"]
    dataset = CelebA(tiny_data / "celeba", "train", CropTransform(64))
    assert celeba["attributes"] == list(dataset.label_set.attributes)
    torch.testing.assert_close(torch.tensor(celeba["alpha"]), dataset.alpha())
    image = dataset[0]["image"][None]
    prediction = network(image)
    assert prediction.logits.shape == (1, 40)
    assert prediction.vertices.shape == (1, 3721, 3)
    torch.testing.assert_close(load_model(alone)(image).logits, prediction.logits)


def test_images_of_another_type_or_size_are_refused(run: Path) -> None:
    network = load_model(run / "checkpoints" / "best.ckpt")
    for images in (torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 96, 96).byte(), torch.zeros(3, 64, 64).byte()):
        with pytest.raises((InputError, TypeCheckError)):
            network(images)


def test_a_checkpoint_names_its_morphable_model_by_hash(run: Path, tiny_model: MorphableModel) -> None:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    description = checkpoint["jointface"]
    assert description["morphable_model"]["name"] == "bfm_3ddfa"
    assert description["morphable_model"]["sha256"] == tiny_model.content_hash()
    assert json.loads(json.dumps(description)) == description  # plain containers


def damaged(run: Path, folder: Path, change: str) -> Path:
    path = folder / "damaged.ckpt"
    data = (run / "checkpoints" / "best.ckpt").read_bytes()
    if change == "cut short":
        path.write_bytes(data[: len(data) // 2])
        return path
    if change == "pickle":
        torch.save({"jointface": Path("x"), "state_dict": {}}, path)
        return path
    if change == "missing":
        return path
    if change == "empty":
        path.touch()
        return path
    checkpoint = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    match change:
        case "foreign":
            del checkpoint["jointface"]
        case "newer":
            checkpoint["jointface"]["format"] = 99
        case "other weights":
            checkpoint["jointface"]["network"]["backbone"]["hidden_sizes"] = [8, 8, 16, 32]
        case "other model":
            checkpoint["jointface"]["morphable_model"]["sha256"] = "0" * 64
        case "code":
            checkpoint["jointface"]["network"]["backbone"] = {"_target_": "os.system", "command": "false"}
        case "download":
            checkpoint["jointface"]["network"]["backbone"]["pretrained"] = "someone/model"
        case "hidden code":
            checkpoint["jointface"]["network"]["backbone"] = {"_target_": "jointface.datamodules.crop.os.system"}
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "no checkpoint at .*damaged.ckpt"),
        ("cut short", "damaged.ckpt: not a readable checkpoint"),
        ("pickle", "damaged.ckpt: not a readable checkpoint"),
        ("foreign", "damaged.ckpt: not a jointface checkpoint"),
        ("newer", "damaged.ckpt: written by a newer jointface"),
        ("other weights", "damaged.ckpt: the weights do not fit the model"),
        ("other model", "does not match its own hash"),
        ("code", "damaged.ckpt: asks to build os.system, .*refused"),
        ("empty", "damaged.ckpt: not a readable checkpoint"),
        ("download", "damaged.ckpt: asks to load someone/model from elsewhere; refused"),
        ("hidden code", "damaged.ckpt: asks to build jointface.datamodules.crop.os.system, .*refused"),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused_in_one_line(
    run: Path, tmp_path: Path, change: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        load_model(damaged(run, tmp_path, change))
    assert "\n" not in str(caught.value)


def test_zero_means_never(tiny_data: Path, tmp_path: Path) -> None:
    """No test, no values between validations, no saving between them; the run still ends well."""
    zero = ["~callbacks.figures", "trainer.log_every_n_steps=0", "callbacks.last_checkpoint.every_n_train_steps=0"]
    zero += ["model.log_gradients_every_n_steps=0", "+trainer.limit_test_batches=0"]
    assert set(train(tiny_config(tiny_data, tmp_path, *zero))) == {"val/error"}
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8")))
    assert [row["step"] for row in rows if row["val/error"]] == [row["step"] for row in rows] == ["1", "3"]
    assert (tmp_path / "checkpoints" / "last.ckpt").exists()
    assert find_runs(tmp_path)["state"].tolist() == ["finished"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+trainer.limit_train_batches=0"], "ended after step 0, before its first validation, .* to resume, add"),
        (["callbacks.checkpoint.monitor=val/nothing"], "monitor='val/nothing'.* could not find"),
        (
            ["callbacks/early_stopping=default", "callbacks.early_stopping.monitor=val/nothing"],
            "callbacks.early_stopping.monitor: .* `val/nothing` which is not available",
        ),
    ],
)
def test_a_training_without_a_best_checkpoint_says_why(
    overrides: list[str], message: str, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tiny_config(tiny_data, tmp_path, "~callbacks.figures", *overrides))


def test_a_loader_process_that_the_system_killed_is_explained(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")
    monkeypatch.setattr("jointface.train.fit", Mock(side_effect=killed))
    with pytest.raises(
        DataError, match=r"loader process died .*\(.*Bus error.*--shm-size=2g\); num_workers=0 needs none"
    ):
        train(tiny_config(tiny_data, tmp_path))


def test_a_single_readable_face_stops_batch_norm_in_words(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data / "celeba", data / "celeba")
    for photo in sorted((data / "celeba" / "img_align_celeba").iterdir()):
        if int(photo.stem) % 2:
            photo.write_bytes(b"")
    few = ["experiment=attributes_celeba", "image_size=32", "batch_size.attributes=2", "data.max_broken_fraction=1"]
    with pytest.raises(DataError, match=r"step \d+: batch norm needs at least two faces, and only one"):
        train(tiny_config(data, tmp_path / "run", *few, "trainer.max_steps=40", "trainer.val_check_interval=40"))


@pytest.mark.parametrize("experiment", ["shape_300wlp", "attributes_celeba"])
def test_one_task_alone_trains_with_one_word(experiment: str, tiny_data: Path, tmp_path: Path) -> None:
    metrics = train(tiny_config(tiny_data, tmp_path, f"experiment={experiment}", "~callbacks.figures"))
    tasks = {name.split("/")[1] for name in metrics if name.startswith("test/")}
    assert tasks == ({"aflw2000"} if experiment == "shape_300wlp" else {"celeba"})
    assert ("test/celeba/accuracy/Male" in metrics) == (experiment == "attributes_celeba")  # single attributes, too


def test_training_goes_on_from_a_checkpoint_of_the_same_model_only(run: Path, tiny_data: Path, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={run / 'checkpoints' / 'last.ckpt'}"
    train(tiny_config(tiny_data, tmp_path / "longer", checkpoint, "trainer.max_steps=6", "~callbacks.figures"))
    steps = [row["step"] for row in csv.DictReader((tmp_path / "longer" / "metrics.csv").open()) if row["train/loss"]]
    assert steps == ["4", "5"]
    with pytest.raises(CheckpointError, match="model differs from the config"):
        train(tiny_config(tiny_data, tmp_path / "other", checkpoint, "model.shape_decoder.hidden=16"))


def test_a_checkpoint_of_an_older_version_lacks_settings_that_are_off(run: Path) -> None:
    now = read_checkpoint(run / "checkpoints" / "last.ckpt")[KEY]
    then = copy.deepcopy(now)
    del then["network"]["shape_decoder"]["pooled"]
    with pytest.raises(CheckpointError, match=r"shape_decoder.pooled is None in the checkpoint and True in the config"):
        require_same_model({KEY: then}, now)
    now["network"]["shape_decoder"]["pooled"] = False
    require_same_model({KEY: then}, now)
    then["network"]["shape_decoder"]["pooled"] = None
    with pytest.raises(CheckpointError, match="pooled is None in the checkpoint and False in the config"):
        require_same_model({KEY: then}, now)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (
            ["experiment=attributes_celeba", "data=300wlp"],
            ConfigError,
            "attribute_classifier needs a train source that labels attributes",
        ),
        (
            ["experiment=shape_300wlp", "data=celeba_300wlp"],
            ConfigError,
            "source celeba labels nothing that the model predicts",
        ),
        (["model.shape_decoder=null", "model.attribute_classifier=null"], ConfigError, "the model has no head"),
        (["~data.sources.celeba.splits.val"], ConfigError, "needs a val source that labels attributes"),
        (["image_size=72", "model/shape_decoder=position_map"], ConfigError, "is not a power of two times"),
        (["paths.data_dir=nowhere"], DataError, "no folder .*nowhere: set paths.data_dir"),
        (["data.sources.celeba.dataset.root=nowhere"], DataError, "no folder .*nowhere: looked there for CelebA"),
        (["seed=-1"], ConfigError, "seed=-1: expected a whole number from 0 to 4294967295"),
        (["trainer.max_steps=abc"], ConfigError, "trainer.max_steps=abc: expected a whole number of at least 1"),
        (["trainer.val_check_interval=5"], ConfigError, "a run must validate before it ends"),
        (["checkpoint=nowhere.ckpt"], CheckpointError, "no checkpoint at .*nowhere.ckpt"),
        (
            ["model/teacher=checkpoint", "model.teacher.checkpoint=gone.ckpt", "data.sources.celeba.dataset.root=gone"],
            CheckpointError,
            "no checkpoint at .*gone.ckpt",
        ),
        (["+data.sources.celeba.dataset.rot=1"], ConfigError, "data.sources.celeba cannot be opened for train: .*rot"),
        (["paths.bfm_dir=nowhere"], DataError, "no folder .*nowhere: looked there for u_shp.npy"),
    ],
)
def test_impossible_combinations_are_refused_before_training(
    overrides: list[str],
    error: type[JointFaceError],
    message: str,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    run_dir = tmp_path / "run"
    with pytest.raises((JointFaceError, InstantiationException)) as caught:
        train(tiny_config(tiny_data, run_dir, *overrides))
    wrapped = isinstance(caught.value, InstantiationException)  # by Hydra, while it built a class
    reason = caught.value.__cause__ if wrapped else caught.value
    assert isinstance(reason, error)
    assert re.search(message, str(reason)), str(reason)
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.backbone.widht=3"], "widht"),
        (["paths.data_dir=nowhere"], "nowhere"),
    ],
)
def test_the_command_line_answers_mistakes_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = run_command("train", "scale=small", "experiment=joint_celeba_300wlp", *arguments, folder=tmp_path)
    assert result.returncode == 1
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # nothing is left behind


@pytest.mark.parametrize(
    ("word", "taken"),
    [
        ("model/shape_decoder=null", "~model/shape_decoder"),
        ("scale=null", "~scale"),
        ("experiment=null", "experiment=joint_synthetic"),
        ("checkpoint=null",) * 2,
    ],
)
def test_a_group_is_left_out_by_null(word: str, taken: str) -> None:
    assert without_group(word) == taken
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        compose("train", ["scale=small", taken])


@pytest.mark.parametrize(
    ("scale", "steps", "photos", "weights"), [("small", 7000, 14, "free"), ("full", 100_000, 64, None)]
)
def test_an_experiment_may_have_sizes_of_its_own_at_a_scale(
    scale: str, steps: int, photos: int, weights: str | None
) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", ["experiment=joint_all", f"scale={scale}"])
    assert (config.trainer.max_steps, config.batch_size.shape, config.model.weights) == (steps, photos, weights)
    assert config.model.shape_decoder.pooled


def test_the_command_runs_in_any_folder(tiny_data: Path, tmp_path: Path) -> None:
    quiet = {"name=tiny", "~callbacks.progress_bar", "+trainer.enable_progress_bar=false"}
    arguments = [argument for argument in TINY if argument not in quiet]
    arguments += ["experiment=joint_celeba_300wlp", "~callbacks.figures", f"paths.data_dir={tiny_data}"]
    result = run_command("train", *arguments, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    (metrics,) = (tmp_path / "runs" / "joint_celeba_300wlp").glob("*/metrics.json")
    assert "test/aflw2000/nme_2d_68" in json.loads(metrics.read_text())
    assert "trivial predictor" in result.stdout
    assert "loss_shape" in result.stdout
    assert "loss_attributes" in result.stdout
    assert "4/4" in result.stdout
