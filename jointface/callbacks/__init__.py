"""Callbacks: they monitor a training and write the files of a run."""

from jointface.callbacks.best_checkpoint import BestCheckpoint
from jointface.callbacks.dashboard import Dashboard
from jointface.callbacks.divergence import DivergenceGuard
from jointface.callbacks.draw_ahead import DrawAhead
from jointface.callbacks.ema import WeightAverage
from jointface.callbacks.figures import ValidationFigures
from jointface.callbacks.last_checkpoint import LastCheckpoint
from jointface.callbacks.metrics_file import MetricsFile
from jointface.callbacks.overfit import OverfitCheck
from jointface.callbacks.progress import StepProgressBar
from jointface.callbacks.throughput import Throughput
from jointface.callbacks.trial_report import TrialReport, raise_if_pruned

__all__ = [
    "BestCheckpoint",
    "Dashboard",
    "DivergenceGuard",
    "DrawAhead",
    "LastCheckpoint",
    "MetricsFile",
    "OverfitCheck",
    "StepProgressBar",
    "Throughput",
    "TrialReport",
    "ValidationFigures",
    "WeightAverage",
    "raise_if_pruned",
]
