"""metrics.csv: the values of a run over its steps, also of one that went on after it had stopped."""

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.csv_logs import CSVLogger, ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from jointface.files import write_atomically


class MetricsCSV(CSVLogger):
    """Lightning's logger to metrics.csv, which forgets the rows of a run that goes on; this one keeps them.

    Args:
        save_dir: the run's folder.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="")

    @rank_zero_only
    def go_on_at(self, step: int) -> None:
        """Keeps the rows of the steps before `step`; those from there on come again."""
        path = Path(self.log_dir) / ExperimentWriter.NAME_METRICS_FILE
        if path.is_file():
            self._experiment = _Continuation(self.log_dir, step)


class _Continuation(ExperimentWriter):
    """A writer that starts with the rows of the file."""

    def __init__(self, log_dir: str, step: int) -> None:
        path = Path(log_dir) / self.NAME_METRICS_FILE
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            # The last row is cut short where the run was killed while it wrote.
            rows = [row for row in reader if (row.get("step") or "").isdigit() and int(row["step"]) < step]
            columns = list(reader.fieldnames or [])
        super().__init__(log_dir)
        self.metrics_keys = columns
        _write_rows(path, columns, rows)

    def _check_log_dir_exists(self) -> None:
        """Keeps the file."""

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        _write_rows(path, fieldnames, rows)


def _write_rows(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, text.getvalue().encode())
