"""metrics.csv: the logged values of a run by step."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.loggers.csv_logs import CSVLogger, ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from jointface.files import write_atomically


class MetricsCSV(CSVLogger):
    """Lightning's CSV logger in the run's folder. Values of one step share a row. It can keep the rows of a resumed
    run, which Lightning deletes."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="", flush_logs_every_n_steps=sys.maxsize)  # Lightning calls save()

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        super().log_metrics(dict(metrics), step)
        rows = self.experiment.metrics  # that were not saved yet
        if len(rows) > 1 and rows[-1]["step"] == rows[-2]["step"]:
            values = rows.pop()
            rows[-1] |= values

    @rank_zero_only
    def resume_at_step(self, step: int) -> None:
        """Keeps the rows before `step`; later ones will be logged again."""
        path = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if path.is_file():
            rows = pd.read_csv(path, dtype=str, keep_default_na=False, on_bad_lines="skip")
            steps = pd.to_numeric(rows["step"], errors="coerce")  # the last row may be truncated if the run was killed
            kept = rows[steps < step].to_csv(index=False, lineterminator="\r\n")  # Lightning's line ending
            write_atomically(path, kept.encode())
            self._experiment = _ResumedWriter(self.log_dir)
            self._experiment.metrics_keys = list(rows)


class _ResumedWriter(ExperimentWriter):
    """A writer that appends to the existing file."""

    def _check_log_dir_exists(self) -> None:
        """Does not delete the file."""
