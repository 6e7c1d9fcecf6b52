"""What a training refuses before it begins: checkpoints that it cannot go on from, devices that are not there."""

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException, InstantiationException
from lightning.pytorch.plugins.environments import TorchElasticEnvironment
from omegaconf import OmegaConf

from jointface.command_line import CONF_DIR
from jointface.errors import CheckpointError, ConfigError, DataError, JointFaceError
from jointface.running.checks import PARTS
from jointface.running.expected_errors import one_line
from jointface.train import build_trainer, train, validate_config
from tests.test_distributed import TWO as TWO_PROCESSES
from tests.test_training import TINY, tiny_config

TWO = ["~callbacks.figures", "trainer.max_steps=2"]


@pytest.fixture(scope="module")
def last(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a joint run."""
    folder = tmp_path_factory.mktemp("run")
    train(tiny_config(tiny_data, folder, *TWO))
    return folder / "checkpoints" / "last.ckpt"


def refused(data: Path, folder: Path, *overrides: str) -> JointFaceError:
    with pytest.raises(JointFaceError) as caught:
        train(tiny_config(data, folder / "refused", *TWO, *overrides))
    assert "\n" not in str(caught.value)
    assert not (folder / "refused").exists()
    return caught.value


def changed(last: Path, folder: Path, change: str) -> Path:
    path = folder / "changed.ckpt"
    if change == "cut short":
        path.write_bytes(last.read_bytes()[:-1000])
        return path
    checkpoint = torch.load(last, weights_only=True)
    if change == "newer":
        checkpoint["jointface"]["format"] = 99
    if change == "weights alone":
        del checkpoint["optimizer_states"], checkpoint["lr_schedulers"]
    torch.save(checkpoint, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("cut short", "changed.ckpt: not a readable checkpoint; it is truncated"),
        ("newer", r"changed.ckpt: written by a newer jointface \(format 99, this one reads 1\); update jointface"),
        ("weights alone", r"holds only a model, no training state \(optimizer_states, lr_schedulers missing\)"),
        ("whole", r"changed.ckpt is from step 2; with trainer.max_steps=2 .* no validation would follow"),
    ],
)
def test_a_checkpoint_that_leads_nowhere(
    change: str, message: str, last: Path, tiny_data: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    path = changed(last, tmp_path / "checkpoints", change)
    assert re.search(message, str(refused(tiny_data, tmp_path, f"checkpoint={path}")))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model.shape_decoder.hidden=16"],
            r"shape_decoder.hidden is \d+ in the checkpoint and 16 in the config\. Repeat",
        ),
        (
            ["model.backbone.hidden_sizes=[8,8,16,32]"],
            r"is \[8, 8, 16, 16\] in the checkpoint and \[8, 8, 16, 32\] in the",
        ),
        (
            ["experiment=joint_celeba_lfwa_300wlp"],
            r"the config 75 \(of celeba and lfwa\), only in the config Asian,",
        ),
        (["experiment=shape_300wlp"], r"it has 40 attributes \(of celeba\), the config 0 \(of no label set\)"),
    ],
)
def test_a_checkpoint_of_another_model_says_what_differs(
    overrides: list[str], message: str, last: Path, tiny_data: Path, tmp_path: Path
) -> None:
    error = refused(tiny_data, tmp_path, f"checkpoint={last}", *overrides)
    assert isinstance(error, CheckpointError)
    assert re.search(message, str(error)), str(error)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.optimizer._target_=torch.optim.SGD", r"trained by torch\.optim\.adamw\.AdamW, .* asks for torch.*SGD"),
        ("model/loss=uncertainty", "trained with another choice of model/loss"),
    ],
)
def test_a_checkpoint_of_another_training_says_what_differs(
    override: str, message: str, last: Path, tiny_data: Path, tmp_path: Path
) -> None:
    error = refused(tiny_data, tmp_path, f"checkpoint={last}", override, "trainer.max_steps=20")
    assert isinstance(error, CheckpointError)
    assert re.search(message, str(error)), str(error)


def test_hints_name_the_checkpoint_to_go_on_from(last: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert str(refused(tiny_data, tmp_path, f"checkpoint={last.parents[1]}")).endswith("use " + str(last))
    assert str(refused(tiny_data, tmp_path, "checkpoint=no.ckpt")).endswith("checkpoints/last.ckpt")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.accumulate_grad_batches=3", "trainer.val_check_interval=4"], "the first must be a multiple of the"),
        (["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=10"], "a run must validate before it ends"),
        (["+trainer.limit_val_batches=0"], "a run must validate, set it to at least 1"),
    ],
)
def test_validations_that_do_not_fit_the_steps(
    overrides: list[str], message: str, tiny_data: Path, tmp_path: Path
) -> None:
    error = refused(tiny_data, tmp_path, *overrides)
    assert isinstance(error, ConfigError)
    assert message in str(error)


@pytest.mark.parametrize("experiment", ["joint_all", "joint_celeba_300wlp", "shape_300wlp_anny", "free"])
def test_experiments_name_the_class_of_every_part_at_another_scale(experiment: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", [f"experiment={experiment}", "scale=full"])
    parts = {key: part for key in PARTS if (part := OmegaConf.select(config, key)) is not None}
    assert [key for key, part in parts.items() if "_target_" not in part] == []


def test_keys_of_a_part_that_is_left_out(tiny_data: Path, tmp_path: Path) -> None:
    """As where an experiment has chosen how far faces are turned."""
    error = refused(tiny_data, tmp_path, "~data.turning", "+data.turning={yaw: 30}")
    assert isinstance(error, ConfigError)
    assert "data.turning has yaw but no _target_: write data.turning=null to leave it out" in str(error)


@pytest.mark.parametrize(
    "override",
    [
        "+trainer.fast_dev_run=true",
        "+trainer.barebones=true",
        "+trainer.enable_checkpointing=false",
        "+callbacks.checkpoint.save_top_k=0",
        "+callbacks.checkpoint.every_n_epochs=0",
        "callbacks.checkpoint.monitor=null",
        "~callbacks.checkpoint",
    ],
)
def test_a_run_keeps_its_best_checkpoint(override: str, tiny_data: Path, tmp_path: Path) -> None:
    error = refused(tiny_data, tmp_path, override)
    assert isinstance(error, ConfigError)
    assert "a run tests its best checkpoint, leave this out; debug=one_batch tries every part" in str(error)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (["image_size=32", "batch_size.shape=1"], "shape_decoder"),
        (["image_size=32", "batch_size.shape=1", "experiment=shape_300wlp"], "backbone"),
        (["image_size=64", "batch_size.shape=1", "experiment=shape_300wlp"], None),  # 2 x 2 features
    ],
)
def test_batch_norm_needs_two_faces(overrides: list[str], part: str | None, tiny_data: Path, tmp_path: Path) -> None:
    if part is None:
        train(tiny_config(tiny_data, tmp_path, "dry_run=true", *overrides))
    else:
        assert f"one face for model.{part}, whose batch norm needs" in str(refused(tiny_data, tmp_path, *overrides))


def test_batches_that_make_up_a_step_are_counted() -> None:
    """Two batches a step: a validation every eight batches is one every fourth step."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose(
            "train",
            [*TINY, "experiment=joint_synthetic", "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=8"],
        )
    validate_config(config)


