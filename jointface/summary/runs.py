"""The runs below a folder: what each was asked to do, how far it came, what it measured."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from jointface.errors import DataError

FINISHED = "finished"
Config = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it.

    overrides: of the command line, by key. config: flat and resolved, without what names the run or its folder; empty
    if the run did not begin. metrics: by name; that which chose the best checkpoint with its best value, all others
    with their last. state: "finished", "unfinished", "failed" or "pruned". note: how far it came, or why it failed.
    """

    folder: Path
    overrides: dict[str, str]
    config: Config
    metrics: dict[str, float]
    state: str
    note: str

    @property
    def seed(self) -> Any:
        """Its seed; None if it did not begin."""
        return self.config.get("seed")

    @property
    def validated_on(self) -> frozenset[str]:
        """The mean metrics of its validations; runs are comparable by `val/error` where they are the same."""
        return frozenset(name for name in self.metrics if name.startswith("val/") and name.count("/") == 2)


def find_runs(folder: Path) -> list[Run]:
    """All runs in and below a folder, in the order of their paths.

    Raises:
        DataError: no such folder, no run in it, or a run's file is damaged.
    """
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder.absolute()}: give one that holds the folders of runs, for instance runs/NAME"
        )
    folders = {
        path.parent.parent if path.parent.name == ".hydra" else path.parent for path in folder.rglob("config.yaml")
    }
    runs = [read_run(found) for found in sorted(folders, key=_order) if not folders & set(found.parents)]
    if not runs:
        raise DataError(
            f"no run in {folder.absolute()}: looked there and below for config.yaml, which every run leaves"
        )
    return runs


def _order(folder: Path) -> list[tuple[int, int | str]]:
    """Numbered folders in the order of their numbers."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in folder.parts]


def read_run(folder: Path) -> Run:
    """The run of a folder.

    Raises:
        DataError: one of its files is damaged.
    """
    overrides = _overrides(folder / ".hydra" / "overrides.yaml")
    if not (folder / "config.yaml").exists():
        return Run(folder, overrides, {}, {}, "failed", "did not begin")
    raw = _read_yaml(folder / "config.yaml")
    try:
        monitor, mode = (raw["callbacks"]["checkpoint"][key] for key in ("monitor", "mode"))
        max_steps, sources = int(raw["trainer"]["max_steps"]), list(raw["data"]["sources"].values())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{folder / 'config.yaml'}: not the config of a training ({error})") from error
    values, steps = _history(folder / "metrics.csv", monitor)
    metrics = _read_metrics(folder / "metrics.json")
    metrics.pop(monitor, None)
    if values:
        metrics = {monitor: min(values) if mode == "min" else max(values)} | metrics
    tested = any(name.startswith("test/") for name in metrics)
    is_tested = any("test" in (source.get("splits") or {}) for source in sources)
    state = FINISHED if (tested if is_tested else steps >= max_steps) else "unfinished"
    note = "" if state == FINISHED else f"step {steps} of {max_steps}"
    trial = _trials(folder.parent / "trials.csv").get(folder.name)
    if trial and trial["state"] != FINISHED:
        state, note = trial["state"], "; ".join(filter(None, [f"step {steps} of {max_steps}", trial["reason"]]))
    return Run(folder, overrides, _comparable(raw), metrics, state, note)


def _overrides(path: Path) -> dict[str, str]:
    lines = OmegaConf.to_container(_load(path)) if path.exists() else []
    if not isinstance(lines, list):
        raise DataError(f"{path}: not a list of overrides")
    return {key: value for key, _, value in (str(line).partition("=") for line in lines)}


def _read_yaml(path: Path) -> Config:
    content = OmegaConf.to_container(_load(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a config")
    return content  # type: ignore[return-value]


def _load(path: Path) -> Any:
    try:
        return OmegaConf.load(path)
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(
            f"{path}: not readable as YAML ({reason}); move the run's folder away to leave it out"
        ) from error


def _read_metrics(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}  # it has not validated yet
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path}: not readable as metrics ({error}); move the run's folder away to leave it out"
        ) from error


def _history(path: Path, monitor: str) -> tuple[list[float], int]:
    """All values of a metric, and the number of steps that the run logged."""
    values, steps = [], 0
    try:
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                steps = max(steps, int(row["step"] or 0) + 1)
                values += [float(row[monitor])] if row.get(monitor) else []
    except FileNotFoundError:
        pass  # it has not logged yet
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise DataError(
            f"{path}: not readable as metrics ({error}); move the run's folder away to leave it out"
        ) from error
    return values, steps


def _trials(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a study's table by the number of the trial, which is the name of its folder."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not all({"trial", "state", "reason"} <= set(row) for row in rows):
        raise DataError(f"{path}: not the table of a study; repeat its sweep's command to have it written again")
    return {row["trial"]: row for row in rows}


# What may differ between runs that are the same training: names, places, and how often it is said how it goes.
_NAMES = ("name", "checkpoint", "paths", "logger", "callbacks.trial", "dry_run", "keep_files")


def is_name(key: str) -> bool:
    """Whether a key names or places a run, without a say in what it learns."""
    return any(key == name or key.startswith(f"{name}.") for name in _NAMES)


def _comparable(config: Config) -> Config:
    """The config flat, without what only names or places the run."""
    run_dir = str(config["paths"]["run_dir"])
    flat = {key: value for key, value in _flatten(config) if not is_name(key)}
    return {key: value for key, value in flat.items() if not (isinstance(value, str) and run_dir in value)}


def _flatten(config: Config, prefix: str = "") -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in config.items():
        flat += _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(f"{prefix}{key}", value)]
    return flat
