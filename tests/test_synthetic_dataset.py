"""Synthetic faces as a data set: the data contract, drawn anew or kept in memory, in the joint training."""

import csv
import json
import math
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor
from torch.utils.data import DataLoader

from jointface.attributes import positive_weight
from jointface.command_line import CONF_DIR
from jointface.datamodules import Augmentation, CropTransform, JointDataModule, Source, SyntheticFaces
from jointface.datamodules.drawing import draw
from jointface.datamodules.loading import Batches, identity_collate
from jointface.errors import ConfigError, DataError
from jointface.geometry.camera import is_mirrored
from jointface.geometry.morphable_model import MIRROR68
from jointface.synthesis.faces import FaceFactory
from jointface.synthesis.head import Head
from jointface.synthesis.measures import SYNTHETIC
from jointface.train import build_data, train

SIZE = 64
COUNT = len(SYNTHETIC)
ALWAYS = {"image": (3, SIZE, SIZE), "index": (), "identity": ()}
ATTRIBUTES = {"attributes": (COUNT,), "attribute_mask": (COUNT,)}
STRONG = Augmentation(rotation=40, scale=0.2, shift=0.08, flip=0.5)


KEPT, ON_DEVICE = {"keep_in_memory": True}, {"draw_on": "device"}


def dataset(num_faces: int = 6, augmentation: Augmentation | None = None, **settings: Any) -> SyntheticFaces:
    return SyntheticFaces("train", CropTransform(SIZE, augmentation), num_faces, **settings)


def shape_labels(head: Head) -> dict[str, tuple[int, ...]]:
    return {
        "shape_coefficients": (head.model.num_shape,), "expression_coefficients": (head.model.num_expression,),
        "camera": (3, 4), "landmarks68": (68, 3),
    }  # fmt: skip


def landmarks_of(head: Head, item: dict[str, Tensor]) -> Tensor:
    """The 68 landmarks that an item's coefficients and camera give."""
    model = head.model
    vertices = model.project(
        item["shape_coefficients"][None], item["expression_coefficients"][None], item["camera"][None]
    )
    return vertices[0, model.landmarks68]


# The data contract


@pytest.mark.parametrize("drawing", [{}, KEPT])
@pytest.mark.parametrize("labels", ["both", "shape", "attributes"])
def test_items_hold_what_the_labels_say(head: Head, labels: str, drawing: dict[str, bool]) -> None:
    data = dataset(labels=labels, drawing=drawing)
    expected = dict(ALWAYS)
    expected |= ATTRIBUTES if labels != "shape" else {}
    expected |= shape_labels(head) if labels != "attributes" else {}
    for index in (0, 5, 0):
        item = data[index]
        assert {name: tuple(value.shape) for name, value in item.items()} == expected
        for name, value in item.items():
            whole = {"image": torch.uint8, "attribute_mask": torch.bool, "index": torch.int64, "identity": torch.int64}
            assert value.dtype == whole.get(name, torch.float32), name
        assert item["index"] == index
    assert data.has_shape == (labels != "attributes")
    assert data.label_set == (SYNTHETIC if labels != "shape" else None)
    assert len(data) == 6


def test_every_attribute_is_known_and_measured(factory: FaceFactory) -> None:
    data = dataset()
    items = [data[index] for index in range(6)]
    attributes = torch.stack([item["attributes"] for item in items])
    assert torch.equal(attributes, factory.attributes([data.face(index) for index in range(6)]).float())
    assert all(item["attribute_mask"].all() for item in items)
    fewer = dataset(leave_out=["Young", "Bald"])
    columns = [i for i, name in enumerate(SYNTHETIC.attributes) if name not in ("Young", "Bald")]
    assert torch.equal(fewer[3]["attributes"], items[3]["attributes"][columns])
    assert len(fewer.label_set) == len(fewer.alpha()) == len(columns) == len(fewer[3]["attribute_mask"])
    with pytest.raises(ConfigError, match="leave_out=Beautiful is unknown"):
        dataset(leave_out=["Beautiful"])


def test_coefficients_and_camera_give_the_landmarks(head: Head) -> None:
    data = dataset(8)
    for index in range(8):
        item = data[index]
        torch.testing.assert_close(landmarks_of(head, item), item["landmarks68"], atol=0.01, rtol=0)
        assert not is_mirrored(item["camera"])


