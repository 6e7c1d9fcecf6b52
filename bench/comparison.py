"""The table and the plot of joint against single-task training.

`python -m bench.comparison PICTURE MULTIRUN_FOLDER [MULTIRUN_FOLDER ...]`: folders that `sweep=joint_vs_shape` and
`sweep=attributes_alone` (or their synthetic twins) left. Prints mean and spread over seeds as a Markdown table, and
plots every test metric against the number of faces with 3D labels.
"""

import json
import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from omegaconf import OmegaConf

KINDS = {"joint": "joint", "shape": "3D faces alone", "attributes": "attributes alone"}
FACES = ("data.sources.w300lp.dataset.num_photos", "data.sources.synthetic_shape.dataset.num_faces.train")
METRICS = {
    "nme_2d_68": "NME of 68 landmarks, 2D", "nme_3d_dense": "NME of the dense face", "accuracy": "mean accuracy",
    "balanced_accuracy": "mean balanced accuracy", "average_precision": "mean average precision",
}  # fmt: skip


def read_run(folder: Path) -> list[dict[str, object]]:
    """The test metrics of a run as rows: kind, faces, seed, data set, metric, value."""
    overrides = dict(line.split("=", 1) for line in OmegaConf.load(folder / ".hydra" / "overrides.yaml"))
    kind = overrides["experiment"].split("_")[0]
    faces = next((overrides[key] for key in FACES if key in overrides), "")
    equal = {
        key: value for key, value in overrides.items() if key not in (*FACES, "experiment", "seed", "sweep", "name")
    }
    rows: list[dict[str, object]] = []
    for key, value in json.loads((folder / "metrics.json").read_text(encoding="utf-8")).items():
        split, source, metric = (*key.split("/", 2), "")[:3]
        if split == "test" and metric in METRICS:
            run = {"run": str(folder), "kind": kind, "faces": faces, "seed": overrides["seed"], "equal": str(equal)}
            rows.append(run | {"source": source, "metric": metric, "value": value})
    return rows


def collect(folders: list[str]) -> pd.DataFrame:
    """The finished runs, with the attributes-only ones repeated for each number of faces, which does not touch them."""
    done = [run.parent for folder in folders for run in Path(folder).glob("*/metrics.json")]
    runs = pd.DataFrame([row for run in done for row in read_run(run)])
    if runs.empty:
        sys.exit(f"no finished run in {', '.join(folders)}")
    if runs["equal"].nunique() > 1:
        sys.exit(f"runs with other overrides cannot be compared: {'; '.join(runs['equal'].unique())}")
    if runs.duplicated(["kind", "faces", "seed", "source", "metric"]).any():
        sys.exit("a run is there twice: give each folder once")
    alone, others = runs[runs["faces"] == ""], runs[runs["faces"] != ""]
    spread = [alone.assign(faces=faces) for faces in others["faces"].unique()]
    runs = pd.concat([others, *spread]) if len(others) else alone
    order = pd.to_numeric(runs["faces"], errors="coerce").fillna(float("inf"))
    return runs.assign(order=order).sort_values(["source", "metric", "order", "seed"], kind="stable")


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and half the range over seeds, a row for each data set, metric and number of faces."""
    grouped = runs.groupby(["source", "metric", "faces", "kind"], sort=False)["value"]
    text = grouped.agg(lambda values: f"{values.mean():.4f} ± {(values.max() - values.min()) / 2:.4f}")
    return text.unstack("kind").reindex(columns=[kind for kind in KINDS if kind in set(runs["kind"])]).fillna("")


def plot(runs: pd.DataFrame, path: Path) -> None:
    """Each metric against the number of faces; a point for each seed, lines through the means."""
    wanted = runs[["source", "metric"]].drop_duplicates().to_records(index=False).tolist()
    figure = Figure(figsize=(3.4 * len(wanted), 3), layout="constrained", dpi=110)
    for axis, (source, metric) in zip(figure.subplots(1, len(wanted), squeeze=False)[0], wanted, strict=True):
        part = runs[(runs["source"] == source) & (runs["metric"] == metric)]
        order = list(part["faces"].unique())
        for colour, kind in enumerate(KINDS):
            values = part[part["kind"] == kind]
            if len(values):
                places = values["faces"].map(order.index)
                axis.plot(places, values["value"], "o", color=f"C{colour}", markersize=4)
                means = values.groupby(places)["value"].mean()
                axis.plot(means.index, means.to_numpy(), color=f"C{colour}", label=KINDS[kind])
        axis.set_xticks(range(len(order)), ["all" if faces == "null" else faces for faces in order])
        axis.set(title=f"{source}: {METRICS[metric]}", xlabel="faces with 3D labels")
        axis.title.set_fontsize(8)
        axis.legend(frameon=False, fontsize=7)
    figure.savefig(path)


def main(picture: str, folders: list[str]) -> None:
    """Prints the table and makes the plot."""
    runs = collect(folders)
    print(f"{runs['run'].nunique()} runs\n")
    rows = table(runs)
    print("| data set | metric | faces | " + " | ".join(KINDS[kind] for kind in rows.columns) + " |")
    print("|---" * (3 + len(rows.columns)) + "|")
    for (source, metric, faces), row in rows.iterrows():
        print(f"| {source} | {METRICS[metric]} | {'all' if faces == 'null' else faces} | " + " | ".join(row) + " |")
    plot(runs, Path(picture))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
