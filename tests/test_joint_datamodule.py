"""The joint datamodule: every source in every mini-batch, broken samples left out and named."""

import logging
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from lightning.pytorch.utilities import CombinedLoader

from jointface.datamodules import AFLW2000, W300LP, CelebA, FaceTurning, JointDataModule, Source
from jointface.datamodules.augmentation import Augmentation
from jointface.datamodules.broken_samples import BrokenSamples
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel
from tests.data.celeba import data as celeba_data


def sources(root: Path, model: MorphableModel) -> dict[str, Source]:
    fitted = {"morphable_model": model}
    return {
        "celeba": Source(partial(CelebA, root / "celeba"), {"train": "train", "val": "val", "test": "test"}, 4),
        "w300lp": Source(
            partial(W300LP, root / "300W_LP", val_fraction=0.4, **fitted), {"train": "train", "val": "val"}, 2
        ),
        "aflw2000": Source(partial(AFLW2000, root / "AFLW2000", **fitted), {"test": "test"}),
    }


def open_data(root: Path, model: MorphableModel, **options: object) -> JointDataModule:
    datamodule = JointDataModule(sources(root, model), image_size=64, num_workers=0, **options)  # type: ignore[arg-type]
    datamodule.setup("fit")
    datamodule.setup("test")
    return datamodule


def test_a_batch_holds_every_source_at_its_own_size(tiny_data: Path, tiny_model: MorphableModel) -> None:
    batch, _, _ = next(iter(open_data(tiny_data, tiny_model).train_dataloader()))
    assert {name: len(part["image"]) for name, part in batch.items()} == {"celeba": 4, "w300lp": 2}
    assert "attributes" in batch["celeba"]
    assert "camera" not in batch["celeba"]
    assert "camera" in batch["w300lp"]
    assert "attributes" not in batch["w300lp"]


def test_every_source_goes_through_its_samples_at_its_own_pace(tiny_data: Path, tiny_model: MorphableModel) -> None:
    datamodule = open_data(tiny_data, tiny_model)
    lengths = {name: len(data) for name, data in datamodule.datasets["train"].items()}
    seen: dict[str, list[int]] = {name: [] for name in lengths}
    for batch, _, _ in islice(datamodule.train_dataloader(), 40):
        for name, part in batch.items():
            seen[name] += part["index"].tolist()
    for name, length in lengths.items():
        epochs = [seen[name][start : start + length] for start in range(0, len(seen[name]) - length + 1, length)]
        assert len(epochs) > 1
        assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
        assert len({tuple(epoch) for epoch in epochs}) > 1  # shuffled anew


def test_a_run_goes_on_at_any_batch_as_if_it_had_not_stopped(tiny_data: Path, tiny_model: MorphableModel) -> None:
    augmentation = Augmentation(rotation=20, scale=0.1, shift=0.1, flip=0.5, brightness=0.2)
    straight = [batch for batch, _, _ in islice(loader_from(0, tiny_data, tiny_model, augmentation), 5)]
    torch.rand(7)  # random states do not matter
    resumed = [batch for batch, _, _ in islice(loader_from(3, tiny_data, tiny_model, augmentation), 2)]
    for expected, found in zip(straight[3:], resumed, strict=True):
        for name, part in expected.items():
            assert all(torch.equal(value, found[name][key]) for key, value in part.items())
    assert not torch.equal(straight[3]["celeba"]["image"], straight[4]["celeba"]["image"])