def test_a_source_of_half_the_labels_shows_the_same_faces() -> None:
    both = dataset()
    for labels in ("shape", "attributes"):
        half = dataset(labels=labels)
        for index in range(3):
            item, other = half[index], both[index]
            for name in item:
                assert torch.equal(item[name], other[name]), name


# Kept in memory


def test_kept_faces_are_those_drawn_anew() -> None:
    """Without augmentation, the same pixels within one grey level."""
    fresh, kept = dataset(), dataset(drawing=KEPT)
    for index in (*range(6), *range(6)):  # first drawn, then remembered
        item, again = fresh[index], kept[index]
        assert item.keys() == again.keys()
        for name in item.keys() - {"image"}:
            torch.testing.assert_close(again[name], item[name], atol=1e-3, rtol=0)
        assert (again["image"].int() - item["image"].int()).abs().max() <= 1


def test_augmented_crops_of_kept_faces_are_nearly_those_drawn_anew() -> None:
    """With the same random state: the same labels, and pixels that the warp has blurred a little."""
    fresh, kept = dataset(12, STRONG), dataset(12, STRONG, drawing=KEPT)
    differences = []
    for index in range(12):
        kept[index]
        torch.manual_seed(index)
        item = fresh[index]
        torch.manual_seed(index)
        again = kept[index]
        for name in item.keys() - {"image"}:
            torch.testing.assert_close(again[name], item[name], atol=2e-3, rtol=0)
        if not is_mirrored(item["camera"]):  # drawn anew, a flipped face is lit from the same side as before
            differences.append((item["image"].float() - again["image"].float()).abs().mean())
    assert len(differences) > 2
    assert max(differences) < 12


def test_kept_faces_are_drawn_once_for_all_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(drawing=KEPT, augmentation=STRONG)
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context="fork")
    first = torch.cat([batch["identity"] for batch in loader])

    def draw_again(*arguments: object) -> None:
        raise AssertionError("drawn a second time")

    monkeypatch.setattr(FaceFactory, "render", draw_again)
    assert torch.equal(torch.cat([batch["identity"] for batch in loader]), first)
    assert torch.equal(torch.stack([data[index]["identity"] for index in range(6)]), first)


def test_what_is_done_to_an_item_does_not_change_what_is_kept() -> None:
    data = dataset(2, drawing=KEPT)
    before = data[0]
    for value in data[0].values():
        value.zero_()
    after = data[0]
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


# Augmentation


@pytest.mark.parametrize("drawing", [{}, KEPT])
def test_augmented_labels_stay_on_the_face(head: Head, drawing: dict[str, bool]) -> None:
    data = dataset(8, STRONG, drawing=drawing)
    torch.manual_seed(0)
    items = [data[index] for index in (*range(8), *range(8))]
    mirrored = [bool(is_mirrored(item["camera"])) for item in items]
    assert 0 < sum(mirrored) < 16
    for item in items:
        torch.testing.assert_close(landmarks_of(head, item), item["landmarks68"], atol=0.02, rtol=0)
    moved = torch.stack([(one["landmarks68"] - other["landmarks68"]).norm(dim=1).mean()
                         for one, other in zip(items[:8], items[8:], strict=True)])  # fmt: skip
    assert (moved > 1).all()


@pytest.mark.parametrize("drawing", [{}, KEPT])
def test_a_flip_swaps_left_and_right(head: Head, drawing: dict[str, bool]) -> None:
    plain = dataset(drawing=drawing)
    flipped = dataset(augmentation=Augmentation(flip=1), drawing=drawing)
    for index in range(6):
        item, other = plain[index], flipped[index]
        assert is_mirrored(other["camera"])
        expected = item["landmarks68"][list(MIRROR68)]
        expected[:, 0] = SIZE - 1 - expected[:, 0]
        torch.testing.assert_close(other["landmarks68"], expected, atol=0.01, rtol=0)
        for same in ("attributes", "identity", "shape_coefficients", "expression_coefficients"):
            assert torch.equal(item[same], other[same])
        x, y = other["landmarks68"][30, :2].round().long().tolist()
        nose, mirrored_nose = (
            image[:, y - 3 : y + 4, x - 3 : x + 4].float() for image in (item["image"].flip(-1), other["image"])
        )
        # Drawn anew, a flipped face is lit from the same side as before.
        assert (nose - mirrored_nose).abs().mean() < (3 if drawing else 40)


