"""What the runs below a folder were asked to do, how far they came, and what they measured."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from jointface.errors import DataError

FINISHED = "finished"
# Keys that may differ between runs of the same training: names, places, and how much a run reports.
_NAMING_KEYS = ("name", "checkpoint", "paths", "logger", "callbacks.trial", "dry_run", "keep_files")
_REMEDY = "move the run's folder away to leave it out"


@dataclass(frozen=True)
class Run:
    """A run as its folder describes it.

    overrides: of the command line, by key. config: the resolved config by dotted key, without keys that only name the
    run or its folder; empty if the run did not begin. metrics: by name, the metric that chose the best checkpoint with
    its best value, all others with their last. state: "finished", "unfinished", "failed" or "pruned". note: how far it
    came, or why it failed.
    """

    folder: Path
    overrides: dict[str, str]
    config: dict[str, str]
    metrics: dict[str, float]
    state: str
    note: str

    @property
    def seed(self) -> str:
        """Its seed; empty if it did not begin."""
        return self.config.get("seed", "")

    @property
    def validated_on(self) -> str:
        """Its mean validation metrics, sorted; runs are comparable by `val/error` where these are the same."""
        return " ".join(sorted(name for name in self.metrics if name.startswith("val/") and name.count("/") == 2))


def find_runs(folder: Path) -> list[Run]:
    """All runs in and below a folder, in the order of their paths; numbered folders in the order of their numbers.

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
    outermost = [found for found in folders if not folders & set(found.parents)]
    outermost.sort(key=lambda path: [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.parts])
    if not outermost:
        raise DataError(
            f"no run in {folder.absolute()}: looked there and below for config.yaml, which every run leaves"
        )
    return [read_run(found) for found in outermost]


def read_run(folder: Path) -> Run:
    """The run of a folder.

    Raises:
        DataError: one of its files is damaged.
    """
    overrides_file, config_file = folder / ".hydra" / "overrides.yaml", folder / "config.yaml"
    lines = _load_yaml(overrides_file) if overrides_file.exists() else []
    if not isinstance(lines, list):
        raise DataError(f"{overrides_file}: not a list of overrides")
    overrides = {key: value for key, _, value in (str(line).partition("=") for line in lines)}
    if not config_file.exists():
        return Run(folder, overrides, {}, {}, "failed", "did not begin")
    raw = _load_yaml(config_file)
    try:
        monitor, mode = (raw["callbacks"]["checkpoint"][key] for key in ("monitor", "mode"))
        max_steps, sources = int(raw["trainer"]["max_steps"]), list(raw["data"]["sources"].values())
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{config_file}: not the config of a training ({error})") from error
    history, steps = _read_history(folder / "metrics.csv", monitor)
    metrics = _read_metrics(folder / "metrics.json")
    metrics.pop(monitor, None)
    if len(history):
        metrics = {monitor: history.agg(mode)} | metrics
    if any("test" in (source.get("splits") or {}) for source in sources):
        finished = any(name.startswith("test/") for name in metrics)
    else:
        finished = steps >= max_steps
    state, note = (FINISHED, "") if finished else ("unfinished", f"step {steps} of {max_steps}")
    trial = _read_trials(folder.parent / "trials.csv").get(folder.name)
    if trial and trial["state"] != FINISHED:
        state, note = trial["state"], "; ".join(filter(None, [f"step {steps} of {max_steps}", trial["reason"]]))
    return Run(folder, overrides, _comparable(raw), metrics, state, note)


def is_naming_key(key: str) -> bool:
    """Whether a key names or places a run without a say in what it learns."""
    return any(key == name or key.startswith(f"{name}.") for name in _NAMING_KEYS)


def _load_yaml(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: not readable as YAML ({reason}); {_REMEDY}") from error


def _read_metrics(path: Path) -> dict[str, float]:
    if not path.exists():
        return {}  # it has not validated yet
    try:
        return {str(name): float(value) for name, value in json.loads(path.read_text()).items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path}: not readable as metrics ({error}); {_REMEDY}") from error


def _read_history(path: Path, monitor: str) -> tuple[pd.Series, int]:
    """All values of a metric, and the number of steps that the run logged."""
    try:
        rows = pd.read_csv(path, usecols=lambda column: column in ("step", monitor))
        values = pd.to_numeric(rows[monitor]).dropna() if monitor in rows else pd.Series(dtype=float)
        return values, int(pd.to_numeric(rows["step"]).fillna(0).max()) + 1 if len(rows) else 0
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.Series(dtype=float), 0  # it has not logged yet
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not readable as metrics ({error}); {_REMEDY}") from error


def _read_trials(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a study's table by the number of the trial, which is the name of its folder."""
    if not path.exists():
        return {}
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if not {"trial", "state", "reason"} <= set(rows):
        raise DataError(f"{path}: not the table of a study; repeat its sweep's command to have it written again")
    return {row["trial"]: row for row in rows.to_dict("records")}


def _comparable(config: dict[str, Any]) -> dict[str, str]:
    """The config by dotted key, without what only names or places the run."""
    (flat,) = pd.json_normalize(config).to_dict("records")
    run_dir = str(config["paths"]["run_dir"])
    texts = {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in flat.items()}
    return {key: text for key, text in texts.items() if not is_naming_key(key) and run_dir not in text}
