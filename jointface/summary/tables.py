"""A summary as Markdown and CSV."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jointface.files import write_atomically
from jointface.summary.groups import Group, choose_metrics, goodness, group_runs
from jointface.summary.runs import FINISHED, Run, find_runs

UNKNOWN = "–"


@dataclass(frozen=True)
class Summary:
    """What the runs below a folder came to. groups: those that are validated alike side by side, the best first, by the
    first of the metrics. others: unfinished, failed and pruned runs."""

    folder: Path
    metrics: list[str]
    groups: list[Group]
    others: list[Run]

    @property
    def settings(self) -> list[str]:
        """The keys that tell the groups apart."""
        return list(self.groups[0].settings) if self.groups else []

    @property
    def runs(self) -> list[tuple[Run, Group]]:
        """Every finished run with its group, in the order of the groups' kinds, the best first."""
        runs = [(run, group) for group in self.groups for run in group.runs]
        first, kinds = self.metrics[0], self.kinds

        def rank(pair: tuple[Run, Group]) -> tuple[int, float]:
            run, group = pair
            return kinds.index(group.validated_on), goodness(run.metrics.get(first, math.nan), first)

        return sorted(runs, key=rank)

    @property
    def kinds(self) -> list[frozenset[str]]:
        """What groups are validated on; only within one of these can `val/error` be compared."""
        return list(dict.fromkeys(group.validated_on for group in self.groups))


def summarize(folder: Path, wanted: Sequence[str] = ()) -> Summary:
    """Reads and groups the runs below a folder; see `choose_metrics` for `wanted`.

    Raises:
        DataError, ConfigError: as `find_runs` and `choose_metrics`.
    """
    runs = find_runs(folder)
    finished = [run for run in runs if run.state == FINISHED]
    metrics = choose_metrics(finished or runs, wanted)
    groups = group_runs(finished)
    kinds = list(dict.fromkeys(group.validated_on for group in groups))
    groups.sort(
        key=lambda group: (kinds.index(group.validated_on), *(goodness(group.mean(name), name) for name in metrics[:1]))
    )
    return Summary(folder, metrics, groups, [run for run in runs if run.state != FINISHED])


def markdown(summary: Summary, best: int = 5) -> str:
    """The groups, the `best` best runs of those that are validated alike, and the runs that are in no group."""
    finished = sum(len(group.runs) for group in summary.groups)
    parts = [f"# {summary.folder}", f"{finished} finished runs{_count_others(summary.others)}."]
    if summary.groups:
        note = " `val/error` adds up the tasks' errors, so it compares runs of the same tasks and data alone."
        kinds = len(summary.kinds) > 1 and "val/error" in summary.metrics
        parts += ["## By setting", "Mean ± sample standard deviation over the seeds." + note * kinds]
        parts += [_group_table(summary), "## The best runs", _run_table(summary, best)]
    if summary.others:
        parts += ["## Not in the means", _other_table(summary)]
    return "\n\n".join(parts) + "\n"


def _count_others(others: Sequence[Run]) -> str:
    counts = {state: sum(run.state == state for run in others) for state in ("unfinished", "failed", "pruned")}
    return "".join(f", {count} {state}" for state, count in counts.items() if count)


def _group_table(summary: Summary) -> str:
    rows = []
    for group in summary.groups:
        row = [*group.settings.values(), str(len(group.runs))]
        for metric in summary.metrics:
            mean, spread = group.mean(metric), group.spread(metric)
            text = _number(mean) + (f" ± {_number(spread)}" if math.isfinite(spread) else "")
            row.append(f"**{text}**" if _is_best(summary, group, metric) else text)
        rows.append(row)
    return _table([*summary.settings, "runs", *summary.metrics], rows)


def _is_best(summary: Summary, group: Group, metric: str) -> bool:
    """Of the groups that it can be compared with, if there are any: in a validation those that are validated alike."""
    alike = [other for other in summary.groups if other.validated_on == group.validated_on]
    competitors = alike if metric.startswith("val/") else summary.groups
    values = [goodness(other.mean(metric), metric) for other in competitors]
    rivals = [value for value in values if value < math.inf]
    return len(rivals) > 1 and goodness(group.mean(metric), metric) == min(rivals)


def _run_table(summary: Summary, best: int) -> str:
    rows = [
        [
            *(_place(summary, run), str(run.seed), *group.settings.values()),
            *(_number(run.metrics.get(metric, math.nan)) for metric in summary.metrics),
        ]
        for kind in summary.kinds
        for run, group in [pair for pair in summary.runs if pair[1].validated_on == kind][:best]
    ]
    return _table(["run", "seed", *summary.settings, *summary.metrics], rows)


def _other_table(summary: Summary) -> str:
    shown = summary.metrics[:1]
    rows = [
        [_place(summary, run), run.state, run.note, *(_number(run.metrics.get(metric, math.nan)) for metric in shown)]
        for run in summary.others
    ]
    return _table(["run", "state", "how far", *shown], rows)


def _place(summary: Summary, run: Run) -> str:
    return str(run.folder.relative_to(summary.folder))


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else UNKNOWN


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def groups_csv(summary: Summary) -> str:
    """A row a group: settings, number of runs, and of each metric mean and spread (`METRIC`, `METRIC std`)."""
    header = [*summary.settings, "runs", *(f"{metric}{of}" for metric in summary.metrics for of in ("", " std"))]
    rows = [
        [
            *group.settings.values(),
            len(group.runs),
            *(_cell(of(metric)) for metric in summary.metrics for of in _statistics(group)),
        ]
        for group in summary.groups
    ]
    return _csv([header, *rows])


def _statistics(group: Group) -> tuple[Callable[[str], float], ...]:
    return group.mean, group.spread


def runs_csv(summary: Summary) -> str:
    """A row a run, the unfinished ones last: folder, state, seed, settings, metrics."""
    rows = [
        [_place(summary, run), run.state, run.seed, *group.settings.values(), *_values(run, summary.metrics)]
        for run, group in summary.runs
    ]
    rows += [
        [_place(summary, run), run.state, run.seed, *("" for _ in summary.settings), *_values(run, summary.metrics)]
        for run in summary.others
    ]
    return _csv([["run", "state", "seed", *summary.settings, *summary.metrics], *rows])


def _values(run: Run, metrics: Sequence[str]) -> list[object]:
    return [_cell(run.metrics.get(metric, math.nan)) for metric in metrics]


def _cell(value: float) -> object:
    return value if math.isfinite(value) else ""


def _csv(rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_summary(summary: Summary, folder: Path, best: int = 5) -> str:
    """Leaves `summary.md`, `summary.csv` (groups) and `summary_runs.csv` (runs) in a folder; returns the Markdown.

    Raises:
        DataError: it cannot be written to.
    """
    text = markdown(summary, best)
    for name, content in {
        "summary.md": text, "summary.csv": groups_csv(summary), "summary_runs.csv": runs_csv(summary),
    }.items():  # fmt: skip
        write_atomically(folder / name, content.encode())
    return text
