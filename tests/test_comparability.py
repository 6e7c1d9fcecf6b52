"""What may be compared: rows over the same images, tables with a competitor, and how many images there were."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.comparability import count_images, drop_empty_tables, error_columns, note_incomplete_rows
from jointface.evaluation.table_formats import show

METHODS = ("ours", "theirs", "mean face")


def result(
    errors: Mapping[str, Sequence[float | None]], reference: tuple[str, ...] = ("mean face",)
) -> BenchmarkResult:
    """Of three images, with one error by method; None is an image without a row."""
    rows = [
        {"file": f"{index}.jpg", "index": index, "method": method, "yaw": 0.0, "error": error}
        for method, of_method in errors.items()
        for index, error in enumerate(of_method)
        if error is not None
    ]
    means = pd.DataFrame(rows).groupby("method")["error"].mean()
    table = Table("error", "", pd.DataFrame({"mean": means}), reference=reference)
    return BenchmarkResult("test", {}, [table], pd.DataFrame(rows))


def best(of: BenchmarkResult) -> list[str]:
    return [row.name for row in show(of.tables[0]).rows if row.best[0]]


def test_methods_over_the_same_images_are_ranked() -> None:
    complete = result({"ours": [1.0, 2.0, 3.0], "theirs": [2.0, 2.0, 3.0], "mean face": [0.0, 0.0, 0.0]})
    note_incomplete_rows(complete)
    assert best(complete) == ["ours"]
    assert complete.notes == []


def test_a_method_that_lacks_an_image_is_not_the_best() -> None:
    lacking = result({"ours": [1.0, 2.0, 3.0], "theirs": [0.1, np.nan, 0.1], "third": [3.0, 3.0, 3.0]}, reference=())
    note_incomplete_rows(lacking)
    assert best(lacking) == ["ours"]
    assert lacking.tables[0].unranked == ("theirs",)
    assert lacking.notes == ["Means over fewer images than others, not ranked: theirs."]


def test_methods_that_lack_the_same_image_are_compared() -> None:
    alike = result({"ours": [1.0, np.nan, 3.0], "theirs": [2.0, np.nan, 3.0], "mean face": [9.0, 9.0, 9.0]})
    note_incomplete_rows(alike)
    assert best(alike) == ["ours"]
    missing_rows = result({"ours": [1.0, None, 3.0], "theirs": [2.0, None, 3.0], "mean face": [9.0, 9.0, 9.0]})
    note_incomplete_rows(missing_rows)
    assert best(missing_rows) == ["ours"]


def test_an_error_that_a_method_does_not_have_at_all_keeps_it_ranked() -> None:
    of_two = result({"ours": [1.0, 2.0, 3.0], "theirs": [2.0, 2.0, 3.0]}, reference=())
    of_two.per_image["pose"] = np.where(of_two.per_image["method"] == "ours", 5.0, np.nan)
    note_incomplete_rows(of_two)
    assert of_two.tables[0].unranked == ()


def test_tables_without_a_competitor_are_left_out_and_named() -> None:
    frame = pd.DataFrame({"mean": [np.nan, 3.0, 1.0]}, ["theirs", "mean face", "PRNet (2018)"])
    of_mean_face = Table("dense", "", frame, quoted=("PRNet (2018)",), reference=("mean face",))
    both = result({"theirs": [1.0, 2.0, 3.0], "mean face": [9.0, 9.0, 9.0]})
    both.tables.append(of_mean_face)
    drop_empty_tables(both)
    assert [table.title for table in both.tables] == ["error"]
    assert both.notes == ["Tables left out because no method has a number there: dense."]


def test_images_are_counted() -> None:
    counted = result({"ours": [1.0, 2.0, 3.0]})
    counted.missing = {"theirs": ["1.jpg"], "ours": []}
    count_images(counted, 3)
    assert counted.metrics == {"num_images": 3, "theirs/num_images": 2}
    own = result({"ours": [1.0, 2.0, 3.0]})
    own.metrics = {"num_images": 2}  # one was broken
    count_images(own, 3)
    assert own.metrics == {"num_images": 2}


def test_columns_that_describe_an_image_are_no_errors() -> None:
    assert error_columns(result({"ours": [1.0, 2.0, 3.0]}).per_image) == ["error"]
