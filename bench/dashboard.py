"""Draws the sections of the dashboard from what W&B recorded of a run: `python -m bench.dashboard RUN_FOLDER FOLDER`.

W&B draws a dashboard in the browser, from its server. These pictures are made without: the panels of
conf/workspace.yaml, in their order, with the run's own values, pictures, tables and meshes.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import trimesh
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from jointface.callbacks.dashboard_panels import Panel, Section, read_sections
from jointface.callbacks.recorded_run import RecordedRun, read_run
from jointface.command_line import CONF_DIR
from jointface.geometry.rasteriser import interpolate, rasterise_meshes

COLUMNS, WIDTH, HEIGHT = 3, 4.4, 2.9  # of panels; size of one in inches
ROWS, SERIES = 11, 8  # of a table; names in a legend
TURNS = (0, 40)  # degrees that a mesh is shown at


def draw_section(run: RecordedRun, section: Section) -> Figure | None:
    """A section as W&B lays it out; None if the run has nothing for it."""
    shown = [(panel, keys) for panel in section.panels for keys in _shown_together(panel, panel.keys(run.keys()))]
    if not shown:
        return None
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * WIDTH, rows * HEIGHT + 0.4), layout="constrained", dpi=90)
    figure.suptitle(f"{section.name}  ({len(shown)})", x=0.01, ha="left", fontsize=12, fontweight="bold")
    axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axis, (panel, keys) in zip(axes, shown, strict=False):
        title = panel.title if panel.kind == "lines" else f"{panel.title}\n{keys[0].removesuffix('_table')}"
        axis.set_title(title, fontsize=8, loc="left")
        DRAW[panel.kind](axis, run, keys)
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    return figure


def _shown_together(panel: Panel, keys: list[str]) -> list[list[str]]:
    if panel.kind == "lines":
        return [keys] if keys else []
    return [[key] for key in keys]


def _lines(axis: Axes, run: RecordedRun, keys: Sequence[str]) -> None:
    for key in keys:
        axis.plot(*zip(*run.values(key), strict=True), linewidth=1.2, marker=".", markersize=3, label=key)
    axis.set_xlabel("trainer/global_step", fontsize=7)
    axis.grid(linewidth=0.3)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=7, frameon=False)


def _media(axis: Axes, run: RecordedRun, keys: Sequence[str]) -> None:
    value = run.values(keys[0])[-1][1]
    if value["_type"] == "image-file":
        axis.imshow(cv2.imread(str(run.file(value["path"])), cv2.IMREAD_COLOR_RGB))
    else:
        meshes = [trimesh.load_mesh(run.file(face["path"]), process=False) for face in value["objects"]]
        axis.imshow(np.concatenate([_render(mesh, turn) for mesh in meshes for turn in TURNS], axis=1))
    axis.set_axis_off()


def _render(mesh: trimesh.Trimesh, turn: float, size: int = 260) -> np.ndarray:
    """A mesh in its colours, turned about the vertical axis, lit from the viewer."""
    rotation = trimesh.transformations.rotation_matrix(np.radians(turn), [0, 1, 0])[:3, :3]
    vertices, normals = mesh.vertices @ rotation.T, mesh.vertex_normals @ rotation.T
    points = vertices * [1, -1, 1] / np.ptp(mesh.vertices, axis=0).max() * 0.95 * size + [size / 2, size / 2, 0]
    triangles = torch.from_numpy(np.array(mesh.faces)).long()
    fragments = rasterise_meshes(torch.from_numpy(points).float()[None], triangles, size, size)
    light = 0.45 + 0.55 * normals[:, 2:].clip(0, 1)
    colours = torch.from_numpy(mesh.visual.vertex_colors[:, :3] * light).float()
    picture = interpolate(fragments, triangles, colours)[0].numpy()
    picture[(fragments.triangle[0] < 0).numpy()] = 245
    return picture.astype(np.uint8)


def _frame(run: RecordedRun, key: str) -> pd.DataFrame:
    table = json.loads(run.file(run.values(key)[-1][1]["path"]).read_text())
    return pd.DataFrame(table["data"], columns=table["columns"])


def _table(axis: Axes, run: RecordedRun, keys: Sequence[str]) -> None:
    table = _frame(run, keys[0])
    cells = table.head(ROWS).map(lambda cell: f"{cell:.3f}" if isinstance(cell, float) else str(cell))
    drawn = axis.table(
        cells.to_numpy(), colLabels=list(cells.columns), loc="upper left", cellLoc="left", edges="horizontal"
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(6)
    drawn.auto_set_column_width(list(range(len(cells.columns))))
    axis.text(0, 0, f"1 to {len(cells)} of {len(table)}", fontsize=6, transform=axis.transAxes)
    axis.set_axis_off()


def _curves(axis: Axes, run: RecordedRun, keys: Sequence[str]) -> None:
    for number, (name, curve) in enumerate(_frame(run, keys[0]).groupby("attribute", sort=False)):
        label = str(name) if number < SERIES else None
        axis.plot(curve["recall"], curve["precision"], linewidth=0.8, label=label)
    axis.set(xlim=(0, 1), ylim=(0, 1.02))
    axis.set_xlabel("recall", fontsize=7)
    axis.set_ylabel("precision", fontsize=7)
    axis.tick_params(labelsize=7)
    axis.legend(fontsize=5, ncols=2, frameon=False, loc="upper right")


def _histogram(axis: Axes, run: RecordedRun, keys: Sequence[str]) -> None:
    value: dict[str, Any] = run.values(keys[0])[-1][1]
    axis.stairs(value["values"], value["bins"], fill=True)
    axis.set_xlabel("degrees", fontsize=7)
    axis.tick_params(labelsize=7)


DRAW = {"lines": _lines, "media": _media, "table": _table, "curves": _curves, "histogram": _histogram}


def main(run_dir: str, folder: str) -> None:
    """Writes dashboard_SECTION.jpg."""
    run = read_run(Path(run_dir))
    Path(folder).mkdir(parents=True, exist_ok=True)
    config = OmegaConf.to_container(OmegaConf.load(CONF_DIR / "workspace.yaml").sections)
    for section in read_sections(config):  # type: ignore[arg-type]
        if figure := draw_section(run, section):
            path = Path(folder) / f"dashboard_{section.name.lower().replace(' ', '_')}.jpg"
            figure.savefig(path, pil_kwargs={"quality": 82})
            print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
