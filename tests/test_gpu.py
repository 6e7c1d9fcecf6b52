"""Whole runs on a CUDA device, where there is one: precisions, losses, exact resuming, compiled layers."""

import csv
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, Trainer

from jointface.command_line import CONF_DIR
from jointface.errors import RunStopped
from jointface.train import train
from tests.test_resume import both, same, untimed
from tests.test_training import TINY

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

FACES = [
    "experiment=joint_synthetic",
    "drawing=device",
    "drawing.compile=false",
    "trainer=gpu",
    "trainer.accelerator=gpu",
    "data.sources.synthetic_shape.dataset.num_faces={train: 10, val: 4}",
    "data.sources.synthetic_attributes.dataset.num_faces={train: 7, val: 4}",
    "data.sources.synthetic.dataset.num_faces=4",
]


class StopAt(Callback):
    """Asks the run to stop after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            signal.raise_signal(signal.SIGTERM)


def run(folder: Path, *overrides: str) -> dict[str, float]:
    """A run in this process."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return train(compose("train", [*TINY, *FACES, f"paths.run_dir={folder}", *overrides]))


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("loss", ["fixed", "uncertainty", "dwa", "pcgrad"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_every_loss_trains_in_every_precision(precision: str, loss: str, tmp_path: Path) -> None:
    """With averaged weights, accumulated batches and measured gradients; faces are rendered on the device."""
    metrics = run(
        tmp_path, f"trainer.precision={precision}", f"model/loss={loss}", "callbacks/ema=default",
        "trainer.accumulate_grad_batches=2", "model.log_gradients_every_n_steps=1",
    )  # fmt: skip
    assert math.isfinite(metrics["test/synthetic/nme_2d_68"])
    losses = [float(row["train/loss"]) for row in rows(tmp_path) if row.get("train/loss")]
    assert losses
    assert all(map(math.isfinite, losses))
    memory = [float(row["train/gpu_memory_gib"]) for row in rows(tmp_path) if row.get("train/gpu_memory_gib")]
    assert memory
    assert min(memory) > 0


@pytest.mark.parametrize("decoder", ["position_map", "morphable"])
def test_a_stopped_run_goes_on_bit_for_bit(decoder: str, tmp_path: Path) -> None:
    settings = [
        f"model/shape_decoder={decoder}", "trainer.deterministic=true", "trainer.max_steps=8",
        "trainer.val_check_interval=4", "callbacks/ema=default", "num_workers=1",
    ]  # fmt: skip
    run(tmp_path / "straight", *settings)
    with pytest.raises(RunStopped):
        run(tmp_path / "stopped", *settings, "+callbacks.stop={_target_: tests.test_gpu.StopAt, step: 3}")
    run(tmp_path / "stopped", *settings, "checkpoint=auto")
    straight, resumed = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("straight", "stopped")
    )
    for part in ("state_dict", "optimizer_states", "training_weights"):
        differing = [name for name, a, b in both(straight[part], resumed[part], part) if not same(a, b)]
        assert not differing
    tables = [[untimed(row) for row in rows(tmp_path / name)] for name in ("straight", "stopped")]
    for table in tables:
        for row in table:
            row.pop("train/gpu_memory_gib", None)
    assert tables[0] == tables[1]


@pytest.fixture
def compiling() -> Iterator[None]:
    """A clean compiler; the shapes in annotations cannot check themselves while it traces."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("compiling")
def test_compiled_layers_train_and_are_compiled_a_few_times_only(tmp_path: Path) -> None:
    metrics = run(
        tmp_path, "model.compile=true", "trainer.precision=bf16-mixed", "trainer.max_steps=12",
        "trainer.val_check_interval=12",
    )  # fmt: skip
    assert math.isfinite(metrics["test/synthetic/nme_2d_68"])
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert 3 <= graphs <= 15  # three parts, in training and evaluation, for one, a fixed and any number of rows


def test_distributed_training_starts_on_the_gpus_there_are(tmp_path: Path) -> None:
    command = [*TINY, *FACES[:3], *FACES[5:], "trainer=ddp", f"hydra.run.dir={tmp_path / 'run'}"]
    finished = subprocess.run(
        [sys.executable, "-m", "jointface.train", *command], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "best.ckpt").is_file()