def test_colours_change_where_they_are_to() -> None:
    import albumentations

    dark = Augmentation(extra=[albumentations.RandomBrightnessContrast(
        brightness_limit=(-0.5, -0.5), contrast_limit=(0, 0), p=1)])  # fmt: skip
    plain, changed = dataset(), dataset(augmentation=dark)
    for index in range(3):
        item, other = plain[index], changed[index]
        assert other["image"].float().mean() < item["image"].float().mean() - 20
        torch.testing.assert_close(other["landmarks68"], item["landmarks68"], atol=1e-3, rtol=0)


# Which faces


def test_sources_that_differ_in_first_share_no_face() -> None:
    one, other = dataset(10), dataset(10, first=10)
    faces = [[data.face(index).identity for index in range(10)] for data in (one, other)]
    assert len(set(faces[0]) | set(faces[1])) == 20
    assert torch.equal(dataset(10, first=3)[2]["image"], dataset(10)[5]["image"])


def test_splits_share_no_identity() -> None:
    transform = CropTransform(SIZE)
    seen = {
        split: {SyntheticFaces(split, transform, 30).face(index).identity for index in range(30)}
        for split in SyntheticFaces.splits
    }
    assert set(seen) == {"train", "val", "test"}
    assert len(set().union(*seen.values())) == 90


def test_num_faces_may_differ_by_split_and_samples_are_named_by_split_and_number() -> None:
    sizes = {"train": 7, "val": 3}
    for split, size in sizes.items():
        assert len(SyntheticFaces(split, CropTransform(SIZE), sizes)) == size
    assert dataset(first=100).path(2) == Path("synthetic/train/102")
    assert dataset(first=100).name(2) == "synthetic_train_000102"


