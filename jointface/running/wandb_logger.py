"""Logs a run to Weights & Biases: sets its name, group and mode, and keeps failures from ending the training."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from lightning_utilities.core.imports import lazy_import
from omegaconf import OmegaConf

from jointface.errors import ConfigError, TrialPruned
from jointface.metrics.direction import HIGHER_IS_BETTER, better

wandb = lazy_import("wandb")  # an optional dependency
log = logging.getLogger(__name__)

OFFLINE = ("offline", "disabled", "dryrun")  # modes without a login; "dryrun" is an older name of "offline"
STEP = "trainer/global_step"  # the x axis of all charts; Lightning's name for it
LONG_WAIT = 5.0  # seconds; a failed attempt that took longer was waiting for a server


class DashboardLogger(WandbLogger):
    """Lightning's logger for Weights & Biases that never prompts the user and never stops the training.

    Without a login it records offline and says so. Later failures are logged once, and the training continues. A run
    that resumes in its folder also resumes on W&B. The summary of each metric holds its last and its best value.

    Args: see conf/logger/wandb.yaml; `where` holds `project` and `entity`.

    Raises:
        ConfigError: wandb is not installed, a setting is unknown, or the mode is online without a login.
    """

    def __init__(
        self,
        name: str,
        save_dir: str,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str | None = None,
        id: str | None = None,
        log_model: Any = False,
        init_timeout: float = 60,
        finish_timeout: float = 300,
        **where: Any,
    ) -> None:
        asked, source = (mode, "logger.wandb.mode") if mode else (os.environ.get("WANDB_MODE"), "WANDB_MODE")
        if asked and asked not in ("online", *OFFLINE):
            raise ConfigError(f"{source}={asked} is unknown; choose from online, {', '.join(OFFLINE)}")
        if log_model not in (True, False, "all"):
            raise ConfigError(f"logger.wandb.log_model={log_model} is unknown; choose from true, false and all")
        checkout = Path(__file__).parents[2]
        try:
            settings = wandb.Settings(
                git_root=str(checkout) if (checkout / ".git").exists() else None,
                init_timeout=init_timeout,
                finish_timeout=finish_timeout,
                max_end_of_run_history_metrics=0,  # the results are printed already
                max_end_of_run_summary_metrics=0,
            )
        except ImportError as error:
            raise ConfigError("logger=wandb needs the package wandb: pip install 'jointface[wandb]'") from error
        if id is None and (recording := last_recording(Path(save_dir))):
            id = recording.stem.removeprefix("run-")
        named = name_run(name, group, tags)
        super().__init__(
            save_dir=save_dir, id=id, job_type="train", log_model=log_model, settings=settings, **named, **where
        )
        del self._wandb_init["anonymous"]  # W&B has removed this argument and warns about it
        self._must_be_online = asked == "online"
        self._failed: set[str] = set()  # names of failures that were logged
        self._lost = False  # whether W&B's process on this machine has ended
        self._defined: set[str] = set()
        self._step: int | None = None  # step of the last metrics
        self._set_mode(asked)

    @rank_zero_only
    def _set_mode(self, asked: str | None) -> None:
        mode = asked or wandb.setup().settings.mode  # `wandb offline` and `wandb online` set it for a folder
        self._wandb_init["mode"] = mode
        if mode in OFFLINE or logged_in():
            return
        if asked:
            raise ConfigError(
                "W&B is set to online, but nobody is logged in: run `wandb login`, set WANDB_API_KEY, or set "
                "logger.wandb.mode=offline to record now and upload later"
            )
        self._go_offline("Nobody is logged in to W&B (`wandb login`; WANDB_MODE=offline is silent)")

    def _go_offline(self, reason: str) -> None:
        self._wandb_init["mode"] = "offline"
        upload = f"wandb sync {self.save_dir}/wandb/offline-run-*"
        log.warning("%s: the run is recorded offline; upload it with `%s`", reason, upload)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run; the first call starts it.

        Raises:
            ConfigError: W&B cannot be reached, and the mode was set to online.
        """
        try:
            return super().experiment
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0]
            if self._must_be_online:
                raise ConfigError(
                    f"W&B cannot be reached: {reason}; try again, or set logger.wandb.mode=offline to record now and "
                    "upload later"
                ) from error
            self._go_offline(f"W&B cannot be reached: {reason}")
            return super().experiment

    def attempt(self, what: str, action: Callable[[], Any]) -> bool:
        """Runs an action for the dashboard and returns whether it succeeded. Only the first failure of each `what` is
        logged, and the training continues."""
        if self._lost:
            return False
        try:
            action()
        except Exception as error:  # no fault of the dashboard may stop the training
            self._lost = isinstance(error, ConnectionError)
            if what not in self._failed:
                self._failed.add(what)
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                without = " without the dashboard" if self._lost else ""
                log.warning("W&B: logging %s failed (%s); the training continues%s", what, reason, without)
            return False
        return True

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.attempt("metrics", lambda: self._log(metrics, step))

    def _log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        for name in metrics.keys() - self._defined:
            best = better(name)
            # Single attributes are shown in a table: hundreds of panels would hide the other metrics.
            hidden = bool(HIGHER_IS_BETTER & set(name.split("/")[:-1]))
            summary = f"{best},last" if best else None
            self.experiment.define_metric(name, step_metric=STEP, summary=summary, hidden=hidden)
            self._defined.add(name)
        super().log_metrics(metrics, step)
        self._step = step

    def log_media(self, parts: Mapping[str, Callable[[], Mapping[str, Any]]]) -> list[str]:
        """Logs media at the step of the last metrics, in the first process; returns the names of the logged parts.

        For each table W&B waits for a reply from its server. If none comes, the remaining parts are left out.

        Args:
            parts: by name, a function that returns the media by key.
        """
        succeeded = []
        for what, make in parts.items():
            start = time.monotonic()
            if self.attempt(what, lambda make=make: self._log_made(make())):  # type: ignore[misc]
                succeeded.append(what)
            elif time.monotonic() - start > LONG_WAIT:
                break
        return succeeded

    def _log_made(self, media: Mapping[str, Any]) -> None:
        if media:
            super().log_metrics(media, self._step)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        self.attempt("the checkpoint", lambda: WandbLogger.after_save_checkpoint(self, checkpoint_callback))

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Logs the best checkpoint. The run stays open because a test may follow."""
        self.attempt("the checkpoint", lambda: WandbLogger.finalize(self, status))


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


def name_run(name: str, group: str | None, tags: Sequence[str]) -> dict[str, Any]:
    """The name, group and tags of a run. The jobs of a sweep form a group, and each is named by the overrides in which
    jobs may differ."""
    if not HydraConfig.initialized():
        return {"name": name, "group": group, "tags": list(tags)}
    hydra = HydraConfig.get()
    choices = [hydra.runtime.choices.get(kind) for kind in ("experiment", "scale", "sweep")]
    if hydra.mode == RunMode.MULTIRUN:
        record = Path(hydra.sweep.dir) / "multirun.yaml"
        sweep = OmegaConf.load(record).hydra if record.is_file() else hydra  # not every sweeper leaves a record
        params = [f"{key}={value}" for key, value in (sweep.sweeper.get("params") or {}).items()]
        given = OverridesParser.create().parse_overrides([*params, *sweep.overrides.task])
        shared = {override.get_key_element() for override in given if not override.is_sweep_override()}
        ignored = {"callbacks.trial.number", "checkpoint"} | shared
        own = [override for override in hydra.overrides.task if override.partition("=")[0] not in ignored]
        name = (",".join(own) or name)[:128]  # W&B's limit
        group = group or Path(hydra.sweep.dir).name
    return {"name": name, "group": group, "tags": [*filter(None, choices), *tags]}


def last_recording(run_dir: Path) -> Path | None:
    """The latest file run-ID.wandb that W&B recorded in a run's folder; None if there is none."""
    files = run_dir.glob("wandb/*run-*/run-*.wandb")
    return max(files, key=lambda file: file.parent.name.removeprefix("offline-"), default=None)


def logged_in() -> bool:
    """Whether there are credentials for W&B, from `wandb login` or the environment. Never prompts the user.

    Raises:
        ConfigError: the credentials are malformed.
    """
    try:
        return bool(wandb.login(prompt=False, verify=False))
    except wandb.errors.AuthenticationError as error:
        raise ConfigError(
            f"W&B: {' '.join(str(error).split())}: run `wandb login` again, or set logger.wandb.mode=offline"
        ) from error
