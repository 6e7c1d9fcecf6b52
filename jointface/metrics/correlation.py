"""Correlations between attributes."""

import numpy as np
from jaxtyping import Bool, Float


def expected_correlation(
    probability: Float[np.ndarray, "samples attributes"], mask: Bool[np.ndarray, "samples attributes"]
) -> Float[np.ndarray, "attributes attributes"]:
    """Correlation between attributes with given probabilities; Pearson's correlation if these are labels, 0 or 1.

    This is the correlation of labels sampled from the probabilities, independently given the photo: the covariance is
    that of the probabilities, the variance is p (1 - p) for the mean p. So constant predictions have correlation 0, and
    rare attributes have a defined one. Each pair uses the samples with both labels; NaN if one is always 0 or always 1.
    """
    values, labelled = np.where(mask, probability, 0.0).astype(np.float64), mask.astype(np.float64)
    count = labelled.T @ labelled
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = values.T @ labelled / count  # of the row's attribute over the pair's samples
        covariance = values.T @ values / count - mean * mean.T
        variance = mean * (1 - mean)
        variance[variance < 1e-12] = np.nan
        correlation = covariance / np.sqrt(variance * variance.T)
    np.fill_diagonal(correlation, 1.0)
    return correlation


def correlation_difference(
    predicted: Float[np.ndarray, "attributes attributes"], labels: Float[np.ndarray, "attributes attributes"]
) -> float:
    """Root mean square difference of two correlation matrices over attribute pairs; NaN if no pair is defined."""
    squares = np.square(predicted - labels)[np.triu_indices(len(labels), 1)]
    squares = squares[np.isfinite(squares)]
    return float(np.sqrt(squares.mean())) if len(squares) else float("nan")
