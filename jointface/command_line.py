"""The config folder, and what turns an entry point's errors into one line."""

import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jointface.command_help import command_help
from jointface.errors import DivergedError, JointFaceError, RunStopped, TrialPruned

log = logging.getLogger(__name__)

# Beside the package in a checkout, inside it in a wheel.
_PACKAGE = Path(__file__).parent
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"

# For hydra.help.template: ${command_help:CONFIG_NAME}.
OmegaConf.register_new_resolver("command_help", lambda config_name: command_help(config_name, CONF_DIR), replace=True)

# What the library and Hydra raise on purpose, at mistakes in a config or in data.
EXPECTED_ERRORS: tuple[type[Exception], ...] = (JointFaceError, HydraException, OmegaConfBaseException)


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes a command line of a function of the composed config: `conf/CONFIG_NAME.yaml` plus the user's overrides.

    Errors that the library or Hydra raise on purpose end the program with one line and exit code 1;
    HYDRA_FULL_ERROR=1 shows where they came from. A signal ends it with 128 + its number, as is the custom, and a run
    that can go on says how.
    """
    expected = () if os.environ.get("HYDRA_FULL_ERROR") == "1" else EXPECTED_ERRORS

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def job(config: DictConfig) -> Any:
            # For Hydra alone, not for the processes that a distributed run starts.
            full_error = os.environ.pop("HYDRA_FULL_ERROR", None) if expected else None
            try:
                return task(config)
            except RunStopped as stop:  # of a sweep as well: its other jobs are not begun
                sys.exit(_report(stop))
            except KeyboardInterrupt:
                remove_unused_folder()
                raise
            except TrialPruned:
                end_quietly_behind_another_process()
                raise
            except expected as error:
                if isinstance(error, DivergedError):
                    end_quietly_behind_another_process()
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    log.error(one_line(error))
                    remove_unused_folder()
                    raise  # what becomes of the other jobs is up to the sweeper
                remove_unused_folder()
                sys.exit(one_line(error))
            finally:
                if full_error:
                    os.environ["HYDRA_FULL_ERROR"] = full_error

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise what it would print over several lines
            try:
                hydra.main(config_path=str(CONF_DIR), config_name=config_name, version_base="1.3")(job)()
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                sys.exit(128 + signal.SIGINT)
            except expected as error:
                sys.exit(one_line(error))

        return main

    return decorate


def end_quietly_behind_another_process() -> None:
    """Where all processes of a distributed run end at one point the first one says why; the others go with exit code 0.

    After any other code Lightning kills the first one, and a sweep with it. What Lightning starts is no sweep itself;
    where several processes run a sweep side by side, each of them goes on to the next job.
    """
    from lightning.pytorch.utilities import rank_zero_only  # slow to import, and a training has it already

    if rank_zero_only.rank and HydraConfig.get().mode == RunMode.RUN:  # type: ignore[attr-defined]
        sys.exit(0)


def _report(stop: RunStopped) -> int:
    """Says how a stopped run goes on; the exit code."""
    from jointface.running.resuming import resume_command  # slow to import, and only a training stops so

    end_quietly_behind_another_process()
    print(stop, file=sys.stderr)
    of_study = any(word.startswith("callbacks.trial.number=") for word in HydraConfig.get().overrides.task)
    if stop.checkpoint.exists() and not of_study:  # a trial goes on with its study
        print(f"to resume: {resume_command(stop.checkpoint)}", file=sys.stderr)
    return 128 + stop.signal


def remove_unused_folder() -> None:
    """What Hydra left in the folder of a run that was refused before it began, or that was to leave nothing."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().output_subdir is None or (folder / "config.yaml").exists():
        return  # the user's folder, or of a run that had begun
    logging.shutdown()
    for leftover in [*(folder / ".hydra").glob("*.yaml"), *folder.glob("*.log")]:
        leftover.unlink()
    above = [parent for parent in folder.parents if Path.cwd() in parent.parents]
    for empty in (folder / ".hydra", folder, *above):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


# Lines of Hydra's messages that say nothing about the mistake, or advise against finding it.
_NOISE = ("full_key:", "object_type=", "reference_type=", "To append to your config", "Config search path", "provider=")


def one_line(error: BaseException) -> str:
    """What an error says, without what Hydra and OmegaConf add."""
    # Hydra wraps what a class raises while it is built.
    while isinstance(error.__cause__, JointFaceError) and not isinstance(error, JointFaceError):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "error: " + " ".join(line for line in lines if not line.startswith(_NOISE))
