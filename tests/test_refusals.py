"""What a training refuses before it begins: checkpoints that it cannot go on from, devices that are not there."""

import re
from pathlib import Path

import pytest
import torch

from jointface.errors import CheckpointError, ConfigError, JointFaceError
from jointface.training import train
from tests.test_training import tiny_config

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
        ("cut short", "changed.ckpt: not a readable checkpoint; it is cut short"),
        ("newer", r"changed.ckpt: written by a newer jointface \(format 99, this one reads 1\); update jointface"),
        ("weights alone", r"holds no state of a training \(optimizer_states, lr_schedulers missing\), only a model"),
        ("whole", r"changed.ckpt is of step 2, and trainer.max_steps=2 .* leaves no validation to come"),
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
            r"network.shape_decoder.hidden is \d+ in the checkpoint and 16 in the config\. Repeat the overrides",
        ),
        (
            ["model.backbone.hidden_sizes=[8,8,16,32]"],
            r"network.backbone.hidden_sizes is \[8, 8, 16, 16\] in the checkpoint and \[8, 8, 16, 32\] in the config",
        ),
        (
            ["experiment=joint_celeba_lfwa_300wlp"],
            r"it has 40 attributes \(of celeba\), the config 75 \(of celeba and lfwa\), only in the config Asian,",
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
    ("overrides", "message"),
    [
        (["trainer.devices=8"], "trainer.accelerator=cpu trainer.devices=8: this machine has 2 processor cores"),
        (["trainer=gpu", "trainer.devices=2"], "trainer.accelerator=auto trainer.devices=2: there is no GPU here"),
        (["trainer=ddp"], "no trainer can be made with trainer.accelerator=gpu trainer.devices=auto: "),
        (
            ["trainer.devices=[0,1,2]"],
            "no trainer can be made with trainer.accelerator=cpu trainer.devices=.*0, 1, 2.*: ",
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
