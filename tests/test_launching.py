"""Distributed jobs of a sweep get a command line and an environment of their own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from jointface.config import CONF_DIR
from jointface.launching import one_job
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


@pytest.mark.slow
def test_a_sweep_of_distributed_jobs_runs_to_its_end(tiny_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "jointface.train", "-m", "seed=0,1", *TINY, *TWO]
    settings = [f"paths.data_dir={tiny_data}", f"paths.bfm_dir={tiny_data}/bfm_3ddfa", f"hydra.sweep.dir={tmp_path}"]
    subprocess.run(
        [*command, *settings, "experiment=joint_celeba_300wlp"], check=True, timeout=300, capture_output=True
    )
    assert all((tmp_path / job / "metrics.json").is_file() for job in ("0", "1"))
