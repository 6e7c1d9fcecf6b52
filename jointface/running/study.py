"""A study on disk: which trials ran, how they ended, and which ones a repeated sweep resumes."""

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
from filelock import FileLock, Timeout
from hydra.core.utils import JobReturn, JobStatus
from optuna.distributions import BaseDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from jointface.errors import ConfigError, TrialPruned
from jointface.files import write_atomically
from jointface.running.expected_errors import EXPECTED_ERRORS, one_line

STATES = {
    TrialState.RUNNING: "unfinished", TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}  # fmt: skip
# Errors of one trial that need not occur in the next.
FAILURES: tuple[type[Exception], ...] = (*EXPECTED_ERRORS, torch.OutOfMemoryError)
REASON = "reason"  # attribute of a trial: why it has no value
_IDENTITY = "sweep"  # attribute of the study: what its trials have in common


def lock_folder(folder: Path) -> AbstractContextManager[Any]:
    """Locks the folder until this process ends. Raises ConfigError if another sweep holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise ConfigError(f"another sweep is running in {folder}: wait for it, or choose another name=") from error


def open_study(storage: str, name: str, direction: str) -> optuna.Study:
    """Opens or creates a study. Raises ConfigError if that fails, or the direction is unknown or not the study's."""
    directions = {"minimize": StudyDirection.MINIMIZE, "maximize": StudyDirection.MAXIMIZE}
    if direction not in directions:
        raise ConfigError(f"hydra.sweeper.direction={direction}: choose from {', '.join(directions)}")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(
            storage=storage, study_name=name, direction=directions[direction], load_if_exists=True
        )
    except (optuna.exceptions.OptunaError, SQLAlchemyError, ImportError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"cannot open a study in hydra.sweeper.storage={storage}: {reason}") from error
    if study.direction != directions[direction]:
        begun = study.direction.name.lower()
        raise ConfigError(f"the study {name} in {storage} was begun with direction={begun}: choose another name=")
    return study


def require_same_search(study: optuna.Study, ranges: list[str], shared: list[str]) -> None:
    """Stores the ranges and the shared settings of all trials in a new study, and refuses a study with different ones.

    Until a trial has finished, shared settings may be corrected, but ranges may not.

    Raises:
        ConfigError: the study was begun with another search.
    """
    mine = {"ranges": ranges, "shared": shared}
    known = study.user_attrs.get(_IDENTITY, mine)
    for part in mine if finished(study) else ("ranges",):
        then, now = (" ".join(sorted(set(a[part]) - set(b[part]))) for a, b in ((known, mine), (mine, known)))
        if then or now:
            raise ConfigError(
                f"the study {study.study_name} was begun with {then or 'nothing'}, this command has {now or 'nothing'} "
                "instead: repeat its command to resume it, or choose another name="
            )
    study.set_user_attr(_IDENTITY, mine)


def interrupted(study: optuna.Study, searched: Mapping[str, BaseDistribution]) -> list[Trial]:
    """The trials that were running when an earlier sweep was stopped. Samples the values that are still missing."""
    trials = [Trial(study, trial._trial_id) for trial in study.get_trials(states=(TrialState.RUNNING,))]
    for trial in trials:
        for key, distribution in searched.items():
            trial._suggest(key, distribution)
    return trials


def finished(study: optuna.Study) -> int:
    """The number of trials that ran to the end or were pruned, in all sweeps of the study."""
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def tell(study: optuna.Study, trial: Trial, job: JobReturn, objective: str) -> str | None:
    """Records how a trial's job ended; returns the reason if it failed.

    Raises:
        ConfigError: the job does not return this objective.
        Exception: the job's exception, unless it is one of FAILURES.
    """
    result, reason = job._return_value, None  # the property prints a failure before it raises it
    if job.status == JobStatus.FAILED and isinstance(result, TrialPruned):
        study.tell(trial, state=TrialState.PRUNED)
        return None
    if job.status == JobStatus.FAILED:
        if not isinstance(result, FAILURES):
            raise result
        reason = one_line(result).removeprefix("error: ")
    elif not isinstance(result, Mapping) or objective not in result:
        known = ", ".join(name for name in result or () if name.count("/") < 3)
        raise ConfigError(f"a run gives no {objective}, it gives {known or 'nothing'}: set hydra.sweeper.objective")
    elif not math.isfinite(result[objective]):
        reason = f"{objective} is {result[objective]}"
    if reason is None:
        study.tell(trial, float(result[objective]))
    else:
        trial.set_user_attr(REASON, reason)
        study.tell(trial, state=TrialState.FAIL)
    return reason


def outcome(trial: FrozenTrial, objective: str) -> str:
    """How a trial ended, for the log."""
    value = "" if trial.value is None else f", {objective} = {trial.value:.6g}"
    reason = f": {trial.user_attrs[REASON]}" if REASON in trial.user_attrs else ""
    return f"trial {trial.number} {STATES[trial.state]}{value}{reason}"


def write_table(path: Path, study: optuna.Study, searched: Iterable[str], objective: str) -> None:
    """Writes a row for each trial: number, state, objective (before pruning: its last value), values, why it failed."""
    rows = [
        {"trial": trial.number, "state": STATES[trial.state], objective: trial.value, **trial.params}
        | {REASON: trial.user_attrs.get(REASON)}
        for trial in study.trials
        if trial.state in STATES
    ]
    columns = ["trial", "state", objective, *searched, REASON]
    table = pd.DataFrame(rows, columns=columns, dtype=object)  # integers with gaps would become floats
    write_atomically(path, table.to_csv(index=False).encode())