@pytest.mark.parametrize(("started", "fits"), [("2", True), ("4", False)])
def test_processes_that_torchrun_started_are_taken(
    started: str, fits: bool, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": started, "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in {"TORCHELASTIC_RUN_ID": "1", **processes}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    overrides = [*TWO_PROCESSES, "trainer.devices=auto"]
    config = tiny_config(tiny_data, tmp_path, *overrides)
    if fits:  # torchrun's word counts also inside a job of SLURM
        for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_PROCID": "0"}.items():
            monkeypatch.setenv(name, value)
        trainer = build_trainer(config)
        assert trainer.world_size == 2
        assert isinstance(trainer.strategy.cluster_environment, TorchElasticEnvironment)  # type: ignore[attr-defined]
    else:
        with pytest.raises(ConfigError, match="torchrun started 4 processes"):
            build_trainer(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.devices=8"], "trainer.accelerator=cpu trainer.devices=8: this machine has 2 CPU cores"),
        (["trainer=gpu", "trainer.devices=2"], "trainer.accelerator=auto trainer.devices=2: there is no GPU here"),
        (["trainer=ddp"], "cannot build a trainer with trainer.accelerator=gpu trainer.devices=auto: "),
        (
            ["trainer.devices=[0,1,2]"],
            "cannot build a trainer with trainer.accelerator=cpu trainer.devices=.*0, 1, 2.*: ",
        ),
    ],
)
def test_devices_that_are_not_there(
    overrides: list[str], message: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    error = refused(tiny_data, tmp_path, *overrides)
    assert isinstance(error, ConfigError)
    assert re.search(message, str(error)), str(error)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "error: seed: write KEY=VALUE or GROUP=CHOICE, --help lists them"),
        ("trainer=tpu", "error: trainer=tpu is unknown; choose from cpu, ddp, gpu"),
        ("sed=1", "error: no such key sed: --cfg job shows all keys, +sed=VALUE adds one"),
    ],
)
def test_slips_on_the_command_line_are_answered_in_plain_words(override: str, message: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"), pytest.raises(HydraException) as caught:
        compose("train", [override])
    assert one_line(caught.value) == message


def test_what_the_library_says_last_is_what_is_printed() -> None:
    """Not what it was told by a part of itself; but of what Hydra wraps the inside counts."""
    inner, outer = DataError("no room"), CheckpointError("go on with last.ckpt")
    wrapper = InstantiationException("wrap")
    outer.__cause__, wrapper.__cause__ = inner, outer
    assert one_line(outer) == one_line(wrapper) == "error: go on with last.ckpt"
