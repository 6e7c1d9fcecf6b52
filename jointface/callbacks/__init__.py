"""Callbacks: what a run writes beside its checkpoints."""

from jointface.callbacks.figures import ValidationFigures
from jointface.callbacks.metrics_file import MetricsFile
from jointface.callbacks.progress import StepProgressBar

__all__ = ["MetricsFile", "StepProgressBar", "ValidationFigures"]
