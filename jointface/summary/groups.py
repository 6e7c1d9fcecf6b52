"""Runs that differ in their seed alone, and the keys that tell such groups apart."""

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from jointface.errors import ConfigError
from jointface.summary.runs import Run, is_name

# The mean metrics of a test that a summary shows unless it is asked for others.
TEST_METRICS = ("nme_2d_68", "nme_3d_dense", "accuracy", "balanced_accuracy", "average_precision")


@dataclass(frozen=True)
class Group:
    """Finished runs whose configs differ in the seed alone. settings: the value of each key that tells groups apart."""

    runs: list[Run]
    settings: dict[str, str]

    @property
    def validated_on(self) -> frozenset[str]:
        """See `Run.validated_on`."""
        return self.runs[0].validated_on

    def mean(self, metric: str) -> float:
        """Over the runs; NaN if one of them lacks it."""
        return statistics.fmean(run.metrics.get(metric, math.nan) for run in self.runs)

    def spread(self, metric: str) -> float:
        """Sample standard deviation over the runs; NaN for a single one."""
        values = [run.metrics.get(metric, math.nan) for run in self.runs]
        return statistics.stdev(values) if len(values) > 1 and all(map(math.isfinite, values)) else math.nan


def group_runs(runs: Sequence[Run]) -> list[Group]:
    """The groups of finished runs, with the keys that tell them apart as `settings`.

    These are first the overrides that differ; where they do not tell all groups apart, further keys of the config.
    """
    seeds = _seed_keys(runs)
    alike: dict[str, list[Run]] = {}
    for run in runs:
        config = {key: value for key, value in run.config.items() if key not in seeds}
        alike.setdefault(json.dumps(config, sort_keys=True, default=str), []).append(run)
    members = list(alike.values())
    columns = _override_columns(members, seeds)
    columns |= _config_columns(members, seeds, list(columns.values()))
    return [
        Group(group, {key: values[number] for key, values in columns.items()}) for number, group in enumerate(members)
    ]


def _seed_keys(runs: Sequence[Run]) -> set[str]:
    """`seed` and the keys that take their value from it."""
    keys = {key for run in runs for key in run.config if key.rsplit(".", 1)[-1] == "seed"}
    return {key for key in keys if all(run.config.get(key, run.seed) == run.seed for run in runs)} | {"seed"}


def _override_columns(groups: Sequence[Sequence[Run]], seeds: set[str]) -> dict[str, list[str]]:
    """The overrides that differ between groups and not within one: their values, group by group."""
    keys = dict.fromkeys(key for group in groups for run in group for key in run.overrides)
    columns = {}
    for key in keys:
        if is_name(key.lstrip("+")) or key in seeds | {"sweep"}:
            continue
        values = [{run.overrides.get(key, "") for run in group} for group in groups]
        if all(len(within) == 1 for within in values) and len(set.union(*values)) > 1:
            columns[key] = [_short(next(iter(within))) for within in values]
    return columns


def _config_columns(groups: Sequence[Sequence[Run]], seeds: set[str], columns: list[list[str]]) -> dict[str, list[str]]:
    """Keys of the config that tell groups apart which the columns so far do not; the shortest keys first."""
    configs = [group[0].config for group in groups]
    keys = {key for config in configs for key in config} - seeds
    found: dict[str, list[str]] = {}
    for key in sorted(keys, key=lambda key: (key.count("."), len(key), key)):
        values = [_short(_text(config[key])) if key in config else "" for config in configs]
        so_far = [*columns, *found.values()]
        if _kinds([*so_far, values], len(groups)) > _kinds(so_far, len(groups)):
            found[key] = values
    return found


def _kinds(columns: Sequence[Sequence[str]], count: int) -> int:
    """How many of the groups the columns tell apart."""
    return len({tuple(column[number] for column in columns) for number in range(count)})


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _short(text: str) -> str:
    """A number without the digits that tell nothing."""
    try:
        if len(text) < 8 or text.isdigit():
            return text
        return f"{float(text):.0f}" if abs(float(text)) >= 1000 else f"{float(text):.4g}"
    except ValueError:
        return text


def choose_metrics(runs: Sequence[Run], wanted: Sequence[str]) -> list[str]:
    """The metrics to show: those that match the wanted names or patterns, or by default the one that chose the
    checkpoints and the means of the tests.

    Raises:
        ConfigError: a wanted one is in no run.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.metrics))
    if wanted:
        chosen = {pattern: [name for name in known if fnmatch(name, pattern)] for pattern in wanted}
        if missing := [pattern for pattern, names in chosen.items() if not names]:
            short = ", ".join(name for name in known if name.count("/") < 3)
            raise ConfigError(f"no run has a metric {', '.join(missing)}; there are {short or 'none'}")
        return list(dict.fromkeys(name for names in chosen.values() for name in names))
    tests = [name for name in known if name.startswith("test/") and name.split("/", 2)[2] in TEST_METRICS]
    order = {name: number for number, name in enumerate(TEST_METRICS)}
    tests.sort(key=lambda name: (name.split("/")[1], order[name.split("/", 2)[2]]))
    return [*(name for name in known if name == "val/error"), *tests]


def lower_is_better(metric: str) -> bool:
    """Of errors and losses; of all others higher is."""
    return any(part.startswith(("nme", "loss", "broken")) or part.endswith("error") for part in metric.split("/"))


def goodness(value: float, metric: str) -> float:
    """A key to sort by, the best first, what is missing last."""
    if math.isnan(value):
        return math.inf
    return value if lower_is_better(metric) else -value
