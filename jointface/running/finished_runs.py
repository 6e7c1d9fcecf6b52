"""Reads the runs in a folder: their overrides and configs, how far they got, and what they measured."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from jointface.errors import DataError
from jointface.metrics.direction import better

FINISHED = "finished"
# Keys that may differ between runs of the same training: names, paths, and how much a run reports.
_NAMING_KEYS = ("name", "checkpoint", "paths", "logger", "callbacks.trial", "dry_run", "keep_files")


def find_runs(folder: Path) -> pd.DataFrame:
    """All runs in a folder and its subfolders, sorted by path; numbered folders are sorted by number.

    Columns: `run`: its path in the folder. `overrides`: from the command line, by key. `config`: the resolved config by
    dotted key, without keys that only name the run or its folder; empty if the run did not start. `metrics`: by name,
    the best value of the metric that chose the checkpoint and the last value of all others. `state`: "finished",
    "unfinished", "failed" or "pruned". `how far`: how far it got, or why it failed. `seed`: empty if it did not start.
    `kind`: the mean validation metrics that count in `val/error`, by which runs of the same kind can be compared.

    Raises:
        DataError: the folder does not exist, has no run in it, or a run's file is damaged.
    """
    if not folder.is_dir():
        raise DataError(
            f"no folder {folder.absolute()}: choose one that holds the folders of runs, for instance runs/NAME"
        )
    folders = {
        path.parent.parent if path.parent.name == ".hydra" else path.parent for path in folder.rglob("config.yaml")
    }
    outermost = [found for found in folders if not folders & set(found.parents)]
    outermost.sort(key=lambda path: [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in path.parts])
    if not outermost:
        raise DataError(
            f"no run in {folder.absolute()}: looked there and in subfolders for config.yaml, which every run writes"
        )
    runs = pd.DataFrame([_read_run(found) for found in outermost])
    runs.insert(0, "run", [str(found.relative_to(folder)) for found in outermost])
    return runs


def is_naming_key(key: str) -> bool:
    """Whether a key only sets the name or folder of a run and has no influence on what it learns."""
    return any(key == name or key.startswith(f"{name}.") for name in _NAMING_KEYS)


def _read_run(folder: Path) -> dict[str, Any]:
    overrides = _read(folder / ".hydra" / "overrides.yaml", "overrides", _overrides, {})
    read = _read(folder / "config.yaml", "the config of a training", _config, None)
    if read is None:
        began = {"config": {}, "metrics": {}, "state": "failed", "how far": "did not begin", "seed": "", "kind": ""}
        return {"overrides": overrides, **began}
    config, monitor, mode, max_steps, is_tested = read
    metrics = _read(folder / "metrics.json", "metrics", _metrics, {})  # missing before the first validation
    steps, history = _read(folder / "metrics.csv", "metrics", lambda path: _history(path, monitor), (0, pd.Series()))
    best = {monitor: history.agg(mode)} if len(history) else {}
    metrics = best | {name: value for name, value in metrics.items() if name != monitor}
    is_finished = any(name.startswith("test/") for name in metrics) if is_tested else steps >= max_steps
    state, how_far = (FINISHED, "") if is_finished else ("unfinished", f"step {steps} of {max_steps}")
    trial = _read(folder.parent / "trials.csv", "the table of a study", _trials, {}).get(folder.name)
    if trial and trial["state"] != FINISHED:
        state, how_far = trial["state"], "; ".join(filter(None, [f"step {steps} of {max_steps}", trial["reason"]]))
    return {
        "overrides": overrides, "config": config, "metrics": metrics, "state": state, "how far": how_far,
        "seed": config.get("seed", ""),
        "kind": " ".join(sorted(name for name in metrics if _counts_in_error(name))),
    }  # fmt: skip


def _counts_in_error(metric: str) -> bool:
    """Whether it is a mean validation metric of a source, other than one that `val/error` ignores."""
    return metric.startswith("val/") and metric.count("/") == 2 and not metric.endswith("/landmark_calibration_error")


def _read(path: Path, what: str, read: Callable[[Path], Any], missing: Any) -> Any:
    """Applies `read` to a file; returns `missing` if the file does not exist or is empty."""
    try:
        return read(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return missing
    except (OSError, ValueError, KeyError, TypeError, AttributeError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())[:120]
        raise DataError(f"{path}: not readable as {what} ({reason}); move it away to continue without it") from error


def _overrides(path: Path) -> dict[str, str]:
    lines = OmegaConf.load(path)
    if not OmegaConf.is_list(lines):
        raise TypeError("not a list")
    return {key: value for key, _, value in (str(line).partition("=") for line in lines)}


def _config(path: Path) -> tuple[dict[str, str], str, str, int, bool]:
    """Reads the comparable config, the metric that chooses the checkpoint, its mode, the steps, and whether there is a
    test."""
    raw: Any = OmegaConf.to_container(OmegaConf.load(path))
    checkpoint = raw["callbacks"]["checkpoint"]
    monitor = checkpoint["monitor"]
    mode = checkpoint.get("mode") or better(monitor) or "min"  # as `BestCheckpoint`
    is_tested = raw["trainer"].get("limit_test_batches") != 0 and any(
        (source.get("splits") or {}).get("test") for source in raw["data"]["sources"].values()
    )
    (flat,) = pd.json_normalize(raw).to_dict("records")
    texts = {key: value if isinstance(value, str) else json.dumps(value, default=str) for key, value in flat.items()}
    run_dir = str(raw["paths"]["run_dir"])
    comparable = {key: text for key, text in texts.items() if not is_naming_key(key) and run_dir not in text}
    return comparable, monitor, mode, int(raw["trainer"]["max_steps"]), is_tested


def _metrics(path: Path) -> dict[str, float]:
    return {name: float(value) for name, value in json.loads(path.read_text(encoding="utf-8")).items()}


def _history(path: Path, monitor: str) -> tuple[int, pd.Series]:
    """Reads the number of steps that the run logged, and all values of a metric."""
    rows = pd.read_csv(path, usecols=lambda column: column in ("step", monitor)).apply(pd.to_numeric)
    steps = int(rows["step"].fillna(0).max()) + 1 if len(rows) else 0
    return steps, rows.get(monitor, pd.Series(dtype=float)).dropna()


def _trials(path: Path) -> dict[str, dict[str, str]]:
    """Reads the state and reason of a study's trials, by number, which is also the name of a trial's folder."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False).set_index("trial")
    return rows[["state", "reason"]].to_dict("index")
