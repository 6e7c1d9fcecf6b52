"""Describes a data set in files: counts, broken samples, attributes, yaw, and a sheet of faces.

report.json         everything below except the pictures, and the files found on disk
broken.csv          split, index, file, reason: one row for each sample that cannot be read
attributes.csv      split, attribute, labelled, positives, prevalence, alpha
yaw.csv, yaw.png    faces by yaw in bins of 10 degrees
contact_sheet.png   faces as the network sees them
"""

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from jointface.attributes import positive_weight
from jointface.datamodules.face_dataset import FaceDataset, evenly_spaced
from jointface.datamodules.on_disk import Count
from jointface.files import write_atomically
from jointface.geometry.camera import pose_from_camera
from jointface.viz.contact_sheet import contact_sheet

SHEET_FACES, SHEET_SIZE = 32, 112
YAW_BINS = np.arange(-90, 91, 10)


@dataclass(frozen=True)
class ReadSplit:
    """A split of which every sample has been read.

    labels: by name, (N, ...), zero in the rows of broken samples. broken: why samples cannot be read, by index.
    """

    split: str
    dataset: FaceDataset
    labels: dict[str, Tensor]
    broken: dict[int, str]

    @cached_property
    def yaw(self) -> Float[np.ndarray, "samples"] | None:
        """Yaw of the samples in degrees, None if it is not labelled."""
        if "camera" not in self.labels:
            return self.dataset.known_yaw()
        return pose_from_camera(self.labels["camera"], 0)[:, 1].rad2deg().numpy()

    @cached_property
    def whole(self) -> np.ndarray:
        """Indices of the samples that could be read."""
        return np.setdiff1d(np.arange(len(self.dataset)), list(self.broken))

    @property
    def attributes(self) -> tuple[str, ...]:
        label_set = self.dataset.label_set
        return label_set.attributes if label_set is not None and "attributes" in self.labels else ()


def write_description(
    folder: Path, name: str, inventory: Sequence[Count], splits: Sequence[ReadSplit]
) -> dict[str, Any]:
    """Writes the files listed above and returns the content of report.json. Files that would be empty are removed."""
    tables = {"broken": _broken_table(splits), "attributes": _attributes_table(splits), "yaw": _yaw_table(splits)}
    report = {
        "name": name,
        "inventory": [asdict(count) for count in inventory],
        "samples": {split.split: len(split.dataset) for split in splits},
        **{title: table.to_dict("records") for title, table in tables.items()},
    }
    files: dict[str, bytes | None] = {
        f"{title}.csv": table.to_csv(index=False, lineterminator="\n").encode() if len(table) else None
        for title, table in tables.items()
    }
    files["yaw.png"] = _yaw_figure(name, splits) if len(tables["yaw"]) else None
    files["contact_sheet.png"] = _sheet(splits) if any(len(split.whole) for split in splits) else None
    files["report.json"] = (json.dumps(report, indent=2) + "\n").encode()
    for file, content in files.items():
        if content is None:
            (folder / file).unlink(missing_ok=True)  # an earlier call may have left it
        else:
            write_atomically(folder / file, content)
    return report


def _broken_table(splits: Sequence[ReadSplit]) -> pd.DataFrame:
    rows = [
        (split.split, index, str(split.dataset.path(index)), reason)
        for split in splits
        for index, reason in sorted(split.broken.items())
    ]
    return pd.DataFrame(rows, columns=["split", "index", "file", "reason"])


def _attributes_table(splits: Sequence[ReadSplit]) -> pd.DataFrame:
    """How often each attribute is labelled and present, and its alpha (N_neg / N_pos, clipped)."""
    parts = [pd.DataFrame()]
    for split in splits:
        if split.attributes:
            labels, mask = (split.labels[key][split.whole] for key in ("attributes", "attribute_mask"))
            labelled, positives = mask.sum(0), (labels * mask).sum(0).double()
            parts.append(pd.DataFrame({
                "split": split.split, "attribute": split.attributes, "labelled": labelled.numpy(),
                "positives": positives.int().numpy(),
                "prevalence": (positives / labelled.clamp(min=1)).numpy().round(4),
                "alpha": positive_weight(labels, mask).double().numpy().round(4),
            }))  # fmt: skip
    return pd.concat(parts)


def _yaw_table(splits: Sequence[ReadSplit]) -> pd.DataFrame:
    bins = {"from_degrees": YAW_BINS[:-1], "to_degrees": YAW_BINS[1:]}
    parts = [pd.DataFrame(columns=["split", *bins, "faces"])]
    for split in splits:
        if split.yaw is not None:
            counts, _ = np.histogram(split.yaw[split.whole], YAW_BINS)
            parts.append(pd.DataFrame({"split": split.split, **bins, "faces": counts}))
    return pd.concat(parts[1:] or parts)


def _yaw_figure(name: str, splits: Sequence[ReadSplit]) -> bytes:
    figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
    axis = figure.add_subplot()
    yaws = {split.split: split.yaw[split.whole] for split in splits if split.yaw is not None}
    labels = [f"{split}, {len(yaw):,}" for split, yaw in yaws.items()]
    axis.hist(list(yaws.values()), YAW_BINS.tolist(), stacked=True, rwidth=0.9, label=labels)
    axis.set(xlabel="yaw, degrees", ylabel="faces", title=name, xticks=np.arange(-90, 91, 30))
    axis.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _sheet(splits: Sequence[ReadSplit]) -> bytes:
    """Evenly spaced faces of each split, with yaw and attributes."""
    pictures, captions = [], []
    for split in splits:
        for index in split.whole[evenly_spaced(len(split.whole), max(1, SHEET_FACES // len(splits)))].tolist():
            pictures.append(split.dataset[index]["image"].movedim(0, -1).numpy())
            yaw = [] if split.yaw is None else [f"yaw {round(split.yaw[index])}"]
            present = split.labels["attributes"][index].tolist() if split.attributes else []
            named = [name for name, there in zip(split.attributes, present, strict=True) if there]
            captions.append([split.split, *yaw, *named])
    return contact_sheet(pictures, captions)


def inventory_table(name: str, inventory: Sequence[Count]) -> Table:
    """Compares what is on disk with what was published."""
    table = Table("", title=f"{name}: on disk", title_justify="left")
    for title in ("found", "published", ""):
        table.add_column(title, justify="right")
    for count in inventory:
        missing = 0 if count.published is None else count.published - count.found
        verdict = f"{abs(missing):,} {'missing' if missing > 0 else 'more'}" if missing else ""
        published = "" if count.published is None else f"{count.published:,}"
        table.add_row(count.what, f"{count.found:,}", published, verdict)
    return table


def summary_table(name: str, splits: Sequence[ReadSplit]) -> Table:
    """Numbers of samples, broken samples, attributes and large poses in each split."""
    table = Table("split", title=f"{name}: read", title_justify="left")
    for title in ("samples", "broken", "attributes", "|yaw| > 30", "|yaw| > 60"):
        table.add_column(title, justify="right")
    for split in splits:
        yaw = split.yaw
        beyond = ["" if yaw is None else f"{(np.abs(yaw[split.whole]) > limit).sum():,}" for limit in (30, 60)]
        labelled = "" if split.dataset.label_set is None else str(len(split.dataset.label_set))
        table.add_row(split.split, f"{len(split.dataset):,}", f"{len(split.broken):,}", labelled, *beyond)
    return table
