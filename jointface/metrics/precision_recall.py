"""Precision-recall curves of attributes, small enough to save at every validation."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from sklearn.metrics import precision_recall_curve
from torchmetrics.utilities import dim_zero_cat

from jointface.metrics.attribute_scores import AttributeMetrics, Mask, Values

RECALLS = np.linspace(0, 1, 21)


def gather_samples(metric: AttributeMetrics) -> tuple[Values, Values, Mask]:
    """Logits, labels and mask of a metric's samples so far, on the CPU. In a distributed run every process must call
    this, and gets the samples of all processes."""
    metric.update_empty()
    with metric.sync_context():
        logits, labels, mask = (dim_zero_cat(getattr(metric, state)).cpu() for state in ("logits", "labels", "masks"))
    return logits, labels, mask


def precision_recall_table(attributes: Sequence[str], logits: Values, labels: Values, mask: Mask) -> pd.DataFrame:
    """A table with columns attribute, recall and precision; attributes without a positive have no rows."""
    parts = []
    for m, attribute in enumerate(attributes):
        truth = labels[mask[:, m], m].numpy() > 0.5
        if truth.any():
            precision = precision_at_recalls(truth, logits[mask[:, m], m].float().numpy())
            parts.append(pd.DataFrame({"attribute": attribute, "recall": RECALLS, "precision": precision}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["attribute", "recall", "precision"])


def precision_at_recalls(
    truth: Bool[np.ndarray, "samples"], scores: Float[np.ndarray, "samples"]
) -> Float[np.ndarray, "recalls"]:
    """The best precision at a recall of at least each of RECALLS. `truth` must have a positive."""
    precision, recall, _ = precision_recall_curve(truth, scores)  # recall falls from 1 to 0
    # Drop the last point, precision 1 at recall 0: a convention that no threshold reaches.
    precision, recall = np.maximum.accumulate(precision[:-1])[::-1], recall[:-1][::-1]
    return precision[np.searchsorted(recall, RECALLS - 1e-9)]
