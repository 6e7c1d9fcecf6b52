"""Figures of facial attributes for papers: score of each attribute, correlations and reliability."""

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
    """Bar chart of each attribute's accuracy and balanced accuracy, with a black line for the trivial predictor.

    Attributes are sorted by their mean balanced accuracy, best on top.

    Args:
        scores: for each method, columns `accuracy` and `balanced_accuracy` in [0, 1] and one row for each attribute
            that it was evaluated on.
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
    """Draws a bar for each column and a line for the trivial predictor. Rows are attributes, values are in per cent."""
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
    """Correlation matrices of labels and predictions side by side, both ordered by a hierarchical clustering of the
    labels' correlations. difference: see `jointface.metrics.correlation.correlation_difference`."""
    order = _cluster_order(labels)
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


def _cluster_order(correlation: Matrix) -> list[int]:
    """Leaf order of a hierarchical clustering; mutually exclusive attributes end up far apart."""
    if len(correlation) < 3:
        return list(range(len(correlation)))
    distance = (1 - np.nan_to_num(correlation)).clip(min=0)  # rounding can push correlations above 1
    np.fill_diagonal(distance, 0)
    condensed = squareform((distance + distance.T) / 2, checks=False)
    return leaves_list(linkage(condensed, "average", optimal_ordering=True)).tolist()


def reliability_figure(methods: Mapping[str, tuple[Bins, Bins, Bins]], errors: Mapping[str, float]) -> Figure:
    """Reliability diagram: share of positives against predicted probability, and share of labels in each bin.

    Args:
        methods: for each method, per bin: number of samples, sum of their probabilities, number of positives.
        errors: for each method, the mean calibration error over the attributes in [0, 1], for the legend.
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
    # Label values between powers of ten only on a short axis; on a long one the labels would overlap.
    counts.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0,)))
    counts.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
    counts.yaxis.set_minor_formatter(NullFormatter())
    for axis in (diagram, counts):
        axis.grid(linewidth=0.4)
    return figure
