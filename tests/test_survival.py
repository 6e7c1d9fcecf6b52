"""A training that is stopped, killed or out of disk goes on where it was, and loses nothing."""

import csv
import multiprocessing
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning import Callback, Trainer
from omegaconf import DictConfig, OmegaConf

from jointface.errors import CheckpointError, ConfigError, RunStopped
from jointface.modules import load_model
from jointface.running.stop_signals import StopSignals
from jointface.running.whole_checkpoints import WholeCheckpoints
from jointface.train import train
from tests.test_training import TINY, tiny_config

REPOSITORY = Path(__file__).parents[1]
# Six steps, validated after every second.
SIX = ["~callbacks.figures", "trainer.max_steps=6", "callbacks.last_checkpoint.every_n_train_steps=3"]
TIMES = {"train/images_per_second", "train/loader_wait"}


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """A shell that started the tests in the background has Ctrl-C ignored, which runs respect."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class SignalAt(Callback):
    """Sends the first process and its loaders a signal in a hook, once the run is at a step; terminals and SLURM do
    so."""

    def __init__(self, number: int, step: int, hook: str = "on_train_batch_start") -> None:
        self.number, self.step = number, step
        setattr(self, hook, self.send)

    def send(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step == self.step and trainer.is_global_zero:
            for process in (os.getpid(), *(loader.pid for loader in multiprocessing.active_children())):
                os.kill(process, self.number)


def signal_at(number: int, step: int, hook: str = "on_train_batch_start") -> list[str]:
    settings = f"_target_: tests.test_survival.SignalAt, number: {int(number)}, step: {step}, hook: {hook}"
    return [f"+callbacks.signal={{{settings}}}"]


def saved(run: Path, name: str = "last") -> dict[str, Any]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def rows(run: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without what a clock says."""
    with (run / "metrics.csv").open() as file:
        kept = [{name: value for name, value in row.items() if name not in TIMES} for row in csv.DictReader(file)]
    for row in kept:
        if row.get("test/celeba/accuracy"):
            del row["step"], row["epoch"]  # Lightning does not count a training that was through
    return kept


def assert_equal(state: Any, other: Any, where: str = "") -> None:
    """Bit for bit."""
    assert type(state) is type(other), where
    if isinstance(state, dict):
        assert state.keys() == other.keys(), where
        for key in state:
            assert_equal(state[key], other[key], f"{where}/{key}")
    elif isinstance(state, list | tuple):
        assert len(state) == len(other), where
        for index, pair in enumerate(zip(state, other, strict=True)):
            assert_equal(*pair, f"{where}/{index}")
    elif isinstance(state, torch.Tensor):
        assert torch.equal(state, other), where
    else:
        assert state == other, where


def assert_same_training(run: Path, other: Path) -> None:
    """All that the runs learned and logged is equal, bit for bit."""
    last, others = saved(run), saved(other)
    for part in ("state_dict", "training_weights", "optimizer_states", "lr_schedulers", "global_step"):
        assert_equal(last.get(part), others.get(part), part)
    assert_equal(saved(run, "best")["state_dict"], saved(other, "best")["state_dict"])
    assert rows(run) == rows(other)


