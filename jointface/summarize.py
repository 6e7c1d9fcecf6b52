"""Summarizes many runs in a table: `python -m jointface.summarize runs/NAME`."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib.figure import Figure

from jointface.errors import ConfigError, JointFaceError
from jointface.files import write_atomically
from jointface.metrics.direction import better
from jointface.running.finished_runs import FINISHED, find_runs, is_naming_key

# The mean test metrics that a summary shows by default, in this order.
TEST_METRICS = ("nme_2d_68", "nme_3d_dense", "accuracy", "balanced_accuracy", "average_precision")
OFF = ("null", "false", "0", "0.0", "[]", "{}")  # values of settings that are off, as `find_runs` gives them
NOTE = " `val/error` adds up the tasks' errors, so it only compares runs with the same tasks and data."


@dataclass(frozen=True)
class Summary:
    """The results of the runs in a folder. Runs with the same setting differ only in their seed.

    settings: the keys that distinguish settings. groups: a row for each setting, with `settings`, the number of `runs`,
    mean and sample standard deviation of each metric (`METRIC`, `METRIC std`), and `kind`, a number that is equal for
    runs with the same validation metrics; sorted by kind, then by the first metric, best first. runs: a row for each
    finished run, sorted likewise. others: a row for each unfinished, failed or pruned run, with `how far`.
    """

    folder: Path
    settings: list[str]
    metrics: list[str]
    groups: pd.DataFrame
    runs: pd.DataFrame
    others: pd.DataFrame


def summarize(folder: Path, wanted: Sequence[str] = ()) -> Summary:
    """Reads and groups the runs in a folder and its subfolders; for `wanted` see `choose_metrics`.

    Raises:
        DataError: there is no run, or a run's file is damaged.
        ConfigError: no run has a wanted metric.
    """
    found = find_runs(folder)
    is_finished = found["state"] == FINISHED
    finished, others = found[is_finished].reset_index(drop=True), found[~is_finished].reset_index(drop=True)
    metrics = choose_metrics(finished if len(finished) else found, wanted)
    group, settings = group_by_setting(finished)
    runs = _with_metrics(finished, metrics).join(settings)
    runs["kind"] = pd.factorize(finished["kind"])[0]
    by_group = runs.groupby(group)
    mean, std = by_group[metrics].mean(skipna=False), by_group[metrics].std(skipna=False).add_suffix(" std")
    groups = by_group.first()[[*settings, "kind"]].join([by_group.size().rename("runs"), mean, std])
    ranked = _best_first(groups, metrics), _best_first(runs, metrics)
    return Summary(folder, list(settings), metrics, *ranked, _with_metrics(others, metrics))


def choose_metrics(runs: pd.DataFrame, wanted: Sequence[str]) -> list[str]:
    """The metrics that match the wanted names or patterns; by default `val/error` and the mean test metrics.

    Raises:
        ConfigError: no run has a wanted metric.
    """
    known = list(dict.fromkeys(name for metrics in runs["metrics"] for name in metrics))
    if wanted:
        chosen = {pattern: [name for name in known if fnmatch(name, pattern)] for pattern in wanted}
        if missing := [pattern for pattern, names in chosen.items() if not names]:
            short = ", ".join(name for name in known if name.count("/") < 3)
            raise ConfigError(f"no run has a metric {', '.join(missing)}; choose from {short or 'none'}")
        return list(dict.fromkeys(name for names in chosen.values() for name in names))
    tests = [name.split("/", 2)[1:] for name in known if name.startswith("test/")]
    ranks = sorted((source, TEST_METRICS.index(metric)) for source, metric in tests if metric in TEST_METRICS)
    shown = [f"test/{source}/{TEST_METRICS[rank]}" for source, rank in ranks]
    return [*(name for name in known if name == "val/error"), *shown]


def group_by_setting(runs: pd.DataFrame) -> tuple[np.ndarray, pd.DataFrame]:
    """The number of each run's group, and the values that distinguish groups, with a row for each run.

    Runs in a group differ only in `seed` and in keys that take its value. The values belong to overrides that differ
    between groups but not within a group. If these do not distinguish all groups, further config keys are added,
    shortest first. Runs of an older version lack settings that are new, which then count as off.
    """
    configs = _known_to_all(pd.DataFrame(list(runs["config"])))
    overrides = pd.DataFrame(list(runs["overrides"])).fillna("")
    configs = configs.drop(columns=[key for key in configs if _is_seed(key, runs)])
    group = pd.factorize(pd.Series(list(configs.itertuples(index=False, name=None)), dtype=object))[0]
    ignored = [key for key in overrides if is_naming_key(key.lstrip("+")) or key == "sweep" or _is_seed(key, runs)]
    overrides = overrides.drop(columns=ignored)
    constant_within = overrides.groupby(group).nunique().eq(1).all()
    settings = overrides.loc[:, constant_within & overrides.nunique().gt(1)]
    told_apart = len(settings.drop_duplicates()) if len(settings.columns) else 1
    for key in sorted(configs, key=lambda key: (key.count("."), len(key), key)):
        wider = pd.concat([settings, configs[[key]]], axis=1)
        if (count := len(wider.drop_duplicates())) > told_apart:
            settings, told_apart = wider, count
    return group, settings.map(_shorten)


def _known_to_all(configs: pd.DataFrame) -> pd.DataFrame:
    """The configs, where a run that lacks a setting and its group has the value that is off, if any other run has it.
    What else is missing is empty."""
    for key in sorted(configs.columns[configs.isna().any()], key=lambda key: key.count(".")):
        off = [value for value in configs[key].dropna().unique() if value in OFF]
        if len({value.removesuffix(".0") for value in off}) == 1:
            group = [other for other in configs if f"{other}.".startswith(f"{key}.") or key.startswith(f"{other}.")]
            configs.loc[configs[group].isna().all(axis=1), key] = off[0]
    return configs.fillna("")


def _is_seed(key: str, runs: pd.DataFrame) -> bool:
    """Whether a key is `seed` or takes its value from it."""
    pairs = zip(runs["config"], runs["seed"], strict=True)
    return key.rsplit(".", 1)[-1] == "seed" and all(config.get(key, seed) == seed for config, seed in pairs)


def _shorten(text: str) -> str:
    """Shortens a long number to its significant digits."""
    try:
        if len(text) < 8 or text.isdigit():
            return text
        return f"{float(text):.0f}" if abs(float(text)) >= 1000 else f"{float(text):.4g}"
    except ValueError:
        return text


def _with_metrics(runs: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    values = pd.DataFrame(list(runs["metrics"]), columns=list(metrics), dtype=float)
    return runs[["run", "state", "seed", "how far"]].join(values)


def _best_first(rows: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    first = rows[metrics[0]] * _sign(metrics[0]) if metrics else 0.0
    ranked = rows.assign(rank=first).sort_values(["kind", "rank"], kind="stable", ignore_index=True)
    return ranked.drop(columns="rank")


def differences(summary: Summary, baseline: str) -> pd.DataFrame:
    """How each setting differs from that of the baseline, which shares its other settings and its seeds.

    Args:
        baseline: a setting and its value, such as "experiment=claim/shape".

    Returns:
        A row for each other value and each combination of the other settings, with the number of `pairs` and, for each
        metric, `METRIC` and `METRIC low`, `METRIC high`: the mean difference of runs with the same seed, and its 95 %
        interval by Student's t. Without a second pair, the interval is unknown.

    Raises:
        ConfigError: the baseline is no setting of these runs.
    """
    key, _, value = baseline.partition("=")
    if key not in summary.settings or value not in set(summary.runs[key]):
        known = [f"{name}={found}" for name in summary.settings for found in summary.runs[name].unique()]
        raise ConfigError(f"no run has {baseline}; choose from {', '.join(known) or 'none'}")
    others = [name for name in summary.settings if name != key]
    is_base = summary.runs[key] == value
    base = summary.runs[is_base].groupby([*others, "seed"])[summary.metrics].mean()
    rest = summary.runs[~is_base].set_index([*others, "seed"])
    rest = rest[rest.index.isin(base.index)]
    if rest.empty:
        raise ConfigError(f"no run has the seed and the other settings of a run with {baseline}")
    change = rest[summary.metrics] - base.reindex(rest.index)
    groups = change.assign(**{key: rest[key]}).reset_index().groupby([*others, key], sort=False)[summary.metrics]
    mean, count = groups.mean(), groups.count()
    reach = groups.std() / count**0.5 * scipy.stats.t.ppf(0.975, count - 1)
    table = pd.DataFrame({"pairs": groups.size()})
    for name in summary.metrics:
        ends = {f"{name} low": mean[name] - reach[name], f"{name} high": mean[name] + reach[name]}
        table = table.assign(**{name: mean[name]}, **ends)
    return table.reset_index()


def plot(summary: Summary, key: str) -> Figure:
    """Each metric against a setting, in numeric order, or against another metric: a point for each run, and a line
    through the means of each combination of the other settings. Against a metric, means are joined along the last
    setting, whose values are written beside them: this shows what one task costs the other.

    Raises:
        ConfigError: the key is no setting and no metric of these runs.
    """
    is_metric, runs = key in summary.metrics, summary.runs
    shown = [metric for metric in summary.metrics if metric != key]
    if key not in summary.settings and not (is_metric and shown):
        known = ", ".join([*summary.settings, *summary.metrics])
        raise ConfigError(
            f"cannot plot against {key}: choose a setting or metric from {known}; a metric needs a second of --metrics"
        )
    found = [] if is_metric else runs[key].drop_duplicates().sort_values(key=_numeric, kind="stable").tolist()
    runs = runs.assign(place=runs[key] if is_metric else runs[key].map(found.index))
    others = [name for name in summary.settings if name != key]
    line, along = (others[:-1], others[-1:]) if is_metric else (others, [key])
    figure = Figure(figsize=(3.6 * len(shown), 3.2), layout="constrained", dpi=110)
    for axis, metric in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for colour, (names, group) in enumerate(runs.groupby(line or (lambda _: ""), sort=True)):
            axis.plot(group["place"], group[metric], "o", color=f"C{colour % 10}", markersize=3)
            means = group.groupby(along or (lambda _: ""))[["place", metric]].mean().sort_values("place")
            label = ", ".join(map(str, names if isinstance(names, tuple) else (names,)))
            axis.plot(means["place"], means[metric], color=f"C{colour % 10}", label=label)
            for value, place, mean in means.itertuples() if is_metric else ():
                axis.annotate(f" {value}", (place, mean), fontsize="x-small", color=f"C{colour % 10}")
        if not is_metric:
            axis.set_xticks(range(len(found)), found)
        axis.set(title=metric.removeprefix("test/"), xlabel=key.removeprefix("test/"))
    if line:
        axis.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _numeric(texts: pd.Series) -> pd.Series:
    return pd.to_numeric(texts, errors="coerce")


def _sign(metric: str) -> int:
    """The factor after which low values are the best."""
    return 1 if better(metric) == "min" else -1


def markdown(summary: Summary, best: int = 5) -> str:
    """The groups, the `best` best runs of each kind, and the runs that are not in the means, as Markdown."""
    groups, runs, others = summary.groups, summary.runs, summary.others
    counts = [(others["state"].eq(state).sum(), state) for state in ("unfinished", "failed", "pruned")]
    total = [f"{len(runs)} finished runs", *(f"{count} {state}" for count, state in counts if count)]
    parts = [f"# {summary.folder}", ", ".join(total) + "."]
    if len(groups):
        note = NOTE if groups["kind"].nunique() > 1 and "val/error" in summary.metrics else ""
        parts += ["## By setting", "Mean ± sample standard deviation over the seeds." + note]
        cells = groups[[*summary.settings, "runs"]].assign(**{name: _means(groups, name) for name in summary.metrics})
        parts += [_table(cells), "## The best runs"]
        parts.append(_table(runs.groupby("kind").head(best)[["run", "seed", *summary.settings, *summary.metrics]]))
    if len(others):
        parts += ["## Not in the means", _table(others[["run", "state", "how far", *summary.metrics[:1]]])]
    return "\n\n".join(parts) + "\n"


def _means(groups: pd.DataFrame, metric: str) -> list[str]:
    """`mean ± deviation` of each group, with the best in bold among comparable groups; validation metrics are
    comparable only within a kind."""
    rank, kind = groups[metric] * _sign(metric), groups["kind"] if metric.startswith("val/") else groups["kind"] * 0
    rivals = rank.groupby(kind)
    is_best = (rank == rivals.transform("min")) & (rivals.transform("count") > 1)
    std = groups[f"{metric} std"]
    texts = _number(groups[metric]) + (" ± " + _number(std)).where(std.notna(), "")
    return list(texts.where(~is_best, "**" + texts + "**"))


def _number(values: pd.Series) -> pd.Series:
    return values.map(lambda value: f"{value:.4f}" if np.isfinite(value) else "–")


def _table(frame: pd.DataFrame) -> str:
    texts = frame.apply(lambda column: _number(column) if column.dtype == float else column.astype(str))
    lines = [list(frame), ["---"] * frame.shape[1], *texts.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def write_summary(
    summary: Summary, folder: Path, best: int = 5, against: str | None = None, x: str | None = None
) -> str:
    """Writes `summary.md`, `summary.csv` (groups) and `summary_runs.csv` (runs) to a folder; returns the Markdown.

    Args:
        against: the baseline of `differences`, which are added to the Markdown and written to `differences.csv`.
        x: the setting or metric of `plot`, which is written to `summary.png`.

    Raises:
        ConfigError: the baseline or the key is no setting of the runs.
        DataError: the folder cannot be written to.
    """
    text, settings, metrics = markdown(summary, best), summary.settings, summary.metrics
    groups = summary.groups[[*settings, "runs", *(f"{metric}{of}" for metric in metrics for of in ("", " std"))]]
    runs = pd.concat([summary.runs, summary.others])[["run", "state", "seed", *settings, *metrics]]
    csv = {"summary.csv": groups.to_csv(index=False), "summary_runs.csv": runs.to_csv(index=False)}
    if against is not None:
        change = differences(summary, against)
        csv["differences.csv"] = change.to_csv(index=False)
        text += f"\n{_differences_text(change, metrics, against)}"
    if x is not None:
        picture = BytesIO()
        plot(summary, x).savefig(picture, format="png")
        write_atomically(folder / "summary.png", picture.getvalue())
    for name, content in {"summary.md": text, **csv}.items():
        write_atomically(folder / name, content.encode())
    return text


def _differences_text(change: pd.DataFrame, metrics: Sequence[str], against: str) -> str:
    cells = change.drop(columns=[name for metric in metrics for name in (f"{metric} low", f"{metric} high")])
    for metric in metrics:
        mean, low, high = (change[f"{metric}{end}"].map("{:+.4f}".format) for end in ("", " low", " high"))
        interval = (" (" + low + " to " + high + ")").where(change[f"{metric} low"].notna(), "")
        cells[metric] = (mean + interval).where(change[metric].notna(), "–")
    note = "Mean difference of runs with the same seed, and its 95 % interval by Student's t."
    return f"## Against {against}\n\n{note}\n\n{_table(cells)}\n"


def main() -> None:
    """Summarizes the runs in a folder; errors are reported in one line, with exit code 1."""
    parser = ArgumentParser("python -m jointface.summarize", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds folders of runs at any depth, e.g. of a multirun or a study")
    metrics_help = "names in metrics.json or patterns like 'test/*/nme_*'; the first ranks; default: val/error, tests"
    parser.add_argument("--metrics", nargs="+", default=[], metavar="NAME", help=metrics_help)
    parser.add_argument("--best", type=int, default=5, metavar="N", help="best runs to list of each kind; default: 5")
    against_help = "a setting and its value, e.g. experiment=claim/shape: how all others differ from it, in pairs of "
    against_help += "equal seeds, also in differences.csv"
    parser.add_argument("--against", metavar="KEY=VALUE", help=against_help)
    x_help = "a setting, or one of --metrics: the other metrics are plotted against it in summary.png"
    parser.add_argument("--x", metavar="KEY", help=x_help)
    output_help = "folder for summary.md, summary.csv and summary_runs.csv; default: the folder itself"
    parser.add_argument("--output", type=Path, help=output_help)
    arguments = parser.parse_args()
    try:
        summary = summarize(arguments.folder, arguments.metrics)
        folder = arguments.output or arguments.folder
        print(write_summary(summary, folder, arguments.best, arguments.against, arguments.x))
    except JointFaceError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
