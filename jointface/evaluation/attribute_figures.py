"""Figures of facial attributes for papers: bars, correlations of attributes, reliability."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from jointface.metrics.calibration import Reliability

COLOURS = matplotlib.color_sequences["tab10"]
TRIVIAL_COLOUR, TRIVIAL_LABEL = "black", "trivial"
CORRELATION_COLOURS = "RdBu_r"
LOG_LABELS = 50.0  # largest ratio on a logarithmic axis with labels at 1, 2 and 5 times the powers of ten


def attribute_bars(scores: Mapping[str, pd.DataFrame], trivial: pd.DataFrame) -> Figure:
    """Accuracy and balanced accuracy of each attribute, methods side by side, the trivial predictor as a black line.

    Attributes are in the order of their mean balanced accuracy, the best on top.

    Args:
        scores: of each method, columns `accuracy` and `balanced_accuracy` in [0, 1], a row for each attribute that the
            method is judged by.
        trivial: the same of the trivial predictor, with all attributes.
    """
    balanced = pd.DataFrame({method: frame["balanced_accuracy"] for method, frame in scores.items()}).mean(axis=1)
    names = list(balanced.sort_values(kind="stable").index)  # barh begins at the bottom
    row = 0.12 + 0.07 * len(scores)
    figure = Figure(figsize=(8.5, 1.1 + row * len(names)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, metric in zip(axes, ("accuracy", "balanced_accuracy"), strict=True):
        _bars(axis, names, {key: frame[metric] for key, frame in scores.items()}, trivial[metric])
        axis.set_xlabel(f"{metric.replace('_', ' ')} (%)")
    axes[0].set_yticks(range(len(names)), [name.replace("_", " ") for name in names], fontsize=7)
    axes[0].set_ylim(-0.6, len(names) - 0.4)
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    labels = [*scores, TRIVIAL_LABEL]
    lines = [handles[label] for label in labels]
    figure.legend(lines, labels, loc="outside upper right", ncols=4, fontsize=8, frameon=False)
    return figure


def _bars(axis: Axes, names: Sequence[str], values: Mapping[str, pd.Series], trivial: pd.Series) -> None:
    places, height = np.arange(len(names)), 0.8 / len(values)
    lines = 100 * trivial.reindex(names).to_numpy()
    lowest = lines[np.isfinite(lines)]
    for number, (method, series) in enumerate(values.items()):
        lengths = 100 * series.reindex(names).to_numpy()
        lowest = np.append(lowest, lengths[np.isfinite(lengths)])
        # The first method on top, as in the legend.
        place = places + 0.4 - height * (number + 0.5)
        axis.barh(place, lengths, height, color=COLOURS[number % len(COLOURS)], label=method)
    axis.vlines(lines, places - 0.45, places + 0.45, color=TRIVIAL_COLOUR, linewidth=1.3, label=TRIVIAL_LABEL)
    axis.set_xlim(min(45.0, 5 * (lowest.min() // 5)), 100)
    axis.grid(axis="x", linewidth=0.4)
    axis.set_axisbelow(True)
    axis.tick_params(axis="y", length=0)


def expected_correlation(
    probability: Float[np.ndarray, "samples attributes"], mask: Bool[np.ndarray, "samples attributes"]
) -> Float[np.ndarray, "attributes attributes"]:
    """Correlation of attributes whose probabilities are given; for labels, 0 or 1, it is Pearson's.

    It is that of labels drawn from the probabilities, independently of each other for a given photo: the covariance is
    that of the probabilities, the variance p (1 - p) of the mean p. So predictions that say nothing have no
    correlation, unlike correlations of the probabilities themselves, and rare attributes have one, unlike those of
    thresholded predictions. Each pair is over the samples where both are labelled; NaN where one of them is constant.
    """
    values, labelled = np.where(mask, probability, 0.0).astype(np.float64), mask.astype(np.float64)
    count = labelled.T @ labelled
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = values.T @ labelled / count  # of the row's attribute, over the pair's samples
        covariance = values.T @ values / count - mean * mean.T
        variance = mean * (1 - mean)
        variance[variance < 1e-12] = np.nan
        correlation = covariance / np.sqrt(variance * variance.T)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def correlation_difference(
    predicted: Float[np.ndarray, "attributes attributes"], labels: Float[np.ndarray, "attributes attributes"]
) -> float:
    """Root mean square difference of two correlation matrices over the pairs of attributes, which does not grow with
    their number as the Frobenius norm does. NaN without a pair."""
    upper = np.triu_indices(len(labels), 1)
    squares = np.square(predicted - labels)[upper]
    squares = squares[np.isfinite(squares)]
    return float(np.sqrt(squares.mean())) if len(squares) else float("nan")


def correlation_figure(
    method: str,
    attributes: Sequence[str],
    predicted: Float[np.ndarray, "attributes attributes"],
    labels: Float[np.ndarray, "attributes attributes"],
) -> Figure:
    """Attribute x attribute correlation of labels and of predictions side by side, alike attributes together.

    Both have the order of a hierarchical clustering of the labels' correlations.
    """
    order = _similar_together(labels)
    names = [attributes[place].replace("_", " ") for place in order]
    side = 2.2 + 0.115 * len(names)
    figure = Figure(figsize=(2 * side + 0.8, side + 0.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    image = None
    for axis, title, matrix in zip(axes, ("labels", method), (labels, predicted), strict=True):
        image = axis.imshow(matrix[np.ix_(order, order)], cmap=CORRELATION_COLOURS, vmin=-1, vmax=1)
        axis.set_title(title, fontsize=10)
        axis.set_xticks(range(len(names)), names, rotation=90, fontsize=6)
        axis.tick_params(length=0)
    axes[0].set_yticks(range(len(names)), names, fontsize=6)
    assert image is not None
    figure.colorbar(image, ax=axes, shrink=0.6, label="correlation")
    difference = correlation_difference(predicted, labels)
    figure.suptitle(f"root mean square difference over pairs: {difference:.3f}", fontsize=9)
    return figure


def _similar_together(correlation: Float[np.ndarray, "attributes attributes"]) -> list[int]:
    """The order of the leaves of a hierarchical clustering; attributes that exclude each other are far apart."""
    if len(correlation) < 3:
        return list(range(len(correlation)))
    distance = (1 - np.nan_to_num(correlation)).clip(min=0)  # rounding takes correlations a little beyond 1
    np.fill_diagonal(distance, 0)
    condensed = squareform((distance + distance.T) / 2, checks=False)
    return leaves_list(linkage(condensed, "average", optimal_ordering=True)).tolist()


def reliability_figure(methods: Mapping[str, Reliability], errors: Mapping[str, float]) -> Figure:
    """Reliability diagram over all attributes: share of positives by predicted probability, and how many there are.

    Args:
        methods: bins of each method, see `jointface.metrics.calibration.reliability`; attributes are added up.
        errors: mean calibration error over the attributes of each method, in [0, 1], for the legend.
    """
    figure = Figure(figsize=(4.6, 5.8), layout="constrained")
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle="--")
    for number, (method, bins) in enumerate(methods.items()):
        count, probability, positives = (part.sum(1).numpy() for part in bins)
        filled = count > 0
        share, mean = positives[filled] / count[filled], probability[filled] / count[filled]
        colour = COLOURS[number % len(COLOURS)]
        label = f"{method}, mean ECE {100 * errors[method]:.1f} %"
        diagram.plot(mean, share, "o-", color=colour, linewidth=1.2, markersize=4, label=label)
        edges = np.linspace(0, 1, len(count) + 1)
        counts.stairs(count / count.sum(), edges, color=colour, linewidth=1.2)
    diagram.set_ylabel("share of positives")
    diagram.set_xlim(0, 1)
    diagram.set_ylim(0, 1)
    diagram.legend(fontsize=8, loc="upper left", frameon=False)
    counts.set_ylabel("share of labels")
    counts.set_yscale("log")
    low, high = counts.get_ylim()
    # Labels between the powers of ten only where there are few of those, or they overlap.
    counts.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < LOG_LABELS else (1.0,)))
    counts.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    counts.yaxis.set_minor_formatter(NullFormatter())
    counts.set_xlabel("calibrated probability")
    for axis in (diagram, counts):
        axis.grid(linewidth=0.4)
    return figure
