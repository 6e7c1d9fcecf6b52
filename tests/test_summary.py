"""`python -m jointface.summarize`: which runs it finds, how it groups them, what it leaves."""

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from jointface import summarize as command
from jointface.errors import ConfigError, DataError
from jointface.running.finished_runs import find_runs
from jointface.summarize import differences, markdown, plot, summarize, write_summary


def write_run(
    folder: Path,
    errors: list[float],
    overrides: list[str] | None = None,
    tested: bool = True,
    heads: tuple[str, ...] = ("shape", "attributes"),
    **config: Any,
) -> Path:
    """The files of a run that was validated every 100 of 300 steps, with these errors; its test has twice the last."""
    (folder / ".hydra").mkdir(parents=True)
    overrides = [f"seed={config.get('seed', 0)}"] if overrides is None else overrides
    OmegaConf.save(OmegaConf.create(overrides), folder / ".hydra" / "overrides.yaml")
    OmegaConf.save(OmegaConf.create({"raw": True}), folder / ".hydra" / "config.yaml")
    seed = config.pop("seed", 0)
    resolved: dict[str, Any] = {
        "name": folder.parent.name,
        "seed": seed,
        "paths": {"run_dir": str(folder)},
        "trainer": {"max_steps": 300, "default_root_dir": str(folder)},
        "callbacks": {"checkpoint": {"monitor": "val/error", "mode": "min", "dirpath": f"{folder}/checkpoints"}},
        "data": {"seed": seed, "sources": {"faces": {"splits": {"train": "train", "test": "test"}}}},
        "model": {"heads": list(heads), "loss": {"shape": 1.0}},
        **config,
    }
    OmegaConf.save(OmegaConf.create(resolved), folder / "config.yaml")
    rows = ["step,train/loss,val/error", *(f"{100 * n + 99},,{error}" for n, error in enumerate(errors))]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    if errors:
        metrics = {"val/error": errors[-1], **{f"val/faces/{head}": 1.0 for head in heads}, "train/loss": 3.0}
        if tested:
            metrics |= {
                "test/faces/nme_2d_68": 2 * errors[-1], "test/faces/accuracy": 1 - errors[-1],
                "test/faces/accuracy/Male": 0.5, "test/faces/trivial/accuracy": 0.5,
            }  # fmt: skip
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def table_of(text: str, title: str) -> list[dict[str, str]]:
    """The Markdown table below a title, as rows by column."""
    lines = [line for line in text.split(f"## {title}\n")[1].split("\n## ")[0].splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_runs_that_differ_in_the_seed_alone_are_one_row_with_mean_and_spread(tmp_path: Path) -> None:
    for number, (lr, seed) in enumerate((lr, seed) for lr in (0.1, 0.2) for seed in (0, 1, 2)):
        overrides = [f"model.lr={lr}", f"seed={seed}"]
        write_run(tmp_path / str(number), [0.9, lr + 0.01 * seed], overrides, seed=seed, optimizer={"lr": lr})
    rows = table_of(markdown(summarize(tmp_path)), "By setting")
    assert [row["model.lr"] for row in rows] == ["0.1", "0.2"]  # the best first
    assert [row["runs"] for row in rows] == ["3", "3"]
    spread = statistics.stdev([0.1, 0.11, 0.12])
    assert rows[0]["val/error"] == f"**0.1100 ± {spread:.4f}**"
    assert rows[1]["val/error"] == f"0.2100 ± {spread:.4f}"
    assert rows[0]["test/faces/nme_2d_68"] == f"**0.2200 ± {2 * spread:.4f}**"
    assert set(rows[0]) == {"model.lr", "runs", "val/error", "test/faces/nme_2d_68", "test/faces/accuracy"}


def test_runs_of_before_and_after_a_new_setting_are_one_row_if_it_is_off(tmp_path: Path) -> None:
    for number, new in enumerate(({}, {"prior": 0.0}, {"prior": 0.5}, {"prior": {"weight": 0.0}})):
        write_run(tmp_path / str(number), [0.5], ["arm=a", f"seed={number}"], seed=number, arm="a", **new)
    rows = table_of(markdown(summarize(tmp_path)), "By setting")
    assert {row["prior"]: row["runs"] for row in rows} == {"0.0": "2", "0.5": "1", "": "1"}


def test_settings_are_compared_with_a_baseline_by_pairs_of_equal_seeds(tmp_path: Path) -> None:
    """The spread over seeds that both share cancels: arm b is better by 0.1, 0.2 and 0.3 at n=5."""
    errors = {("a", 5): [0.5, 0.7, 0.9], ("b", 5): [0.4, 0.5, 0.6], ("a", 9): [0.3], ("b", 9): [0.4]}
    for (arm, n), values in errors.items():
        for seed, error in enumerate(values):
            overrides = [f"arm={arm}", f"n={n}", f"seed={seed}"]
            write_run(tmp_path / f"{arm}{n}{seed}", [error], overrides, seed=seed, arm=arm, n=n)
    summary = summarize(tmp_path, ["val/error"])
    write_summary(summary, tmp_path, against="arm=a", x="n")
    rows = {row["n"]: row for row in csv.DictReader((tmp_path / "differences.csv").read_text().splitlines())}
    assert [rows[n]["pairs"] for n in ("5", "9")] == ["3", "1"]
    reach = 4.302653 * 0.1 / 3**0.5  # Student's t with two degrees of freedom
    found = [float(rows["5"][f"val/error{end}"]) for end in ("", " low", " high")]
    assert found == pytest.approx([-0.2, -0.2 - reach, -0.2 + reach])
    assert (rows["9"]["val/error"][:3], rows["9"]["val/error low"]) == ("0.1", "")
    write_run(tmp_path / "b53", [0.1], ["arm=b", "n=5", "seed=3"], seed=3, arm="b", n=5)  # it has no partner
    assert differences(summarize(tmp_path, ["val/error"]), "arm=a")["pairs"].tolist() == [3, 1]
    assert (tmp_path / "summary.png").stat().st_size > 5000
    with pytest.raises(ConfigError, match="no run has arm=c; choose from"):
        write_summary(summary, tmp_path, against="arm=c")


def test_a_plot_against_a_setting_joins_means_and_against_a_metric_shows_the_exchange(tmp_path: Path) -> None:
    for arm, weight, errors in (("a", 1, [0.4, 0.6]), ("a", 10, [0.2]), ("b", 1, [0.3]), ("b", 10, [0.1])):
        for seed, error in enumerate(errors):
            overrides = [f"arm={arm}", f"weight={weight}", f"seed={seed}"]
            write_run(tmp_path / f"{arm}{weight}{seed}", [error], overrides, seed=seed, arm=arm, weight=weight)
    summary = summarize(tmp_path, ["val/error", "test/faces/nme_2d_68"])
    by_arm = {line.get_label(): line for line in plot(summary, "weight").axes[0].lines}
    assert by_arm["a"].get_xydata().tolist() == [[0, 0.5], [1, 0.2]]
    by_arm = {line.get_label(): line for line in plot(summary, "val/error").axes[0].lines}
    np.testing.assert_allclose(by_arm["b"].get_xydata(), [[0.1, 0.2], [0.3, 0.6]])  # the test's NME is twice the error
    with pytest.raises(ConfigError, match="cannot plot against depth: choose a setting or metric from"):
        plot(summary, "depth")


def test_the_error_of_a_run_is_its_lowest_as_its_checkpoint_is_of_that_validation(tmp_path: Path) -> None:
    write_run(tmp_path / "0", [0.5, 0.2, 0.4])
    (row,) = table_of(markdown(summarize(tmp_path)), "By setting")
    assert row["val/error"] == "0.2000"


def test_names_places_and_defaults_that_were_spelt_out_tell_no_runs_apart(tmp_path: Path) -> None:
    write_run(tmp_path / "a" / "0", [0.1], ["name=a", "model.loss.shape=1.0"], seed=0, logger={"csv": {"name": "a"}})
    write_run(tmp_path / "b" / "0", [0.2], ["name=b"], seed=1, logger={"csv": {"name": "b"}})
    (row,) = table_of(markdown(summarize(tmp_path)), "By setting")
    assert row["runs"] == "2"
    assert "name" not in row


def test_where_overrides_do_not_tell_groups_apart_keys_of_the_config_do(tmp_path: Path) -> None:
    """One of several that differ alike is enough, the shortest."""
    for number, width in enumerate((8, 16)):
        write_run(tmp_path / str(number), [0.1 * width], [], width=width, backbone={"stages": {"width": width}})
    rows = table_of(markdown(summarize(tmp_path)), "By setting")
    assert [row["width"] for row in rows] == ["8", "16"]
    assert "backbone.stages.width" not in rows[0]


def test_the_best_runs_are_named_with_their_folders_and_seeds(tmp_path: Path) -> None:
    for seed, error in enumerate((0.3, 0.1, 0.2)):
        write_run(tmp_path / "multirun" / str(seed), [error], seed=seed)
    rows = table_of(markdown(summarize(tmp_path), best=2), "The best runs")
    assert [(row["run"], row["seed"]) for row in rows] == [("multirun/1", "1"), ("multirun/2", "2")]


def test_errors_of_other_tasks_do_not_compete(tmp_path: Path) -> None:
    """A sum over two tasks is no worse than one of them for being larger; test metrics do compete."""
    write_run(tmp_path / "joint", [0.4], ["experiment=joint"])
    write_run(tmp_path / "shape", [0.1], ["experiment=shape"], heads=("shape",))
    write_run(tmp_path / "wide", [0.2], ["experiment=shape", "width=2"], heads=("shape",), width=2)
    text = markdown(summarize(tmp_path))
    rows = {(row["experiment"], row["width"]): row for row in table_of(text, "By setting")}
    assert rows["joint", ""]["val/error"] == "0.4000"  # alone of its kind
    assert rows["shape", ""]["val/error"] == "**0.1000**"
    assert rows["shape", ""]["test/faces/accuracy"] == "**0.9000**"
    assert "`val/error` adds up the tasks' errors" in text
    assert len(table_of(markdown(summarize(tmp_path), best=1), "The best runs")) == 2  # of each kind


def test_metrics_that_the_error_ignores_make_no_other_kind(tmp_path: Path) -> None:
    write_run(tmp_path / "0", [0.1])
    write_run(tmp_path / "1", [0.2], heads=("shape", "attributes", "landmark_calibration_error"))
    first, second = find_runs(tmp_path)["kind"]
    assert first == second == "val/faces/attributes val/faces/shape"


def test_runs_without_a_result_are_named_and_counted_and_in_no_mean(tmp_path: Path) -> None:
    write_run(tmp_path / "0", [0.3, 0.2, 0.1])
    write_run(tmp_path / "1", [0.3, 0.05], tested=False)
    write_run(tmp_path / "2", [])
    (tmp_path / "3" / ".hydra").mkdir(parents=True)
    (tmp_path / "3" / ".hydra" / "config.yaml").write_text("a: 1\n")
    text = markdown(summarize(tmp_path))
    assert "1 finished runs, 2 unfinished, 1 failed." in text
    rows = {row["run"]: row for row in table_of(text, "Not in the means")}
    assert rows["1"] == {"run": "1", "state": "unfinished", "how far": "step 200 of 300", "val/error": "0.0500"}
    assert rows["2"]["how far"] == "step 0 of 300"
    assert rows["3"]["state"] == "failed"
    assert rows["3"]["how far"] == "did not begin"
    (row,) = table_of(text, "By setting")
    assert row["val/error"] == "0.1000"


def test_without_test_data_a_run_is_finished_after_its_last_step(tmp_path: Path) -> None:
    data = {"sources": {"faces": {"splits": {"train": "train"}}}}
    write_run(tmp_path / "0", [0.3, 0.2, 0.1], tested=False, data=data)
    write_run(tmp_path / "1", [0.3, 0.2], tested=False, data=data)
    assert find_runs(tmp_path)["state"].tolist() == ["finished", "unfinished"]


def test_a_study_knows_which_trials_were_pruned_and_why_others_failed(tmp_path: Path) -> None:
    for number in range(3):
        write_run(tmp_path / str(number), [0.3], tested=number == 0)
    (tmp_path / "trials.csv").write_text(
        "trial,state,val/error,lr,reason\n0,finished,0.3,1,\n1,pruned,0.3,2,\n2,failed,,3,the loss is nan\n"
    )
    text = markdown(summarize(tmp_path))
    assert "1 finished runs, 1 failed, 1 pruned." in text
    assert [row["how far"] for row in table_of(text, "Not in the means")] == [
        "step 100 of 300", "step 100 of 300; the loss is nan",
    ]  # fmt: skip


def test_any_metric_can_be_asked_for_and_the_first_one_ranks(tmp_path: Path) -> None:
    write_run(tmp_path / "0", [0.1], ["width=1"], width=1)
    write_run(tmp_path / "1", [0.2], ["width=2"], width=2)
    summary = summarize(tmp_path, ["train/loss", "test/faces/acc*"])
    assert summary.metrics == ["train/loss", "test/faces/accuracy", "test/faces/accuracy/Male"]
    rows = table_of(markdown(summarize(tmp_path, ["test/faces/accuracy"])), "By setting")
    assert [row["test/faces/accuracy"] for row in rows] == ["**0.9000**", "0.8000"]  # higher is better
    with pytest.raises(ConfigError, match=r"no run has a metric test/faces/recall; choose from .*test/faces/accuracy"):
        summarize(tmp_path, ["test/faces/recall"])


def test_a_runs_own_subfolders_are_no_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "0", [0.1])
    (run / "wandb" / "files").mkdir(parents=True)
    (run / "wandb" / "files" / "config.yaml").write_text("wandb_version: 1\n")
    assert find_runs(tmp_path)["run"].tolist() == ["0"]
    assert find_runs(run)["run"].tolist() == ["."]


