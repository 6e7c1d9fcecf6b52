"""metrics.json: the last value of every metric of a run."""

import json
import logging
import math
from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from jointface.files import write_atomically

log = logging.getLogger(__name__)


class MetricsFile(Callback):
    """Writes `metrics.json` to the run's folder: a flat mapping from `split/data set/metric` to the last value. The
    number of broken samples that were left out is `split/data set/broken_samples`."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts with the values that a resumed run left in its folder."""
        path = _path(trainer)
        try:
            self.values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        except ValueError:
            log.warning("%s is unreadable and will be replaced", path)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds the current values and writes the file."""
        metrics = trainer.callback_metrics.items()
        self.values |= {name: value.item() for name, value in metrics if not name.endswith("_step")}
        broken = trainer.datamodule.broken.counts()  # type: ignore[attr-defined]
        self.values |= {f"{name}/broken_samples": float(count) for name, count in broken.items()}
        if trainer.is_global_zero:
            finite = {name: value for name, value in sorted(self.values.items()) if math.isfinite(value)}
            write_atomically(_path(trainer), (json.dumps(finite, indent=2) + "\n").encode())

    on_fit_end = on_test_end = on_validation_end


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "metrics.json"
