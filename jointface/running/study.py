"""A study on disk: which trials ran, how they ended, and what a repeated sweep resumes."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
from filelock import FileLock, Timeout
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from omegaconf import DictConfig
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from jointface.errors import ConfigError, TrialPruned
from jointface.files import write_atomically
from jointface.running.expected_errors import EXPECTED_ERRORS, one_line
from jointface.running.search_space import SearchSpace

STATES = {
    TrialState.RUNNING: "unfinished", TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}  # fmt: skip
DIRECTIONS = {"minimize": StudyDirection.MINIMIZE, "maximize": StudyDirection.MAXIMIZE}
# What may be wrong with one trial and not with the next.
FAILURES: tuple[type[Exception], ...] = (*EXPECTED_ERRORS, torch.OutOfMemoryError)
REASON = "reason"  # a trial's attribute: why it has no value
_IDENTITY = "sweep"  # the study's attribute: what its trials have in common


class SweepStudy:
    """An Optuna study that belongs to one folder and one search.

    Args:
        folder: of the sweep; gets `trials.csv`, a row a trial.
        storage: URL of the data base, for instance sqlite:///FOLDER/study.db.
        name: of the study in it.
        space: what is searched; a study keeps to one.
        objective: the metric that is searched for.
        direction: "minimize" or "maximize".
        sampler, pruner: configs of Optuna's classes.

    Raises:
        ConfigError: the storage cannot be opened, or holds this study with another search.
    """

    def __init__(
        self,
        folder: Path,
        storage: str,
        name: str,
        space: SearchSpace,
        objective: str,
        direction: str,
        sampler: DictConfig,
        pruner: DictConfig,
    ) -> None:
        self.folder, self.storage, self.space, self.objective = folder, storage, space, objective
        if direction not in DIRECTIONS:
            raise ConfigError(f"hydra.sweeper.direction={direction}: known are {', '.join(DIRECTIONS)}")
        self.study = _open(storage, name, DIRECTIONS[direction])
        self._claim()
        self.study.sampler = self._sampler(sampler)
        self.study.pruner = instantiate(pruner)

    def _claim(self) -> None:
        """Stores in a new study what its trials have in common, and refuses a study with something else.

        Until a trial has finished, overrides may be corrected, but no ranges.
        """
        written, searched = self.space.written, self.space.searched
        mine = {
            "ranges": [written[key] for key in searched],
            "shared": [
                f"hydra.sweep.dir={self.folder}",
                f"hydra.sweeper.objective={self.objective}",
                *(text for key, text in written.items() if key not in searched),
            ],
        }
        known = self.study.user_attrs.get(_IDENTITY, mine)
        for part in mine if self.finished() else ("ranges",):
            then, now = (" ".join(sorted(set(a[part]) - set(b[part]))) for a, b in ((known, mine), (mine, known)))
            if then or now:
                raise ConfigError(
                    f"the study {self.study.study_name} in {self.storage} was begun with {then or 'nothing'} where now "
                    f"is {now or 'nothing'}: repeat its command to go on, or choose another name="
                )
        self.study.set_user_attr(_IDENTITY, mine)

    def _sampler(self, config: DictConfig) -> Any:
        # A resumed sweep must not sample again what the seed gave its first trials.
        if config.get("seed") is not None:
            return instantiate(config, seed=config.seed + len(self.study.trials))
        return instantiate(config)

    def interrupted(self) -> list[Trial]:
        """The trials that were running when an earlier sweep was stopped."""
        trials = [Trial(self.study, t._trial_id) for t in self.study.get_trials(states=(TrialState.RUNNING,))]
        for trial in trials:
            if set(trial.params) != set(self.space.searched):
                self._fail(trial, "stopped while its values were sampled")
        return [trial for trial in trials if set(trial.params) == set(self.space.searched)]

    def finished(self) -> int:
        """Trials that ran to their end or were pruned, in all sweeps of the study."""
        return len(self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

    def ask(self) -> Trial:
        """The next trial, with sampled values."""
        return self.study.ask(dict(self.space.searched))

    def tell(self, trial: Trial, job: JobReturn) -> str | None:
        """Records how a trial's job ended; returns None, or why it failed.

        Raises:
            ConfigError: the job returns no such objective.
            Exception: what the job raised, unless it is in FAILURES.
        """
        result = job._return_value  # the property prints a failure before it raises it
        if job.status == JobStatus.FAILED:
            if isinstance(result, TrialPruned):
                self.study.tell(trial, state=TrialState.PRUNED)
                return None
            if not isinstance(result, FAILURES):
                raise result
            return self._fail(trial, one_line(result).removeprefix("error: "))
        if not isinstance(result, Mapping) or self.objective not in result:
            known = ", ".join(name for name in result or () if name.count("/") < 3)
            raise ConfigError(
                f"a run gives no {self.objective}, it gives {known or 'nothing'}: set hydra.sweeper.objective"
            )
        value = float(result[self.objective])
        if not math.isfinite(value):
            return self._fail(trial, f"{self.objective} is {value}")
        self.study.tell(trial, value)
        return None

    def _fail(self, trial: Trial, reason: str) -> str:
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL)
        return reason

    def outcome(self, trial: Trial) -> str:
        """How a trial ended, for the log."""
        ended = self.study.get_trials(deepcopy=False)[trial.number]
        value = "" if ended.value is None else f", {self.objective} = {ended.value:.6g}"
        reason = f": {ended.user_attrs[REASON]}" if REASON in ended.user_attrs else ""
        return f"trial {trial.number} {STATES[ended.state]}{value}{reason}"

    def best(self) -> FrozenTrial | None:
        """The best trial that ran to its end; None if none did."""
        return self.study.best_trial if self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) else None

    def write_table(self) -> None:
        """`trials.csv`: number, state, objective (its last value before it was pruned), values, why it failed."""
        rows = [
            {"trial": trial.number, "state": STATES[trial.state], self.objective: trial.value, **trial.params}
            | {REASON: trial.user_attrs.get(REASON)}
            for trial in self.study.trials
            if trial.state != TrialState.WAITING
        ]
        columns = ["trial", "state", self.objective, *self.space.searched, REASON]
        table = pd.DataFrame(rows, columns=columns, dtype=object)  # else integers beside gaps would become floats
        write_atomically(self.folder / "trials.csv", table.to_csv(index=False).encode())


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second sweep out of the folder until this process ends, in whatever way.

    Raises:
        ConfigError: another sweep is running in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise ConfigError(f"another sweep is at work in {folder}: wait for it, or choose another name=") from error
    try:
        yield
    finally:
        lock.release()


def _open(storage: str, name: str, direction: StudyDirection) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=True)
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"cannot open a study in hydra.sweeper.storage={storage}: {reason}") from error
    if study.direction != direction:
        raise ConfigError(
            f"the study {name} in {storage} was begun to {study.direction.name.lower()}: choose another name="
        )
    return study
