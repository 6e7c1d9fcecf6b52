"""metrics.json: the last value of every metric of a run."""

import json
import logging
import math
from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from jointface.files import write_atomically

log = logging.getLogger(__name__)


class MetricsFile(Callback):
    """Keeps `metrics.json` in the run's folder: flat, `split/data set/metric` to the last value, with the number of
    broken samples that were left out as `split/data set/broken_samples`.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str) -> None:
        self.path = Path(folder) / "metrics.json"
        self.values: dict[str, float] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that goes on in its folder starts from the values that it had."""
        if not self.path.is_file():
            return
        try:
            self.values = json.loads(self.path.read_text())
        except ValueError:
            log.warning("%s cannot be read and is begun anew", self.path)

    def _update(self, trainer: Trainer) -> None:
        self.values |= {
            name: value.item() for name, value in trainer.callback_metrics.items() if not name.endswith("_step")
        }
        broken = trainer.datamodule.broken.counts()  # type: ignore[attr-defined]
        self.values |= {f"{name}/broken_samples": float(count) for name, count in broken.items()}
        self._write()

    @rank_zero_only
    def _write(self) -> None:
        finite = {name: value for name, value in sorted(self.values.items()) if math.isfinite(value)}
        write_atomically(self.path, (json.dumps(finite, indent=2) + "\n").encode())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._update(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._update(trainer)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._update(trainer)