def test_numbered_folders_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        write_run(tmp_path / str(number), [0.1])
    assert find_runs(tmp_path)["run"].tolist() == ["9", "10", "100"]


# The command


def run_command(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["summarize", *map(str, arguments)])
    command.main()


def test_the_command_prints_the_summary_and_leaves_it_with_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), [0.1 * (seed + 1)], seed=seed)
    write_run(tmp_path / "runs" / "2", [0.4], tested=False, seed=2)
    run_command(monkeypatch, tmp_path / "runs", "--metrics", "val/error", "--output", tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert capsys.readouterr().out.strip() == text.strip()
    (group,) = csv.DictReader((tmp_path / "out" / "summary.csv").open())
    assert group["runs"] == "2"
    assert float(group["val/error"]) == pytest.approx(0.15)
    assert float(group["val/error std"]) == pytest.approx(statistics.stdev([0.1, 0.2]))
    runs = list(csv.DictReader((tmp_path / "out" / "summary_runs.csv").open()))
    assert [(run["run"], run["state"], run["seed"]) for run in runs] == [
        ("0", "finished", "0"), ("1", "finished", "1"), ("2", "unfinished", "2"),
    ]  # fmt: skip


def test_the_summary_lies_in_the_folder_itself_and_can_be_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "0", [0.1])
    for _ in range(2):
        run_command(monkeypatch, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"0", "summary.md", "summary.csv", "summary_runs.csv"}


