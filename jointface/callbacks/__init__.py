"""Callbacks: what a run writes beside its checkpoints."""

from jointface.callbacks.checkpoint_io import WholeCheckpoints
from jointface.callbacks.dashboard import Dashboard
from jointface.callbacks.dashboard_logger import DashboardLogger, finished_dashboards
from jointface.callbacks.divergence import DivergenceGuard
from jointface.callbacks.draw_ahead import DrawAhead
from jointface.callbacks.ema import WeightAverage
from jointface.callbacks.figures import ValidationFigures
from jointface.callbacks.last_checkpoint import LastCheckpoint
from jointface.callbacks.metrics_csv import MetricsCSV
from jointface.callbacks.metrics_file import MetricsFile
from jointface.callbacks.overfit import OverfitCheck
from jointface.callbacks.progress import StepProgressBar
from jointface.callbacks.throughput import Throughput
from jointface.callbacks.trial_report import TrialReport, raise_if_pruned

__all__ = [
    "Dashboard",
    "DashboardLogger",
    "DivergenceGuard",
    "DrawAhead",
    "LastCheckpoint",
    "MetricsCSV",
    "MetricsFile",
    "OverfitCheck",
    "StepProgressBar",
    "Throughput",
    "TrialReport",
    "ValidationFigures",
    "WeightAverage",
    "WholeCheckpoints",
    "finished_dashboards",
    "raise_if_pruned",
]
