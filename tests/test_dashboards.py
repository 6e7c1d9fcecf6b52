"""Runs on Weights & Biases: what is recorded without an account, what is shown, what happens when it fails."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trimesh
import yaml
from omegaconf import OmegaConf

from jointface.callbacks.dashboard import YAW_EDGES
from jointface.command_line import CONF_DIR
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel
from jointface.metrics.precision_recall import RECALLS
from jointface.running.wandb_logger import STEP, DashboardLogger, last_recording
from jointface.workspace import build_workspace, recorded_keys
from tests.commands import run_command
from tests.test_training import TINY
from tests.wandb_server import WandbServer

KEY = "0123456789" * 4  # as long as one of W&B's


def without_account(folder: Path) -> dict[str, str]:
    """The environment of a user whom W&B does not know; what it keeps goes to a folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    places = {f"WANDB_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "CACHE")}
    return environment | places | {"NETRC": str(folder / "netrc"), "OMP_NUM_THREADS": "1"}


def arguments(data: Path) -> list[str]:
    """Of each training."""
    return ["logger=wandb", "experiment=joint_celeba_300wlp", f"paths.data_dir={data}", *TINY]


def command(
    folder: Path, data: Path, *overrides: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A tiny training on the command line in a folder, with nobody there to answer questions."""
    return subprocess.run(
        [sys.executable, "-m", "jointface.train", *overrides, *arguments(data)],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        env=without_account(folder / "user") | (environment or {}),
    )  # fmt: skip


class Recording:
    """What W&B last recorded in a run's folder, read by W&B's own `wandb leet inspect`."""

    def __init__(self, run_dir: Path) -> None:
        self.file = last_recording(run_dir) or Path()
        self.records = [json.loads(line) for line in self._inspect("--json").splitlines()]
        self.state = json.loads(self._inspect("--json", "--summary"))  # config, summary, name, tags, exit_code, ...

    def _inspect(self, *options: str) -> str:
        reader = [sys.executable, "-m", "wandb", "leet", "inspect", *options, str(self.file)]
        result = subprocess.run(reader, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind."""
        return [record[kind] for record in self.records if record["type"] == kind]

    def values(self, key: str) -> list[tuple[int, Any]]:
        """(optimiser step, value) of a key in the order of the calls; media are a dict."""
        found = []
        for row in (record["item"] for record in self.of("history")):
            parts = {name.removeprefix(f"{key}."): value for name, value in row.items() if name.startswith(f"{key}.")}
            if key in row or parts:
                found.append((row[STEP], row.get(key, parts)))
        return found

    def media(self, key: str) -> Path:
        """The file last logged for a key."""
        return self.file.parent / "files" / self.values(key)[-1][1]["path"]

    def table(self, key: str) -> dict[str, Any]:
        """The columns and data of the table last logged for a key."""
        return json.loads(self.media(key).read_text())

    def chart(self, key: str) -> dict[str, Any]:
        """How W&B plots the table of a key."""
        return {name: value for update in self.of("config") for name, value in update["update"].items()}[
            f"_wandb.visualize.{key}"
        ]["panel_config"]


@pytest.fixture(scope="module")
def sweep(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A sweep of one job with logger=wandb: its folder, its output, and what W&B recorded."""
    folder = tmp_path_factory.mktemp("sweep")
    once = ["--multirun", "seed=0", "logger.wandb.tags=mine", "logger.wandb.log_model=true"]
    result = run_command(
        "train", *once, *arguments(tiny_data), folder=folder, environment=without_account(folder / "user")
    )
    assert result.returncode == 0, result.stderr
    (run_dir,) = folder.glob("runs/tiny/multirun_*/0")
    return SimpleNamespace(folder=run_dir, output=result.stdout + result.stderr, recorded=Recording(run_dir))


@pytest.fixture(scope="module")
def recorded(sweep: SimpleNamespace) -> Recording:
    """What W&B recorded of the job."""
    return sweep.recorded


# Without an account


def test_without_an_account_a_run_is_recorded_offline_and_a_warning_says_how_to_upload_it(
    sweep: SimpleNamespace,
) -> None:
    (line,) = [line for line in sweep.output.splitlines() if "[WARNING]" in line and "W&B" in line]
    assert "nobody is logged in" in line
    assert f"wandb sync {sweep.folder}/wandb/offline-run-*" in line
    assert sweep.recorded.file.parent.name.startswith("offline-run-")
    assert sweep.recorded.state["exit_code"] == 0


# What is recorded


def test_losses_and_metrics_are_those_of_metrics_csv_and_metrics_json(sweep: SimpleNamespace) -> None:
    rows = [row for row in csv.DictReader((sweep.folder / "metrics.csv").open()) if row["train/loss"]]
    for key in ("train/loss", "train/loss_shape", "train/loss_attributes"):
        expected = [(int(row["step"]), pytest.approx(float(row[key]), rel=1e-5)) for row in rows]
        assert sweep.recorded.values(key) == expected
    metrics = json.loads((sweep.folder / "metrics.json").read_text())
    names = [name for name in metrics if name.startswith(("val/", "test/")) and not name.endswith("broken_samples")]
    assert len(names) > 300
    last = {name: value for row in sweep.recorded.of("history") for name, value in row["item"].items()}
    assert {name: last[name] for name in names} == pytest.approx({name: metrics[name] for name in names}, rel=1e-5)
    assert len(sweep.recorded.values("val/error")) == 2


def test_the_summary_holds_the_best_and_the_last_value(recorded: Recording) -> None:
    for key, best in {"val/error": min, "val/w300lp/nme_2d_68": min, "val/celeba/balanced_accuracy": max}.items():
        values = [value for _, value in recorded.values(key)]
        assert recorded.state["summary"][key] == {best.__name__: best(values), "last": values[-1]}


def test_each_validation_and_the_test_leave_a_table_of_attributes(recorded: Recording) -> None:
    assert len(recorded.values("tables/val/celeba")) == 2
    table = recorded.table("tables/test/celeba")
    assert table["columns"] == [
        "attribute", "labelled", "prevalence", "accuracy", "balanced_accuracy", "f1", "average_precision",
    ]  # fmt: skip
    assert len(table["data"]) == 40
    accuracy = {row[0]: row[3] for row in table["data"]}
    assert accuracy["Male"] == pytest.approx(recorded.values("test/celeba/accuracy/Male")[0][1], abs=1e-4)


def test_each_validation_leaves_precision_recall_curves_as_a_chart(recorded: Recording) -> None:
    assert len(recorded.values("curves/val/celeba_table")) == 2
    table = recorded.table("curves/val/celeba_table")
    assert table["columns"] == ["attribute", "recall", "precision"]
    assert len(table["data"]) % len(RECALLS) == 0
    chart = recorded.chart("curves/val/celeba")
    assert chart["fieldSettings"] == {"x": "recall", "y": "precision", "class": "attribute"}


def test_the_figures_of_the_run_are_media(sweep: SimpleNamespace) -> None:
    for key, picture in {
        "faces/val/w300lp/shape": "val/w300lp/shape.png",
        "faces/val/celeba/attributes": "val/celeba/attributes.png",
        "faces/test/aflw2000/shape": "test/aflw2000/shape.png",
    }.items():
        assert sweep.recorded.media(key).read_bytes() == (sweep.folder / "figures" / picture).read_bytes()


def test_predicted_faces_are_meshes(recorded: Recording, tiny_model: MorphableModel) -> None:
    for key in ("meshes/val/w300lp", "meshes/test/aflw2000"):
        faces = recorded.values(key)[-1][1]["objects"]
        assert len(faces) == 2
        mesh = trimesh.load_mesh(recorded.file.parent / "files" / faces[0]["path"], process=False)
        assert mesh.faces.shape == tiny_model.triangles.shape
        assert len(mesh.visual.vertex_colors) == len(mesh.vertices)


def test_the_data_is_described(recorded: Recording) -> None:
    ((step, yaw),) = recorded.values("data/train/w300lp/yaw")
    assert sum(yaw["values"]) == 4 * (step + 1)  # the batches up to the first validation
    assert yaw["bins"] == YAW_EDGES.tolist()
    table = recorded.table("data/val/celeba/attributes")
    assert table["columns"] == ["attribute", "labelled", "positives", "prevalence"]
    assert {row[1] for row in table["data"]} == {4}
    assert recorded.values("data/test/aflw2000/yaw")


def test_the_config_is_resolved_and_says_what_ran_on_what(sweep: SimpleNamespace) -> None:
    config = sweep.recorded.state["config"]
    on_disk = yaml.safe_load((sweep.folder / "config.yaml").read_text())
    assert {key: config[key] for key in on_disk} == on_disk
    assert config["num_samples"]["train"] == {"celeba": 12, "w300lp": 30}
    assert "seed=0" in config["overrides"]
    assert config["jointface_version"]


def test_a_sweeps_job_is_grouped_by_its_folder_and_tagged(sweep: SimpleNamespace) -> None:
    (run,) = sweep.recorded.of("run")
    assert run["run_group"] == sweep.folder.parent.name
    assert run["tags"] == ["mine"]
    assert run["display_name"] == "tiny"  # one job alone shares all its overrides


def test_the_best_checkpoint_is_an_artifact_if_asked_for(recorded: Recording) -> None:
    (checkpoint,) = [artifact for artifact in recorded.of("artifact") if artifact["type"] == "model"]
    assert json.loads(checkpoint["metadata"])["original_filename"] == "best.ckpt"
    assert set(checkpoint["aliases"]) == {"latest", "best"}


@pytest.mark.slow
def test_a_sweeps_jobs_are_runs_of_their_own_named_by_what_differs(tiny_data: Path, tmp_path: Path) -> None:
    result = command(tmp_path, tiny_data, "--multirun", "seed=0,1", "model.optimizer.lr=1e-3,1e-2")
    assert result.returncode == 0, result.stderr
    runs = [Recording(folder) for folder in sorted(tmp_path.glob("runs/tiny/multirun_*/[0-9]"))]
    assert [run.state["name"] for run in runs] == [
        f"seed={seed},model.optimizer.lr={rate}" for seed in (0, 1) for rate in (0.001, 0.01)
    ]
    assert len({run.state["run_id"] for run in runs}) == 4
    assert len({run.of("run")[0]["run_group"] for run in runs}) == 1
    assert all(len(run.values("val/error")) == 2 for run in runs)


@pytest.mark.slow
def test_of_several_processes_the_first_one_records_the_samples_of_all(tiny_data: Path, tmp_path: Path) -> None:
    result = command(tmp_path, tiny_data, "trainer.devices=2", "+trainer.strategy=ddp")
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("runs/tiny/*")
    assert len(list(folder.glob("wandb/*run-*-*"))) == 1
    table = Recording(folder).table("tables/val/celeba")
    assert {row[1] for row in table["data"]} == {4}  # labelled samples of each attribute


# Online, and what goes wrong


@pytest.fixture
def unknown_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, in this process."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


@pytest.mark.parametrize(
    ("environment", "settings", "message"),
    [
        ({}, {"mode": "online"}, r"nobody is logged in \(`wandb login`.*logger\.wandb\.mode=offline"),
        ({"WANDB_MODE": "online"}, {}, "nobody is logged in"),
        ({"WANDB_MODE": "sometimes"}, {}, "mode sometimes of W&B is unknown; choose from online, offline, disabled"),
        ({}, {"mode": "sometimes"}, "mode sometimes of W&B is unknown; choose from online"),
        ({}, {"log_model": "best"}, "logger.wandb.log_model=best is unknown; choose from true, false and all"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(
    environment: dict[str, str], settings: dict[str, Any], message: str,
    unknown_user: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as caught:
        DashboardLogger("run", str(tmp_path), **settings)
    assert "\n" not in str(caught.value)


def test_wandb_mode_is_respected(unknown_user: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert DashboardLogger("run", str(tmp_path))._wandb_init["mode"] == "disabled"


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.loggers.wandb._WANDB_AVAILABLE", False)
    with pytest.raises(ConfigError, match=r"needs the package wandb: pip install 'jointface\[wandb\]'"):
        DashboardLogger("run", str(tmp_path))


def failing(tmp_path: Path, error: Callable[[], Exception]) -> DashboardLogger:
    """A logger whose run fails at whatever is asked of it."""

    def fail(*args: Any, **options: Any) -> None:
        raise error()

    logger = DashboardLogger("run", str(tmp_path), mode="offline")
    logger._experiment = SimpleNamespace(log=fail, define_metric=fail, finish=fail, id="x")  # type: ignore[assignment]
    return logger


def test_a_failure_is_logged_once_and_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = failing(tmp_path, lambda: ConnectionResetError("Connection lost"))
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
        assert not logger.attempt(lambda: logger.experiment.log({"picture": 1}))
    logger.finalize("success")
    (message,) = caplog.messages
    assert message.startswith("W&B: logging failed (ConnectionResetError: Connection lost); the training continues")


@pytest.mark.slow
def test_online_if_logged_in(tiny_data: Path, tmp_path: Path) -> None:
    with WandbServer() as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        result = command(tmp_path, tiny_data, "logger.wandb.settings.finish_timeout=20", environment=account)
    assert result.returncode == 0, result.stderr
    created = [variables for name, variables in server.operations if name == "UpsertBucket"]
    assert created[0]["project"] == "jointface"
    assert created[0]["displayName"] == "tiny"
    uploaded = {
        file for name, variables in server.operations if name == "CreateRunFiles" for file in variables["files"]
    }
    assert any(file.endswith(".glb") for file in uploaded)
    assert any(file.endswith(".table.json") for file in uploaded)
    assert "failed" not in result.stdout


@pytest.mark.slow
def test_training_goes_on_when_the_server_leaves(tiny_data: Path, tmp_path: Path) -> None:
    """What it did not get is on disk, to be uploaded later."""
    with WandbServer(leaves_after_start=True) as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url, "WANDB_HTTP_TIMEOUT": "1"}
        result = command(tmp_path, tiny_data, "logger.wandb.settings.finish_timeout=3", environment=account)
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("runs/tiny/*")
    assert "test/celeba/accuracy" in json.loads((folder / "metrics.json").read_text())
    assert [step for step, _ in Recording(folder).values("train/loss")] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["null", "online"])
def test_a_server_that_is_not_there_is_said_in_one_line(mode: str, tiny_data: Path, tmp_path: Path) -> None:
    account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    result = command(
        tmp_path, tiny_data, f"logger.wandb.mode={mode}", "logger.wandb.settings.init_timeout=2", environment=account
    )
    (line,) = [line for line in result.stderr.splitlines() + result.stdout.splitlines() if "cannot be reached" in line]
    if mode == "online":
        assert result.returncode == 1
        assert line.startswith("error: W&B cannot be reached")
    else:
        assert result.returncode == 0, result.stderr
        assert "recorded offline" in line
        (folder,) = tmp_path.glob("runs/tiny/*")
        assert Recording(folder).values("val/error")


@pytest.mark.slow
def test_training_goes_on_when_wandbs_process_dies(tiny_data: Path, tmp_path: Path) -> None:
    """It ends in the middle of the run; one line says so."""
    (tmp_path / "killer.py").write_text(
        "import os, signal\n"
        "from pathlib import Path\n"
        "from lightning import Callback\n"
        "class Killer(Callback):\n"
        "    def on_train_batch_end(self, trainer, *rest):\n"
        "        if trainer.global_step == 1:\n"
        "            for child in Path('/proc/self/task').glob('*/children'):\n"
        "                for number in child.read_text().split():\n"
        "                    if 'wandb' in Path('/proc', number, 'comm').read_text():\n"
        "                        os.kill(int(number), signal.SIGKILL)\n"
        "                        os.waitpid(int(number), 0)\n"
    )
    result = command(
        tmp_path, tiny_data, "+callbacks.killer._target_=killer.Killer",
        environment={"PYTHONPATH": str(tmp_path), "WANDB_MODE": "offline"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "the training continues" in line]
    assert "ConnectionResetError" in line or "BrokenPipeError" in line
    (folder,) = tmp_path.glob("runs/tiny/*")
    assert "test/celeba/accuracy" in json.loads((folder / "metrics.json").read_text())


def test_a_run_that_resumes_in_its_folder_continues_on_its_dashboard(sweep: SimpleNamespace, tmp_path: Path) -> None:
    assert DashboardLogger("run", str(sweep.folder), mode="offline").version == sweep.recorded.state["run_id"]
    assert last_recording(tmp_path) is None


# The workspace


def sections() -> Any:
    return OmegaConf.to_container(OmegaConf.load(CONF_DIR / "workspace.yaml").sections)


def panels(logged: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The panels that W&B is given, by section."""
    view = build_workspace("me", "jointface", "JointFace", sections(), logged)._to_model()
    bank = view.model_dump(by_alias=True, exclude_none=True)["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: section["panels"] for section in bank}


def test_the_workspace_shows_what_a_run_recorded(sweep: SimpleNamespace) -> None:
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    logged = recorded_keys(sweep.folder)
    shown = panels(logged)
    assert list(shown) == ["Overview", "Tasks", "3D face", "Attributes", "Data", "Speed", "Test"]
    assert shown["Overview"][0]["config"]["metricRegex"] == "^val/error$"
    assert shown["Overview"][0]["config"]["xAxis"] == STEP
    assert ["faces/val/w300lp/shape"] in [panel["config"].get("mediaKeys") for panel in shown["3D face"]]
    (curves,) = [panel["config"] for panel in shown["Attributes"] if panel["viewType"] == "Vega2"]
    automatic = sweep.recorded.chart("curves/val/celeba")
    compared = ("panelDefId", "fieldSettings", "transform")
    assert {key: curves[key] for key in compared} == {key: automatic[key] for key in compared}
    # What a tiny run on a processor with fixed loss weights has not: weights, gradients (2), GPU memory.
    written = sum(len(section) for section in sections().values())
    assert sum(map(len, shown.values())) == written - 4


@pytest.mark.parametrize(
    "panel", [{"title": "x"}, {"title": "x", "line": "a"}, {"lines": "a", "media": "b"}, {"lines": "("}]
)
def test_a_malformed_panel_is_refused(panel: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="panel"):
        build_workspace("me", "jointface", "JointFace", {"x": [panel]}, [])


def test_a_missing_or_damaged_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no W&B recording in .*: train with logger=wandb"):
        recorded_keys(tmp_path)
    recording = tmp_path / "wandb" / "offline-run-1-x" / "run-x.wandb"
    recording.parent.mkdir(parents=True)
    recording.write_bytes(b"nothing of W&B's")
    with pytest.raises(DataError, match=r"W&B cannot read .*run-x.wandb"):
        recorded_keys(tmp_path)
