"""Metrics of the two tasks, as torchmetrics."""

from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.nme import YAW_BINS, FaceNME, normalised_mean_error

__all__ = ["YAW_BINS", "AttributeMetrics", "FaceNME", "normalised_mean_error"]
