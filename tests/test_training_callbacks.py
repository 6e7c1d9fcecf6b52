"""What watches over a training: averaged weights, divergence, early stopping, throughput, repeatability."""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import open_dict
from torch import Tensor

from jointface.callbacks import MetricsFile, WeightAverage
from jointface.callbacks.divergence import DivergenceGuard
from jointface.errors import ConfigError, DivergedError
from jointface.modules import load_model
from jointface.train import train
from tests.test_survival import assert_equal, rows, saved
from tests.test_training import tiny_config

FOUR = [
    "~callbacks.figures", "trainer.max_steps=4", "callbacks.last_checkpoint.every_n_train_steps=100",
    "+trainer.limit_test_batches=0",
]  # fmt: skip


def add(name: str, **settings: Any) -> str:
    """An override that adds a callback of this file."""
    values = ", ".join(f"{key}: {value}" for key, value in settings.items())
    return f"+callbacks.{name.lower()}={{_target_: {__name__}.{name}{', ' * bool(values)}{values}}}"


class Recorder(Callback):
    """Keeps the trained weights after each step, and those that a validation and its figures see."""

    steps: list[dict[str, Tensor]]
    validated: dict[str, Tensor]
    drawn: dict[str, Tensor]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Recorder.steps = [weights(pl_module)]
        Recorder.validated = {}

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        Recorder.steps.append(weights(pl_module))

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        Recorder.validated = weights(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Recorder.drawn = weights(pl_module)


def weights(module: LightningModule) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


# Averaged weights


@pytest.fixture(scope="module")
def averaged(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    ema = ["callbacks/ema=default", "callbacks.ema.decay=0.25"]
    intervals = ["trainer.val_check_interval=4", "trainer.log_every_n_steps=2"]
    train(tiny_config(tiny_data, folder, *FOUR, *ema, *intervals, add("Recorder")))
    return folder


def test_the_average_follows_the_formula_and_is_what_is_validated_and_saved(averaged: Path) -> None:
    average = {name: value.double() for name, value in Recorder.steps[0].items()}
    for step, trained in enumerate(Recorder.steps[1:], start=1):
        decay = min(0.25, (1 + step) / (10 + step))
        average = {name: decay * value + (1 - decay) * trained[name] for name, value in average.items()}
    checkpoint = saved(averaged)
    for ending in ("convolution.weight", "normalization.running_var"):
        key = next(key for key in average if key.endswith(ending))
        torch.testing.assert_close(checkpoint["state_dict"][key].double(), average[key], rtol=1e-5, atol=1e-6)
        assert not torch.equal(checkpoint["state_dict"][key], Recorder.steps[-1][key])
        assert torch.equal(checkpoint["training_weights"][key], Recorder.steps[-1][key])
    assert_equal(Recorder.validated, dict(checkpoint["state_dict"]))
    assert_equal(Recorder.drawn, dict(checkpoint["state_dict"]))
    assert_equal(saved(averaged, "best")["state_dict"], checkpoint["state_dict"])


def test_what_training_does_not_change_is_not_averaged(averaged: Path) -> None:
    """Triangles and basis of the morphable model stay as they are, to the bit; counters are those of the training."""
    state, first, last = saved(averaged)["state_dict"], Recorder.steps[0], Recorder.steps[-1]
    model = [name for name in state if "morphable_model" in name]
    assert model
    assert all(torch.equal(state[name], first[name]) for name in model)
    integers = [name for name in state if not state[name].is_floating_point()]
    assert all(torch.equal(state[name], last[name]) for name in integers)
    load_model(averaged / "checkpoints" / "best.ckpt")  # checks the model's hash


def test_a_run_that_averages_goes_on_only_as_one(averaged: Path, tiny_data: Path, tmp_path: Path) -> None:
    checkpoint = f"checkpoint={averaged}/checkpoints/last.ckpt"
    with pytest.raises(ConfigError, match=r"its run averages the weights.*add callbacks/ema=default"):
        train(tiny_config(tiny_data, tmp_path / "without", *FOUR, checkpoint, "trainer.max_steps=8"))


@pytest.mark.parametrize("decay", [1, -0.1])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"callbacks.ema.decay=.*from 0 to below 1"):
        WeightAverage(decay)


# Divergence


class BadLabels(Callback):
    """At step 2 a camera label of the first sample is no number, or a gradient is infinite."""

    def __init__(self, what: str) -> None:
        self.what = what

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2 and self.what == "labels":
            batch["w300lp"]["camera"][0] = math.nan
        if trainer.global_step == 2 and self.what == "images":  # spoils the statistics of batch norm
            pl_module.network.mean.fill_(math.inf)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 2 and self.what == "gradients":
            next(p for p in pl_module.parameters() if p.grad is not None).grad[0] = math.inf


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("labels", "step 2: train/loss is nan, train/loss_shape is nan; stopped before the update"),
        ("images", "step 2: train/loss is nan, train/loss_attributes is nan, train/loss_shape is nan"),
        ("gradients", "step 2: the gradients are not finite, though the losses are"),
    ],
)
def test_a_step_that_is_not_finite_stops_the_run_before_its_update(
    what: str, message: str, tiny_data: Path, tmp_path: Path
) -> None:
    overrides = [*FOUR, "trainer.val_check_interval=4", add("Recorder")]
    with pytest.raises(DivergedError, match=message) as caught:
        train(tiny_config(tiny_data, tmp_path, *overrides, add("BadLabels", what=what)))
    assert "\n" not in str(caught.value)
    # The state is that before the step, running statistics of batch norm included.
    checkpoint = saved(tmp_path, "diverged")
    assert checkpoint["global_step"] == 2
    assert_equal(dict(checkpoint["state_dict"]), Recorder.steps[2])
    listed = (tmp_path / "checkpoints" / "diverged.txt").read_text().splitlines()
    assert len(listed) == 8  # four samples of each source
    for line in listed:
        source, index, file = line.split(" ", 2)
        assert source in ("celeba", "w300lp")
        assert index.isdigit()
        assert Path(file).is_file()
    suspect = next(line.split(" ", 2)[2] for line in listed if line.startswith("w300lp"))
    assert (f"labels that are not finite: {suspect}" in str(caught.value)) == (what == "labels")


