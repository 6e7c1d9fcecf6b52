"""Distributed jobs of a sweep get a command line and an environment of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, read_write

from jointface.command_line import CONF_DIR, entry_point
from jointface.errors import DivergedError, RunStopped, TrialPruned
from jointface.running.sweep_jobs import one_job
from tests.test_distributed import TWO
from tests.test_training import TINY


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Path]:
    """The folder of a job of a sweep, whose config Hydra holds."""
    overrides = ["seed=3", "sweep=joint_vs_shape", f"hydra.runtime.output_dir={tmp_path}"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    yield tmp_path
    HydraConfig.instance().cfg = None


def test_the_command_line_is_that_of_the_job_alone(job: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "-m", "seed=1,2,3", "sweep=joint_vs_shape"])
    with one_job():
        assert sys.argv == ["train", "seed=3", "sweep=joint_vs_shape", "hydra.mode=RUN"]
        assert HydraConfig.get().run.dir == str(job)
    assert sys.argv == ["train", "-m", "seed=1,2,3", "sweep=joint_vs_shape"]


def test_the_environment_of_a_job_does_not_outlive_it(job: Path) -> None:
    before = dict(os.environ)
    with one_job():
        os.environ["LOCAL_RANK"] = "0"
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    "error", [DivergedError("step 3"), TrialPruned(), RunStopped("stopped", Path("last.ckpt"), 15)]
)
def test_a_process_that_ends_with_all_others_leaves_the_first_one_alone(
    error: Exception, job: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning kills the first process, and a sweep with it, when one that it started ends with an exit code. One that
    runs a sweep itself goes on to the next job."""

    def task(config: DictConfig) -> None:
        raise error

    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which the command sets, and the test leaves as it was
    monkeypatch.setattr("jointface.command_line.hydra.main", lambda **_: lambda run: lambda: run(DictConfig({})))
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    hydra = HydraConfig.get()
    with read_write(hydra):
        hydra.mode = RunMode.RUN
    with pytest.raises(SystemExit) as end:
        entry_point("train")(task)()
    assert end.value.code == 0
    with read_write(hydra):
        hydra.mode = RunMode.MULTIRUN
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises((type(error), SystemExit)) as end:
        entry_point("train")(task)()
    assert getattr(end.value, "code", 1) != 0


def run_sweep(data: Path, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Two jobs of two processes each."""
    places = [f"paths.data_dir={data}", f"paths.bfm_dir={data}/bfm_3ddfa", f"hydra.sweep.dir={folder}"]
    command = [sys.executable, "-m", "jointface.train", "-m", "seed=0,1", "experiment=joint_celeba_300wlp"]
    command += [*TINY, *TWO, *places, *overrides]
    return subprocess.run(command, check=False, timeout=300, capture_output=True, text=True)


@pytest.mark.slow
def test_a_sweep_of_distributed_jobs_runs_to_its_end(tiny_data: Path, tmp_path: Path) -> None:
    assert run_sweep(tiny_data, tmp_path).returncode == 0
    assert all((tmp_path / job / "metrics.json").is_file() for job in ("0", "1"))


@pytest.mark.slow
def test_a_sweep_goes_on_where_a_distributed_job_diverges(tiny_data: Path, tmp_path: Path) -> None:
    """Nobody is killed: the other processes of the job leave it to the first one to say what happened."""
    ended = run_sweep(tiny_data, tmp_path, "model.optimizer.lr=1e30")
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert all((tmp_path / job / "checkpoints" / "diverged.ckpt").is_file() for job in ("0", "1"))