@pytest.mark.parametrize("drawing", [{}, KEPT])
@pytest.mark.parametrize("index", [-1, 3, 1000])
def test_there_are_no_faces_beyond_the_last(index: int, drawing: dict[str, bool]) -> None:
    """As with any sequence, so that a loop over the data set ends."""
    data = dataset(3, drawing=drawing)
    assert [int(item["index"]) for item in data] == [0, 1, 2]  # type: ignore[attr-defined]
    for look_up in (data.face, data.__getitem__):
        with pytest.raises(IndexError, match=f"face {index} of 3"):
            look_up(index)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_faces": 0}, "num_faces=0 must be at least 1"),
        ({"num_faces": 3, "first": -1}, "first=-1 at least 0"),
        ({"num_faces": 3, "split": "all"}, "no split 'all', it has train, val, test"),
        ({"num_faces": 3, "drawing": ON_DEVICE | KEPT}, "set keep_in_memory=false"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SyntheticFaces(**{"split": "train", "transform": CropTransform(SIZE), **settings})
    assert "\n" not in str(caught.value)


def test_alpha_balances_the_labels() -> None:
    data = dataset(8)
    attributes = torch.stack([data[index]["attributes"] for index in range(8)])
    expected = positive_weight(attributes, torch.ones_like(attributes, dtype=torch.bool))
    torch.testing.assert_close(data.alpha(), expected)
    with pytest.raises(DataError, match="labels no attributes"):
        dataset(labels="shape").alpha()


# In the joint training


def test_two_streams_reach_the_joint_training_from_worker_processes(head: Head) -> None:
    def source(**settings: Any) -> Callable[..., SyntheticFaces]:
        return partial(SyntheticFaces, num_faces=8, **settings)

    module = JointDataModule(
        {
            "synthetic_attributes": Source(source(labels="attributes", drawing=KEPT), {"train": "train"}, 4),
            "synthetic_shape": Source(source(labels="shape", first=8), {"train": "train"}, 2),
        },
        SIZE, augmentation=STRONG, num_workers=2,
    )  # fmt: skip
    module.setup("fit")
    assert module.label_sets() == {"synthetic_attributes": SYNTHETIC}
    assert module.shape_sources() == {"synthetic_shape"}
    identities: dict[str, set[int]] = {name: set() for name in module.sources}
    for batch, _, _ in islice(module.train_dataloader(), 4):
        for name, part in batch.items():
            assert "broken" not in part
            identities[name] |= set(part["identity"].tolist())
        assert batch["synthetic_attributes"]["attributes"].shape == (4, COUNT)
        assert batch["synthetic_shape"]["camera"].shape == (2, 3, 4)
        landmarks = torch.stack([
            landmarks_of(head, {key: rows[row] for key, rows in batch["synthetic_shape"].items()}) for row in range(2)
        ])  # fmt: skip
        torch.testing.assert_close(landmarks, batch["synthetic_shape"]["landmarks68"], atol=0.02, rtol=0)
    assert len(identities["synthetic_attributes"]) == len(identities["synthetic_shape"]) == 8
    assert not identities["synthetic_attributes"] & identities["synthetic_shape"]


def test_workers_draw_what_this_process_draws() -> None:
    data = dataset(8)
    loader = DataLoader(
        Batches(data), batch_size=4, num_workers=2, collate_fn=identity_collate, multiprocessing_context="fork"
    )
    for number, batch in enumerate(loader):
        for row in range(4):
            item = data[4 * number + row]
            for name, value in item.items():
                assert torch.equal(batch[name][row], value), name


TINY = [
    "experiment=joint_synthetic",
    "image_size=32",
    "batch_size={shape: 2, attributes: 2}",
    "num_workers=0",
    "model.backbone.embedding_size=8",
    "model.backbone.hidden_sizes=[8,8,16,16]",
    "model.backbone.depths=[1,1,1,1]",
    "data.sources.synthetic_attributes.dataset.num_faces={train: 6, val: 4}",
    "data.sources.synthetic_shape.dataset.num_faces={train: 4, val: 4}",
    "data.sources.synthetic.dataset.num_faces=4",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1",
    "+trainer.enable_progress_bar=false",
    "~callbacks.progress_bar",
    "callbacks.figures.num_faces=2",
    "name=tiny",
]


def config(run_dir: Path, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=[*TINY, f"paths.run_dir={run_dir}", *overrides])


def test_the_experiment_builds_two_streams_that_share_nobody(tmp_path: Path) -> None:
    module: JointDataModule = build_data(config(tmp_path))
    module.setup("fit")
    module.setup("test")
    train_data, test_data = module.datasets["train"], module.datasets["test"]
    assert set(train_data) == set(module.datasets["val"]) == {"synthetic_attributes", "synthetic_shape"}
    assert set(test_data) == {"synthetic"}
    assert test_data["synthetic"].label_set == SYNTHETIC
    assert test_data["synthetic"].has_shape
    people = [
        {data.face(index).identity for index in range(len(data))}  # type: ignore[attr-defined]
        for part in module.datasets.values()
        for data in part.values()
    ]
    assert len(set().union(*people)) == sum(len(group) for group in people)


def test_the_settings_of_the_synthesis_reach_every_source(tmp_path: Path, quick_factories: None) -> None:
    changed = config(tmp_path, "synthesis.seed=3", "synthesis.max_yaw=20", "synthesis.images_per_person=2")
    module: JointDataModule = build_data(changed)
    module.setup("fit")
    module.setup("test")
    factories = {
        id(data.factory): data.factory  # type: ignore[attr-defined]
        for part in module.datasets.values()
        for data in part.values()
    }
    (only,) = factories.values()  # made once for all
    assert (only.seed, only.max_yaw, only.images_per_person) == (3, 20, 2)


def test_a_run_on_synthetic_faces_needs_no_data_and_leaves_metrics(tmp_path: Path) -> None:
    metrics = train(config(tmp_path, f"paths.data_dir={tmp_path / 'nowhere'}", "~callbacks.figures"))
    left = json.loads((tmp_path / "metrics.json").read_text())
    for name in (
        "train/loss_shape",
        "train/loss_attributes",
        "val/synthetic_shape/nme_2d_68",
        "val/synthetic_attributes/balanced_accuracy",
        "test/synthetic/nme_3d_dense",
        "test/synthetic/nme_2d_68",
        "test/synthetic/balanced_accuracy",
        "test/synthetic/trivial/nme_2d_68",
    ):
        assert math.isfinite(left[name]), name
    assert metrics["test/synthetic/nme_2d_68"] == pytest.approx(left["test/synthetic/nme_2d_68"])
    steps = [row for row in csv.DictReader((tmp_path / "metrics.csv").open()) if row["train/loss_shape"]]
    assert len(steps) == 2
    assert not any("broken" in name for name in left)
    assert (tmp_path / "checkpoints" / "best.ckpt").is_file()


# Drawn where the network is


def test_the_device_draws_what_a_worker_draws() -> None:
    on_worker, on_device = dataset(4), dataset(4, drawing=ON_DEVICE)
    loader = DataLoader(Batches(on_device), batch_size=4, collate_fn=identity_collate, num_workers=1)
    (batch,) = loader
    assert "image" not in batch
    images = on_device.draw(batch["scenes"], None, torch.device("cpu"))
    expected = torch.stack([on_worker[index]["image"] for index in range(4)])
    assert (images.int() - expected.int()).abs().max() <= 1  # alone or in a batch: rounding
    torch.testing.assert_close(batch["camera"], torch.stack([on_worker[index]["camera"] for index in range(4)]))


def test_sources_that_are_alike_are_drawn_together() -> None:
    """Each gets its own pictures; faces of another size are drawn apart."""
    sources = {
        "one": dataset(4, drawing=ON_DEVICE),
        "two": dataset(4, drawing=ON_DEVICE, first=4),
        "small": SyntheticFaces("train", CropTransform(24), num_faces=2, drawing=ON_DEVICE),
    }
    batch = {name: data.batch(range(2)) for name, data in sources.items()}
    drawn = draw(batch, sources, torch.device("cpu"))
    assert [len(images) for images in drawn] == [4, 2]
    for name, data in sources.items():
        assert "scenes" not in batch[name]
        expected = data.draw(data.batch(range(2))["scenes"], None, torch.device("cpu"))
        assert (batch[name]["image"].int() - expected.int()).abs().max() <= 1, name


class AheadOfTheCPU:
    """Draws ahead as on a GPU, without a stream."""

    drawn, waited = 0, 0

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def draw(self, batch: Any, datasets: Any) -> None:
        type(self).drawn += sum(len(images) for images in draw(batch, datasets, self.device))

    def wait(self) -> None:
        type(self).waited += 1


def test_a_run_may_draw_on_the_device_and_drawing_ahead_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mini-batch but the first is drawn once, during the one before, also around a validation."""
    overrides = ["drawing=device", "drawing.compile=false", "+data.pin_memory=false"]
    overrides.append("+data.sources.synthetic.dataset.drawing={draw_on: device}")
    metrics = train(config(tmp_path / "plain", *overrides))
    assert math.isfinite(metrics["test/synthetic/nme_2d_68"])
    assert (tmp_path / "plain" / "figures" / "test" / "synthetic" / "shape.png").is_file()
    monkeypatch.setattr("jointface.datamodules.joint.AheadRenderer", AheadOfTheCPU)
    monkeypatch.setattr(JointDataModule, "_feeds_a_gpu", lambda self: True)
    train(config(tmp_path / "ahead", *overrides, "~callbacks.figures"))
    plain, ahead = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("plain", "ahead")
    )
    assert all(torch.equal(value, ahead["state_dict"][name]) for name, value in plain["state_dict"].items())
    sizes = config(tmp_path, *overrides).batch_size
    steps, faces = plain["global_step"], sizes.shape + sizes.attributes
    assert AheadOfTheCPU.drawn == steps * faces  # of steps 2, 3, ... and the one after the last
    assert AheadOfTheCPU.waited >= steps - 1


def test_a_face_that_cannot_be_drawn_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    data = dataset(6)
    scene = data.factory.scene

    def failing(face: Any, *others: object) -> object:
        if face.identity == data.face(3).identity:
            raise OSError("a damaged background")
        return scene(face, *others)

    monkeypatch.setattr(data.factory, "scene", failing)
    batch = data.batch([2, 3, 4])
    assert batch["index"].tolist() == [2, 4]
    assert batch["broken"].tolist() == [3]
