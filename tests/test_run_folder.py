"""One run alone in a folder."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from jointface.command_line import CONF_DIR
from jointface.errors import ConfigError
from jointface.running.folder import RunFolder, claim, require_own_folder, write_config
from jointface.running.resuming import resolve_checkpoint

THIS_YEAR = "${now:%Y}"  # a folder named by the time that any two runs share


def hydra_config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def folder_of(*overrides: str) -> Path:
    """Where a run with these overrides goes."""
    config = hydra_config(*overrides)
    RunFolder().on_run_start(config)
    return Path(config.hydra.run.dir)


def finished_run(folder: Path) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    (folder / "config.yaml").write_text("seed: 0\n")
    return folder


@pytest.fixture(autouse=True)
def in_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_of_many_at_once_each_claims_another_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        claimed = list(pool.map(claim, [tmp_path / "runs" / "now"] * 64))
    assert len(set(claimed)) == 64
    assert {folder.name for folder in claimed} == {"now", *(f"now_{number}" for number in range(2, 65))}


def test_runs_of_one_second_get_numbers() -> None:
    same = f"hydra.run.dir=runs/{THIS_YEAR}"
    first, second = folder_of(same), folder_of(same)
    assert second == first.with_name(f"{first.name}_2")
    assert first.is_dir()
    assert second.is_dir()
    assert HydraConfig.instance().cfg is None  # it is left as it was


def test_the_default_folder_is_named_by_experiment_and_time() -> None:
    folder = folder_of("experiment=shape_synthetic")
    assert folder.parent == Path("runs/shape_synthetic")
    assert folder.is_dir()


def test_sweeps_of_one_second_get_numbers() -> None:
    folders = []
    for _ in range(2):
        config = hydra_config(f"hydra.sweep.dir=runs/sweep_{THIS_YEAR}")
        RunFolder().on_multirun_start(config)
        folders.append(Path(config.hydra.sweep.dir))
    assert folders[1] == folders[0].with_name(f"{folders[0].name}_2")


def test_a_folder_that_the_user_names_is_taken_as_it_is(tmp_path: Path) -> None:
    assert folder_of("hydra.run.dir=mine") == Path("mine")
    assert folder_of("hydra.run.dir=mine") == Path("mine")


@pytest.mark.parametrize("override", ["hydra.run.dir=file/run", "hydra.run.dir=file/${now:%Y}"])
def test_a_folder_that_cannot_be_made_is_one_line(override: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as end:
        folder_of(override)
    assert str(end.value).startswith("error: cannot make the folder file/")
    assert str(end.value).endswith("(Not a directory): set hydra.run.dir to a folder that you can write to")


@pytest.mark.parametrize("folder", ["file/sweep", "file/${now:%Y}"])
def test_a_folder_of_a_sweep_that_cannot_be_made_is_one_line(folder: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = r"^error: cannot make the folder .* set hydra\.sweep\.dir to a folder that you can write to$"
    with pytest.raises(SystemExit, match=said):
        RunFolder().on_multirun_start(hydra_config(f"hydra.sweep.dir={folder}"))


@pytest.mark.parametrize("override", ["dry_run=true", "debug=one_batch"])
def test_what_leaves_nothing_makes_no_folder_here(override: str, tmp_path: Path) -> None:
    assert not folder_of(override).is_relative_to(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_goes_on_in_its_folder(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "runs" / "before")
    assert folder_of(f"checkpoint={run}/checkpoints/last.ckpt") == run
    assert folder_of(f"checkpoint={run}/checkpoints/last.ckpt", "hydra.run.dir=mine") == Path("mine")
    best = folder_of(f"checkpoint={run}/checkpoints/best.ckpt", "experiment=shape_synthetic")
    assert best.parent == Path("runs/shape_synthetic")  # another training that starts from there


def test_a_folder_with_a_run_is_refused_before_anything_in_it_changes(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    with pytest.raises(SystemExit, match=r"error: there is already a run in .*run: choose another folder, or resume"):
        folder_of(f"hydra.run.dir={run}")
    folder_of(f"hydra.run.dir={run}", "checkpoint=auto")
    folder_of(f"hydra.run.dir={run}", f"checkpoint={run}/checkpoints/best.ckpt")
    with pytest.raises(ConfigError):
        require_own_folder(run, str(tmp_path / "other" / "checkpoints" / "last.ckpt"))


def test_of_two_new_runs_one_gets_the_folder(tmp_path: Path) -> None:
    config = hydra_config()
    write_config(tmp_path / "run", DictConfig({"seed": config.seed}), new=True)
    with pytest.raises(ConfigError, match="another run has just started"):
        write_config(tmp_path / "run", DictConfig({"seed": 1}), new=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 0\n"
    write_config(tmp_path / "run", DictConfig({"seed": 1}), new=False)
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 1\n"


def test_auto_stands_for_the_runs_own_checkpoint_where_there_is_one(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run")
    assert resolve_checkpoint(run, "auto") == str(run / "checkpoints" / "last.ckpt")
    assert resolve_checkpoint(tmp_path / "new", "auto") is None
    assert resolve_checkpoint(run, None) is None
    assert resolve_checkpoint(run, "a.ckpt") == "a.ckpt"


@pytest.mark.slow
def test_two_commands_at_once_do_not_share_a_folder(tiny_data: Path, tmp_path: Path) -> None:
    from tests.test_survival import overrides_of

    start = [sys.executable, "-m", "jointface.train", f"hydra.run.dir=runs/{THIS_YEAR}", *overrides_of(tiny_data)]
    both = [subprocess.Popen(start, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [run.wait() for run in both] == [0, 0]
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 2
    assert all((run / "checkpoints" / "last.ckpt").is_file() for run in runs)
