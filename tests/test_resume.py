"""A run that is killed and resumed ends bit for bit as one that was not, in the middle of every source's epoch."""

import csv
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from jointface.command_line import CONF_DIR
from jointface.train import train
from tests.commands import run_command
from tests.test_training import TINY

STEPS, KILLED, SAVED = 8, 6, 4

# Files and drawn faces. No batch divides the samples of a source; augmentation, turning and dropout draw from every
# random state that a step uses.
SOURCES = [
    "experiment=joint_celeba_300wlp", "scale=small", "data/turning=default", "num_workers=1",
    "model/landmark_uncertainty=default", "+source@data.sources.synthetic_attributes=synthetic_attributes",
    "data.sources.synthetic_attributes.dataset.num_faces={train: 7, val: 4}",
]  # fmt: skip


def arguments(run_dir: str) -> list[str]:
    """Overrides of every run; `run_dir` names the folder."""
    general = [
        run_dir, "~callbacks.figures", f"trainer.max_steps={STEPS}", "trainer.val_check_interval=7",
        "callbacks/ema=default", f"callbacks.last_checkpoint.every_n_train_steps={SAVED}",
    ]  # fmt: skip
    replaced = ("trainer.max", "trainer.val", "callbacks.fig")
    return [*(override for override in TINY if not override.startswith(replaced)), *general]


def run_here(data: Path, folder: Path, *overrides: str) -> None:
    """A run in this process."""
    settings = [f"paths.data_dir={data}", f"paths.bfm_dir={data}/bfm_3ddfa"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        train(compose("train", [*arguments(f"paths.run_dir={folder}"), *settings, *overrides]))


def run_to_the_kill(data: Path, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """A run of the command line that is killed."""
    settings = [f"paths.data_dir={data}", f"paths.bfm_dir={data}/bfm_3ddfa"]
    kill = f"+callbacks.kill={{_target_: tests.killer.KillAt, step: {KILLED}}}"
    return run_command("train", *arguments(f"hydra.run.dir={folder}"), *settings, *overrides, kill, folder=data)


@pytest.fixture(scope="module")
def runs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of a run without and of one with a kill."""
    folder = tmp_path_factory.mktemp("resume")
    run_here(tiny_data, folder / "straight", *SOURCES)
    killed = run_to_the_kill(tiny_data, folder / "killed", *SOURCES)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    run_here(tiny_data, folder / "killed", *SOURCES, "checkpoint=auto")
    return folder / "straight", folder / "killed"


def test_weights_optimiser_and_schedule_are_the_same(runs: tuple[Path, Path]) -> None:
    straight, resumed = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in runs)
    assert straight["global_step"] == resumed["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        differing = [name for name, a, b in both(straight[part], resumed[part], part) if not same(a, b)]
        assert not differing
    assert straight.keys() == resumed.keys()


def test_every_row_of_the_metrics_is_the_same(runs: tuple[Path, Path]) -> None:
    tables = []
    for run in runs:
        with (run / "metrics.csv").open() as file:
            tables.append([untimed(row) for row in csv.DictReader(file)])
    straight, resumed = tables
    assert len(straight) > STEPS
    assert resumed == straight


def untimed(row: dict[str, str]) -> dict[str, str]:
    """A row of metrics.csv without what depends on the clock."""
    return {name: value for name, value in row.items() if name not in ("train/images_per_second", "train/loader_wait")}


def both(a: object, b: object, name: str) -> list[tuple[str, object, object]]:
    """The leaves of two nested containers, side by side."""
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys()
        return [leaf for key in a for leaf in both(a[key], b[key], f"{name}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        assert len(a) == len(b)
        return [leaf for i, (x, y) in enumerate(zip(a, b, strict=True)) for leaf in both(x, y, f"{name}.{i}")]
    return [(name, a, b)]


def same(a: object, b: object) -> bool:
    """Whether two leaves are equal bit for bit."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a == b
