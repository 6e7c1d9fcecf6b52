"""Ways to look at a run before it is one: the dry run, the debug modes, the profilers."""

import re
from itertools import cycle
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import LightningModule, Trainer
from omegaconf import OmegaConf

from jointface.callbacks import OverfitCheck
from jointface.command_line import CONF_DIR
from jointface.errors import ConfigError
from jointface.modules import AttributeClassifier, PRNetEncoder
from jointface.modules.network import FaceNetwork
from jointface.running.dry_run import part_sizes
from jointface.running.operator_profile import OperatorProfiler
from jointface.train import train
from tests.commands import run_command
from tests.test_training import tiny_config

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


def table_row(text: str, first: str) -> list[str]:
    """The cells of the first row that begins so in the printed tables."""
    row, *_ = [line for line in text.splitlines() if re.match(rf"│ {first} +│", line)]
    return [cell.strip() for cell in row.strip("│").split("│")]


# The dry run


def test_a_dry_run_says_what_a_run_would_be_and_leaves_nothing(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(tiny_data, tmp_path / "run", "dry_run=true", "batch_size.attributes=3")
    assert train(config) == {}
    said = capsys.readouterr().out
    assert table_row(said, "celeba") == ["celeba", "40 attributes", "12", "4", "4", "3", "4"]
    assert table_row(said, "aflw2000") == ["aflw2000", "3D face", "", "", "3", "", ""]
    parts = [table_row(said, part) for part in ("backbone", "shape_decoder", "attribute_classifier", "all")]
    parameters = [int(row[1].replace(",", "")) for row in parts]
    assert parameters[3] == sum(parameters[:3]) > 0
    assert not (tmp_path / "run").exists()


def test_sizes_are_those_of_the_layers() -> None:
    backbone = PRNetEncoder(width=2)
    classifier = AttributeClassifier((64, 2, 2), num_attributes=10)
    network = FaceNetwork(backbone, None, classifier, 64, [str(number) for number in range(10)])
    sizes = part_sizes(network)
    assert set(sizes) == {"backbone", "attribute_classifier"}  # it has no shape decoder
    assert sizes["attribute_classifier"].parameters == 64 * 10 + 10
    assert sizes["attribute_classifier"].flops == 2 * 64 * 10  # one multiplication and one addition for each weight
    convolutions = [module for module in backbone.modules() if isinstance(module, torch.nn.Conv2d)]
    assert sizes["backbone"].parameters > sum(layer.weight.numel() for layer in convolutions)
    assert network.training  # as it was


@pytest.mark.slow
def test_the_command_of_a_dry_run_leaves_no_folder(tiny_data: Path, tmp_path: Path) -> None:
    result = run_command(
        "train", "experiment=joint_celeba_300wlp", "dry_run=true", f"paths.data_dir={tiny_data}", folder=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert "nothing was trained" in result.stdout
    assert not list(tmp_path.iterdir())


# Debug modes


def test_debug_modes_shorten_every_experiment() -> None:
    """Whatever its scale; each is composed with one of the modes in turn."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for experiment, debug in zip(EXPERIMENTS, cycle(["one_batch", "overfit", "profile"])):
            config = compose("train", overrides=[f"experiment={experiment}", f"debug={debug}", "name=x"])
            assert config.trainer.max_steps <= 500
            assert config.trainer.val_check_interval <= config.trainer.max_steps


def test_one_batch_goes_through_everything_and_leaves_no_file(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    config = tiny_config(
        tiny_data, tmp_path / "run", "debug=one_batch", "trainer.max_steps=1", "trainer.val_check_interval=1"
    )
    metrics = train(config)
    assert "test/aflw2000/nme_2d_68" in metrics
    assert "val/error" in metrics
    assert not list(tmp_path.iterdir())


def test_overfitting_takes_a_handful_of_plain_samples(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path, "debug=overfit")
    assert config.data.max_train_samples == 8
    assert config.data.turning is None
    assert config.data.augmentation is None
    assert config.model.scheduler is None


@pytest.mark.parametrize(("fraction", "steps", "said"), [(10.0, 2, "memorised"), (0.0, 4, "not memorised")])
def test_overfitting_ends_when_the_losses_are_down_and_says_so(
    fraction: float, steps: int, said: str, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "jointface.callbacks.overfit")
    few = [
        "~callbacks.figures",
        "trainer.limit_test_batches=0",
        "data.max_train_samples=2",
        f"callbacks.overfit.fraction={fraction}",
        "trainer.log_every_n_steps=1",
    ]
    train(tiny_config(tiny_data, tmp_path, "debug=overfit", *few))
    messages = [record.getMessage() for record in caplog.records if record.name == "jointface.callbacks.overfit"]
    assert len(messages) == 2
    for task, message in zip(("shape", "attributes"), messages, strict=True):
        assert message.startswith(f"train/loss_{task}: ")
        assert f"after {steps} steps: {said}" in message


def test_a_loss_is_too_high_until_it_is_below_its_share_of_the_first() -> None:
    check = OverfitCheck(fraction=0.1)
    check.first, check.last = {"train/loss_a": 2.0, "train/loss_b": 1.0}, {"train/loss_a": 0.2, "train/loss_b": 0.11}
    assert check.too_high() == ["train/loss_b"]
    check.last["train/loss_b"] = float("nan")
    assert check.too_high() == ["train/loss_b"]


@pytest.mark.parametrize(
    ("rms", "high"), [(False, ["train/loss_shape", "train/loss_attributes"]), (True, ["train/loss_attributes"])]
)
def test_the_share_of_a_root_is_that_of_its_square(rms: bool, high: list[str]) -> None:
    check = OverfitCheck(fraction=0.01)
    check.setup(Mock(spec=Trainer), Mock(spec=LightningModule, rms=rms), "fit")
    check.first = {"train/loss_shape": 1.0, "train/loss_attributes": 1.0}
    check.last = {"train/loss_shape": 0.09, "train/loss_attributes": 0.09}
    assert check.too_high() == high


def test_losses_that_do_not_fall_to_zero_do_not_count() -> None:
    check, names = OverfitCheck(), ("train/loss_shape", "train/loss_landmark_uncertainty", "train/loss_prior")
    trainer = Mock(spec=Trainer, callback_metrics={name: torch.tensor(-1.0) for name in names})
    check.on_train_batch_end(trainer, Mock(spec=LightningModule), None, None, 0)
    assert check.first == {"train/loss_shape": -1.0}


@pytest.mark.slow
def test_the_default_model_learns_a_handful_by_heart(tmp_path: Path) -> None:
    result = run_command("train", "debug=overfit", f"paths.run_dir={tmp_path / 'run'}", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(re.findall(": memorised", result.stdout)) == 2


# Profilers


@pytest.mark.parametrize(
    ("profiler", "row"),
    [
        ("simple", "run_training_batch"),
        pytest.param("advanced", "cumtime", marks=pytest.mark.slow),
    ],
)
def test_a_profiler_leaves_its_table_in_the_runs_folder(
    profiler: str, row: str, tiny_data: Path, tmp_path: Path
) -> None:
    short = ["debug=profile", "~callbacks.figures", "trainer.max_steps=1", "trainer.val_check_interval=1"]
    train(tiny_config(tiny_data, tmp_path, *short, f"trainer/profiler={profiler}"))
    assert row in (tmp_path / "fit-profile.txt").read_text()


def test_the_operators_of_training_steps_are_told_apart(tmp_path: Path) -> None:
    """Those of the measured steps alone; with a trace beside."""
    profiler = OperatorProfiler(str(tmp_path), wait=1, active=2)
    matrix = torch.eye(64)
    for step in range(5):
        with profiler.profile("run_training_batch"):
            matrix = matrix @ matrix if step in (2, 3) else matrix.exp()
        with profiler.profile("run_test_evaluation"):
            matrix.sin()
    profiler.describe()
    (table,) = tmp_path.glob("*.txt")
    assert re.search(r"aten::mm .* 2 *$", table.read_text(), re.MULTILINE)
    assert "aten::exp" not in table.read_text()
    assert (tmp_path / "profile-trace.json.gz").stat().st_size > 0


def test_a_training_too_short_for_a_profile_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    profiler = OperatorProfiler(str(tmp_path), wait=1, active=2)
    with profiler.profile("run_training_batch"):
        pass
    profiler.describe()
    assert "No profile: the training ended before its step 3" in caplog.text
    assert not list(tmp_path.iterdir())


def test_no_profiler_is_the_default(tiny_data: Path, tmp_path: Path) -> None:
    assert tiny_config(tiny_data, tmp_path).trainer.get("profiler") is None


def test_a_profiler_of_lightnings_name_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path / "run")
    OmegaConf.update(config, "trainer.profiler", "simple", force_add=True)
    with pytest.raises(ConfigError, match="choose a profiler by trainer/profiler=simple"):
        train(config)
