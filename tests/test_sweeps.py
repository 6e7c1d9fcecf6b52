"""Studies: what is searched, how trials end, what a repeated command goes on with; by the command line, over tasks that
take no time in place of the training."""

import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from jointface.command_line import CONF_DIR, entry_point
from jointface.errors import ConfigError, DataError, TrialPruned
from jointface.running.search_space import read_search_space
from jointface.running.study import lock_folder
from jointface.train import train
from tests.test_training import tiny_config

LR = "model.optimizer.lr=tag(log,interval(1e-4,1e-2))"
Task = Callable[[DictConfig], Any]


def space_of(*overrides: str) -> Any:
    return read_search_space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("x=a,b", CategoricalDistribution(["a", "b"])),
        ("x=true,null,[1,2]", CategoricalDistribution(["True", "null", "[1,2]"])),  # as texts
        ("x=range(2,8)", IntDistribution(2, 7)),
        ("x=range(2,9,3)", IntDistribution(2, 8, step=3)),
        ("x=range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("x=interval(1,10)", FloatDistribution(1.0, 10.0)),
        ("x=int(interval(1,64))", IntDistribution(1, 64)),
        ("x=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("x=tag(log,int(interval(1,1024)))", IntDistribution(1, 1024, log=True)),
    ],
)
def test_hydras_sweep_syntax_says_what_is_searched(override: str, distribution: Any) -> None:
    assert space_of(override).searched == {"x": distribution}


