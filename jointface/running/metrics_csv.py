"""metrics.csv: the values of a run over its steps."""

from pathlib import Path

import pandas as pd
from lightning.pytorch.loggers.csv_logs import CSVLogger, ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from jointface.files import write_atomically


class MetricsCSV(CSVLogger):
    """Lightning's logger, for a run's folder, which can keep the rows of a resumed run; Lightning's deletes them."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")

    @rank_zero_only
    def resume_at_step(self, step: int) -> None:
        """Keeps the rows before `step`; those from there on are logged again."""
        path = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if path.is_file():
            rows = pd.read_csv(path, dtype=str, keep_default_na=False, on_bad_lines="skip")
            steps = pd.to_numeric(rows["step"], errors="coerce")  # the last row is cut short where the run was killed
            kept = rows[steps < step].to_csv(index=False, lineterminator="\r\n")  # as Lightning writes it
            write_atomically(path, kept.encode())
            self._experiment = _ResumedWriter(self.log_dir)
            self._experiment.metrics_keys = list(rows)


class _ResumedWriter(ExperimentWriter):
    """A writer that goes on with the file."""

    def _check_log_dir_exists(self) -> None:
        """Does not delete the file."""
