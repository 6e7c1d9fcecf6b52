"""The folder of a run: one run alone has it, and a run that goes on stays in it."""

import atexit
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf, read_write

from jointface.errors import ConfigError
from jointface.files import write_atomically

AUTO = "auto"  # the value of `checkpoint` that stands for the run's own last.ckpt, where there is one
LAST = Path("checkpoints") / "last.ckpt"


class RunFolder(Callback):
    """Chooses the folder before Hydra makes it.

    A folder that is named by the time is new: of two runs that start in the same second the later one gets a number. A
    run that goes on from its `last.ckpt` goes on in its folder. Any other `hydra.run.dir` is the user's and is taken as
    it is; one that holds a run already is refused, before anything in it is changed.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        timed, folder = _is_timed(config, "run"), _resolved_folder(config, "run")
        leaves_nothing = config.get("dry_run") or not config.get("keep_files", True)
        if timed and leaves_nothing:
            folder = _passing_folder()
        elif timed and (run := run_of(config.checkpoint)):
            folder = run
        elif timed and rank_zero_only.rank:  # type: ignore[attr-defined]
            folder = _passing_folder()
        elif timed:
            folder = claim(folder)
        with read_write(config.hydra.run):
            config.hydra.run.dir = str(folder)
        try:
            require_own_folder(folder, config.checkpoint)
        except ConfigError as error:
            sys.exit(f"error: {error}")  # of what is raised here Hydra makes a warning
        _make(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if not _is_timed(config, "sweep"):
            _make(_resolved_folder(config, "sweep"), "hydra.sweep.dir")
        else:
            follows = rank_zero_only.rank  # type: ignore[attr-defined]
            with read_write(config.hydra.sweep):
                config.hydra.sweep.dir = str(
                    _passing_folder() if follows else claim(_resolved_folder(config, "sweep"), "hydra.sweep.dir")
                )


def _is_timed(config: DictConfig, kind: str) -> bool:
    pattern = OmegaConf.to_container(config.hydra[kind], resolve=False)
    assert isinstance(pattern, dict)
    return "${now:" in pattern["dir"]


def _resolved_folder(config: DictConfig, kind: str) -> Path:
    hydra, before = HydraConfig.instance(), HydraConfig.instance().cfg
    hydra.set_config(config)  # the name of the folder may refer to it
    folder = Path(config.hydra[kind].dir)
    hydra.cfg = before
    return folder


def claim(folder: Path, key: str = "hydra.run.dir") -> Path:
    """Makes the folder, or the first of FOLDER_2, FOLDER_3, ... that nobody else has made; whoever makes it has it.

    Args:
        key: what sets the folder, for the line that ends the program where it cannot be made.
    """
    number, candidate = 1, folder
    while True:
        try:
            candidate.mkdir(parents=True)
        except FileExistsError:
            number += 1
            candidate = folder.with_name(f"{folder.name}_{number}")
        except OSError as error:
            sys.exit(_cannot_be_made(candidate, error, key))
        else:
            return candidate


def _make(folder: Path, key: str = "hydra.run.dir") -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        sys.exit(_cannot_be_made(folder, error, key))


def _cannot_be_made(folder: Path, error: OSError, key: str) -> str:
    return f"error: no folder can be made at {folder} ({error.strerror}): set {key} to one that may be written to"


def _passing_folder() -> Path:
    """For a process of a distributed run that torchrun or srun started: only the first one writes."""
    folder = tempfile.mkdtemp(prefix="jointface_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def run_of(checkpoint: str | None) -> Path | None:
    """The folder of the run whose `last.ckpt` this is; None for every other checkpoint."""
    if checkpoint is None or Path(checkpoint).parts[-2:] != LAST.parts:
        return None
    run = Path(checkpoint).parents[1]
    return run if (run / "config.yaml").is_file() else None


@rank_zero_only
def require_own_folder(folder: Path, checkpoint: str | None) -> None:
    """No run begins in another one's folder.

    Raises:
        ConfigError: the folder holds a run, and `checkpoint` does not go on with it.
    """
    if not (folder / "config.yaml").exists() or checkpoint == AUTO:
        return
    if checkpoint is None or Path(checkpoint).resolve().parent != (folder / LAST.parent).resolve():
        raise ConfigError(
            f"there is a run in {folder} already: choose another folder, or go on with that run by checkpoint={AUTO}"
        )


@rank_zero_only
def write_config(folder: Path, config: DictConfig, new: bool) -> None:
    """Writes config.yaml; with that the folder is taken, and a `new` run begins in no folder that is.

    Raises:
        ConfigError: another run took the folder in the meantime.
    """
    path, text = folder / "config.yaml", OmegaConf.to_yaml(config)
    if not new:
        write_atomically(path, text.encode())
        return
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError(f"another run has just begun in {folder}: choose another folder") from error


def checkpoint_to_go_on_from(folder: Path, checkpoint: str | None) -> str | None:
    """The file that `checkpoint` stands for; None to start from the beginning."""
    if checkpoint != AUTO:
        return checkpoint
    last = folder / LAST
    return str(last) if last.is_file() else None


def command_to_go_on(checkpoint: Path) -> str:
    """The command line that repeats this run's overrides and goes on from the checkpoint."""
    hydra = HydraConfig.get()
    words = ["python", "-m", f"jointface.{hydra.job.config_name}"]
    for source in hydra.runtime.config_sources:
        if source.provider == "command-line":
            words += ["--config-dir", source.path]
    words += [word for word in hydra.overrides.task if not word.startswith("checkpoint=")]
    inside = checkpoint.is_relative_to(Path.cwd())
    words.append(f"checkpoint={checkpoint.relative_to(Path.cwd()) if inside else checkpoint}")
    if hydra.mode == RunMode.MULTIRUN:
        words.append("hydra.mode=RUN")  # this job alone
    return shlex.join(words)
