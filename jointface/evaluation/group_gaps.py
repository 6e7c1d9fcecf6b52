"""Errors by group of people, such as gender, age and skin tone, and the gap between the best and the worst group."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jointface.attributes import LabelSet
from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.on_disk import require_file
from jointface.errors import DataError
from jointface.evaluation.benchmark_result import DATA_SETS, BenchmarkResult, Table

MIN_FACES = 10  # of a group that is compared
# By grouping: the attribute that tells the group, and the groups with and without it.
BINARY = {
    "gender": ("Male", "male", "female"),
    "age": ("Young", "young", "older"),
    "skin tone": ("Pale_Skin", "pale", "not pale"),
}
ANCESTRY, ANCESTRIES = "ancestry", ("Asian", "Black", "White", "Indian")
FORMAT = "groups=FILE.csv has a column `file` and one for each grouping, such as gender and race of FairFace's labels"
CAPTION = (
    "{what} of the faces of each group, {where}: {counts}. The gap is that between the best and the worst group. "
    "Groups of fewer than {least} faces are left out; with few faces, chance alone makes a gap"
)


def groups_of(
    attributes: Float[Tensor, "samples attributes"], mask: Bool[Tensor, "samples attributes"], label_set: LabelSet
) -> pd.DataFrame:
    """The group of each sample that its attributes tell: a column for each grouping that the label set has, None where
    the attribute is not labelled or several ancestries are."""
    place = {name: number for number, name in enumerate(label_set.attributes)}
    positive = attributes > 0.5
    columns = {}
    for grouping, (name, group, other) in BINARY.items():
        if name in place:
            m = place[name]
            known = zip(positive[:, m].tolist(), mask[:, m].tolist(), strict=True)
            columns[grouping] = [(group if is_in else other) if labelled else None for is_in, labelled in known]
    if len(names := [name for name in ANCESTRIES if name in place]) > 1:
        chosen = torch.tensor([place[name] for name in names])
        found = positive[:, chosen] & mask[:, chosen]
        columns[ANCESTRY] = [
            names[int(row.int().argmax())] if int(row.sum()) == 1 else None for row in found
        ]  # fmt: skip
    return pd.DataFrame(columns, index=range(len(attributes)), dtype=object)


def groups_of_sample(labels: Mapping[str, Tensor], label_set: LabelSet | None) -> dict[str, str | None]:
    """`groups_of` one sample with these labels; empty if its data set labels no attributes."""
    if label_set is None or "attributes" not in labels:
        return {}
    row = groups_of(labels["attributes"][None], labels["attribute_mask"].bool()[None], label_set)
    return {grouping: row[grouping][0] for grouping in row}


def read_groups(path: Path) -> pd.DataFrame:
    """The groups of photos in a .csv, by the stems of its column `file`. Raises a DataError for another file."""
    require_file(path, "the groups of the faces", FORMAT)
    try:
        table = pd.read_csv(path, dtype=str, encoding="utf-8-sig")
    except ValueError as error:  # pandas' own parser errors are ValueErrors
        raise DataError(f"{path}: not a readable table ({' '.join(str(error).split())}); {FORMAT}") from error
    if "file" not in table or len(table.columns) < 2:
        raise DataError(f"{path}: has the columns {', '.join(table.columns)}; {FORMAT}")
    table.index = pd.Index([Path(file).stem for file in table.pop("file").fillna("")])
    return table[~table.index.duplicated()]


def groups_of_files(dataset: FaceDataset, table: pd.DataFrame) -> pd.DataFrame | None:
    """The rows of `read_groups` of a data set's samples, None if no sample has one."""
    rows = table.reindex([dataset.name(index) for index in range(len(dataset))]).reset_index(drop=True)
    return None if rows.isna().all(axis=None) else rows.astype(object).where(rows.notna(), None)


def add_group_tables(
    result: BenchmarkResult, groupings: Iterable[str], errors: Mapping[str, tuple[str, float]]
) -> None:
    """Adds a table and metrics for each grouping, a column of per_image, and each error.

    Metrics are `method/ERROR/gap_GROUPING`, and `method/ERROR/GROUPING_GROUP` for each group.

    Args:
        errors: by column of per_image: the error's name, and a factor for tables.
    """
    for grouping in groupings:
        faces = result.per_image.drop_duplicates("index")[grouping].value_counts(sort=False)
        faces = faces[faces >= MIN_FACES].sort_index()
        if len(faces) < 2:
            result.notes.append(f"No errors by {grouping}: fewer than two groups have {MIN_FACES} faces.")
            continue
        counts = ", ".join(f"{count:,} {group}" for group, count in faces.items())
        for error, (name, scale) in errors.items():
            if error not in result.per_image:
                continue
            rows = result.per_image[result.per_image[grouping].isin(faces.index)]
            means = rows.pivot_table(error, "method", grouping, sort=False).reindex(columns=faces.index)
            means = means.assign(gap=means.max(axis=1) - means.min(axis=1)).rename_axis(index=None, columns=None)
            keys = {group: f"{grouping}_{group}" for group in faces.index} | {"gap": f"gap_{grouping}"}
            result.metrics |= {
                f"{method}/{error}/{keys[group].replace(' ', '_')}": float(value)
                for (method, group), value in means.stack().dropna().items()
            }
            data_set = DATA_SETS.get(result.name, result.name)
            caption = CAPTION.format(what=f"Mean {name}", where=data_set, counts=counts, least=MIN_FACES)
            title = f"{data_set}, {name} by {grouping}"
            table = Table(title, f"{caption}.", scale * means, reference=tuple(result.references), sort_by="gap")
            result.tables.append(table)


def accuracy_gaps(
    correct: Bool[Tensor, "samples attributes"], mask: Bool[Tensor, "samples attributes"], groups: pd.DataFrame
) -> dict[str, Float[Tensor, "attributes"]]:
    """For each grouping, the gap in accuracy between the best and the worst group, of each attribute; NaN where fewer
    than two groups have `MIN_FACES` labelled faces."""
    gaps = {}
    for grouping in groups:
        accuracies = []
        for group in groups[grouping].dropna().unique():
            members = torch.from_numpy((groups[grouping] == group).to_numpy(copy=True))
            count = mask[members].sum(0)
            accuracy = (correct & mask)[members].sum(0) / count
            accuracies.append(accuracy.where(count >= MIN_FACES, torch.nan))
        if not accuracies:
            continue
        stacked = torch.stack(accuracies)
        several = (~stacked.isnan()).sum(0) > 1
        gap = stacked.nan_to_num(-torch.inf).amax(0) - stacked.nan_to_num(torch.inf).amin(0)
        gaps[grouping] = gap.where(several, torch.nan)
    return gaps
