"""Errors by group of people: which groups are known, and gaps in closed form."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from jointface.attributes import CELEBA, LabelSet
from jointface.datamodules import CelebA, CropTransform
from jointface.errors import DataError
from jointface.evaluation import group_gaps
from jointface.evaluation.attribute_accuracy import attribute_accuracy
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.group_gaps import accuracy_gaps, add_group_tables, groups_of, groups_of_files, read_groups
from tests.test_attribute_accuracy import KNOWS_CELEBA, make_network


@pytest.fixture(autouse=True)
def few_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny data sets have no ten faces of a group."""
    monkeypatch.setattr(group_gaps, "MIN_FACES", 2)


def test_groups_follow_from_the_attributes() -> None:
    labels = LabelSet("some", ("Male", "Young", "Asian", "Black", "White", "Smiling"))
    attributes = torch.tensor([[1.0, 0, 1, 0, 0, 1], [0, 1, 0, 1, 1, 0], [0, 1, 0, 0, 1, 0]])
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[2, 0] = False
    groups = groups_of(attributes, mask, labels)
    assert groups["gender"].tolist() == ["male", "female", None]
    assert groups["age"].tolist() == ["older", "young", "young"]
    assert groups["ancestry"].tolist() == ["Asian", None, "White"]  # the second one is two
    assert "skin tone" not in groups


def test_the_gap_is_between_the_best_and_the_worst_group() -> None:
    rows = [
        ("net", 1, "a", 0.1),
        ("net", 2, "a", 0.3),
        ("net", 3, "b", 0.5),
        ("net", 4, "b", 0.5),
        ("net", 5, "c", 9.0),
    ]
    per_image = pd.DataFrame(rows, columns=["method", "index", "race", "nme"])
    result = BenchmarkResult("aflw2000", {}, [], per_image)
    add_group_tables(result, ["race"], {"nme": ("NME, %", 100)})
    (table,) = result.tables
    assert table.title == "AFLW2000-3D, NME, % by race"
    assert table.frame.loc["net"].to_dict() == pytest.approx({"a": 20, "b": 50, "gap": 30})  # c is a single face
    assert result.metrics == pytest.approx({"net/nme/race_a": 0.2, "net/nme/race_b": 0.5, "net/nme/gap_race": 0.3})
    assert "2 a, 2 b" in table.caption


def test_one_group_alone_has_no_gap() -> None:
    per_image = pd.DataFrame({"method": "net", "index": range(3), "race": "a", "nme": 0.1})
    result = BenchmarkResult("aflw2000", {}, [Table("t", "", pd.DataFrame())], per_image)
    add_group_tables(result, ["race"], {"nme": ("NME, %", 100)})
    assert (len(result.tables), result.metrics) == (1, {})
    assert result.notes == ["No errors by race: fewer than two groups have 2 faces."]


def test_an_attributes_gap_needs_two_groups_with_labels() -> None:
    correct = torch.tensor([[1, 1], [1, 0], [0, 1], [0, 0]]).bool()
    mask = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 0]]).bool()
    gaps = accuracy_gaps(correct, mask, pd.DataFrame({"gender": ["male", "male", "female", "female"]}))
    assert gaps["gender"][0] == 1
    assert gaps["gender"][1].isnan()


def test_the_report_of_celeba_has_gaps_in_every_attribute(tiny_data: Path) -> None:
    data = CelebA(tiny_data / "celeba", "train", CropTransform(32))
    result = attribute_accuracy({"one": make_network(KNOWS_CELEBA)}, data)
    rows = result.per_image
    for grouping, attribute in {"gender": "Male", "age": "Young"}.items():
        positive = data.attributes[:, CELEBA.attributes.index(attribute)]
        means = rows.groupby(positive.numpy())["attribute_error"].mean()
        assert result.metrics[f"one/attribute_error/gap_{grouping}"] == pytest.approx(abs(means[True] - means[False]))
        assert any(table.title.endswith(f"by {grouping}") for table in result.tables)
    each = next(table for table in result.tables if "each attribute" in table.title)
    assert {"gap by gender", "gap by age", "gap by skin_tone"} <= {*each.frame.columns}
    smiling = CELEBA.attributes.index("Smiling")
    assert result.metrics["one/accuracy_gap_gender/Smiling"] == pytest.approx(
        each.frame["gap by gender"]["Smiling"] / 100
    )
    assert 0 <= result.metrics["one/accuracy_gap_gender/Smiling"] <= 1
    assert data.attributes[:, smiling].any()


def test_fairfaces_labels_are_a_table_of_groups(tiny_data: Path, tmp_path: Path) -> None:
    table = tmp_path / "fairface_label_val.csv"
    rows = ["val/000013.jpg,20-29,Female,East Asian,FALSE", "val/000015.jpg,30-39,Male,Black,FALSE"]
    table.write_text("\n".join(["file,age,gender,race,service_test", *rows]) + "\n")
    groups = groups_of_files(CelebA(tiny_data / "celeba", "val", CropTransform(32)), read_groups(table))
    assert groups is not None
    assert groups["race"].tolist() == ["East Asian", None, "Black", None]
    assert groups_of_files(CelebA(tiny_data / "celeba", "test", CropTransform(32)), read_groups(table)) is None
    table.write_text("photo,age\na.jpg,3\n")
    with pytest.raises(DataError, match=r"has the columns photo, age; groups=FILE\.csv has a column `file`"):
        read_groups(table)
