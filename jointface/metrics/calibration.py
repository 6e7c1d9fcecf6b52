"""Calibration: how far probabilities are from frequencies, and thresholds chosen on a validation split."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from jointface.metrics.attribute_scores import Mask, Values

Goal = Literal["accuracy", "balanced_accuracy"]

BINS = 15


class Reliability(NamedTuple):
    """Statistics of the labelled samples in each probability bin of a reliability diagram, in float64."""

    samples: Float[Tensor, "bins attributes"]  # number of samples
    probability: Float[Tensor, "bins attributes"]  # sum of their predicted probabilities
    positives: Float[Tensor, "bins attributes"]  # number of positive samples


def reliability(probability: Values, labels: Values, mask: Mask, bins: int = BINS) -> Reliability:
    """Bins samples by their predicted probability, in bins of equal width over [0, 1] that include their lower edge."""
    probability, labels, labelled = probability.double(), labels.double(), mask.double()
    place = (probability * bins).long().clamp(0, bins - 1)

    empty = probability.new_zeros(bins, probability.shape[1])
    summands = (labelled, probability * labelled, labels * labelled)
    return Reliability(*(empty.scatter_add(0, place, values) for values in summands))


def expected_calibration_error(
    probability: Values, labels: Values, mask: Mask, bins: int = BINS
) -> Float[Tensor, "attributes"]:
    """ECE of each attribute: the mean over bins of |mean probability - share of positives|, weighted by samples.

    See Naeini, Cooper, Hauskrecht, AAAI 2015, and Guo, Pleiss, Sun, Weinberger, ICML 2017, whose 15 bins of equal width
    are the default. Probabilities are those of the positive class. NaN for attributes without labelled samples.
    """
    count, predicted, positives = reliability(probability, labels, mask, bins)
    return (predicted - positives).abs().sum(0) / count.sum(0)


def best_thresholds(scores: Values, labels: Values, mask: Mask, goal: Goal) -> Float[Tensor, "attributes"]:
    """For each attribute, the threshold above which scores count as positive that is best on these samples.

    Scores are logits of the probability that the goal is about (calibrated for accuracy, else balanced), so the usual
    threshold is 0. A threshold lies in the middle of a gap between two neighbouring scores; it is 0 if the best gap
    contains 0. Of equally good gaps, the one nearest to 0 wins, so that uninformative samples change nothing. The
    threshold is infinite if all or no samples should be positive, and 0 for an attribute that lacks a class.
    """
    scores = scores.double().masked_fill(~mask, -torch.inf)
    scores, order = scores.sort(dim=0, descending=True)  # unlabelled samples come last
    positive = ((labels > 0.5) & mask).gather(0, order).double()
    negative = ((labels < 0.5) & mask).gather(0, order).double()
    positives, negatives = positive.sum(0), negative.sum(0)
    # Row k: the k highest scores count as positive.
    nothing = positive.new_zeros(1, positive.shape[1])
    hits, false_alarms = (torch.cat([nothing, part.cumsum(0)]) for part in (positive, negative))
    if goal == "accuracy":
        value = hits + negatives - false_alarms
    else:
        value = hits / positives + (negatives - false_alarms) / negatives
    upper, lower = torch.cat([nothing + torch.inf, scores]), torch.cat([scores, nothing - torch.inf])
    middle = torch.where((lower < 0) & (upper >= 0), 0.0, (lower + upper) / 2)
    # No threshold separates equal scores; a gap between two infinite scores lies between unlabelled samples.
    value = value.masked_fill((lower == upper) | middle.isnan(), -torch.inf)
    # Rounding of the sums must not decide between equally good gaps. An infinite threshold counts as farther from 0
    # than any finite one of a good gap, but nearer than that of a worse gap.
    distance = middle.abs().clamp(max=1e300).masked_fill(value < value.amax(0) - 1e-9, torch.inf)
    nearest = distance.argmin(0, keepdim=True)
    return torch.where((positives > 0) & (negatives > 0), middle.gather(0, nearest)[0], 0.0)
