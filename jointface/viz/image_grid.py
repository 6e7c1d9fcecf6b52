"""Figures with pictures side by side."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from matplotlib.figure import Figure

Picture = UInt8[np.ndarray, "_ _ 3"]  # sizes may differ


def image_grid(
    lines: Sequence[tuple[str, Sequence[Picture | None]]], names: Sequence[str] = (), horizontal: bool = False
) -> Figure:
    """A figure with titled lines of pictures.

    Args:
        lines: title and pictures of each line, all with the same number of pictures; None shows the word "none".
        names: captions below the pictures of the first line.
        horizontal: whether lines are rows; otherwise they are columns.
    """
    count = len(lines[0][1])
    shape = (len(lines), count) if horizontal else (count, len(lines))
    figure = Figure(figsize=(1.9 * shape[1], 1.95 * shape[0] + 0.3), layout="constrained", dpi=110)
    axes = figure.subplots(*shape, squeeze=False)
    for cells, (title, pictures) in zip(axes if horizontal else axes.T, lines, strict=True):
        cells[0].set_title(title, fontsize=9, wrap=True, loc="left" if horizontal else "center")
        for axis, picture in zip(cells, pictures, strict=True):
            axis.set_axis_off()
            if picture is None:
                axis.text(0.5, 0.5, "none", transform=axis.transAxes, ha="center", color="0.5", fontsize=8)
            else:
                axis.imshow(picture)
    for axis, name in zip(axes[0] if horizontal else axes[:, 0], names, strict=False):
        axis.text(0, -0.03, name, transform=axis.transAxes, fontsize=6, va="top")
    return figure


def captioned_row(pictures: Sequence[Picture], captions: Sequence[Sequence[tuple[str, str]]]) -> Figure:
    """A figure with pictures in a row and lines of text below each one, given as (text, colour)."""
    figure = Figure(figsize=(2.3 * len(pictures), 4.6), layout="constrained", dpi=110)
    axes = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axis, picture, lines in zip(axes, pictures, captions, strict=True):
        axis.imshow(picture)
        axis.set_axis_off()
        for place, (text, colour) in enumerate(lines):
            y = -0.04 - 0.085 * place
            axis.text(0, y, text, transform=axis.transAxes, color=colour, fontsize=7, va="top")
    return figure