def test_a_run_goes_on_from_the_state_before_it_diverged(tiny_data: Path, tmp_path: Path) -> None:
    overrides = [*FOUR, "trainer.val_check_interval=4"]
    with pytest.raises(DivergedError):
        train(tiny_config(tiny_data, tmp_path / "run", *overrides, add("BadLabels", what="images")))
    checkpoint = f"checkpoint={tmp_path}/run/checkpoints/diverged.ckpt"
    train(tiny_config(tiny_data, tmp_path / "run", *overrides, checkpoint))
    train(tiny_config(tiny_data, tmp_path / "straight", *overrides))
    assert_equal(saved(tmp_path / "run")["state_dict"], saved(tmp_path / "straight")["state_dict"])


@pytest.mark.parametrize(("scale", "stops"), [(65536.0, False), (1.0, False), (2**-11, True)])
def test_with_a_gradient_scaler_the_loss_counts_and_a_scale_that_has_vanished(
    scale: float, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It skips steps whose gradients overflow, which is no divergence as long as some scale serves."""
    monkeypatch.setattr(DivergenceGuard, "_stop", lambda self, trainer: stopped.append(True))
    stopped: list[bool] = []
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    scaler.scale(torch.ones(()))  # makes it take up its scale
    trainer.precision_plugin.scaler = scaler  # type: ignore[attr-defined]
    module = LightningModule()
    module.weight = torch.nn.Parameter(torch.ones(1))
    module.weight.grad = torch.full((1,), math.inf)
    optimizer, guard = torch.optim.SGD(module.parameters(), lr=0.1), DivergenceGuard()
    guard.on_before_backward(trainer, module, torch.tensor(1.0))
    guard.on_before_optimizer_step(trainer, module, optimizer)
    assert stopped == [True] * stops
    guard.on_before_optimizer_step(trainer, module, optimizer)  # of a batch that was left out whole


# The end of a run, its speed, and doing it again


def test_a_run_ends_early_when_asked_to(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    early = ["callbacks/early_stopping=default", "callbacks.early_stopping.patience=1", "model.optimizer.lr=0"]
    with caplog.at_level("INFO"):
        train(tiny_config(tiny_data, tmp_path, *FOUR, *early, "trainer.max_steps=20", "model.optimizer.weight_decay=0"))
    (line,) = [record.message for record in caplog.records if "Stopped early" in record.message]
    assert "val/error did not improve" in line
    assert saved(tmp_path)["global_step"] < 20


def test_a_log_gets_lines_where_a_terminal_has_a_bar(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tiny_data, tmp_path, *FOUR)
    bar = {"_target_": "jointface.callbacks.StepProgressBar", "seconds_between_lines": 0}
    with open_dict(config):
        config.callbacks.progress_bar = bar
    config.trainer.enable_progress_bar = True
    with caplog.at_level("INFO"):
        train(config)
    lines = [record.message for record in caplog.records if record.message.startswith("Step ")]
    assert [line.split(":")[0] for line in lines if "val/error" not in line] == [f"Step {n} of 4" for n in (1, 2, 3, 4)]
    assert [line.split(":")[0] for line in lines if "val/error" in line] == ["Step 2 of 4", "Step 4 of 4"]
    assert all("train/loss_shape 0." in line for line in lines)


def test_an_unreadable_metrics_file_starts_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "metrics.json").write_text('{"val/error": 0.')
    callback = MetricsFile()
    callback.on_fit_start(Trainer(logger=False, default_root_dir=tmp_path), LightningModule())
    assert callback.values == {}
    assert "metrics.json is unreadable and will be replaced" in caplog.text


def test_throughput_is_logged(averaged: Path) -> None:
    with (averaged / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["train/images_per_second"]]
    assert [row["step"] for row in logged] == ["1", "3"]
    for row in logged:
        assert 0 < float(row["train/loader_wait"]) < 1
        assert float(row["train/images_per_second"]) > 0
        assert "train/gpu_memory_gib" not in row  # there is no GPU
    assert json.loads((averaged / "metrics.json").read_text())["train/images_per_second"] > 0


def test_a_deterministic_run_repeats_bit_for_bit(tiny_data: Path, tmp_path: Path) -> None:
    runs = [tmp_path / "first", tmp_path / "second"]
    try:
        for run in runs:
            train(tiny_config(tiny_data, run, *FOUR, "trainer.max_steps=2", "trainer.deterministic=true"))
    finally:
        torch.use_deterministic_algorithms(False)
    for part in ("state_dict", "optimizer_states"):
        assert_equal(saved(runs[0])[part], saved(runs[1])[part])
    assert rows(runs[0]) == rows(runs[1])