def damage(folder: Path, what: str) -> None:
    run = write_run(folder / "0", [0.1])
    match what:
        case "metrics":
            (run / "metrics.json").write_text('{"val/error": 0.1, ')
        case "no metrics":
            (run / "metrics.json").write_text('{"val/error": "low"}')
        case "history":
            (run / "metrics.csv").write_text("step,val/error\nfirst,0.1\n")
        case "config":
            (run / "config.yaml").write_text("trainer: {max_steps: [")
        case "other config":
            (run / "config.yaml").write_text("a: 1\n")
        case "overrides":
            (run / ".hydra" / "overrides.yaml").write_text("a: 1\n")
        case "trials":
            (folder / "trials.csv").write_text("number\n0\n")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("metrics", "0/metrics.json: not readable as metrics"),
        ("no metrics", "0/metrics.json: not readable as metrics"),
        ("history", "0/metrics.csv: not readable as metrics"),
        ("config", "0/config.yaml: not readable as the config of a training"),
        ("other config", "0/config.yaml: not readable as the config of a training"),
        ("overrides", "0/.hydra/overrides.yaml: not readable as overrides"),
        ("trials", "trials.csv: not readable as the table of a study"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path: Path, what: str, message: str) -> None:
    damage(tmp_path, what)
    with pytest.raises(DataError, match=message) as caught:
        summarize(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("folder", "message"), [("nowhere", "no folder"), (".", "no run in")])
def test_a_folder_without_runs_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, message: str
) -> None:
    with pytest.raises(SystemExit, match=f"error: {message} .*{tmp_path.name}"):
        run_command(monkeypatch, tmp_path / folder)
    assert not list(tmp_path.iterdir())
