"""Attribute metrics, from the calibrated and the balanced probabilities of the logits."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import multilabel_average_precision, multilabel_stat_scores
from torchmetrics.utilities import dim_zero_cat

from jointface.attributes import balanced_probability, calibrated_probability

UNLABELLED = -1  # in targets, beside 1 and 0
Values = Float[Tensor, "samples attributes"]
Mask = Bool[Tensor, "samples attributes"]


class AttributeMetrics(Metric):
    """Accuracy, balanced accuracy, F1 and average precision of each attribute, and their means.

    Accuracy and F1 threshold the calibrated probability at 1/2, balanced accuracy the balanced probability; average
    precision depends only on the ranking. F1 and average precision are undefined for an attribute without a labelled
    positive, and balanced accuracy for one that lacks labelled positives or negatives. Undefined scores are left out of
    the results and the means.

    Args:
        attributes: names, in the order of the columns.
        alpha: negatives per positive in the training split, in the same order.
    """

    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]
    masks: list[Tensor]
    alpha: Float[Tensor, "attributes"]

    def __init__(self, attributes: Sequence[str], alpha: Float[Tensor, "attributes"]) -> None:
        super().__init__()
        self.attributes = tuple(attributes)
        self.register_buffer("alpha", alpha.clone(), persistent=False)
        for state in ("logits", "labels", "masks"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, logits: Values, labels: Values, mask: Mask) -> None:
        """Adds samples."""
        self.logits.append(logits)
        self.labels.append(labels)
        self.masks.append(mask)

    def update_empty(self) -> None:
        """Updates with no samples. In a distributed run, a process without samples needs this before `compute`."""
        none = torch.zeros(0, len(self.attributes), device=self.device)
        self.update(none, none, none.bool())

    def compute(self) -> dict[str, Tensor]:
        """Scores by name; empty if no samples were added."""
        logits, labels, mask = (dim_zero_cat(state) for state in (self.logits, self.labels, self.masks))
        if not len(logits):
            return {}
        result = {}
        for metric, values in attribute_scores(logits, labels, mask, self.alpha).items():
            defined = ~values.isnan()
            if defined.any():
                result[metric] = values[defined].mean()
            result |= {f"{metric}/{self.attributes[m]}": values[m] for m in defined.nonzero().flatten().tolist()}
        return result


def attribute_scores(
    logits: Values, labels: Values, mask: Mask, alpha: Float[Tensor, "attributes"]
) -> dict[str, Float[Tensor, "attributes"]]:
    """The scores of `AttributeMetrics` for each attribute; NaN if undefined."""
    target = torch.where(mask, labels > 0.5, UNLABELLED)
    hits, false_alarms, rejections, misses = _counts(calibrated_probability(logits, alpha) > 0.5, target)
    f1 = 2 * hits / (2 * hits + misses + false_alarms)
    scores = {
        "accuracy": (hits + rejections) / (hits + rejections + misses + false_alarms),
        "f1": f1.where(hits + misses > 0, torch.nan),
    }
    hits, false_alarms, rejections, misses = _counts(balanced_probability(logits) > 0.5, target)
    scores["balanced_accuracy"] = (hits / (hits + misses) + rejections / (rejections + false_alarms)) / 2
    return scores | {"average_precision": _average_precision(logits, target)}


def _counts(predicted: Tensor, target: Tensor) -> tuple[Tensor, ...]:
    """True positives, false positives, true negatives and false negatives of each attribute."""
    counts = multilabel_stat_scores(
        predicted.int(), target, target.shape[1], average=None, ignore_index=UNLABELLED, validate_args=False
    )
    return counts.unbind(1)[:4]


def _average_precision(logits: Tensor, target: Tensor) -> Float[Tensor, "attributes"]:
    defined = (target == 1).any(0)
    result = logits.new_full((len(defined),), torch.nan)
    if defined.any():
        result[defined] = multilabel_average_precision(
            logits[:, defined], target[:, defined], int(defined.sum()), average=None, ignore_index=UNLABELLED,
            validate_args=False,
        ).to(result)  # fmt: skip
    return result
