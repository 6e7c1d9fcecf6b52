"""Two processes on the CPU do what one does with the same global batch."""

import csv
import json
import os
import socket
import subprocess
from pathlib import Path
from threading import Thread

import pytest

from jointface.errors import ConfigError
from jointface.train import build_trainer
from tests.commands import run_command
from tests.test_training import TINY, tiny_config

TWO = [
    "trainer=ddp",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.precision=32-true",
    "trainer.sync_batchnorm=false",  # torch's works on GPUs only
    "+callbacks.batch_norm={_target_: tests.synchronised.SynchroniseBatchNorm}",
]


def rows(folder: Path) -> dict[str, list[float]]:
    """Each logged column of a run."""
    with (folder / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in table if row[name]] for name in table[0]}


@pytest.fixture(scope="module")
def runs(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of a run on one and of one on two processes, with the same global batch."""
    folder = tmp_path_factory.mktemp("processes")
    same = [
        *TINY, "experiment=joint_celeba_300wlp", f"paths.data_dir={tiny_data}", f"paths.bfm_dir={tiny_data}/bfm_3ddfa",
        "data.augmentation=null", "data.turning=null", "model.attribute_classifier.dropout=0", "~callbacks.figures",
        "model/landmark_uncertainty=default",
        "+model.optimizer.eps=1e-3",  # Adam would scale gradients that are hardly more than rounding to full steps
    ]  # fmt: skip
    one = [f"hydra.run.dir={folder}/one", "batch_size={shape: 4, attributes: 6}"]
    two = [f"hydra.run.dir={folder}/two", "batch_size={shape: 2, attributes: 3}", *TWO]
    alone = run_command("train", *same, *one, folder=folder)
    assert alone.returncode == 0, alone.stderr[-3000:]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}

    ended: list[subprocess.CompletedProcess[str]] = []

    def run(rank: int) -> None:
        environment = {**os.environ, **meeting, "LOCAL_RANK": str(rank)}  # as Lightning starts it
        ended.append(run_command("train", *same, *two, folder=folder, environment=environment))

    ranks = [Thread(target=run, args=[rank]) for rank in (0, 1)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    assert [process.returncode for process in ended] == [0, 0], [process.stderr[-3000:] for process in ended]
    return {name: folder / name for name in ("one", "two")}


def test_the_loss_curve_is_that_of_one_process(runs: dict[str, Path]) -> None:
    one, two = (rows(runs[name]) for name in ("one", "two"))
    for loss in ("train/loss", "train/loss_shape", "train/loss_attributes", "train/loss_landmark_uncertainty"):
        assert len(one[loss]) == 4
        assert two[loss] == pytest.approx(one[loss], rel=1e-4)


def test_batch_norm_that_cannot_be_synchronised_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path, *TWO, "trainer.sync_batchnorm=true")
    with pytest.raises(ConfigError, match=r"only on GPUs, set trainer\.sync_batchnorm=false"):
        build_trainer(config)


def test_metrics_count_each_sample_once(runs: dict[str, Path]) -> None:
    one, two = (json.loads((runs[name] / "metrics.json").read_text()) for name in ("one", "two"))
    evaluated = {name: value for name, value in one.items() if name.startswith(("val/", "test/"))}
    assert any(name.startswith("test/aflw2000") for name in evaluated)  # 3 samples, a batch for one process alone
    assert {name: two[name] for name in evaluated} == pytest.approx(evaluated, rel=1e-3, abs=1e-4)
