"""The run on Weights & Biases: where it goes, what it is called, and that it never ends a training."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only

from jointface.callbacks.run_names import choices, earlier_run, job_name, sweep_folder
from jointface.errors import ConfigError, TrialPruned

log = logging.getLogger(__name__)

MODES = ("online", "offline", "disabled", "dryrun")  # the last is an older name of offline
STEP = "trainer/global_step"  # the axis of everything; Lightning's name for it
LARGER_IS_BETTER = {"accuracy", "balanced_accuracy", "f1", "average_precision"}
LONG_WAIT = 5.0  # seconds that no attempt takes which does not wait for a server
SMALLER_IS_BETTER = ("loss", "nme_", "error")  # beginnings of names


class DashboardLogger(WandbLogger):
    """Lightning's logger for Weights & Biases, which asks nothing and ends no training.

    Without a login it records offline and says so. What fails later is left out, and said once. Every metric is over
    the optimiser step; the run's summary holds its last and its best value.

    Args:
        name: of the run; a sweep's jobs are named by their overrides instead.
        save_dir: folder that gets `wandb/`, with what is recorded offline.
        project, entity: where the run goes.
        group: None takes the name of the sweep's folder.
        tags: beside the choices of experiment, scale and sweep.
        mode: "online", "offline" or "disabled". None takes WANDB_MODE; without it, online if logged in, else offline.
        id: of an earlier run to go on with. None goes on with that of the same folder, if it has one.
        log_model: the best checkpoint as an artifact: True at the end, "all" whenever there is a better one.
        init_timeout, finish_timeout: seconds to wait for W&B at the start and at the end.

    Raises:
        ConfigError: wandb is not installed, the mode is another word, or it is online without a login.
    """

    def __init__(
        self,
        name: str,
        save_dir: str,
        project: str = "jointface",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str | None = None,
        id: str | None = None,
        log_model: Any = False,
        init_timeout: float = 60,
        finish_timeout: float = 300,
    ) -> None:
        try:
            from wandb import Settings
        except ImportError as error:
            raise ConfigError("logger=wandb needs the package wandb: pip install 'jointface[wandb]'") from error
        mode, of_user = (mode, "logger.wandb.mode") if mode else (os.environ.get("WANDB_MODE"), "WANDB_MODE")
        if mode and mode not in MODES:
            raise ConfigError(f"{of_user}={mode} is unknown, known are {', '.join(MODES)}")
        if log_model not in (True, False, "all"):
            raise ConfigError(f"logger.wandb.log_model={log_model} is unknown, known are true, false and all")
        settings = Settings(
            git_root=checkout(),
            init_timeout=init_timeout,
            finish_timeout=finish_timeout,
            max_end_of_run_history_metrics=0,  # the results are printed already
            max_end_of_run_summary_metrics=0,
        )
        if group is None and (folder := sweep_folder()):
            group = folder.name
        super().__init__(
            name=job_name(name), save_dir=save_dir, project=project, entity=entity, group=group,
            tags=[*choices(), *tags], id=id or earlier_run(Path(save_dir)), job_type="train", log_model=log_model,
            settings=settings,
        )  # fmt: skip
        del self._wandb_init["anonymous"]  # which W&B no longer has, and warns of
        self.may_record_offline = mode != "online"
        self._failed: set[str] = set()
        self._lost = False
        self._defined: set[str] = set()
        self._step: int | None = None  # of the last metrics
        self._unanswered_at: int | None = None  # the step where W&B's server did not answer
        self._wandb_init["mode"] = self._choose_mode(mode)

    @rank_zero_only
    def _choose_mode(self, asked: str | None) -> str:
        mode = asked or _configured_mode()
        if mode in ("offline", "dryrun", "disabled") or logged_in():
            return mode
        if asked == "online":
            raise ConfigError(
                "W&B is to be online, but nobody is logged in: run `wandb login`, set WANDB_API_KEY, or take "
                "logger.wandb.mode=offline to record now and upload later"
            )
        log.warning(
            "Nobody is logged in to W&B (`wandb login`): the run is recorded offline, to be uploaded with "
            "`wandb sync %s/wandb/offline-run-*`. WANDB_MODE=offline chooses this without a warning",
            self.save_dir,
        )
        return "offline"

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, which the first call starts.

        Raises:
            ConfigError: W&B cannot be reached, and the mode was set to online.
        """
        if self._experiment is None:
            self._start()
        return super().experiment

    def _start(self) -> None:
        from wandb.errors import Error

        _running.append(self)
        try:
            _ = super().experiment
        except Error as error:
            reason = str(error).splitlines()[0]
            if not self.may_record_offline:
                raise ConfigError(
                    f"W&B cannot be reached: {reason}; try again, or take logger.wandb.mode=offline to record now and "
                    "upload later"
                ) from error
            log.warning(
                "W&B cannot be reached: %s. The run is recorded offline, to be uploaded with "
                "`wandb sync %s/wandb/offline-run-*`",
                reason,
                self.save_dir,
            )
            self._wandb_init["mode"] = "offline"

    def attempt(self, what: str, action: Callable[[], None]) -> bool:
        """Does something for the dashboard and says whether it went well. If not, the training goes on; the first time
        that `what` fails is logged."""
        if self._lost:
            return False
        try:
            action()
            return True
        except Exception as error:  # whatever goes wrong with a dashboard, the training is worth more
            self._lost = isinstance(error, ConnectionError)  # to wandb's process of this machine, which has ended
            if what not in self._failed:
                self._failed.add(what)
                reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
                without = " without the dashboard" if self._lost else ""
                log.warning("W&B: logging %s failed (%s); the training goes on%s", what, reason, without)
            return False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Logs values, or media, over the step."""
        self.attempt("metrics", lambda: self._log(metrics, step))

    def _log(self, metrics: Mapping[str, Any], step: int | None) -> None:
        for name in metrics.keys() - self._defined:
            self._defined.add(name)
            self._define(name)
        super().log_metrics(metrics, step)
        self._step = step

    def _define(self, name: str) -> None:
        best = better(name)
        self.experiment.define_metric(
            name,
            step_metric=STEP,
            summary=f"{best},last" if best else None,
            # Those of single attributes are in a table; hundreds of panels would hide the rest.
            hidden=bool(LARGER_IS_BETTER & set(name.split("/")[:-1])),
        )

    @rank_zero_only
    def log_media(self, what: str, make: Callable[[], Mapping[str, Any]]) -> bool:
        """Logs what `make` gives, pictures, tables or meshes by key, at the step of the last metrics, and says whether
        it went well. W&B asks its server about tables and waits for an answer: where there was none, the other media
        of that step are left out."""

        def make_and_log() -> None:
            if media := make():
                WandbLogger.log_metrics(self, media, self._step)

        if self._unanswered_at is not None and self._unanswered_at == self._step:
            return False
        start = time.monotonic()
        went_well = self.attempt(what, make_and_log)
        if not went_well and time.monotonic() - start > LONG_WAIT:
            self._unanswered_at = self._step
        return went_well

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Takes note of the best checkpoint, not of the last one, which Lightning would call the best as well."""
        if checkpoint_callback.monitor is not None:
            self.attempt(
                "the checkpoint", lambda: super(DashboardLogger, self).after_save_checkpoint(checkpoint_callback)
            )

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Logs the best checkpoint; the run goes on, as a test may follow."""
        self.attempt("the checkpoint", lambda: WandbLogger.finalize(self, status))

    @rank_zero_only
    def finish(self, failed: bool) -> None:
        """Ends the run, after waiting for uploads no longer than the timeout."""
        if self._experiment is not None:
            self.attempt("the end", lambda: self.experiment.finish(exit_code=int(failed)))
            self._experiment = None  # the next one to ask for it begins another


_running: list[DashboardLogger] = []


@contextmanager
def finished_dashboards() -> Iterator[None]:
    """Ends the runs on W&B that begin in the block with it, as failed ones if it raises; the jobs of a sweep share a
    process, and W&B takes what it is given for the run that has not ended."""
    failed = True
    try:
        yield
        failed = False
    except TrialPruned:
        failed = False  # given up, as it should be
        raise
    finally:
        while _running:
            _running.pop().finish(failed)


def better(name: str) -> Literal["min", "max"] | None:
    """Which value of a metric is the best; None where none is, as of a learning rate."""
    parts = name.split("/")
    if LARGER_IS_BETTER & set(parts):
        return "max"
    return "min" if any(part.startswith(SMALLER_IS_BETTER) for part in parts) else None


def checkout() -> str | None:
    """The git checkout that this package lies in, whose commit is recorded; None where it is installed."""
    folder = Path(__file__).parents[2]
    return str(folder) if (folder / ".git").exists() else None


def logged_in() -> bool:
    """Whether there are credentials for W&B, of `wandb login` or in the environment. Asks no one.

    Raises:
        ConfigError: they are none.
    """
    import wandb

    try:
        return wandb.login(prompt=False, verify=False)
    except wandb.errors.AuthenticationError as error:
        raise ConfigError(
            f"W&B: {' '.join(str(error).split())}: run `wandb login` again, or take logger.wandb.mode=offline"
        ) from error


def _configured_mode() -> str:
    """Of `wandb offline` and `wandb online` in this folder."""
    import wandb

    return wandb.setup().settings.mode
