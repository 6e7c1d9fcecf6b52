"""Runs on Weights & Biases: what is recorded without an account, what is asked, what happens when it fails."""

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

from jointface.callbacks import DashboardLogger
from jointface.callbacks.dashboard_panels import read_sections, wandb_workspace
from jointface.callbacks.label_census import YAW_EDGES
from jointface.callbacks.recorded_run import RecordedRun, read_run
from jointface.callbacks.run_names import earlier_run
from jointface.command_line import CONF_DIR
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel
from jointface.metrics.precision_recall import RECALLS
from tests.test_training import TINY
from tests.wandb_server import WandbServer

KEY = "0123456789" * 4  # as long as one of W&B's
PROGRESS = {"~callbacks.progress_bar", "+trainer.enable_progress_bar=false"}


def without_account(folder: Path) -> dict[str, str]:
    """The environment of a user whom W&B does not know; what it keeps goes to a folder."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    places = {f"WANDB_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "CACHE")}
    return environment | places | {"NETRC": str(folder / "netrc"), "OMP_NUM_THREADS": "1"}


def command(
    folder: Path, data: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A tiny training on the command line in a folder, with nobody there to answer questions."""
    return subprocess.run(
        [sys.executable, "-m", "jointface.train", *arguments, "logger=wandb", "experiment=joint_celeba_300wlp",
         f"paths.data_dir={data}", *TINY],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        env=without_account(folder / "user") | (environment or {}),
    )  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A sweep of one job with logger=wandb: its folder, what it said, and what W&B recorded."""
    folder = tmp_path_factory.mktemp("sweep")
    result = command(
        folder, tiny_data, "--multirun", "seed=0", "logger.wandb.tags=[mine]", "logger.wandb.log_model=true"
    )
    assert result.returncode == 0, result.stderr
    (run_dir,) = folder.glob("runs/tiny/multirun_*/0")
    return SimpleNamespace(folder=run_dir, said=result.stdout + result.stderr, recorded=read_run(run_dir))


@pytest.fixture(scope="module")
def recorded(sweep: SimpleNamespace) -> RecordedRun:
    """What W&B recorded of the job."""
    return sweep.recorded


# Without an account


def test_without_an_account_it_records_offline_asks_nothing_and_says_how_to_upload(sweep: SimpleNamespace) -> None:
    (line,) = [line for line in sweep.said.splitlines() if "[WARNING]" in line and "W&B" in line]
    assert "Nobody is logged in" in line
    assert f"wandb sync {sweep.folder}/wandb/offline-run-*" in line
    assert sweep.recorded.folder.name.startswith("offline-run-")
    assert sweep.recorded.exit_code == 0


def test_the_csv_comes_with_it(sweep: SimpleNamespace) -> None:
    rows = list(csv.DictReader((sweep.folder / "metrics.csv").open()))
    assert [float(row["train/loss"]) for row in rows if row["train/loss"]] == pytest.approx(
        [value for _, value in sweep.recorded.values("train/loss")], rel=1e-5
    )


# What is recorded


def test_both_tasks_losses_are_over_the_optimiser_step(recorded: RecordedRun) -> None:
    for key in ("train/loss", "train/loss_shape", "train/loss_attributes"):
        assert [step for step, _ in recorded.values(key)] == [0, 1, 2, 3], key


def test_metrics_of_validations_and_of_the_test_are_those_of_metrics_json(sweep: SimpleNamespace) -> None:
    metrics = json.loads((sweep.folder / "metrics.json").read_text())
    names = [name for name in metrics if name.startswith(("val/", "test/")) and not name.endswith("broken_samples")]
    assert len(names) > 300
    for name in names:
        assert sweep.recorded.values(name)[-1][1] == pytest.approx(metrics[name], rel=1e-5), name
    assert len(sweep.recorded.values("val/error")) == 2


def test_the_summary_holds_the_best_and_the_last_value(recorded: RecordedRun) -> None:
    for key, best in {"val/error": min, "val/w300lp/nme_2d_68": min, "val/celeba/balanced_accuracy": max}.items():
        values = [value for _, value in recorded.values(key)]
        assert recorded.summary[key] == {best.__name__: best(values), "last": values[-1]}


def test_each_validation_and_the_test_leave_a_table_of_attributes(recorded: RecordedRun) -> None:
    assert len(recorded.values("tables/val/celeba")) == 2
    (_, value), *_ = recorded.values("tables/test/celeba")
    table = json.loads(recorded.file(value["path"]).read_text())
    assert table["columns"] == [
        "attribute", "labelled", "prevalence", "accuracy", "balanced_accuracy", "f1", "average_precision",
    ]  # fmt: skip
    assert len(table["data"]) == 40
    accuracy = {row[0]: row[3] for row in table["data"]}
    assert accuracy["Male"] == pytest.approx(recorded.values("test/celeba/accuracy/Male")[0][1], abs=1e-4)


def test_each_validation_leaves_precision_recall_curves_as_a_chart(recorded: RecordedRun) -> None:
    assert len(recorded.values("curves/val/celeba_table")) == 2
    (_, value), *_ = recorded.values("curves/val/celeba_table")
    table = json.loads(recorded.file(value["path"]).read_text())
    assert table["columns"] == ["attribute", "recall", "precision"]
    assert len(table["data"]) % len(RECALLS) == 0
    chart = recorded.config["_wandb"]["visualize"]["curves/val/celeba"]["panel_config"]
    assert chart["fieldSettings"] == {"x": "recall", "y": "precision", "class": "attribute"}


def test_the_pictures_of_the_run_are_media(sweep: SimpleNamespace) -> None:
    for key, picture in {
        "faces/val/w300lp/shape": "val_w300lp_shape.png",
        "faces/val/celeba/attributes": "val_celeba_attributes.png",
        "faces/test/aflw2000/shape": "test_aflw2000_shape.png",
    }.items():
        media = sweep.recorded.file(sweep.recorded.values(key)[-1][1]["path"])
        assert media.read_bytes() == (sweep.folder / "figures" / picture).read_bytes()


def test_predicted_faces_are_meshes(recorded: RecordedRun, tiny_model: MorphableModel) -> None:
    for key in ("meshes/val/w300lp", "meshes/test/aflw2000"):
        faces = recorded.values(key)[-1][1]["objects"]
        assert len(faces) == 2
        mesh = trimesh.load_mesh(recorded.file(faces[0]["path"]), process=False)
        assert mesh.faces.shape == tiny_model.triangles.shape
        assert len(mesh.visual.vertex_colors) == len(mesh.vertices)


def test_the_config_is_resolved_and_says_what_ran_on_what(sweep: SimpleNamespace) -> None:
    config = sweep.recorded.config
    on_disk = yaml.safe_load((sweep.folder / "config.yaml").read_text())
    assert {key: config[key] for key in on_disk} == on_disk
    assert config["num_samples"]["train"] == {"celeba": 12, "w300lp": 30}
    assert "seed=0" in config["overrides"]
    assert config["jointface_version"]


def test_a_checkout_leaves_its_commit(recorded: RecordedRun) -> None:
    checkout = Path(__file__).parents[1]
    if not (checkout / ".git").exists():
        pytest.skip("this is no git checkout")
    head = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert recorded.about["commit"] == head.stdout.strip()


def test_the_data_is_described(recorded: RecordedRun) -> None:
    ((step, yaw),) = recorded.values("data/train/w300lp/yaw")
    assert sum(yaw["values"]) == 4 * (step + 1)  # the batches up to the first validation
    assert yaw["bins"] == YAW_EDGES.tolist()
    ((_, value),) = recorded.values("data/val/celeba/attributes")
    table = json.loads(recorded.file(value["path"]).read_text())
    assert table["columns"] == ["attribute", "labelled", "positives", "prevalence"]
    assert {row[1] for row in table["data"]} == {4}
    assert recorded.values("data/test/aflw2000/yaw")


def test_a_sweeps_job_is_grouped_by_its_folder_and_tagged(sweep: SimpleNamespace) -> None:
    about = sweep.recorded.about
    assert about["group"] == sweep.folder.parent.name
    assert about["tags"] == ["joint_celeba_300wlp", "small", "mine"]
    assert about["name"] == "tiny"  # one job alone shares all its overrides


def test_the_best_checkpoint_is_an_artifact_if_asked_for(recorded: RecordedRun) -> None:
    (checkpoint,) = [artifact for artifact in recorded.artifacts if artifact["type"] == "model"]
    assert checkpoint["metadata"]["original_filename"] == "best.ckpt"
    assert set(checkpoint["aliases"]) == {"latest", "best"}


@pytest.mark.slow
def test_a_sweeps_jobs_are_runs_of_their_own_named_by_what_differs(tiny_data: Path, tmp_path: Path) -> None:
    result = command(tmp_path, tiny_data, "--multirun", "seed=0,1", "model.optimizer.lr=1e-3,1e-2")
    assert result.returncode == 0, result.stderr
    runs = [read_run(folder) for folder in sorted(tmp_path.glob("runs/tiny/multirun_*/[0-9]"))]
    assert [run.about["name"] for run in runs] == [
        f"seed={seed},model.optimizer.lr={rate}" for seed in (0, 1) for rate in (0.001, 0.01)
    ]
    assert len({run.about["id"] for run in runs}) == 4
    assert len({run.about["group"] for run in runs}) == 1
    assert all(len(run.values("val/error")) == 2 for run in runs)


@pytest.mark.slow
def test_of_several_processes_the_first_one_records_the_samples_of_all(tiny_data: Path, tmp_path: Path) -> None:
    result = command(tmp_path, tiny_data, "trainer.devices=2", "+trainer.strategy=ddp")
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("runs/tiny/*")
    (recording,) = folder.glob("wandb/*run-*-*")
    run = read_run(folder)
    assert run.folder == recording
    table = json.loads(run.file(run.values("tables/val/celeba")[-1][1]["path"]).read_text())
    assert {row[1] for row in table["data"]} == {4}  # labelled samples of each attribute


# Online, and what goes wrong


@pytest.fixture
def unknown_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is logged in, in this process."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def test_online_without_a_login_is_refused_in_one_line(unknown_user: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nobody is logged in: run `wandb login`.*logger\.wandb\.mode=offline"):
        DashboardLogger("run", str(tmp_path), mode="online")


def test_wandb_mode_is_respected(unknown_user: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(ConfigError, match="nobody is logged in"):
        DashboardLogger("run", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(
        ConfigError, match="WANDB_MODE=sometimes is unknown, known are online, offline, disabled, dryrun"
    ):
        DashboardLogger("run", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert DashboardLogger("run", str(tmp_path))._wandb_init["mode"] == "disabled"


def test_without_the_package_it_says_what_to_install(
    sweep: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "wandb.proto.wandb_internal_pb2", None)
    for use in (lambda: DashboardLogger("run", str(tmp_path)), lambda: read_run(sweep.folder)):
        with pytest.raises(ConfigError, match=r"needs the package wandb: pip install 'jointface\[wandb\]'"):
            use()


@pytest.mark.parametrize("setting", [{"mode": "sometimes"}, {"log_model": "best"}])
def test_unknown_settings_are_refused(setting: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is unknown, known are"):
        DashboardLogger("run", str(tmp_path), **setting)


def failing(tmp_path: Path, error: Callable[[], Exception]) -> DashboardLogger:
    """A logger whose run fails at whatever is asked of it."""

    def fail(*args: Any, **options: Any) -> None:
        raise error()

    logger = DashboardLogger("run", str(tmp_path), mode="offline")
    logger._experiment = SimpleNamespace(log=fail, define_metric=fail, finish=fail, id="x")  # type: ignore[assignment]
    return logger


def test_a_lost_connection_is_said_once_and_raises_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = failing(tmp_path, lambda: ConnectionResetError("Connection lost"))
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
        logger.log_media("pictures", lambda: {"picture": 1})
    logger.finalize("success")
    logger.finish(failed=False)
    (message,) = caplog.messages
    assert message.startswith(
        "W&B: logging metrics failed (ConnectionResetError: Connection lost); the training goes on"
    )


def test_what_fails_is_said_once_and_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logger = failing(tmp_path, RuntimeError)
    logged: list[dict[str, Any]] = []
    logger._experiment.log = logged.append  # type: ignore[union-attr, method-assign]
    for _ in range(2):
        logger.log_media("3D meshes", lambda: 1 / 0)  # type: ignore[arg-type, return-value]
        logger.log_media("pictures", lambda: {"picture": 1})
    assert len(logged) == 2
    (message,) = caplog.messages
    assert "3D meshes failed (ZeroDivisionError: division by zero); the training goes on" in message


def test_one_unanswered_question_is_enough_at_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would keep the training waiting; at the next step the server may be back."""
    monkeypatch.setattr("jointface.callbacks.dashboard_logger.LONG_WAIT", -1.0)
    logger = failing(tmp_path, TimeoutError)
    asked: list[int | None] = []

    def media() -> dict[str, Any]:
        asked.append(logger._step)
        return {"table": 1}

    for logger._step in range(2):
        for _ in range(3):
            assert not logger.log_media("tables", media)
    assert asked == [0, 1]


