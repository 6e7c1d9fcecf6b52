"""Lightning's logger for Weights & Biases, kept from asking questions and from ending a training."""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.imports import lazy_import

from jointface.errors import ConfigError, TrialPruned
from jointface.metrics.direction import HIGHER_IS_BETTER, better
from jointface.metrics.landmark_calibration import WITHIN
from jointface.running.sweep_jobs import name_job
from jointface.settings import as_list

wandb = lazy_import("wandb")  # an optional dependency
log = logging.getLogger(__name__)

OFFLINE = ("offline", "disabled", "dryrun")  # modes without a login; "dryrun" is an older name of "offline"
STEP = "trainer/global_step"  # the x axis of all charts; Lightning's name for it


class DashboardLogger(WandbLogger):
    """Lightning's logger, with what it lacks for runs that nobody watches.

    Lightning's own asks for a login, and raises if W&B's server or its process on this machine fails. This one records
    offline if nobody is logged in or nobody answers, unless `mode` is online; later failures are logged once, and the
    training continues. It continues the recording in a run's folder, and the summary of a metric holds its last and
    best value. Other arguments are those of WandbLogger and wandb.init.

    Raises:
        ConfigError: wandb is not installed, a setting is unknown, or the mode is online without a login or an answer.
    """

    def __init__(
        self, name: str, save_dir: str, group: str | None = None, mode: str | None = None, id: str | None = None,
        log_model: Any = False, **more: Any,
    ) -> None:  # fmt: skip
        mode = mode or os.environ.get("WANDB_MODE")
        if mode not in (None, "online", *OFFLINE):
            raise ConfigError(f"mode {mode} of W&B is unknown; choose from online, {', '.join(OFFLINE)}")
        if log_model not in (True, False, "all"):
            raise ConfigError(f"logger.wandb.log_model={log_model} is unknown; choose from true, false and all")
        recording = last_recording(Path(save_dir))
        id = id or (recording.stem.removeprefix("run-") if recording else None)
        name, group = name_job(name, group)
        more["tags"] = as_list(more.get("tags"))
        try:
            super().__init__(name, save_dir, id=id, log_model=log_model, group=group, **more)
        except ImportError as error:
            raise ConfigError("logger=wandb needs the package wandb: pip install 'jointface[wandb]'") from error
        del self._wandb_init["anonymous"]  # W&B has removed this argument and warns about it
        self._must_be_online = mode == "online"
        self._failed = False  # whether a failure was logged
        self._defined: set[str] = set()  # metrics with a summary
        self._require_login(mode)

    @rank_zero_only
    def _require_login(self, mode: str | None) -> None:
        mode = self._wandb_init["mode"] = mode or wandb.setup().settings.mode  # `wandb offline` sets it for a folder
        try:
            if mode not in OFFLINE and not wandb.login(prompt=False, verify=False):
                self._go_offline("nobody is logged in (`wandb login`; WANDB_MODE=offline is silent)")
        except wandb.errors.AuthenticationError as error:
            self._go_offline(error)

    def _go_offline(self, reason: object) -> None:
        reason = " ".join(str(reason).split())
        if self._must_be_online:
            raise ConfigError(f"W&B cannot be reached: {reason}; logger.wandb.mode=offline records to upload later")
        self._wandb_init["mode"] = "offline"
        upload = f"wandb sync {self.save_dir}/wandb/offline-run-*"
        log.warning("W&B cannot be reached: %s; the run is recorded offline, upload it with `%s`", reason, upload)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; the first call starts it."""
        try:
            return super().experiment
        except wandb.errors.Error as error:
            self._go_offline(error)
            return super().experiment

    def attempt(self, action: Callable[[], Any]) -> bool:
        """Runs an action for the dashboard and returns whether it succeeded. Only the first failure is logged."""
        try:
            action()
        except Exception as error:  # no fault of the dashboard may stop the training
            if not self._failed:
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                log.warning("W&B: logging failed (%s); the training continues, this is said only once", reason)
            self._failed = True
            return False
        return True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.attempt(lambda: self._log(metrics, step))

    def _log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        for name in metrics.keys() - self._defined:
            summary = f"{best},last" if (best := better(name)) else None
            # Tables show single attributes, figures the points of curves: hundreds of panels would hide the others.
            hidden = bool((HIGHER_IS_BETTER | {WITHIN}) & set(name.split("/")[:-1]))
            self.experiment.define_metric(name, step_metric=STEP, summary=summary, hidden=hidden)
            self._defined.add(name)
        super().log_metrics(metrics, step)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        self.attempt(lambda: WandbLogger.after_save_checkpoint(self, checkpoint_callback))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Logs the best checkpoint. The run stays open because a test may follow."""
        self.attempt(lambda: WandbLogger.finalize(self, status))


@contextmanager
def finished_dashboards() -> Iterator[None]:
    """Ends W&B's run after the block, as failed if the block raises. An open run would absorb a sweep's next job."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    except TrialPruned:
        exit_code = 0  # stopped on purpose
        raise
    finally:
        run = getattr(sys.modules.get("wandb"), "run", None)  # the lazy module would keep its first value
        try:
            if run is not None:
                run.finish(exit_code=exit_code)
        except Exception as error:
            log.warning("W&B: ending the run failed (%s)", type(error).__name__)


def last_recording(run_dir: Path) -> Path | None:
    """The latest file run-ID.wandb that W&B recorded in a run's folder; None if there is none."""
    files = run_dir.glob("wandb/*run-*/run-*.wandb")
    return max(files, key=lambda file: file.parent.name.removeprefix("offline-"), default=None)