@pytest.fixture(scope="module")
def straight(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with averaged weights, that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight")
    train(tiny_config(tiny_data, folder, *SIX, "callbacks/ema=default"))
    return folder


@pytest.mark.parametrize(
    ("number", "step", "hook", "message"),
    [
        (signal.SIGTERM, 1, "on_train_batch_start", "stopped by SIGTERM after step 2"),  # a validation is due
        (signal.SIGINT, 4, "on_validation_batch_start", "stopped by SIGINT in the validation after step 4"),
        (signal.SIGTERM, 6, "on_test_batch_start", "stopped by SIGTERM in the test, with the training complete"),
    ],
)
def test_a_run_that_a_signal_stops_goes_on_as_if_nothing_had_been(
    number: int, step: int, hook: str, message: str, straight: Path, tiny_data: Path, tmp_path: Path
) -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    overrides = [*SIX, "callbacks/ema=default"]
    loaders = "num_workers=1" if number == signal.SIGTERM else "num_workers=0"
    with pytest.raises(RunStopped, match=message) as caught:
        train(tiny_config(tiny_data, tmp_path, *overrides, loaders, *signal_at(number, step, hook)))
    assert caught.value.signal == number
    assert caught.value.checkpoint == tmp_path / "checkpoints" / "last.ckpt"
    assert saved(tmp_path)["global_step"] == int(message.split()[-1] if "after" in message else 6)
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    train(tiny_config(tiny_data, tmp_path, *overrides, f"checkpoint={caught.value.checkpoint}"))
    assert_same_training(tmp_path, straight)


def test_a_run_whose_folder_has_moved_keeps_its_best(straight: Path, tiny_data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(straight, moved)
    longer = [*SIX, "callbacks/ema=default", "trainer.max_steps=7", "trainer.val_check_interval=7"]
    train(tiny_config(tiny_data, moved, *longer, f"checkpoint={moved}/checkpoints/last.ckpt"))
    path, score = best_of(moved)
    assert path == str(moved / "checkpoints" / "best.ckpt")
    assert score <= best_of(straight)[1]


def best_of(run: Path) -> tuple[str, float]:
    (state,) = [state for state in saved(run)["callbacks"].values() if "best_model_score" in state]
    return state["best_model_path"], state["best_model_score"].item()


@pytest.mark.parametrize(
    ("number", "later", "ends"),
    [(signal.SIGINT, 0.0, True), (signal.SIGTERM, 0.5, False), (signal.SIGTERM, 6.0, True)],
)
def test_the_second_signal_ends_the_program_at_once(
    number: signal.Signals, later: float, ends: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """But not a SIGTERM that comes right after the first: torchrun and SLURM both pass it on."""
    before, clock, killed = signal.getsignal(signal.SIGTERM), [100.0], []
    monkeypatch.setattr("jointface.running.stop_signals.time.monotonic", lambda: clock[0])
    try:
        signals = StopSignals()
        signals.listen()
        signal.raise_signal(number)
        assert signals.received == number
        if signal.getsignal(number) == signal.SIG_DFL:
            killed.append(number)  # by the system itself
        else:
            monkeypatch.setattr("jointface.running.stop_signals.os.kill", lambda _, sent: killed.append(sent))
            clock[0] += later
            signal.raise_signal(number)
        assert killed == [number] * ends
        assert (signal.getsignal(number) == signal.SIG_DFL) == ends
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert f"{number.name}: stopping after this step; repeat it to stop at once" in capfd.readouterr().err


@pytest.mark.parametrize("checkpoint", ["auto", "null"])
def test_slurms_warning_puts_a_job_that_goes_on_by_itself_back_into_the_queue(
    checkpoint: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/queue\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    stop = [f"checkpoint={checkpoint}", *signal_at(signal.SIGUSR1, 1)]
    with pytest.raises(RunStopped, match="stopped by SIGUSR1 after step 2"):
        train(tiny_config(tiny_data, tmp_path / "run", *SIX, *stop))
    queue = tmp_path / "queue"
    assert (queue.read_text() if queue.exists() else "") == ("requeue 17\n" if checkpoint == "auto" else "")


NO_LIMIT = resource.getrlimit(resource.RLIMIT_FSIZE)


class FullDisk(WholeCheckpoints):
    """From its third checkpoint on, a file holds no more than some kilobytes."""

    def __init__(self) -> None:
        self.saved = 0

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        self.saved += 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000 if self.saved > 2 else NO_LIMIT[0], NO_LIMIT[1]))
        super().save_checkpoint(*args, **kwargs)


def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(tiny_data: Path, tmp_path: Path) -> None:
    full = "+trainer.plugins=[{_target_: tests.test_survival.FullDisk}]"
    try:
        with pytest.raises(CheckpointError, match=r"last.ckpt could not be saved \(File too large\): make") as caught:
            train(tiny_config(tiny_data, tmp_path, *SIX, full))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, NO_LIMIT)
    assert str(caught.value).endswith(f"room there and resume with checkpoint={tmp_path}/checkpoints/last.ckpt")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    assert saved(tmp_path)["global_step"] == 2
    load_model(tmp_path / "checkpoints" / "best.ckpt")


def train_until_killed(config: DictConfig, saves: int) -> None:
    """A training that is killed in the middle of so many writes of checkpoints."""
    write, written = Path.write_bytes, []

    def killed(path: Path, data: bytes) -> int:
        written.extend([path] if ".ckpt" in path.name else [])
        if ".ckpt" not in path.name or len(written) < saves:
            return write(path, data)
        write(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Path.write_bytes = killed  # type: ignore[method-assign]
    train(config)


def test_a_kill_while_saving_leaves_the_checkpoint_before(straight: Path, tiny_data: Path, tmp_path: Path) -> None:
    overrides = [*SIX, "callbacks/ema=default"]
    # In turn: last before the validation of step 2, best, last; last of step 3; last before the validation of step 4.
    config = tiny_config(tiny_data, tmp_path, *overrides)
    killed = multiprocessing.get_context("fork").Process(target=train_until_killed, args=(config, 5))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    (leftover,) = (tmp_path / "checkpoints").glob(".*")
    assert not leftover.name.endswith(".ckpt")  # nobody takes it for one
    assert saved(tmp_path)["global_step"] == 3
    again = tiny_config(tiny_data, tmp_path, *overrides, "checkpoint=auto")
    metrics = train(again.copy())
    assert not leftover.exists()
    assert_same_training(tmp_path, straight)
    with patch("jointface.train.build_trainer", side_effect=AssertionError):  # nothing is left to do
        older = OmegaConf.load(tmp_path / "config.yaml")
        del older.model.shuffle_attributes  # a version that did not know this key left it out
        OmegaConf.save(older, tmp_path / "config.yaml")
        finished = train(again.copy())
        again.seed += 1
        with pytest.raises(ConfigError, match=r"has finished with another config \(see seed in its config.yaml\)"):
            train(again.copy())
    assert {name: finished[name] for name in metrics} == pytest.approx(metrics)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        arguments, cwd=folder, capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip


def overrides_of(data: Path) -> list[str]:
    return ["experiment=joint_celeba_300wlp", *TINY[:-1], *SIX, f"paths.data_dir={data}", "name=tiny run"]


def resume_words(result: subprocess.CompletedProcess[str]) -> list[str]:
    """The command that a stopped run names."""
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("to resume: ")]
    python, *arguments = shlex.split(line.removeprefix("to resume: "))
    assert python == "python"
    return [sys.executable, *arguments]


@pytest.mark.slow
def test_ctrl_c_ends_a_sweep_and_names_the_command_that_goes_on(tiny_data: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "jointface.train", "-m", "seed=0,1"]
    stopped = command(tmp_path, *start, *overrides_of(tiny_data), *signal_at(signal.SIGINT, 2))
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped by SIGINT after step 3" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    (sweep,) = (tmp_path / "runs" / "tiny run").iterdir()
    assert sorted(path.name for path in sweep.iterdir() if path.is_dir()) == ["0"]  # the second job was not begun
    without_signal = [word for word in resume_words(stopped) if "SignalAt" not in word]
    result = command(tmp_path, *without_signal)
    assert result.returncode == 0, result.stderr
    assert saved(sweep / "0")["global_step"] == 6  # it went on in its folder
    assert [row["step"] for row in rows(sweep / "0") if row["train/loss"]] == list("012345")


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_its_own_message_resumes(tiny_data: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "jointface.train"]
    stopped = command(tmp_path, *start, *overrides_of(tiny_data), *signal_at(signal.SIGTERM, 2))
    assert stopped.returncode == 143, stopped.stderr
    assert len(stopped.stderr.strip().splitlines()) == 3  # that it stops, where it stopped, how to go on
    (run,) = (tmp_path / "runs" / "tiny run").iterdir()
    result = command(tmp_path, *[word for word in resume_words(stopped) if "SignalAt" not in word])
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "runs" / "tiny run").iterdir()) == [run]
    assert saved(run)["global_step"] == 6


@pytest.mark.slow
def test_all_processes_stop_when_one_is_asked_to(tiny_data: Path, tmp_path: Path) -> None:
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.precision=32-true"]
    two.append("trainer.sync_batchnorm=false")
    start = [sys.executable, "-m", "jointface.train", *overrides_of(tiny_data), *two]
    stopped = command(tmp_path, *start, *signal_at(signal.SIGTERM, 2))
    assert stopped.returncode == 143, stopped.stderr
    assert stopped.stderr.count("stopped by SIGTERM after step 3") == 1
    (run,) = (tmp_path / "runs" / "tiny run").iterdir()
    assert saved(run)["global_step"] == 3
    result = command(tmp_path, *[word for word in resume_words(stopped) if "SignalAt" not in word])
    assert result.returncode == 0, result.stderr
    assert saved(run)["global_step"] == 6