@pytest.mark.slow
def test_online_if_logged_in(tiny_data: Path, tmp_path: Path) -> None:
    with WandbServer() as server:
        account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
        result = command(tmp_path, tiny_data, "logger.wandb.finish_timeout=20", environment=account)
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
        result = command(tmp_path, tiny_data, "logger.wandb.finish_timeout=3", environment=account)
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.glob("runs/tiny/*")
    assert "test/celeba/accuracy" in json.loads((folder / "metrics.json").read_text())
    assert [step for step, _ in read_run(folder).values("train/loss")] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["null", "online"])
def test_a_server_that_is_not_there_is_said_in_one_line(mode: str, tiny_data: Path, tmp_path: Path) -> None:
    account = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    result = command(
        tmp_path, tiny_data, f"logger.wandb.mode={mode}", "logger.wandb.init_timeout=2", environment=account
    )
    (line,) = [line for line in result.stderr.splitlines() + result.stdout.splitlines() if "cannot be reached" in line]
    if mode == "online":
        assert result.returncode == 1
        assert line.startswith("error: W&B cannot be reached")
    else:
        assert result.returncode == 0, result.stderr
        assert "recorded offline" in line
        (folder,) = tmp_path.glob("runs/tiny/*")
        assert read_run(folder).values("val/error")


