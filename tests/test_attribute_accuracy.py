"""Accuracy of attributes: whole results on tiny data, tables, quoted figures of papers, figures."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from jointface.attributes import CELEBA, LFWA
from jointface.datamodules import AFLW2000, CelebA, CropTransform
from jointface.datamodules import LFWA as LFWADataset
from jointface.errors import ConfigError, DataError
from jointface.evaluation.attribute_accuracy import attribute_accuracy, shared_attributes
from jointface.evaluation.attribute_tables import TRIVIAL, attribute_tables
from jointface.evaluation.benchmark_result import BenchmarkResult
from jointface.evaluation.comparability import drop_empty_tables, note_incomplete_rows
from jointface.evaluation.published_figures import quoted_rows
from jointface.evaluation.report import write_report
from jointface.evaluation.table_formats import latex, markdown, show
from jointface.geometry import MorphableModel
from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.calibration import reliability
from jointface.metrics.correlation import expected_correlation
from jointface.modules import build_network
from jointface.modules.network import FaceNetwork
from jointface.viz.attribute_figures import attribute_bars, correlation_figure, reliability_figure
from tests.data.celeba import data as celeba_data
from tests.networks import network_config

CROP = CropTransform(64)


def make_network(*label_sets: tuple[str, tuple[str, ...], float], image_size: int = 64, seed: int = 0) -> FaceNetwork:
    """A random network that knows label sets, given by name, attributes and one alpha for all of them."""
    torch.manual_seed(seed)
    names = tuple(dict.fromkeys(name for _, attributes, _ in label_sets for name in attributes))
    network = build_network(network_config(None, bool(names), image_size), names, None)
    network.label_sets = {
        f"source{number}": {"label_set": name, "attributes": list(attributes), "alpha": [alpha] * len(attributes)}
        for number, (name, attributes, alpha) in enumerate(label_sets)
    }
    return network.eval()


KNOWS_CELEBA = ("celeba", CELEBA.attributes, 2.0)


@pytest.fixture(scope="module")
def splits(tiny_data: Path) -> dict[str, CelebA]:
    return {split: CelebA(tiny_data / "celeba", split, CROP) for split in ("train", "val", "test")}


@pytest.fixture(scope="module")
def result(splits: dict[str, CelebA]) -> BenchmarkResult:
    """Of two networks with different crops, on twelve faces."""
    networks = {"one": make_network(KNOWS_CELEBA), "other": make_network(KNOWS_CELEBA, image_size=48, seed=1)}
    return attribute_accuracy(networks, splits["train"], splits["val"], splits["train"].alpha(), batch_size=5)


@pytest.fixture(scope="module")
def on_four_faces(splits: dict[str, CelebA]) -> BenchmarkResult:
    """Of one network on the test split, with nothing known of other splits."""
    return attribute_accuracy({"one": make_network(KNOWS_CELEBA)}, splits["test"])


def labels_of(data: CelebA) -> torch.Tensor:
    return torch.stack([data.read(index).labels["attributes"] for index in range(len(data))])


def evaluated_on(result: BenchmarkResult, method: str) -> list[str]:
    return [key.split("/")[2] for key in result.metrics if key.startswith(f"{method}/accuracy/")]


# The numbers


def test_the_scores_are_those_of_the_metric_on_the_whole_split(
    result: BenchmarkResult, splits: dict[str, CelebA]
) -> None:
    network, data = make_network(KNOWS_CELEBA), splits["train"]
    labels, names = labels_of(data), evaluated_on(result, "one")
    columns = [CELEBA.attributes.index(name) for name in names]
    metric = AttributeMetrics(names, torch.full((len(names),), 2.0))
    with torch.no_grad():
        logits = network(torch.stack([data[index]["image"] for index in range(len(data))])).logits
    assert logits is not None
    metric.update(logits[:, columns], labels[:, columns], torch.ones(len(data), len(names), dtype=torch.bool))
    for key, value in metric.compute().items():
        assert result.metrics[f"one/{key}"] == pytest.approx(value.item(), abs=1e-5), key


def test_batches_change_nothing(splits: dict[str, CelebA]) -> None:
    networks = {"one": make_network(KNOWS_CELEBA)}
    single, whole = (
        attribute_accuracy(networks, splits["test"], splits["val"], batch_size=size).metrics for size in (1, 64)
    )
    assert single == pytest.approx(whole, abs=1e-5, nan_ok=True)


def test_the_trivial_predictor_gives_the_majority_of_the_training_split(splits: dict[str, CelebA]) -> None:
    found = attribute_accuracy({"one": make_network(KNOWS_CELEBA)}, splits["test"], None, splits["train"].alpha())
    train, test = labels_of(splits["train"]), labels_of(splits["test"])
    both = (test > 0.5).any(0) & (test < 0.5).any(0)
    majority = train.mean(0) > 0.5
    expected = (majority == (test > 0.5)).float().mean(0)[both].mean().item()
    assert found.metrics[f"{TRIVIAL}/accuracy"] == pytest.approx(expected, abs=1e-6)
    assert found.metrics[f"{TRIVIAL}/balanced_accuracy"] == pytest.approx(0.5)
    assert "The trivial predictor predicts the majority class of the training split." in found.notes


def test_without_other_splits_the_majority_is_that_of_the_test_split(on_four_faces: BenchmarkResult) -> None:
    assert any("majority class of the test split" in note for note in on_four_faces.notes)
    assert any("No validation split" in note for note in on_four_faces.notes)
    assert not any("val_threshold" in key for key in on_four_faces.metrics)


def test_thresholds_of_the_same_faces_are_at_least_as_good(splits: dict[str, CelebA]) -> None:
    result = attribute_accuracy({"one": make_network(KNOWS_CELEBA)}, splits["train"], splits["train"])
    assert "The trivial predictor predicts the majority class of the validation split." in result.notes
    found = result.metrics
    for metric in ("accuracy", "balanced_accuracy"):
        for name in CELEBA.attributes:
            if (usual := found.get(f"one/{metric}/{name}")) is not None:
                assert found[f"one/{metric}_val_threshold/{name}"] >= usual - 1e-6


def test_attributes_of_one_class_are_left_out_and_named(
    on_four_faces: BenchmarkResult, splits: dict[str, CelebA]
) -> None:
    labels = labels_of(splits["test"])
    one_class = [name for m, name in enumerate(CELEBA.attributes) if len(labels[:, m].unique()) == 1]
    assert one_class
    assert f"Left out because of only one class in the test split: {', '.join(one_class)}." in on_four_faces.notes
    assert set(evaluated_on(on_four_faces, "one")) == set(CELEBA.attributes) - set(one_class)


@pytest.mark.parametrize("with_val", [True, False])
def test_a_test_set_of_one_class_says_that_nothing_is_defined(
    with_val: bool, splits: dict[str, CelebA], tmp_path: Path
) -> None:
    """As with num_images=1: the report of the other benchmarks goes on."""
    one, val = splits["test"].subset(1), splits["val"].subset(1) if with_val else None
    result = attribute_accuracy({"one": make_network(KNOWS_CELEBA)}, one, val)
    note_incomplete_rows(result)
    drop_empty_tables(result)
    assert (
        "Left out because of only one class in the test split: all attributes, so nothing is measured." in result.notes
    )
    assert not result.tables
    assert not result.figures
    write_report([result], tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["celeba/one/num_attributes"] == 0
    assert metrics["celeba/one/accuracy"] is None


def test_every_face_has_its_error(result: BenchmarkResult) -> None:
    rows = result.per_image
    assert rows.groupby("method").size().to_dict() == {"one": 12, "other": 12}
    assert rows["file"][0] == "img_align_celeba/000001.jpg"
    for method in ("one", "other"):
        wrong = rows[rows["method"] == method]["attribute_error"].mean()
        if len(evaluated_on(result, method)) == len(CELEBA):
            assert 1 - wrong == pytest.approx(result.metrics[f"{method}/accuracy"], abs=1e-6)


# Which attributes


def test_a_network_is_evaluated_on_what_it_shares(splits: dict[str, CelebA]) -> None:
    few = ("Asian", "Male", "Smiling", "Bald")
    networks = {"few": make_network(("synthetic", few, 5.0)), "all": make_network(KNOWS_CELEBA)}
    found = attribute_accuracy(networks, splits["train"])
    assert found.metrics["few/num_attributes"] == 3
    note = next(note for note in found.notes if note.startswith("few is evaluated"))
    assert "the 3 of 40 attributes of celeba that it knows, calibrated by the prevalence in synthetic" in note


def test_alpha_is_that_of_the_label_set_that_taught_the_attribute() -> None:
    network = make_network(("synthetic", ("Asian", "Male", "Bald"), 5.0), ("celeba", ("Male", "Young"), 3.0))
    shared = shared_attributes(network, CELEBA)
    assert shared["alpha"].to_dict() == {"Bald": 5.0, "Male": 3.0, "Young": 3.0}
    assert [network.attributes[place] for place in shared["logit"]] == list(shared.index)
    assert list(shared.index) == [name for name in CELEBA.attributes if name in shared.index]
    assert set(shared["teacher"]) == {"celeba", "synthetic"}


def test_a_network_of_other_attributes_is_left_out(splits: dict[str, CelebA]) -> None:
    networks = {"other": make_network(("x", ("Asian",), 1.0)), "one": make_network(KNOWS_CELEBA)}
    found = attribute_accuracy(networks, splits["test"])
    assert "other is left out: it knows none of these attributes." in found.notes
    assert not any(key.startswith("other/") for key in found.metrics)


def test_what_shares_no_task_is_refused_in_one_line(
    splits: dict[str, CelebA], tiny_data: Path, tiny_model: MorphableModel
) -> None:
    shape_only = AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model)
    cases = [
        ({"one": make_network(KNOWS_CELEBA)}, shape_only, "AFLW2000 labels no attributes; choose a shape benchmark"),
        ({"one": make_network(("x", ("Asian",), 1.0))}, splits["test"], "the checkpoint and celeba share no attribute"),
    ]
    for networks, data, message in cases:
        with pytest.raises(ConfigError, match=re.escape(message)) as caught:
            attribute_accuracy(networks, data)
        assert "\n" not in str(caught.value)


def test_a_broken_photo_is_named(tiny_data: Path, tmp_path: Path) -> None:
    root = celeba_data.write(tmp_path / "celeba")
    broken = root / "img_align_celeba" / "000018.jpg"
    broken.write_bytes(b"")
    with pytest.raises(DataError, match=r"000018.jpg: not an intact image") as caught:
        attribute_accuracy({"one": make_network(KNOWS_CELEBA)}, CelebA(root, "test", CROP))
    assert "\n" not in str(caught.value)


# Tables and figures


def scores_of(attributes: tuple[str, ...], accuracy: float) -> pd.DataFrame:
    """As `attribute_tables` takes them, without thresholds of a validation split."""
    columns = ["positives", "accuracy", "balanced_accuracy", "f1", "average_precision", "calibration_error"]
    frame = pd.DataFrame(accuracy, index=list(attributes), columns=columns)
    frame["accuracy"] += np.arange(len(attributes)) / 1000  # so that the mean tells which there were
    return frame


def test_every_row_of_a_table_is_a_mean_over_the_same_attributes() -> None:
    everything = CELEBA.attributes
    scores = {
        "few": scores_of(everything[:4], 0.5),
        "all": scores_of(everything, 0.6),
        "also": scores_of(everything, 0.7),
        TRIVIAL: scores_of(everything, 0.8),
    }
    tables = {table.title: table for table in attribute_tables(CELEBA, scores, "test", 10)}
    common = tables["CelebA, mean over the 4 attributes that all know"]
    offset = 0.15  # per cent, of the first four
    expected = {"few": 50.0 + offset, "all": 60.0 + offset, "also": 70.0 + offset, TRIVIAL: 80.0 + offset}
    assert common.frame["accuracy"].to_dict() == pytest.approx(expected)
    assert common.quoted == ()
    more = tables["CelebA, mean over the 40 attributes of all, also"]
    assert [name for name in more.frame.index if name not in more.quoted] == ["all", "also", TRIVIAL]
    assert more.frame.loc[TRIVIAL, "accuracy"] == pytest.approx(80 + 1.95)
    assert "MOON (2016)" in more.quoted
    calibration = tables["CelebA, calibration error over 4 attributes"]
    assert set(calibration.frame.index) == {"few", "all", "also", TRIVIAL}


def test_methods_that_share_no_attribute_have_tables_of_their_own() -> None:
    everything = CELEBA.attributes
    scores = {
        "a": scores_of(everything[:4], 0.5),
        "b": scores_of(everything[4:9], 0.6),
        TRIVIAL: scores_of(everything, 0.8),
    }
    titles = [table.title for table in attribute_tables(CELEBA, scores, "test", 10)]
    assert titles == [
        "CelebA, mean over the 4 attributes of a",
        "CelebA, mean over the 5 attributes of b",
        "CelebA, each attribute, a",
        "CelebA, each attribute, b",
    ]


def test_accuracy_comes_first_and_sorts_the_rows(result: BenchmarkResult) -> None:
    table = result.tables[0]
    assert list(table.frame.columns[:4]) == ["accuracy", "balanced accuracy", "F1", "average precision"]
    accuracies = [float(row.cells[0]) for row in show(table).rows]
    assert accuracies == sorted(accuracies, reverse=True)
    each = next(table for table in result.tables if table.title == "CelebA, each attribute, one")
    assert list(each.frame.columns[:3]) == ["positives", "accuracy", "trivial accuracy"]


def test_the_trivial_predictor_is_over_the_attributes_that_it_is_compared_on(splits: dict[str, CelebA]) -> None:
    few = ("Male", "Smiling")
    found = attribute_accuracy(
        {"few": make_network(("synthetic", few, 5.0)), "all": make_network(KNOWS_CELEBA)}, splits["train"]
    )
    alone = attribute_accuracy({"few": make_network(("synthetic", few, 5.0))}, splits["train"])
    assert found.metrics[f"{TRIVIAL}/num_attributes"] == 2
    for metric in ("accuracy", "f1", "calibration_error"):
        assert found.metrics[f"{TRIVIAL}/{metric}"] == pytest.approx(alone.metrics[f"{TRIVIAL}/{metric}"])


def test_the_mean_table_quotes_papers(result: BenchmarkResult) -> None:
    table = result.tables[0]
    assert table.title == f"CelebA, mean over {result.metrics['one/num_attributes']} attributes"
    assert table.frame.loc["MOON (2016)", "accuracy"] == pytest.approx(90.94)
    assert "MOON (2016)" in table.quoted
    assert table.reference == (TRIVIAL,)
    assert table.frame.loc["one", "accuracy"] == pytest.approx(100 * result.metrics["one/accuracy"])
    for shown in map(show, result.tables):
        assert markdown(shown)
        assert latex(shown, "x")
    titles = {table.title for table in result.tables}
    assert len(titles) == len(result.tables)
    assert all(title.startswith("CelebA, ") for title in titles)


def test_lfwa_is_compared_over_celebas_attributes(tiny_data: Path) -> None:
    data = LFWADataset(tiny_data / "LFWA", "test", CROP)
    found = attribute_accuracy({"one": make_network(("lfwa", LFWA.attributes, 1.0))}, data)
    tables = {table.title: table for table in found.tables}
    names = evaluated_on(found, "one")
    both = [name for name in names if name in CELEBA.attributes]
    assert 0 < len(both) < len(names)
    assert not tables[f"LFWA, mean over {len(names)} attributes"].quoted
    compared = tables[f"LFWA, mean over the {len(both)} attributes that CelebA has too"]
    assert compared.frame.loc["DMM-CNN (2020)", "accuracy"] == pytest.approx(86.56)
    expected = 100 * np.mean([found.metrics[f"one/accuracy/{name}"] for name in both])
    assert compared.frame.loc["one", "accuracy"] == pytest.approx(expected)


def test_quoted_figures_have_their_sources() -> None:
    celeba = {row.method: row for row in quoted_rows("celeba", "accuracy")}
    assert celeba["LNets+ANet"].values == {"accuracy": 87}
    assert "ICCV 2015" in celeba["FaceTracer"].source
    assert all(row.paper[-4:].isdigit() and row.source for row in celeba.values())
    assert "MOON" not in {row.method for row in quoted_rows("lfwa", "accuracy")}
    assert quoted_rows("synthetic", "accuracy") == []


def test_figures_have_captions(result: BenchmarkResult) -> None:
    assert set(result.figures) == {"attributes", "reliability", "correlation_one", "correlation_other"}
    assert result.captions.keys() == result.figures.keys()
    for figure in result.figures.values():
        figure.draw_without_rendering()


@pytest.mark.parametrize("smallest", [0.3, 0.02, 1e-5])
def test_labels_of_the_reliability_diagram_do_not_overlap(smallest: float) -> None:
    """Whether the shares of labels are alike or span many powers of ten."""
    share = np.array([1.0, *[smallest] * 14])
    figure = reliability_figure({"one": (share, share / 2, share / 2)}, {"one": 0.1})
    figure.draw_without_rendering()
    axis = figure.axes[1]
    boxes = [label.get_window_extent() for label in axis.get_yticklabels(which="both") if label.get_text()]
    shown = sorted((box.y0, box.y1) for box in boxes if axis.bbox.y0 <= (box.y0 + box.y1) / 2 <= axis.bbox.y1)
    assert len(shown) >= 2
    assert all(lower[1] <= upper[0] for lower, upper in pairwise(shown))


def test_figures_hold_73_attributes() -> None:
    random = np.random.default_rng(0)
    scores = pd.DataFrame(
        random.uniform(0.5, 1, (73, 2)), index=list(LFWA.attributes), columns=["accuracy", "balanced_accuracy"]
    )
    figure = attribute_bars({"joint": scores, "single": scores[:40]}, scores * 0 + 0.5)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert sorted(labels) == sorted(name.replace("_", " ") for name in LFWA.attributes)
    correlation = expected_correlation(random.random((200, 73)), np.ones((200, 73), dtype=bool))
    correlation_figure("joint", LFWA.attributes, correlation, correlation, 0.0).draw_without_rendering()
    values = torch.rand(50, 73)
    bins = reliability(values, (values > 0.5).float(), torch.ones(50, 73, dtype=torch.bool))
    summed = tuple(part.sum(1).numpy() for part in bins)
    reliability_figure({"joint": summed}, {"joint": 0.1}).draw_without_rendering()


# Real data


def test_constant_logits_are_the_majority_on_real_faces(real_data: Path) -> None:
    train, test = (CelebA(real_data / "celeba", split, CropTransform(32)) for split in ("train", "test"))
    network = make_network(KNOWS_CELEBA, image_size=32)
    found = attribute_accuracy({"random": network}, test, None, train.alpha(), batch_size=125)
    assert found.metrics[f"{TRIVIAL}/accuracy"] == pytest.approx(0.804, abs=0.01)
    assert found.metrics["random/balanced_accuracy"] == pytest.approx(0.5, abs=0.05)
    assert found.per_image["attribute_error"].notna().all()
