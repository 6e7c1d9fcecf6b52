"""Error curves for papers: cumulative error distributions, errors against yaw, and calibration."""

from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

Errors = Float[np.ndarray, "images"]
COLOURS = matplotlib.color_sequences["tab10"]
LINES = ("-", "--", "-.", ":")
YAW_LIMITS = (-60, -30, 30, 60)  # degrees, between the bins of AFLW2000-3D's papers


def area_under_curve(errors: Errors, limit: float) -> float:
    """Area under the cumulative error distribution from 0 to `limit`, as a fraction of the largest possible area.

    This equals the mean of max(0, 1 - error / limit). Images without a prediction have the error NaN and are left out.
    """
    known = errors[~np.isnan(errors)]
    return float(np.clip(1 - known / limit, 0, 1).mean()) if len(known) else float("nan")


def cumulative_errors(errors: Mapping[str, Errors], limit: float, label: str) -> Figure:
    """Plots the share of images below each error, one curve per method. The legend is sorted by area under the curve.

    Args:
        errors: for each method; NaN (no prediction) is left out of the curve.
        limit: largest error shown.
        label: axis label: the error and its unit.
    """
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    areas = {name: area_under_curve(values, limit) for name, values in errors.items()}
    styles = {name: _style(place) for place, name in enumerate(errors)}  # a method keeps its colour in all figures
    for name in sorted(errors, key=lambda name: -areas[name]):
        known = errors[name][~np.isnan(errors[name])]
        few = "" if len(known) == len(errors[name]) else f", {len(known):,} of {len(errors[name]):,} images"
        # Clip, because infinite errors cannot be plotted; they stay beyond the limit.
        axis.ecdf(known.clip(max=2 * limit), label=f"{name} ({100 * areas[name]:.1f}{few})", **styles[name])
    axis.set(xlim=(0, limit), ylim=(0, 1), xlabel=label, ylabel="images below")
    axis.yaxis.set_major_formatter(PercentFormatter(1))
    axis.grid(color="0.9")
    axis.legend(title=f"method (AUC to {limit:g}, %)", fontsize=8, title_fontsize=8, loc="lower right")
    return figure


def error_against_yaw(errors: Mapping[str, Errors], yaw: Errors, label: str, width: float = 10.0) -> Figure:
    """Plots the error of each image against its yaw, and the mean of each method in yaw bins.

    Args:
        errors: for each method; infinite and NaN errors are left out.
        yaw: in degrees.
        label: axis label: the error and its unit.
        width: bin width in degrees.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    middles = (np.floor(np.clip(yaw, -90, 90 - 1e-6) / width) + 0.5) * width
    highest = 0.0
    for place, (name, values) in enumerate(errors.items()):
        colour = _style(place)["color"]
        finite = np.isfinite(values)
        size = np.clip(2000 / max(len(yaw), 1), 2, 16)
        axis.scatter(yaw[finite], values[finite], s=size, color=colour, alpha=0.25, linewidths=0, rasterized=True)
        means = pd.Series(values[finite]).groupby(middles[finite]).mean()
        axis.plot(means.index, means, "o-", color=colour, markersize=4, label=name)
        if finite.any():
            highest = max(highest, np.quantile(values[finite], 0.99), means.max())
    for limit in YAW_LIMITS:
        axis.axvline(limit, color="0.85", zorder=0)
    axis.set(xlim=(-90, 90), ylim=(0, 1.1 * highest or 1), xlabel="yaw, degrees", ylabel=label)
    axis.set_xticks(range(-90, 91, 30))
    axis.legend(title=f"mean in bins of {width:g}°", fontsize=8, title_fontsize=8)
    return figure


def calibration_curve(shares: Mapping[float, float]) -> Figure:
    """Plots which share of the landmarks is as near to the truth as predicted standard deviations let expect.

    shares: the observed share by the expected one.
    """
    figure = Figure(figsize=(4.2, 4.2), layout="constrained")
    axis = figure.subplots()
    axis.plot((0, 1), (0, 1), color="0.7", label="perfect")
    axis.plot((0, *shares, 1), (0, *shares.values(), 1), "o-", color=COLOURS[0], markersize=4, label="observed")
    axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="expected share of landmarks", ylabel="observed share")
    axis.grid(color="0.9")
    axis.legend(loc="upper left")
    return figure


def _style(place: int) -> dict[str, Any]:
    return {"color": COLOURS[place % len(COLOURS)], "linestyle": LINES[place // len(COLOURS) % len(LINES)]}
