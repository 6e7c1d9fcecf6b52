"""Turns functions into commands that read their config and end in one line on errors and signals."""

import argparse
import io
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from jointface.command_help import command_help
from jointface.errors import DivergedError, RunStopped, TrialPruned
from jointface.running.expected_errors import EXPECTED_ERRORS, one_line

log = logging.getLogger(__name__)

# The config is beside the package in a checkout, inside it in a wheel.
_PACKAGE = Path(__file__).parent
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"

# For hydra.help.template: ${command_help:CONFIG_NAME}.
OmegaConf.register_new_resolver("command_help", lambda config_name: command_help(config_name, CONF_DIR), replace=True)


def take_lazy_help() -> None:
    """Lets argparse of Python 3.14 and newer, which checks that help is text, take the one of Hydra 1.3 that becomes
    text only when it is shown."""
    if check := getattr(argparse.ArgumentParser, "_check_help", None):
        text_only = lambda parser, action: check(parser, action) if isinstance(action.help, str) else None  # noqa: E731
        argparse.ArgumentParser._check_help = text_only  # type: ignore[attr-defined]


take_lazy_help()


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Turns a function that takes the composed config, `conf/CONFIG_NAME.yaml` plus overrides, into a command.

    Expected errors end the program with one line and exit code 1; HYDRA_FULL_ERROR=1 shows their traceback. A signal
    ends it with exit code 128 + its number; the program then prints the command that resumes the run.
    """
    expected = () if os.environ.get("HYDRA_FULL_ERROR") == "1" else EXPECTED_ERRORS

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def job(config: DictConfig) -> Any:
            # `main` sets it only for Hydra, not for the processes that a distributed run starts.
            full_error = os.environ.pop("HYDRA_FULL_ERROR", None) if expected else None
            expand_home(config)
            try:
                return task(config)
            except RunStopped as stop:  # also ends a sweep, before its other jobs
                sys.exit(_report(stop))
            except KeyboardInterrupt:
                remove_unused_folder()
                raise
            except TrialPruned:
                leave_message_to_first_process()
                raise
            except expected as error:
                if isinstance(error, DivergedError):
                    leave_message_to_first_process()
                if HydraConfig.get().mode == RunMode.MULTIRUN:
                    log.error(one_line(error))
                    remove_unused_folder()
                    raise  # the sweeper decides about the other jobs
                remove_unused_folder()
                sys.exit(one_line(error))
            finally:
                if full_error:
                    os.environ["HYDRA_FULL_ERROR"] = full_error

        def main() -> None:
            if isinstance(sys.stdout, io.TextIOWrapper):  # names may have letters that the terminal lacks
                sys.stdout.reconfigure(errors="backslashreplace")
            os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints errors over several lines
            require_letters(sys.argv[1:])
            sys.argv[1:] = [with_home(without_group(word)) for word in sys.argv[1:]]
            try:
                hydra.main(config_path=str(CONF_DIR), config_name=config_name, version_base="1.3")(job)()
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                sys.exit(128 + signal.SIGINT)
            except expected as error:
                sys.exit(one_line(error))

        return main

    return decorate


def require_letters(words: Sequence[str]) -> None:
    """Exits if Python reads names as ASCII, and the command or its folder has other letters."""
    if sys.getfilesystemencoding() == "ascii" and not "".join([os.getcwd(), *words]).isascii():
        sys.exit("error: this locale knows only ASCII letters: set LC_ALL=C.UTF-8 and leave PYTHONUTF8=0 out")


def without_group(word: str) -> str:
    """Translates `GROUP=null`, which Hydra accepts only in files, to `~GROUP` for the command line. Without an
    experiment the config is that of the embedded default."""
    group, _, value = word.partition("=")
    if word == "experiment=null":
        return "experiment=joint_synthetic"
    return f"~{group}" if value == "null" and (CONF_DIR / group).is_dir() else word


def with_home(word: str) -> str:
    """Replaces `~` at the start of a path in KEY=VALUE, which the shell leaves and Hydra does not know."""
    return re.sub(r"(?<=[=,:\[\"'])~(?=/|$)", lambda _: os.path.expanduser("~"), word)


def expand_home(config: DictConfig | ListConfig) -> None:
    """Replaces `~` at the start of paths that a file of the config gives."""
    keys = config if isinstance(config, DictConfig) else range(len(config))
    for key in [*keys]:
        if OmegaConf.is_missing(config, key) or OmegaConf.is_interpolation(config, key):
            continue
        value = config[key]
        if isinstance(value, DictConfig | ListConfig):
            expand_home(value)
        elif isinstance(value, str) and value.startswith("~/"):
            config[key] = os.path.expanduser(value)


def leave_message_to_first_process() -> None:
    """Ends every process of a distributed run but the first with exit code 0; the first one reports what happened.

    After any other exit code, Lightning would kill the first process and with it a sweep. If several processes run a
    sweep side by side, each of them continues with the next job.
    """
    from lightning.pytorch.utilities import rank_zero_only  # slow to import; a training has it already

    if rank_zero_only.rank and HydraConfig.get().mode == RunMode.RUN:  # type: ignore[attr-defined]
        sys.exit(0)


def _report(stop: RunStopped) -> int:
    """Prints how to resume a stopped run; returns the exit code."""
    from jointface.running.resuming import resume_command  # slow to import; a training has it already

    leave_message_to_first_process()
    print(stop, file=sys.stderr)
    of_study = any(word.startswith("callbacks.trial.number=") for word in HydraConfig.get().overrides.task)
    if stop.checkpoint.exists() and not of_study:  # a study resumes its trials itself
        print(f"to resume: {resume_command(stop.checkpoint)}", file=sys.stderr)
    return 128 + stop.signal


def remove_unused_folder() -> None:
    """Removes Hydra's files of a run that was refused before it started, or that keeps no files."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().output_subdir is None or (folder / "config.yaml").exists():
        return  # the folder is the user's, or its run had started
    logging.shutdown()
    for leftover in [*(folder / ".hydra").glob("*.yaml"), *folder.glob("*.log")]:
        leftover.unlink()
    above = [parent for parent in folder.parents if Path.cwd() in parent.parents]
    for empty in (folder / ".hydra", folder, *above):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()