@pytest.mark.slow
def test_training_goes_on_when_wandbs_process_dies(tiny_data: Path, tmp_path: Path) -> None:
    """It ends in the middle of the run; one line says so."""
    (tmp_path / "killer.py").write_text(
        "import psutil\n"
        "from lightning import Callback\n"
        "class Killer(Callback):\n"
        "    def on_train_batch_end(self, trainer, *rest):\n"
        "        if trainer.global_step == 1:\n"
        "            for child in psutil.Process().children():\n"
        "                if 'wandb' in child.name():\n"
        "                    child.kill()\n"
        "                    child.wait()\n"
    )
    result = command(
        tmp_path, tiny_data, "+callbacks.killer._target_=killer.Killer",
        environment={"PYTHONPATH": str(tmp_path), "WANDB_MODE": "offline"},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "the training goes on without the dashboard" in line]
    assert "ConnectionResetError" in line or "BrokenPipeError" in line
    (folder,) = tmp_path.glob("runs/tiny/*")
    assert "test/celeba/accuracy" in json.loads((folder / "metrics.json").read_text())


def test_a_run_that_goes_on_in_its_folder_goes_on_in_its_dashboard(sweep: SimpleNamespace, tmp_path: Path) -> None:
    assert earlier_run(sweep.folder) == sweep.recorded.about["id"]
    assert earlier_run(tmp_path) is None


