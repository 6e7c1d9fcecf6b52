"""Calibration: the distance between probabilities and frequencies, and thresholds chosen on a validation split."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from jointface.metrics.attribute_scores import Mask, Values

Goal = Literal["accuracy", "balanced_accuracy"]

BINS = 15


class Reliability(NamedTuple):
    """The labelled samples in each bin of probability, as a reliability diagram shows them, in float64."""

    samples: Float[Tensor, "bins attributes"]  # their number
    probability: Float[Tensor, "bins attributes"]  # the sum of their predicted probabilities
    positives: Float[Tensor, "bins attributes"]


def reliability(probability: Values, labels: Values, mask: Mask, bins: int = BINS) -> Reliability:
    """Samples by their probability of being positive, in bins of equal width over [0, 1], lower edges included."""
    probability, labels, labelled = probability.double(), labels.double(), mask.double()
    place = (probability * bins).long().clamp(0, bins - 1)

    empty = probability.new_zeros(bins, probability.shape[1])
    summands = (labelled, probability * labelled, labels * labelled)
    return Reliability(*(empty.scatter_add(0, place, values) for values in summands))


def expected_calibration_error(
    probability: Values, labels: Values, mask: Mask, bins: int = BINS
) -> Float[Tensor, "attributes"]:
    """ECE of each attribute: the mean over bins of |mean probability - share of positives|, weighted by samples.

    Naeini, Cooper, Hauskrecht, AAAI 2015, and Guo, Pleiss, Sun, Weinberger, ICML 2017, whose 15 bins of equal width are
    the default. The probability is that of the positive class. NaN without a labelled sample.
    """
    count, predicted, positives = reliability(probability, labels, mask, bins)
    return (predicted - positives).abs().sum(0) / count.sum(0)


def best_thresholds(scores: Values, labels: Values, mask: Mask, goal: Goal) -> Float[Tensor, "attributes"]:
    """For each attribute, the threshold that is best on these samples when scores above it count as positive.

    Scores are logits of the reading that the goal is about: their usual threshold is 0. A threshold lies in the middle
    of the gap between two neighbouring scores; it is 0 where the best gap contains 0. Of equally good gaps the one
    nearest to 0 wins, so that uninformative samples change nothing. The threshold is infinite where all or none should
    be positive. An attribute that lacks a class keeps 0.
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
    # No threshold separates equal scores, and a gap between two infinite ones is between unlabelled samples.
    value = value.masked_fill((lower == upper) | middle.isnan(), -torch.inf)
    # The last bit of the sums must not choose between equally good gaps. Infinite thresholds are further away than any
    # other good one, but nearer than a worse one.
    distance = middle.abs().clamp(max=1e300).masked_fill(value < value.amax(0) - 1e-9, torch.inf)
    nearest = distance.argmin(0, keepdim=True)
    return torch.where((positives > 0) & (negatives > 0), middle.gather(0, nearest)[0], 0.0)