def loader_from(batches: int, root: Path, model: MorphableModel, augmentation: Augmentation) -> CombinedLoader:
    datamodule = open_data(root, model, augmentation=augmentation)
    progress = SimpleNamespace(total=SimpleNamespace(processed=batches))
    datamodule.trainer = SimpleNamespace(  # type: ignore[assignment]
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
        global_rank=0,
        world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return datamodule.train_dataloader()


def test_evaluation_sees_each_sample_once(tiny_data: Path, tiny_model: MorphableModel) -> None:
    datamodule = open_data(tiny_data, tiny_model, eval_batch_size=3)
    seen: dict[str, list[int]] = {"celeba": [], "aflw2000": []}
    for batch, _, _ in datamodule.test_dataloader():
        for name, part in batch.items():
            seen[name] += part["index"].tolist() if part else []
    assert {name: sorted(indices) for name, indices in seen.items()} == {"celeba": [0, 1, 2, 3], "aflw2000": [0, 1, 2]}


def test_only_training_faces_are_turned(tiny_data: Path, tiny_model: MorphableModel) -> None:
    datamodule = open_data(tiny_data, tiny_model, turning=FaceTurning(tiny_model, probability=1.0))
    batch = {"w300lp": {"camera": torch.zeros(1)}}
    turned = {"camera": torch.ones(1)}
    with patch.object(FaceTurning, "forward", return_value=turned):
        for stage, expected in {"training": turned, "validating": batch["w300lp"], "testing": batch["w300lp"]}.items():
            stages = {name: name == stage for name in ("training", "validating", "testing")}
            datamodule.trainer = SimpleNamespace(**stages)  # type: ignore[assignment]
            assert datamodule.on_after_batch_transfer(dict(batch), 0)["w300lp"] is expected


def test_rendered_faces_are_not_turned(tiny_data: Path, tiny_model: MorphableModel) -> None:
    datamodule = open_data(tiny_data, tiny_model, turning=FaceTurning(tiny_model, probability=1.0))
    datamodule.datasets["train"]["w300lp"].rendered = True  # type: ignore[misc]
    datamodule.trainer = SimpleNamespace(training=True, validating=False, testing=False)  # type: ignore[assignment]
    batch = {"w300lp": {"camera": torch.zeros(1)}}
    with patch.object(FaceTurning, "forward", side_effect=AssertionError):
        assert datamodule.on_after_batch_transfer(dict(batch), 0)["w300lp"] is batch["w300lp"]


@pytest.mark.parametrize(
    ("options", "splits", "message"),
    [
        ({"num_workers": -1}, {"train": "train"}, "data.num_workers=-1: expected a whole number of at least 0"),
        ({"eval_batch_size": 0}, {"train": "train"}, "data.eval_batch_size=0: expected a whole number of at least 1"),
        (
            {"max_train_samples": 0},
            {"train": "train"},
            "data.max_train_samples=0: expected a whole number",
        ),
        (
            {},
            {"training": "train"},
            "data.sources.celeba.splits: stage=training is unknown; choose from train",
        ),
    ],
)
def test_settings_out_of_range_are_refused(
    tiny_data: Path, options: dict[str, Any], splits: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        JointDataModule({"celeba": Source(partial(CelebA, tiny_data / "celeba"), splits, 4)}, 64, **options)


def test_a_stage_without_a_split_does_without_the_source(tiny_data: Path) -> None:
    source = Source(partial(CelebA, tiny_data / "celeba"), {"train": "train", "val": None}, 4)
    datamodule = JointDataModule({"celeba": source}, 64)
    datamodule.setup("fit")
    assert {stage: list(datasets) for stage, datasets in datamodule.datasets.items()} == {
        "train": ["celeba"],
        "val": [],
    }


def test_a_split_that_the_data_set_lacks_is_refused(tiny_data: Path, tiny_model: MorphableModel) -> None:
    source = Source(partial(AFLW2000, tiny_data / "AFLW2000", morphable_model=tiny_model), {"test": "val"})
    with pytest.raises(ConfigError, match="AFLW2000 has no split 'val', it has test"):
        JointDataModule({"aflw2000": source}, 64).setup("test")


def test_sources_are_told_apart_by_their_labels(tiny_data: Path, tiny_model: MorphableModel) -> None:
    datamodule = open_data(tiny_data, tiny_model)
    assert set(datamodule.label_sets()) == {"celeba"}
    assert datamodule.shape_sources() == {"w300lp"}
    assert datamodule.shape_sources("test") == {"aflw2000"}


@pytest.fixture
def two_broken(tmp_path: Path) -> Path:
    """CelebA with two broken images of twelve in its training split."""
    root = celeba_data.write(tmp_path / "celeba")
    for name in ("000003.jpg", "000008.jpg"):
        (root / "img_align_celeba" / name).write_bytes(b"damaged")
    return tmp_path


def broken_run(root: Path, max_broken_fraction: float, epochs: int = 2) -> tuple[JointDataModule, list[int]]:
    source = Source(partial(CelebA, root / "celeba"), {"train": "train"}, 4)
    datamodule = JointDataModule({"celeba": source}, 64, num_workers=0, max_broken_fraction=max_broken_fraction)
    datamodule.setup("fit")
    seen = []
    for batch, _, _ in islice(datamodule.train_dataloader(), 3 * epochs):
        whole = datamodule.on_before_batch_transfer(batch, 0)
        seen += whole["celeba"]["index"].tolist() if whole else []
    return datamodule, seen


def test_broken_samples_are_left_out_counted_and_named_once(two_broken: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        datamodule, seen = broken_run(two_broken, max_broken_fraction=0.2)
    assert sorted(seen) == sorted(2 * [i for i in range(12) if i not in (2, 7)])
    assert datamodule.broken.counts() == {"train/celeba": 2}
    assert caplog.text.count("000003.jpg: not an intact image") == 1
    assert caplog.text.count("000008.jpg: not an intact image") == 1


def test_too_many_broken_samples_stop_the_run_with_the_list(two_broken: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"train/celeba: 2 of 12 samples are broken, more than data.max_broken_fraction = 0.1 .*jpg.*jpg",
    ):
        broken_run(two_broken, max_broken_fraction=0.1)


def test_a_batch_of_broken_samples_is_empty(tiny_data: Path, tiny_model: MorphableModel) -> None:
    dataset = CelebA(tiny_data / "celeba", "train", open_data(tiny_data, tiny_model).transforms["train"])
    with patch.object(CelebA, "read", side_effect=DataError("damaged")):
        batch = dataset.batch([1, 5])
    assert batch["broken"].tolist() == [1, 5]
    assert BrokenSamples(0.5).count_and_remove("celeba", dataset, batch) == {}
