"""What a data set holds, as files: counts, broken samples, attributes, yaw, and a sheet of faces.

report.json         all of it
broken.csv          split, index, file, reason: a row for every sample that cannot be read
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
import torch
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table
from torch import Tensor

from jointface.attributes import positive_weight
from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.on_disk import Count
from jointface.files import write_atomically
from jointface.geometry.camera import rotation_to_euler
from jointface.viz.contact_sheet import contact_sheet

SHEET_FACES, SHEET_SIZE = 32, 112
YAW_BINS = np.arange(-90, 91, 10)


@dataclass(frozen=True)
class Described:
    """A split that was read.

    labels: by name, (N, ...), zero in the rows of broken samples. broken: why samples cannot be read, by index.
    """

    split: str
    dataset: FaceDataset
    labels: dict[str, Tensor]
    broken: dict[int, str]

    @cached_property
    def yaw(self) -> Float[np.ndarray, "samples"] | None:
        """Yaw of the samples in degrees, where it is labelled."""
        return yaw_of(self.labels["camera"]) if "camera" in self.labels else self.dataset.known_yaw()

    @property
    def whole(self) -> np.ndarray:
        """Indices of the samples that could be read."""
        return np.setdiff1d(np.arange(len(self.dataset)), list(self.broken))


def write_description(
    folder: Path, name: str, inventory: Sequence[Count], splits: Sequence[Described]
) -> dict[str, Any]:
    """Writes the files above; gives the content of report.json.

    Raises:
        DataError: a file cannot be written.
    """
    tables = {"broken": broken_table(splits), "attributes": attributes_table(splits), "yaw": yaw_table(splits)}
    for title, table in tables.items():
        path = folder / f"{title}.csv"
        if len(table):
            write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())
        else:
            path.unlink(missing_ok=True)  # of an earlier call
    for picture in ("yaw.png", "contact_sheet.png"):
        (folder / picture).unlink(missing_ok=True)  # of an earlier call
    if len(tables["yaw"]):
        write_atomically(folder / "yaw.png", _yaw_figure(name, tables["yaw"]))
    if any(len(split.whole) for split in splits):
        write_atomically(folder / "contact_sheet.png", _sheet(splits))
    report = {
        "name": name,
        "inventory": [asdict(count) for count in inventory],
        "samples": {split.split: len(split.dataset) for split in splits},
        **{title: table.to_dict("records") for title, table in tables.items()},
    }
    write_atomically(folder / "report.json", (json.dumps(report, indent=2) + "\n").encode())
    return report


def broken_table(splits: Sequence[Described]) -> pd.DataFrame:
    """A row for every broken sample."""
    rows = [
        (split.split, index, str(split.dataset.path(index)), reason)
        for split in splits
        for index, reason in sorted(split.broken.items())
    ]
    return pd.DataFrame(rows, columns=["split", "index", "file", "reason"])


def attributes_table(splits: Sequence[Described]) -> pd.DataFrame:
    """How often each attribute is labelled and present, and its alpha (N_neg / N_pos, clipped)."""
    parts = []
    for split in splits:
        label_set = split.dataset.label_set
        if label_set is None or "attributes" not in split.labels:
            continue
        labels, mask = (split.labels[key][split.whole] for key in ("attributes", "attribute_mask"))
        labelled, positives = mask.sum(0), (labels * mask).sum(0).double()
        parts.append(pd.DataFrame({
            "split": split.split, "attribute": label_set.attributes, "labelled": labelled.numpy(),
            "positives": positives.int().numpy(), "prevalence": (positives / labelled.clamp(min=1)).numpy().round(4),
            "alpha": positive_weight(labels, mask).double().numpy().round(4),
        }))  # fmt: skip
    return pd.concat(parts) if parts else pd.DataFrame()


def yaw_of(cameras: Float[Tensor, "batch 3 4"]) -> Float[np.ndarray, "batch"]:
    """Yaw of the faces that cameras show, in degrees."""
    linear = cameras[:, :, :3] * torch.tensor([[1.0], [-1.0], [1.0]])
    return rotation_to_euler(linear / linear.norm(dim=2, keepdim=True))[:, 1].rad2deg().numpy()


def yaw_table(splits: Sequence[Described]) -> pd.DataFrame:
    """Faces of each split by yaw."""
    rows = []
    for split in splits:
        if (yaw := split.yaw) is not None:
            counts, _ = np.histogram(yaw[split.whole], YAW_BINS)
            rows += [
                (split.split, int(low), int(high), int(count))
                for low, high, count in zip(YAW_BINS[:-1], YAW_BINS[1:], counts, strict=True)
            ]
    return pd.DataFrame(rows, columns=["split", "from_degrees", "to_degrees", "faces"])


def _yaw_figure(name: str, table: pd.DataFrame) -> bytes:
    figure = Figure(figsize=(6, 3), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    below = np.zeros(len(YAW_BINS) - 1)
    for split, rows in table.groupby("split", sort=False):
        axis.bar(
            YAW_BINS[:-1], rows["faces"], width=9, align="edge", bottom=below, label=f"{split}, {rows['faces'].sum():,}"
        )
        below += rows["faces"].to_numpy()
    axis.set(xlabel="yaw, degrees", ylabel="faces", title=name, xticks=np.arange(-90, 91, 30))
    axis.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _sheet(splits: Sequence[Described]) -> bytes:
    """Faces spread evenly over the splits, with what is labelled."""
    pictures, captions = [], []
    for split in splits:
        share = max(1, SHEET_FACES // len(splits))
        spread = split.whole[np.linspace(0, len(split.whole) - 1, min(share, len(split.whole))).round().astype(int)]
        for index in spread.tolist():
            pictures.append(split.dataset[index]["image"].movedim(0, -1).numpy())
            captions.append(_caption(split, index))
    return contact_sheet(pictures, captions)


def _caption(split: Described, index: int) -> list[str]:
    caption = [split.split]
    if (yaw := split.yaw) is not None:
        caption.append(f"yaw {round(yaw[index])}")
    if split.dataset.label_set is not None and "attributes" in split.labels:
        present = split.labels["attributes"][index].tolist()
        caption += [name for name, there in zip(split.dataset.label_set.attributes, present, strict=True) if there]
    return caption


def inventory_table(name: str, inventory: Sequence[Count]) -> Table:
    """What is on disk beside what was published."""
    table = Table(title=f"{name}: on disk", title_justify="left")
    for title in ("", "found", "published", ""):
        table.add_column(title, justify="right" if title else "left")
    for count in inventory:
        short = count.published is not None and count.found < count.published
        verdict = f"{count.published - count.found:,} missing" if short and count.published is not None else ""
        if count.published is not None and count.found > count.published:
            verdict = f"{count.found - count.published:,} more"
        published = "" if count.published is None else f"{count.published:,}"
        table.add_row(count.what, f"{count.found:,}", published, verdict)
    return table


def summary_table(name: str, splits: Sequence[Described]) -> Table:
    """What was read of each split."""
    table = Table(title=f"{name}: read", title_justify="left")
    for title in ("split", "samples", "broken", "attributes", "|yaw| > 30", "|yaw| > 60"):
        table.add_column(title, justify="left" if title == "split" else "right")
    for split in splits:
        yaw = split.yaw
        beyond = ["" if yaw is None else f"{(np.abs(yaw[split.whole]) > limit).sum():,}" for limit in (30, 60)]
        labelled = "" if split.dataset.label_set is None else str(len(split.dataset.label_set))
        table.add_row(split.split, f"{len(split.dataset):,}", f"{len(split.broken):,}", labelled, *beyond)
    return table
