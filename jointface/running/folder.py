"""The folder of a run: no two runs share a folder, and a resumed run keeps its folder."""

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, read_write

from jointface.errors import ConfigError
from jointface.files import write_atomically
from jointface.running.resuming import AUTO, LAST, run_folder_of


class RunFolder(Callback):
    """Chooses the folder of a run before Hydra creates it.

    A folder named by the time is always new: if two runs start in the same second, the later one gets a number. A run
    that resumes from its `last.ckpt` stays in its folder. Any other `hydra.run.dir` is the user's choice; if it already
    holds a run, it is refused before anything in it changes.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder, timed = _folder(config, "run")
        leaves_nothing = config.get("dry_run") or not config.get("keep_files", True)
        if timed and not leaves_nothing and (run := run_folder_of(config.checkpoint)):
            folder = run
        elif timed and (leaves_nothing or rank_zero_only.rank):  # type: ignore[attr-defined]
            folder = _temporary_folder()
        elif timed:
            folder = claim(folder)
        with read_write(config.hydra.run):
            config.hydra.run.dir = str(folder)
        try:
            require_own_folder(folder, config.checkpoint)
        except ConfigError as error:
            sys.exit(f"error: {error}")  # Hydra turns exceptions of callbacks into warnings
        _make(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder, timed = _folder(config, "sweep")
        if not timed:
            _make(folder, "hydra.sweep.dir")
            return
        with read_write(config.hydra.sweep):
            rank = rank_zero_only.rank  # type: ignore[attr-defined]
            config.hydra.sweep.dir = str(_temporary_folder() if rank else claim(folder, "hydra.sweep.dir"))


def _folder(config: DictConfig, kind: str) -> tuple[Path, bool]:
    """The folder in `hydra.run` or `hydra.sweep`, and whether it is named by the time."""
    pattern: Any = OmegaConf.to_container(config.hydra[kind], resolve=False)
    hydra, before = HydraConfig.instance(), HydraConfig.instance().cfg
    hydra.set_config(config)  # the folder's name may refer to the config
    folder = Path(os.path.expanduser(config.hydra[kind].dir))
    hydra.cfg = before
    return folder, "${now:" in pattern["dir"]


def claim(folder: Path, key: str = "hydra.run.dir") -> Path:
    """Creates the folder, or the first of FOLDER_2, FOLDER_3, ... that does not exist; the process that creates it owns
    it. If it cannot be created, the program exits with a message that names `key`."""
    number, candidate = 1, folder
    while not _make(candidate, key):
        number += 1
        candidate = folder.with_name(f"{folder.name}_{number}")
    return candidate


def _make(folder: Path, key: str = "hydra.run.dir") -> bool:
    """Creates the folder; returns whether it is new."""
    try:
        folder.mkdir(parents=True)
        return True
    except OSError as error:
        if folder.is_dir():
            return False
        sys.exit(
            f"error: cannot make the folder {folder} ({error.strerror}): set {key} to a folder that you can write to"
        )


def _temporary_folder() -> Path:
    """A folder for runs that leave no files, and for the processes of a distributed run that write none."""
    folder = tempfile.mkdtemp(prefix="jointface_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@rank_zero_only
def require_own_folder(folder: Path, checkpoint: str | None) -> None:
    """Keeps a new run out of another run's folder.

    Raises:
        ConfigError: the folder holds a run, and `checkpoint` does not resume it.
    """
    if not (folder / "config.yaml").exists() or checkpoint == AUTO:
        return
    if checkpoint is None or Path(checkpoint).resolve().parent != (folder / LAST.parent).resolve():
        raise ConfigError(
            f"there is already a run in {folder}: choose another folder, or resume that run with checkpoint={AUTO}"
        )


@rank_zero_only
def write_config(folder: Path, config: DictConfig, new: bool) -> None:
    """Writes config.yaml, which marks the folder as used.

    Raises:
        ConfigError: the run is new, but another run has started in the folder in the meantime.
    """
    path, text = folder / "config.yaml", OmegaConf.to_yaml(config)
    if not new:
        write_atomically(path, text.encode())
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"another run has just started in {folder}: choose another folder") from error
