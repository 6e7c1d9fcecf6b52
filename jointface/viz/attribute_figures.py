"""Figures of facial attributes for papers: scores of each attribute, correlations, reliability."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

COLOURS = matplotlib.color_sequences["tab10"]
TRIVIAL = "trivial"  # label of the trivial predictor
Bins = Float[np.ndarray, "bins"]
Matrix = Float[np.ndarray, "attributes attributes"]


def attribute_bars(scores: Mapping[str, pd.DataFrame], trivial: pd.DataFrame) -> Figure:
    """Accuracy and balanced accuracy of each attribute, methods side by side, the trivial predictor as a black line.

    Attributes are sorted by their mean balanced accuracy, the best on top.

    Args:
        scores: by method, columns `accuracy` and `balanced_accuracy` in [0, 1] and a row for each attribute that it is
            evaluated on.
        trivial: the same for the trivial predictor, with all attributes.
    """
    values = pd.concat(scores, axis=1).swaplevel(axis=1)  # by metric, then method
    names = values["balanced_accuracy"].mean(axis=1).sort_values(kind="stable").index  # barh begins at the bottom
    row = 0.12 + 0.07 * len(scores)
    figure = Figure(figsize=(8.5, 1.1 + row * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, metric in zip(axes, ("accuracy", "balanced_accuracy"), strict=True):
        _bars(axis, 100 * values.loc[names, metric], 100 * trivial.loc[names, metric])
        axis.set_xlabel(f"{metric.replace('_', ' ')} (%)")
    axes[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=7)
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    labels = [*scores, TRIVIAL]
    figure.legend(
        [handles[label] for label in labels], labels, loc="outside upper right", ncols=4, fontsize=8, frameon=False
    )
    return figure


def _bars(axis: Axes, values: pd.DataFrame, trivial: pd.Series) -> None:
    """Bars of each column, and lines of the trivial predictor; rows are attributes, values in per cent."""
    places, height = np.arange(len(values)), 0.8 / values.shape[1]
    for number, method in enumerate(values):
        place = places + 0.4 - height * (number + 0.5)  # the first method on top, as in the legend
        axis.barh(place, values[method], height, color=COLOURS[number % len(COLOURS)], label=method)
    axis.vlines(trivial, places - 0.45, places + 0.45, color="black", linewidth=1.3, label=TRIVIAL)
    lowest = min(values.min().min(), trivial.min())
    axis.set_xlim(min(45.0, 5 * (lowest // 5)), 100)
    axis.grid(axis="x", linewidth=0.4)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)


def correlation_figure(
    method: str, attributes: Sequence[str], predicted: Matrix, labels: Matrix, difference: float
) -> Figure:
    """The correlation matrices of labels and of predictions side by side, both in the order of a hierarchical
    clustering of the labels' correlations. difference: see `jointface.metrics.correlation.correlation_difference`."""
    order = _similar_together(labels)
    names = [attributes[place].replace("_", " ") for place in order]
    side = 2.2 + 0.115 * len(names)
    figure = Figure(figsize=(2 * side + 0.8, side + 0.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, title, matrix in zip(axes, ("labels", method), (labels, predicted), strict=True):
        image = axis.imshow(matrix[np.ix_(order, order)], cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axis.tick_params(length=0)
    axes[0].set_yticks(range(len(names)), names, fontsize=6)
    figure.colorbar(image, ax=axes, shrink=0.6, label="correlation")
    figure.suptitle(f"root mean square difference over pairs: {difference:.3f}", fontsize=9)
    return figure


def _similar_together(correlation: Matrix) -> list[int]:
    """The order of the leaves of a hierarchical clustering; attributes that exclude each other end up far apart."""
    if len(correlation) < 3:
        return list(range(len(correlation)))
    distance = (1 - np.nan_to_num(correlation)).clip(min=0)  # rounding takes correlations a little beyond 1
    np.fill_diagonal(distance, 0)
    condensed = squareform((distance + distance.T) / 2, checks=False)
    return leaves_list(linkage(condensed, "average", optimal_ordering=True)).tolist()


def reliability_figure(methods: Mapping[str, tuple[Bins, Bins, Bins]], errors: Mapping[str, float]) -> Figure:
    """Reliability diagram: share of positives by predicted probability, and the share of labels in each bin.

    Args:
        methods: by method, of each bin the number of samples, the sum of their probabilities, the number of positives.
        errors: by method, the mean calibration error over the attributes, in [0, 1], for the legend.
    """
    figure = Figure(figsize=(4.6, 5.8), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    for number, (method, (count, probability, positives)) in enumerate(methods.items()):
        filled = count > 0
        share, mean = positives[filled] / count[filled], probability[filled] / count[filled]
        colour = COLOURS[number % len(COLOURS)]
        label = f"{method}, mean ECE {100 * errors[method]:.1f} %"
        diagram.plot(mean, share, "o-", color=colour, linewidth=1.2, markersize=4, label=label)
        edges = np.linspace(0, 1, len(count) + 1)
        counts.stairs(count / count.sum(), edges, color=colour, linewidth=1.2)
    diagram.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of positives")
    diagram.legend(fontsize=8, loc="upper left", frameon=False)
    counts.set(yscale="log", xlabel="calibrated probability", ylabel="share of labels")
    low, high = counts.get_ylim()
    # Labels between the powers of ten only where there are few of those, or they overlap.
    counts.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0,)))
    counts.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    counts.yaxis.set_minor_formatter(NullFormatter())
    for axis in (diagram, counts):
        axis.grid(linewidth=0.4)
    return figure
