"""Attribute metrics from the two readings of the logits."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from jointface.attributes import balanced_probability, calibrated_probability


class AttributeMetrics(Metric):
    """Accuracy, balanced accuracy, F1 and average precision, of each attribute and their means.

    Accuracy and F1 read the calibrated probability at 1/2, balanced accuracy the balanced one at 1/2; average precision
    needs only the order. Where the labelled samples show one class only, balanced accuracy, and without a positive also
    F1 and average precision, are undefined: they are left out, of the mean too.

    Args:
        attributes: names, in the order of the columns.
        alpha: of the training split, in the same order.
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

    def update(
        self,
        logits: Float[Tensor, "batch attributes"],
        labels: Float[Tensor, "batch attributes"],
        mask: Bool[Tensor, "batch attributes"],
    ) -> None:
        """Adds samples."""
        self.logits.append(logits)
        self.labels.append(labels)
        self.masks.append(mask)

    def take_part(self) -> None:
        """An update without samples: a process of a distributed run that saw none needs one before `compute`."""
        none = torch.zeros(0, len(self.attributes), device=self.device)
        self.update(none, none, none.bool())

    def compute(self) -> dict[str, Tensor]:
        """The scores by name; empty if no sample was added."""
        logits, labels, mask = (dim_zero_cat(state) for state in (self.logits, self.labels, self.masks))
        if not len(logits):
            return {}
        positive, negative = (labels > 0.5) & mask, (labels < 0.5) & mask
        scores = {
            **_at_half(calibrated_probability(logits, self.alpha) > 0.5, positive, negative),
            "balanced_accuracy": _balanced_accuracy(balanced_probability(logits) > 0.5, positive, negative),
            "average_precision": _average_precision(logits, positive, mask),
        }
        result = {}
        for metric, values in scores.items():
            defined = ~values.isnan()
            if defined.any():
                result[metric] = values[defined].mean()
            result |= {f"{metric}/{self.attributes[m]}": values[m] for m in defined.nonzero().flatten().tolist()}
        return result


def _at_half(predicted: Tensor, positive: Tensor, negative: Tensor) -> dict[str, Float[Tensor, "attributes"]]:
    hits, rejections = (predicted & positive).sum(0), (~predicted & negative).sum(0)
    positives, negatives = positive.sum(0), negative.sum(0)
    misses, false_alarms = positives - hits, negatives - rejections
    f1 = 2 * hits / (2 * hits + misses + false_alarms)
    return {
        "accuracy": (hits + rejections) / (positives + negatives),
        "f1": torch.where(positives > 0, f1, torch.nan),
    }


def _balanced_accuracy(predicted: Tensor, positive: Tensor, negative: Tensor) -> Float[Tensor, "attributes"]:
    # Without positives or negatives the division gives NaN, which marks the score as undefined.
    return ((predicted & positive).sum(0) / positive.sum(0) + (~predicted & negative).sum(0) / negative.sum(0)) / 2


def _average_precision(logits: Tensor, positive: Tensor, mask: Tensor) -> Float[Tensor, "attributes"]:
    def of(m: int) -> Tensor:
        if not positive[:, m].any():
            return logits.new_tensor(torch.nan)
        return binary_average_precision(logits[mask[:, m], m], positive[mask[:, m], m].long())

    return torch.stack([of(m) for m in range(logits.shape[1])])
