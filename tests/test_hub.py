"""Folders of the Hugging Face Hub: weights and config without pickles, and a card that says what they are made of."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from jointface import FaceReader
from jointface.detection.finders import WholePicture
from jointface.errors import CheckpointError, ConfigError
from jointface.geometry import MorphableModel
from jointface.inference.backends import TorchNetwork
from jointface.inference.hub import write_folder
from jointface.inference.model_card import RunFacts, model_card, read_run
from jointface.modules.checkpoint import KEY, load_model
from tests.networks import make_module, network_config

PHOTO = np.random.default_rng(0).integers(0, 256, (80, 80, 3), np.uint8)


@pytest.fixture
def checkpoint(tiny_model: MorphableModel, tmp_path: Path) -> Path:
    """A checkpoint in the folder of its run."""
    config = {
        **network_config("morphable"), "landmark_uncertainty": {"_target_": "jointface.modules.LandmarkUncertainty"},
    }  # fmt: skip
    module = make_module(tiny_model, network=config)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".hydra").mkdir()
    sources = {
        "celeba": {"dataset": {"_target_": "jointface.datamodules.CelebA"}},  # trained on unless it says otherwise
        "test_only": {"dataset": {"_target_": "jointface.datamodules.AFLW2000"}, "splits": {"test": "test"}},
    }
    (run / "config.yaml").write_text(yaml.safe_dump({"name": "joint", "data": {"sources": sources}}))
    (run / ".hydra" / "overrides.yaml").write_text("[experiment=joint_celeba_300wlp, paths.data_dir=/home/me, seed=1]")
    (run / "metrics.json").write_text(
        '{"test/celeba/accuracy": 0.9, "test/celeba/accuracy/Bald": 0.5, "train/loss": 1}'
    )
    path = run / "checkpoints" / "best.ckpt"
    torch.save({KEY: module.description, "state_dict": module.state_dict()}, path)
    return path


def test_a_reader_survives_the_way_to_the_hub_and_back(checkpoint: Path, tmp_path: Path) -> None:
    reader = FaceReader.load(checkpoint, WholePicture(), two_passes=False)
    reader.save_pretrained(tmp_path / "hub")
    again = FaceReader.from_pretrained(tmp_path / "hub", finder=WholePicture(), two_passes=False)
    again.save_pretrained(tmp_path / "second")
    (face,), (truth,) = again(PHOTO), reader(PHOTO)
    assert np.array_equal(face.vertices, truth.vertices)
    assert face.attributes == truth.attributes
    assert np.array_equal(face.landmark_std, truth.landmark_std)
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / "hub" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]


def test_the_card_is_written_from_the_run_and_names_research_data(checkpoint: Path, tmp_path: Path) -> None:
    write_folder(checkpoint, tmp_path / "hub", "me/joint")
    card = (tmp_path / "hub" / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["license"] == "other"
    assert 'FaceReader.from_pretrained("me/joint")' in card
    assert "**For non-commercial research only.**" in card
    assert "CelebA (Liu et al., ICCV 2015)" in card
    assert "Basel Face Model 2009" in card
    assert "AFLW2000" not in card  # only tested on
    assert "    python -m jointface.train experiment=joint_celeba_300wlp seed=1\n" in card  # no path of the machine
    assert "| `test/celeba/accuracy` | 0.9000 |" in card
    assert "accuracy/Bald" not in card
    assert "`5_o_Clock_Shadow`, `Arched_Eyebrows`" in card


@pytest.mark.parametrize("config", ["learning_rate: 1", "", "data: [", "data: {sources: {a: {}}}"])
def test_a_checkpoint_in_another_programs_folder_has_no_run(config: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(config)
    assert read_run(tmp_path / "models" / "best.ckpt") == RunFacts()


@pytest.mark.parametrize(
    ("data_set", "label_set", "model", "licence"),
    [
        ("SyntheticFaces", "synthetic", "anny", "apache-2.0"),
        ("SyntheticFaces", "synthetic", "bfm_3ddfa", "other"),
        ("SyntheticFaces", "lfwa", None, "other"),
        ("W300LP", "synthetic", "anny", "other"),
        ("MyFaces", "synthetic", "anny", "other"),  # of unknown terms
    ],
)
def test_weights_are_free_only_if_all_they_are_made_from_is(
    data_set: str, label_set: str, model: str | None, licence: str
) -> None:
    description: dict[str, Any] = {
        "network": {"image_size": 64, "backbone": {"_target_": "jointface.modules.PRNetEncoder"}},
        "attributes": ["Smiling"],
        "label_sets": {"a": {"label_set": label_set}},
        "morphable_model": model and {"name": model},
    }
    card = model_card(description, RunFacts("run", (data_set,)), "run", 1)
    assert yaml.safe_load(card.split("---")[1])["license"] == licence


@pytest.mark.parametrize(
    ("model", "data_sets"),
    [
        ({"weights": "free"}, ("FairFace", "free")),
        ({"teacher": {"checkpoint": "RUN/checkpoints/best.ckpt"}}, ("FairFace", "CelebA", "W300LP")),
        ({"weights": "gone/best.ckpt"}, ("FairFace", "gone/best.ckpt")),  # of unknown terms
    ],
)
def test_what_a_network_starts_or_learns_from_counts_as_its_data(
    model: dict[str, Any], data_sets: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run, sources, of in (("RUN", ("CelebA", "W300LP"), {}), ("student", ("FairFace",), model)):
        named = {name: {"dataset": {"_target_": f"jointface.datamodules.{name}"}} for name in sources}
        Path(run).mkdir()
        Path(run, "config.yaml").write_text(yaml.safe_dump({"name": run, "data": {"sources": named}, "model": of}))
    assert read_run(Path("student/checkpoints/best.ckpt")).data_sets == data_sets


def test_a_card_that_somebody_wrote_is_kept(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my card")
    write_folder(checkpoint, tmp_path)
    assert (tmp_path / "README.md").read_text() == "my card"


def test_damaged_and_hostile_folders_are_refused_in_one_line(checkpoint: Path, tmp_path: Path) -> None:
    write_folder(checkpoint, tmp_path)
    config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    content, tensors = json.loads(config.read_text()), load_file(weights)
    content[KEY]["network"]["backbone"]["_target_"] = "os.system"
    config.write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"asks to build os\.system, which is not from jointface; refused"):
        TorchNetwork.load(tmp_path)
    write_folder(checkpoint, tmp_path)
    tensors.pop("shape_decoder.regressor.weight")
    save_file(tensors, weights)
    with pytest.raises(CheckpointError, match="the weights do not fit the model"):
        TorchNetwork.load(tmp_path)
    for damaged in ({KEY: []}, {KEY: {"format": "two"}}, []):
        config.write_text(json.dumps(damaged))
        with pytest.raises(CheckpointError, match="not a model of jointface"):
            TorchNetwork.load(tmp_path)
    write_folder(checkpoint, tmp_path)
    weights.write_bytes(b"cut short")
    with pytest.raises(CheckpointError, match=r"not a model of jointface, looked for model\.safetensors and config"):
        TorchNetwork.load(tmp_path)


@pytest.mark.parametrize("name", ["mistyped/folder", "a/b/c", ""])
def test_a_name_that_is_neither_a_folder_nor_in_the_hub_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.safetensors and config\.json") as caught:
        FaceReader.from_pretrained(name)
    assert "\n" not in str(caught.value)


def test_only_a_network_with_a_source_can_be_saved(checkpoint: Path, tmp_path: Path) -> None:
    reader = FaceReader(TorchNetwork.load(checkpoint), WholePicture())
    with pytest.raises(ConfigError, match="save_pretrained needs a reader of a checkpoint"):
        reader.save_pretrained(tmp_path / "hub")


def test_half_precision_takes_half_the_space_and_hardly_moves_the_face(checkpoint: Path, tmp_path: Path) -> None:
    write_folder(checkpoint, tmp_path / "whole")
    write_folder(checkpoint, tmp_path / "half", half=True)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert stored["shape_decoder.regressor.weight"].dtype == stored["shape_decoder.morphable_model.basis"].dtype
    assert stored["shape_decoder.regressor.weight"].dtype == torch.float16
    assert stored["shape_decoder.morphable_model.mean"].dtype == torch.float32  # up to 10^5, too large
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    whole, half = (load_model(tmp_path / name)(image).vertices for name in ("whole", "half"))
    assert (whole - half).abs().max() < 0.05  # pixels