def test_a_folder_without_a_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no recording of W&B in .*: train with logger=wandb"):
        read_run(tmp_path)


# The workspace


def sections() -> list[Any]:
    config = OmegaConf.load(CONF_DIR / "workspace.yaml")
    return read_sections(OmegaConf.to_container(config.sections))  # type: ignore[arg-type]


def test_the_panels_show_what_a_run_records(recorded: RecordedRun) -> None:
    """All but those of parts that a tiny run on a processor with fixed weights does not have."""
    without = {panel.pattern for section in sections() for panel in section.panels if not panel.keys(recorded.keys())}
    assert without == {
        "train/weight_.+", "train/gradient_norm_.+", "train/gradient_cosine", "train/gpu_memory_gib",
    }  # fmt: skip


@pytest.mark.parametrize(
    "panel", [{"title": "x"}, {"title": "x", "line": "a"}, {"lines": "a", "media": "b"}, {"lines": "("}]
)
def test_a_panel_that_is_none_is_refused(panel: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="panel"):
        read_sections({"x": [panel]})


def test_the_workspace_is_what_wandb_takes(recorded: RecordedRun) -> None:
    pytest.importorskip("wandb_workspaces", reason="wandb-workspaces is not installed")
    view = wandb_workspace("me", "jointface", "JointFace", sections(), recorded.keys())._to_model()
    bank = view.model_dump(by_alias=True, exclude_none=True)["spec"]["section"]["panelBankConfig"]["sections"]
    panels = {section["name"]: section["panels"] for section in bank}
    assert list(panels) == ["Overview", "Tasks", "3D face", "Attributes", "Data", "Speed", "Test"]
    assert panels["Overview"][0]["config"]["metricRegex"] == "^val/error$"
    assert panels["Overview"][0]["config"]["xAxis"] == "trainer/global_step"
    assert ["faces/val/w300lp/shape"] in [panel["config"].get("mediaKeys") for panel in panels["3D face"]]
    (curves,) = [panel["config"] for panel in panels["Attributes"] if panel["viewType"] == "Vega2"]
    automatic = recorded.config["_wandb"]["visualize"]["curves/val/celeba"]["panel_config"]
    assert {key: curves[key] for key in ("panelDefId", "fieldSettings", "transform")} == {
        key: automatic[key] for key in ("panelDefId", "fieldSettings", "transform")
    }
