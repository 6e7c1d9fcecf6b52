"""Marks which numbers of a benchmark can be compared: those of competitors, over the same and all published images."""

from collections.abc import Iterable

import pandas as pd

from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import DataError
from jointface.evaluation.benchmark_result import DATA_SETS, BenchmarkResult, Table

# Columns of per_image that are not errors.
DESCRIPTIVE = ("file", "index", "method", "subject", "interocular_mm", "pitch", "yaw", "roll")
LANDMARKS = "landmarks68, or the vertices and triangles of the benchmark's morphable_model"
REQUIRED = {"aflw2000": LANDMARKS, "synthetic": LANDMARKS, "florence": "a surface, vertices and triangles"}
REQUIRED |= dict.fromkeys(("now", "realy"), "a surface, vertices and triangles, with landmarks68 in 3D")


def error_columns(per_image: pd.DataFrame) -> list[str]:
    """The columns of per_image that hold errors."""
    return [column for column in per_image.select_dtypes("float") if column not in DESCRIPTIVE]


def require_comparable(result: BenchmarkResult, methods: Iterable[str]) -> None:
    """Raises a DataError that says what predictions must hold if a benchmark could measure no error for a method."""
    for method in methods:
        rows = result.per_image[result.per_image["method"] == method]
        if not rows[error_columns(rows)].notna().any(axis=None):
            raise DataError(
                f"nothing of {method} can be compared on {DATA_SETS.get(result.name, result.name)}: no prediction "
                f"holds {REQUIRED.get(result.name, LANDMARKS)}; add that to its .npz files, or leave {method} out of "
                "compare"
            )


def note_incomplete_rows(result: BenchmarkResult) -> None:
    """Excludes methods that lack errors for some images from the ranking, since their means are over other images.

    If all methods lack the same images, they are ranked.
    """
    competitors = result.per_image[~result.per_image["method"].isin(result.references)]
    incomplete: set[str] = set()
    for error in error_columns(competitors):
        known = competitors.pivot(index="index", columns="method", values=error).notna()
        known = known.loc[known.any(axis=1), known.any(axis=0)]
        incomplete |= set(known.columns[~known.all(axis=0)])
    unranked = tuple(str(name) for name in competitors["method"].unique() if name in incomplete)
    for table in result.tables:
        table.unranked += unranked
        table.marks = {**table.marks, **dict.fromkeys(unranked, "fewer images")}
    if unranked:
        result.notes.append(f"Means over fewer images than others, not ranked: {', '.join(unranked)}.")


def drop_empty_tables(result: BenchmarkResult) -> None:
    """Drops tables in which only reference and quoted rows have numbers, and notes them."""

    def has_numbers(table: Table) -> bool:
        competitors = table.frame[~table.frame.index.isin([*table.quoted, *table.reference])]
        return bool(competitors.select_dtypes("number").notna().any(axis=None))

    if dropped := [table.title for table in result.tables if not has_numbers(table)]:
        result.notes.append(f"Tables left out because no method has a number there: {'; '.join(dropped)}.")
    result.tables = [table for table in result.tables if table.title not in dropped]


def count_images(result: BenchmarkResult, images: int) -> None:
    """Adds `num_images` if the benchmark did not, and marks methods that lack predictions, e.g. "4 of 6"."""
    total = int(result.metrics.setdefault("num_images", images))
    counts = {method: total - len(files) for method, files in result.missing.items() if files}
    result.metrics |= {f"{method}/num_images": count for method, count in counts.items()}
    for table in result.tables:
        table.marks = {**table.marks, **{method: f"{count:,} of {total:,}" for method, count in counts.items()}}


def note_incomplete_data(result: BenchmarkResult, dataset: FaceDataset, num_images: int | None) -> None:
    """Notes, also below each table, if the images are not all the published ones."""
    partial = [count for count in dataset.inventory() if count.published is not None and count.found < count.published]
    if num_images is not None:
        scope = f"A quick look at {len(dataset):,} images"
        meaning = "figures quoted from papers cannot be compared with these."
    elif partial:
        found, published, what = partial[0].found, partial[0].published, partial[0].what
        scope = f"Only {found:,} of the {published:,} published {what} are on disk"
        meaning = "figures quoted from papers are for all of them and cannot be compared with these."
    else:
        return
    result.notes.append(f"{scope}: {meaning}")
    for table in result.tables:
        table.scope = f"{scope}."