def test_overrides_without_a_range_are_of_every_trial_and_the_last_of_a_key_counts() -> None:
    space = space_of("lr=interval(0,1)", "name=old", "name=new", "width=1,2", "width=3", "size={a: 1}", "~depth")
    assert list(space.searched) == ["lr"]
    assert space.overrides({"lr": 0.5}) == ["name=new", "width=3", "size={a:1}", "~depth", "lr=0.5"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("x=tag(log,interval(0,1))", "cannot search x=tag.*"),
        ("x=tag(log,range(1,9))", "a range cannot have a logarithmic scale"),
        ("x=tag(lin,interval(0,1))", "tag lin is unknown, the only known tag is log"),
        ("x=range(3,3)", "the range is empty"),
        ("x=interval(2,1)", "cannot search x=interval"),
        ("x=1", "nothing to search"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        space_of(override)
    assert "\n" not in str(caught.value)


# The command line


def error_of(config: DictConfig) -> float:
    """Least at a learning rate of 0.001."""
    return math.log10(config.model.optimizer.lr / 1e-3) ** 2


def quick_task(config: DictConfig) -> dict[str, float]:
    return {"val/error": error_of(config)}


FEW_KEYS = """
defaults: [_self_, {sweep: null}]
name: few
seed: 0
image_size: 96
checkpoint: null
model: {optimizer: {lr: 0.001}}
paths: {data_dir: data}
callbacks: {}
hydra: {sweep: {dir: "runs/${name}", subdir: "${hydra.job.num}"}, job: {name: train, chdir: false}}
"""


@pytest.fixture
def few_keys(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config folder with a small train.yaml, which is composed sooner, beside the real sweepers and sweeps."""
    folder = tmp_path_factory.mktemp("conf")
    for group in ("hydra", "sweep"):
        shutil.copytree(CONF_DIR / group, folder / group)
    (folder / "train.yaml").write_text(FEW_KEYS)
    monkeypatch.setattr("jointface.command_line.CONF_DIR", folder)
    return folder


@pytest.fixture
def sweep(tmp_path: Path, few_keys: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Runs `python -m jointface.train -m sweep=optuna ...` with a task in place of the training, in a new folder; gives
    the folder of the sweep `name=lr`."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, task: Task = quick_task, sweep: str = "optuna") -> Path:
        monkeypatch.setattr(sys, "argv", ["train", "-m", f"sweep={sweep}", *overrides])
        monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
        GlobalHydra.instance().clear()
        try:
            entry_point("train")(task)()
        finally:
            GlobalHydra.instance().clear()
        return tmp_path / "runs" / "lr"

    return run


def trials_of(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "trials.csv").open()))


def test_a_study_finds_the_better_values_and_says_what_it_tried(sweep: Callable[..., Path]) -> None:
    seen: list[float] = []

    def task(config: DictConfig) -> dict[str, float]:
        seen.append(config.model.optimizer.lr)
        assert config.callbacks.trial.number == len(seen) - 1
        return quick_task(config)

    folder = sweep(LR, "name=lr", "hydra.sweeper.n_trials=3", task=task)
    trials = trials_of(folder)
    assert [trial["state"] for trial in trials] == ["finished"] * 3
    assert [float(trial["model.optimizer.lr"]) for trial in trials] == seen
    assert all(1e-4 <= lr <= 1e-2 for lr in seen)
    study = optuna.load_study(study_name="lr", storage=f"sqlite:///{folder / 'study.db'}")
    assert study.best_value == min(float(trial["val/error"]) for trial in trials)
    for number, lr in enumerate(seen):  # jobs lie in the folders of their numbers
        assert f"model.optimizer.lr={lr}" in OmegaConf.load(folder / str(number) / ".hydra" / "overrides.yaml")


def test_a_repeated_command_goes_on_with_the_study(sweep: Callable[..., Path]) -> None:
    """Finished trials count; the one that was running when the sweep ended goes on as the same trial."""
    begun: list[int] = []

    def task(config: DictConfig) -> dict[str, float]:
        begun.append(config.callbacks.trial.number)
        if begun == [0, 1]:
            raise KeyboardInterrupt
        assert config.checkpoint == ("auto" if config.callbacks.trial.number == 1 else None)
        return quick_task(config)

    with pytest.raises(SystemExit):
        sweep(LR, "name=lr", "hydra.sweeper.n_trials=3", task=task)
    folder = Path("runs/lr")
    assert [trial["state"] for trial in trials_of(folder)] == ["finished", "unfinished"]
    interrupted = trials_of(folder)[1]["model.optimizer.lr"]
    sweep(LR, "name=lr", "hydra.sweeper.n_trials=3", task=task)
    assert begun == [0, 1, 1, 2]
    trials = trials_of(folder)
    assert [trial["state"] for trial in trials] == ["finished"] * 3
    assert trials[1]["model.optimizer.lr"] == interrupted
    assert len({trial["model.optimizer.lr"] for trial in trials}) == 3  # the seed draws nothing twice


KILLED = """
import sys, time
from pathlib import Path
from jointface.command_line import entry_point

def task(config):
    if config.callbacks.trial.number == 1:
        Path("second trial").touch()
        time.sleep(60)
    return {"val/error": config.model.optimizer.lr}

entry_point("train")(task)()
"""


@pytest.mark.slow
def test_a_killed_sweep_is_gone_on_with_as_well(
    sweep: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointface.command_line.CONF_DIR", CONF_DIR)  # the process has the real one
    arguments = ["sweep=optuna", LR, "name=lr", "hydra.sweeper.n_trials=3"]
    process = subprocess.Popen([sys.executable, "-c", KILLED, *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not (tmp_path / "second trial").exists():
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(SystemExit, match="another sweep is running in runs/lr"):
        sweep(*arguments[1:])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    folder = sweep(*arguments[1:])
    assert [trial["state"] for trial in trials_of(folder)] == ["finished"] * 3


def test_pruned_trials_count_and_keep_their_last_value(sweep: Callable[..., Path]) -> None:
    def task(config: DictConfig) -> dict[str, float]:
        trial = config.callbacks.trial
        if trial.number < 1:
            return quick_task(config)
        study = optuna.load_study(study_name=trial.study_name, storage=trial.storage)
        optuna.Trial(study, study.trials[trial.number]._trial_id).report(7.0, step=10)
        raise TrialPruned

    folder = sweep(LR, "name=lr", "hydra.sweeper.n_trials=2", task=task)
    assert [trial["state"] for trial in trials_of(folder)] == ["finished", "pruned"]
    assert trials_of(folder)[1]["val/error"] == "7.0"


def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(sweep: Callable[..., Path]) -> None:
    def task(config: DictConfig) -> dict[str, float]:
        if config.callbacks.trial.number == 0:
            raise DataError("no folder data: set paths.data_dir")
        return {"val/error": math.nan} if config.callbacks.trial.number == 1 else quick_task(config)

    folder = sweep(LR, "name=lr", "hydra.sweeper.n_trials=1", task=task)
    trials = trials_of(folder)
    assert [trial["state"] for trial in trials] == ["failed", "failed", "finished"]
    assert [trial["reason"] for trial in trials[:2]] == ["no folder data: set paths.data_dir", "val/error is nan"]


def broken_task(config: DictConfig) -> dict[str, float]:
    raise DataError("no folder data: set paths.data_dir")


def test_too_many_failures_end_the_sweep_in_one_line_and_can_be_mended(sweep: Callable[..., Path]) -> None:
    few = ["name=lr", "hydra.sweeper.n_trials=1", "hydra.sweeper.max_failures=0"]
    with pytest.raises(SystemExit, match=r"error: 1 failed trials, .*max_failures=0; last failure: no folder data"):
        sweep(LR, *few, task=broken_task)
    folder = sweep(LR, *few, "paths.data_dir=there")
    assert [trial["state"] for trial in trials_of(folder)] == ["failed", "finished"]


def test_a_study_keeps_to_its_search(sweep: Callable[..., Path]) -> None:
    sweep(LR, "name=lr", "hydra.sweeper.n_trials=1")
    with pytest.raises(
        SystemExit, match=r"the study lr was begun with nothing, this command has image_size=64 instead"
    ):
        sweep(LR, "name=lr", "image_size=64")
    with pytest.raises(
        SystemExit, match=r"was begun with model.optimizer.lr=tag.*, this command has model.optimizer.lr=int"
    ):
        sweep("model.optimizer.lr=interval(0.1,1)", "name=lr")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["name=lr"], "nothing to search"),
        ([LR, "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: expected a whole number of at least 1"),
        ([LR, "hydra.sweeper.sampler.seed=-1"], "hydra.sweeper.sampler.seed=-1: expected a whole number from 0 to 4"),
        ([LR, "hydra.sweeper.direction=up"], "hydra.sweeper.direction=up: choose from minimize, maximize"),
        ([LR, "hydra.sweeper.storage=nowhere:///x"], "cannot open a study in hydra.sweeper.storage=nowhere:///x"),
        ([LR, "hydra.sweeper.objective=test/error"], "a run gives no test/error, it gives val/error"),
        ([LR, "model.optimizer.rate=1"], "rate"),
        ([LR, "hydra.sweeper.trials=9"], "trials"),
    ],
)
def test_impossible_searches_are_refused_in_one_line(
    sweep: Callable[..., Path], overrides: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        sweep(*overrides)
    assert re.search(message, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_without_optuna_the_extra_is_named(sweep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"error: a search needs Optuna.*: pip install 'jointface\[sweep\]'"):
        sweep(LR)


def test_a_damaged_study_is_refused_in_one_line(sweep: Callable[..., Path]) -> None:
    Path("runs/lr").mkdir(parents=True)
    Path("runs/lr/study.db").write_bytes(b"no data base" * 100)
    with pytest.raises(SystemExit, match=r"error: cannot open a study in hydra.sweeper.storage=.*study.db"):
        sweep(LR, "name=lr")


def test_one_sweep_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(ConfigError, match="another sweep is running"), lock_folder(tmp_path):
        pass
    with lock_folder(tmp_path):
        pass


def test_the_ready_search_draws_the_loss_weight_and_the_learning_rate(
    sweep: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointface.command_line.CONF_DIR", CONF_DIR)

    def task(config: DictConfig) -> dict[str, float]:
        assert config.image_size == 64  # scale=comparison
        assert 150 <= config.model.loss.shape <= 15000
        assert isinstance(instantiate(config.callbacks.trial).pruner, optuna.pruners.SuccessiveHalvingPruner)
        return quick_task(config)

    others = ["hydra/sweeper/sampler=random", "hydra/sweeper/pruner=halving"]
    folder = sweep("name=lr", "hydra.sweeper.n_trials=1", *others, sweep="loss_weights", task=task)
    assert set(trials_of(folder)[0]) >= {"model.loss.shape", "model.optimizer.lr"}


def test_a_plain_multirun_goes_on_after_a_run_that_fails(
    tmp_path: Path, few_keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "-m", "seed=0,1"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    GlobalHydra.instance().clear()
    seeds: list[int] = []

    def task(config: DictConfig) -> None:
        seeds.append(config.seed)
        if config.seed == 0:
            raise DataError("a photo is missing")

    with pytest.raises(SystemExit, match="error: a photo is missing"):
        entry_point("train")(task)()
    GlobalHydra.instance().clear()
    assert seeds == [0, 1]


# A real training


def test_a_trial_reports_each_validation_and_is_pruned_where_others_were_better(
    tiny_data: Path, tmp_path: Path
) -> None:
    """The second validation of four steps would be the last."""
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="s")
    for _ in range(2):
        better = study.ask()
        for step in (2, 4):
            better.report(0.0, step)
        study.tell(better, 0.0)
    study.ask()
    report = {
        "_target_": "jointface.callbacks.TrialReport", "study_name": "s", "storage": storage, "number": 2,
        "objective": "val/error", "pruner": {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 1},
    }  # fmt: skip
    config = tiny_config(tiny_data, tmp_path / "run")
    OmegaConf.update(config, "callbacks.trial", report, force_add=True)
    with pytest.raises(TrialPruned):
        train(config)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert study.trials[2].intermediate_values == {2: pytest.approx(metrics["val/error"])}
    assert not any(name.startswith("test/") for name in metrics)  # it ended there
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    config = tiny_config(tiny_data, tmp_path / "unknown")
    OmegaConf.update(config, "callbacks.trial", {**report, "number": 9}, force_add=True)
    with pytest.raises(ConfigError, match=r"the study s in .*study\.db has no trial 9"):
        train(config)
