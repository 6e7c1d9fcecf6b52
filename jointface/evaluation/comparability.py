"""Which numbers of a benchmark may be compared: over the same images, with a competitor, of the whole data set."""

from collections.abc import Iterable

import pandas as pd

from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import DataError
from jointface.evaluation.result import DATA_SETS, BenchmarkResult, Table

# Columns of per_image that are no errors.
DESCRIPTIVE = ("file", "index", "method", "subject", "interocular_mm", "pitch", "yaw", "roll")
LANDMARKS = "landmarks68, or the vertices and triangles of the benchmark's morphable_model"
NEEDED = {"aflw2000": LANDMARKS, "synthetic": LANDMARKS, "florence": "a surface, vertices and triangles"}


def error_columns(per_image: pd.DataFrame) -> list[str]:
    """The columns of per_image that hold errors."""
    return [
        column
        for column in per_image.columns
        if column not in DESCRIPTIVE and pd.api.types.is_float_dtype(per_image[column])
    ]


def rank_the_complete(result: BenchmarkResult) -> None:
    """Keeps methods that lack an error of some images out of the ranking, with a note.

    A mean over fewer images is over other images: it stands beside the others, but is not the best of them. Methods
    that all lack the same images are compared.
    """
    competitors = result.per_image[~result.per_image["method"].isin(result.references)]
    lacking: set[str] = set()
    for error in error_columns(competitors):
        there = competitors.pivot(index="index", columns="method", values=error).notna()
        there = there.loc[there.any(axis=1), there.any(axis=0)]
        lacking |= set(there.columns[~there.all(axis=0)])
    unranked = tuple(str(name) for name in competitors["method"].unique() if name in lacking)
    for table in result.tables:
        table.unranked = (*table.unranked, *unranked)
        table.marks = {**table.marks, **dict.fromkeys(unranked, "fewer images")}
    if unranked:
        result.notes.append(f"Means over fewer images than others, not ranked: {', '.join(unranked)}.")


def leave_out_empty(result: BenchmarkResult) -> None:
    """Leaves out the tables where only references and quoted rows have numbers, with a note."""
    empty = [table.title for table in result.tables if not _has_competitor(table)]
    result.tables = [table for table in result.tables if table.title not in empty]
    if empty:
        result.notes.append(f"Tables left out, for no method has a number there: {'; '.join(empty)}.")


def _has_competitor(table: Table) -> bool:
    competes = ~table.frame.index.isin([*table.quoted, *table.reference])
    return bool(table.frame[competes].select_dtypes("number").notna().any(axis=None))


def require_comparable(result: BenchmarkResult, methods: Iterable[str]) -> None:
    """Refuses methods of which the benchmark has not a single error.

    Raises:
        DataError: there is one; says what the benchmark compares.
    """
    for method in methods:
        rows = result.per_image[result.per_image["method"] == method]
        if not rows[error_columns(rows)].notna().any(axis=None):
            raise DataError(
                f"nothing of {method} can be compared on {DATA_SETS.get(result.name, result.name)}: no prediction "
                f"holds {NEEDED.get(result.name, LANDMARKS)}; add that to its .npz files, or leave {method} out of "
                "compare"
            )


def count_images(result: BenchmarkResult, images: int) -> None:
    """Adds `num_images`, where the benchmark has not, and that of methods without a prediction for some of them, which
    tables also write behind their names."""
    judged = result.metrics.setdefault("num_images", images)
    for method, files in result.missing.items():
        if files:
            result.metrics[f"{method}/num_images"] = judged - len(files)
    marks = {
        method: f"{judged - len(files):,.0f} of {judged:,.0f}" for method, files in result.missing.items() if files
    }
    for table in result.tables:
        table.marks = {**table.marks, **marks}


def say_what_is_incomplete(result: BenchmarkResult, dataset: FaceDataset, num_images: int | None) -> None:
    """Says, in a note and below each table, where the data set is not the published one, whole."""
    if found := _incomplete(dataset, num_images):
        scope, meaning = found
        result.notes.append(f"{scope}: {meaning}")
        for table in result.tables:
            table.scope = f"{scope}."


def _incomplete(dataset: FaceDataset, num_images: int | None) -> tuple[str, str] | None:
    """What the images are, and what that means."""
    if num_images is not None:
        return f"A quick look at {len(dataset):,} images", "figures quoted from papers cannot be compared with these."
    short = [count for count in dataset.inventory() if count.published is not None and count.found < count.published]
    if not short:
        return None
    return (
        f"Only {short[0].found:,} of the {short[0].published:,} published {short[0].what} are on disk",
        "figures quoted from papers are of all of them and cannot be compared with these.",
    )
