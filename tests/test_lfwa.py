"""LFWA's official files, whole and broken, and what a second label set does to the joint loss."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.attributes import LFWA as LFWA_ATTRIBUTES
from jointface.datamodules import LFWA, CelebA, CropTransform
from jointface.datamodules.crop import box_in_copy
from jointface.datamodules.lfwa import LFW_BOX, read_attributes
from jointface.datamodules.on_disk import Count
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel
from jointface.modules import JointFaceModule
from jointface.train import train
from tests.data.lfwa import data as lfwa_data
from tests.faults import Fault, archived, deeper, removed, renamed, written
from tests.networks import make_module
from tests.test_training import tiny_config

CROP = CropTransform(64)
SPLITS = ("train", "val", "test")


@pytest.fixture
def lfwa(tmp_path: Path) -> Path:
    """A copy to break."""
    return lfwa_data.write(tmp_path / "LFWA")


def people(dataset: LFWA) -> set[str]:
    return {dataset.path(i).parent.name for i in range(len(dataset))}


def test_an_item_is_the_data_contract(tiny_data: Path) -> None:
    item = LFWA(tiny_data / "LFWA", "test", CROP)[3]
    shapes = {key: (tuple(value.shape), value.dtype) for key, value in item.items()}
    assert shapes == {
        "image": ((3, 64, 64), torch.uint8),
        "attributes": ((73,), torch.float32),
        "attribute_mask": ((73,), torch.bool),
        "identity": ((), torch.int64),
        "index": ((), torch.int64),
    }
    assert set(item["attributes"].tolist()) == {0.0, 1.0}
    assert item["attribute_mask"].all()
    assert item["index"].item() == 3


def test_the_test_split_is_official_and_train_and_val_are_its_other_part(tiny_data: Path) -> None:
    parts = {split: people(LFWA(tiny_data / "LFWA", split, CROP, val_fraction=0.4)) for split in SPLITS}
    assert parts["test"] == set(lfwa_data.TEST)
    assert parts["train"] | parts["val"] == set(lfwa_data.TRAIN)
    assert not parts["train"] & parts["val"]
    assert parts["val"]


def test_without_a_validation_share_train_is_the_whole_official_part(tiny_data: Path) -> None:
    assert len(LFWA(tiny_data / "LFWA", "train", CROP, val_fraction=0)) == sum(lfwa_data.TRAIN.values())
    with pytest.raises(DataError, match=r"LFWA's val split is empty"):
        LFWA(tiny_data / "LFWA", "val", CROP, val_fraction=0)


def test_a_share_of_all_is_refused(tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match="val_fraction=1 must be at least 0 and below 1"):
        LFWA(tiny_data / "LFWA", "val", CROP, val_fraction=1)


def test_labels_are_those_of_the_file(tiny_data: Path) -> None:
    dataset = LFWA(tiny_data / "LFWA", "test", CROP)
    with h5py.File(tiny_data / "LFWA" / "lfw_att_73.mat") as file:
        names = [file[cell][()].tobytes().decode("utf-16-le") for cell in file["name"][0]]
        row = names.index("Colin_Powell\\Colin_Powell_0002.jpg")
        expected = file["label"][:, row]
    index = dataset.names.tolist().index("Colin_Powell/Colin_Powell_0002.jpg")
    assert dataset[index]["attributes"].tolist() == expected.tolist()


def test_columns_are_found_by_name(lfwa: Path) -> None:
    """A file with its columns in another order says the same."""
    names, labels = read_attributes(lfwa / "lfw_att_73.mat")
    turned = [name.replace("_", " ") for name in reversed(LFWA_ATTRIBUTES.attributes)]
    lfwa_data.write_attributes(lfwa / "lfw_att_73.mat", turned, labels[:, ::-1], names.tolist())
    np.testing.assert_array_equal(read_attributes(lfwa / "lfw_att_73.mat")[1], labels)


def test_a_copy_saved_as_matlab_5_is_read_too(lfwa: Path) -> None:
    names, labels = read_attributes(lfwa / "lfw_att_73.mat")
    attributes = np.array([name.replace("_", " ") for name in LFWA_ATTRIBUTES.attributes], dtype=object)
    cells = {"AttrName": attributes, "label": labels, "name": names.astype(object)}
    scipy.io.savemat(lfwa / "lfw_att_73.mat", cells)
    again = read_attributes(lfwa / "lfw_att_73.mat")
    assert again[0].tolist() == names.tolist()
    np.testing.assert_array_equal(again[1], labels)


def test_a_person_has_one_identity_in_the_order_of_names(tiny_data: Path) -> None:
    order = sorted(lfwa_data.TRAIN | lfwa_data.TEST)
    for split in SPLITS:
        dataset = LFWA(tiny_data / "LFWA", split, CROP, val_fraction=0.4)
        for i in range(len(dataset)):
            assert dataset[i]["identity"].item() == order.index(dataset.path(i).parent.name)


def test_alpha_is_negatives_per_positive_of_the_split(tiny_data: Path) -> None:
    dataset = LFWA(tiny_data / "LFWA", "train", CROP)
    labels = torch.stack([dataset[i]["attributes"] for i in range(len(dataset))])
    negatives, positives = (labels == 0).sum(0), (labels == 1).sum(0)
    torch.testing.assert_close(dataset.alpha(), (negatives / positives.clamp(min=1e-9)).clamp(1 / 50, 50))


def test_the_box_carries_celebas_framing_to_lfws_average_face() -> None:
    """Where CelebA's box lies about its five landmarks on average, LFW's does about its own."""
    celeba = torch.tensor([[69.4, 111.2], [107.6, 111.2], [88.1, 135.3], [71.3, 152.0], [105.5, 152.3]])
    lfw = torch.tensor([[104.7, 112.5], [145.1, 111.7], [124.9, 136.5], [107.6, 157.1], [143.6, 156.7]])
    near, far = celeba - celeba.mean(0), lfw - lfw.mean(0)
    scale = (near * far).sum() / near.square().sum()
    centre = scale * (torch.tensor([88.9, 139.8]) - celeba.mean(0)) + lfw.mean(0)
    assert (*centre.tolist(), 86.2 * scale.item()) == pytest.approx(LFW_BOX, abs=0.2)


def test_the_box_scales_with_the_file() -> None:
    whole, half = (box_in_copy(LFW_BOX, (250, 250), (side, side), Path("photo.jpg")) for side in (250, 125))
    assert (whole.x, whole.y, whole.size) == pytest.approx((LFW_BOX.x, LFW_BOX.y, LFW_BOX.size))
    # Half-size pixels cover two by two: pixel 0 of the small image lies at 0.5 of the large one.
    assert (2 * half.x + 0.5, 2 * half.y + 0.5, 2 * half.size) == pytest.approx((LFW_BOX.x, LFW_BOX.y, LFW_BOX.size))


def test_the_inventory_counts_the_whole_data_set(tiny_data: Path) -> None:
    inventories = [LFWA(tiny_data / "LFWA", split, CROP, val_fraction=0.4).inventory() for split in SPLITS]
    assert inventories[0] == inventories[1] == inventories[2]
    assert inventories[0] == [
        Count("images", 25, 13_233),
        Count("people", 9, 5_749),
        Count("labelled images", 24, 13_143),
        Count("training part (train and val)", 16, 6_263),
        Count("test part", 8, 6_880),
    ]


def test_rows_without_an_image_are_left_out_and_counted(lfwa: Path, caplog: pytest.LogCaptureFixture) -> None:
    (lfwa / "lfw" / "Colin_Powell" / "Colin_Powell_0002.jpg").unlink()
    with caplog.at_level(logging.WARNING):
        dataset = LFWA(lfwa, "test", CROP)
    assert len(dataset) == 7
    assert "LFWA: 1 rows of the test split have no image and are left out, e.g. Colin_Powell/Colin_P" in caplog.text
    assert Count("labelled images", 23, 13_143) in dataset.inventory()


@pytest.mark.parametrize("folder", ["lfw-deepfunneled", "lfw_funneled"])
def test_the_image_folder_is_named(lfwa: Path, folder: str) -> None:
    (lfwa / "lfw").rename(lfwa / folder)
    assert LFWA(lfwa, "test", CROP, images=folder).path(0).parts[-3] == folder
    with pytest.raises(DataError, match=rf"no folder .*lfw: looked .*; found {folder} there, select"):
        LFWA(lfwa, "test", CROP)


ATTRIBUTES, SPLIT = "lfw_att_73.mat", "indices_train_test.mat"


def relabelled(change: Callable[[list[str], np.ndarray], tuple[list[str], np.ndarray]]) -> Fault:
    """The attribute file has other names of attributes, or other labels."""

    def fault(root: Path) -> None:
        names, labels = read_attributes(root / ATTRIBUTES)
        attributes, labels = change([name.replace("_", " ") for name in LFWA_ATTRIBUTES.attributes], labels)
        lfwa_data.write_attributes(root / ATTRIBUTES, attributes, labels, names)

    return fault


def resplit(train: tuple[int, int], test: tuple[int, int]) -> Fault:
    """The split names these ranges of rows."""
    return lambda root: lfwa_data.write_split(root / SPLIT, np.arange(*train), np.arange(*test))


def without_label(root: Path) -> None:
    with h5py.File(root / ATTRIBUTES, "r+") as file:
        del file["label"]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (removed("."), "no folder .*LFWA: looked there for LFWA; set paths.data_dir"),
        (deeper("LFWA+"), r"no folder .*lfw: looked there for LFW's images; found it one folder too deep, in .*LFWA\+"),
        (
            renamed("lfw", "LFW"),
            "no folder .*lfw: looked there for LFW's images; found 'LFW' there, rename it",
        ),
        (archived("lfw", "lfw.tgz"), "no folder .*lfw: looked there for LFW's images; found lfw.tgz there, unpack it"),
        (deeper("all", "lfw"), "looked there for LFW's photos of a person; found it one folder too deep, in .*lfw.all"),
        (
            removed(ATTRIBUTES),
            r"no file .*lfw_att_73.mat: looked there for LFWA's 73 attributes; get it from the",
        ),
        (renamed(ATTRIBUTES, "LFW_att_73.mat"), "found 'LFW_att_73.mat' there, rename it to 'lfw_att_73.mat'"),
        (written(ATTRIBUTES, b""), "lfw_att_73.mat: the file is empty; get it"),
        (removed(SPLIT), "no file .*indices_train_test.mat: looked there for LFWA's split; get it"),
        (written(ATTRIBUTES, 3000), "lfw_att_73.mat: not a readable MATLAB file"),
        (without_label, "lfw_att_73.mat: no variable label; the file is damaged or the wrong one"),
        (
            relabelled(lambda names, labels: ([name.replace("_", " ") for name in CELEBA.attributes], labels[:, :40])),
            r"its 40 attributes are not LFWA's 73: 35 are missing \(Asian, Attractive_Man, Attractive_Woman\), 2 "
            r"unknown \(Attractive, Young\); this is another file",
        ),
        (
            relabelled(lambda names, labels: (names, labels[:-1])),
            r"lfw_att_73.mat: label has shape \(23, 73\), but there are 24 image names and 73 attribute names",
        ),
        (relabelled(lambda names, labels: (names, 2 * labels - 1)), "label holds values other than 0 and 1"),
        (relabelled(lambda names, labels: (names, labels * np.nan)), "label holds values other than 0 and 1"),
        (resplit((1, 20), (20, 26)), "indices_img_test must hold row numbers from 1 to 24, .*from different releases"),
        (resplit((0, 15), (15, 24)), "indices_img_train must hold row numbers from 1 to 24"),
        (resplit((1, 18), (16, 25)), "indices_train_test.mat: 2 rows are in both parts"),
    ],
)
def test_broken_files_are_refused_in_one_line(lfwa: Path, fault: Fault, message: str) -> None:
    fault(lfwa)
    with pytest.raises(DataError, match=message) as caught:
        LFWA(lfwa, "test", CROP)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lfw", "lfw_att_73.mat", "indices_train_test.mat"])
def test_what_may_not_be_read_is_named(lfwa: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != name and allowed(path, mode))
    with pytest.raises(DataError, match=rf"{name}: no permission to read the"):
        LFWA(lfwa, "test", CROP)


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_a_broken_image_is_named(lfwa: Path, content: bytes | None) -> None:
    path = lfwa / "lfw" / "Aaron_Guiel" / "Aaron_Guiel_0001.jpg"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10] if content is None else content)
    with pytest.raises(DataError, match=r"Aaron_Guiel_0001.jpg: not an intact image"):
        LFWA(lfwa, "test", CROP)[0]


def test_real_files_hold_the_published_numbers(real_data: Path) -> None:
    if not (real_data / "LFWA").is_dir():
        pytest.skip(f"no LFWA in {real_data}")
    dataset = LFWA(real_data / "LFWA", "train", CROP, val_fraction=0)
    assert all(count.found == count.published for count in dataset.inventory())
    assert not people(dataset) & people(LFWA(real_data / "LFWA", "test", CROP))


# Two label sets, K = 2


@pytest.fixture(scope="module")
def batch(tiny_data: Path) -> dict[str, dict[str, Tensor]]:
    """Six faces of CelebA and eight of LFWA."""
    celeba, lfwa = CelebA(tiny_data / "celeba", "train", CROP), LFWA(tiny_data / "LFWA", "test", CROP)
    collate = torch.utils.data.default_collate
    return {"celeba": collate([celeba[i] for i in range(6)]), "lfwa": collate([lfwa[i] for i in range(8)])}


@pytest.fixture
def module(tiny_model: MorphableModel) -> JointFaceModule:
    """A network for both, each label set with an alpha of its own."""
    label_sets = {"celeba": CELEBA, "lfwa": LFWA_ATTRIBUTES}
    alpha = {"celeba": torch.linspace(0.5, 9, 40), "lfwa": torch.linspace(20, 0.1, 73)}
    return make_module(tiny_model, None, label_sets=label_sets, alpha=alpha).eval()


def written_out(module: JointFaceModule, source: str, part: dict[str, Tensor], union: dict[str, int]) -> float:
    """-sum_m [alpha_m^k A_m^k log A^_m^k + (1 - A_m^k) log(1 - A^_m^k)], summed over the samples of label set k."""
    logits = module.network(part["image"]).logits
    assert logits is not None
    alpha, total = getattr(module, f"alpha_{source}").double(), 0.0
    for sample, labels in enumerate(part["attributes"].double()):
        for m, name in enumerate(module.label_sets[source].attributes):
            estimate = 1 / (1 + torch.exp(-logits[sample, union[name]].double()))
            total -= float(alpha[m] * labels[m] * torch.log(estimate) + (1 - labels[m]) * torch.log(1 - estimate))
    return total


def test_the_loss_sums_over_two_label_sets(module: JointFaceModule, batch: dict[str, dict[str, Tensor]]) -> None:
    """Over k and m as written, averaged over the samples that carry labels, whichever set they are of."""
    union = {name: place for place, name in enumerate(module.vocabulary.attributes)}
    assert len(union) == 40 + 73 - 38
    with torch.no_grad():
        sums = {source: written_out(module, source, part, union) for source, part in batch.items()}
        both = module.losses(batch)["attributes"].item()
        alone = {source: module.losses({source: part})["attributes"].item() for source, part in batch.items()}
    assert both == pytest.approx((sums["celeba"] + sums["lfwa"]) / 14, rel=1e-5)
    assert alone["celeba"] == pytest.approx(sums["celeba"] / 6, rel=1e-5)
    assert alone["lfwa"] == pytest.approx(sums["lfwa"] / 8, rel=1e-5)


def test_a_step_on_lfwa_teaches_the_logits_that_celeba_shares(
    module: JointFaceModule, batch: dict[str, dict[str, Tensor]]
) -> None:
    """Where LFWA says nothing about an attribute of CelebA, its weights stay."""
    classifier = module.network.attribute_classifier
    assert classifier is not None
    weight, bias = classifier.layers[-1].weight, classifier.layers[-1].bias
    before = weight.detach().clone(), bias.detach().clone()
    faces = batch["celeba"]["image"]
    male = module.vocabulary.attributes.index("Male")
    logit = module.network(faces).logits[:, male].detach()
    module.losses({"lfwa": batch["lfwa"]})["attributes"].backward()
    torch.optim.SGD(module.parameters(), lr=1e-3).step()
    moved = {
        name
        for place, name in enumerate(module.vocabulary.attributes)
        if (weight[place] != before[0][place]).any() or bias[place] != before[1][place]
    }
    assert moved == set(LFWA_ATTRIBUTES.attributes)
    assert set(CELEBA.attributes) - moved == {"Attractive", "Young"}
    assert (module.network(faces).logits[:, male] != logit).all()


def test_the_experiment_trains_and_tests_on_both_label_sets(tiny_data: Path, tmp_path: Path) -> None:
    config = tiny_config(tiny_data, tmp_path, "experiment=joint_celeba_lfwa_300wlp", "~callbacks.figures")
    assert config.data.sources.lfwa.splits == {"train": "train", "val": "val", "test": "test"}
    metrics = train(config)
    assert {name.split("/")[1] for name in metrics if name.startswith("test/")} == {"aflw2000", "celeba", "lfwa"}
