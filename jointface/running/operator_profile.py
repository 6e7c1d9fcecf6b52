"""Profiles the time of each operator over a few training steps."""

import logging
from pathlib import Path

import torch
from lightning.pytorch.profilers import Profiler
from torch.profiler import profile, schedule

log = logging.getLogger(__name__)

STEP = "run_training_batch"  # Lightning's name for one training step, without loading its batch


class OperatorProfiler(Profiler):
    """Runs PyTorch's profiler over consecutive training steps; writes a table, and a trace for ui.perfetto.dev.

    Lightning's own profiler would show a table of the last validation instead of the training.

    Args: see conf/trainer/profiler/pytorch.yaml.
    """

    def __init__(
        self,
        dirpath: str,
        filename: str = "profile",
        wait: int = 5,
        active: int = 5,
        row_limit: int = 30,
        trace: bool = True,
    ) -> None:
        super().__init__(dirpath=dirpath, filename=filename)
        self.wait, self.active, self.row_limit, self.trace = wait, active, row_limit, trace
        self.table = ""
        self._steps = 0
        self._profile: profile | None = None

    def start(self, action_name: str) -> None:
        if action_name == STEP and self._profile is None:
            steps = schedule(wait=self.wait, warmup=1, active=self.active, repeat=1)
            self._profile = profile(schedule=steps, on_trace_ready=self._keep)
            self._profile.start()

    def stop(self, action_name: str) -> None:
        if action_name == STEP and self._profile is not None:
            self._steps += 1
            self._profile.step()

    def _keep(self, measured: profile) -> None:
        """Called after the measured steps, or when a shorter training ends during them."""
        if (steps := min(self.active, self._steps - self.wait - 1)) < 1:
            return
        of = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        rows = measured.key_averages().table(sort_by=of, row_limit=self.row_limit)
        self.table = f"{steps} training steps\n{rows}\n"
        if self.trace and self.dirpath is not None:
            Path(self.dirpath).mkdir(parents=True, exist_ok=True)
            measured.export_chrome_trace(str(Path(self.dirpath) / f"{self.filename}-trace.json.gz"))

    def summary(self) -> str:
        return self.table

    def describe(self) -> None:
        """Ends the profile and writes its table."""
        if self._end():
            if self.table:
                super().describe()
            else:
                log.warning("No profile: the training ended before its step %d", self.wait + 2)

    def teardown(self, stage: str | None) -> None:
        """Ends the profile if the training was stopped."""
        self._end()
        super().teardown(stage)

    def _end(self) -> bool:
        running, self._profile = self._profile, None
        if running is not None:
            running.stop()
        return running is not None
