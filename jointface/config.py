"""The config folder, and what turns an entry point's errors into one line."""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from jointface.errors import JointFaceError

# Beside the package in a checkout, inside it in a wheel.
_PACKAGE = Path(__file__).parent
CONF_DIR = _PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf"


def entry_point(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Makes a command line of a function of the composed config: `conf/CONFIG_NAME.yaml` plus the user's overrides.

    Errors that the library or Hydra raise on purpose end the program with one line and exit code 1;
    HYDRA_FULL_ERROR=1 shows where they came from.
    """
    expected: tuple[type[Exception], ...] = (JointFaceError, HydraException, OmegaConfBaseException)
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        expected = ()

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        def job(config: DictConfig) -> Any:
            try:
                return task(config)
            except KeyboardInterrupt:
                sys.exit("interrupted")
            except expected as error:
                if HydraConfig.get().output_subdir is not None:  # a folder of the run's own, not the user's
                    _remove_unused_folder(Path(HydraConfig.get().runtime.output_dir))
                sys.exit(_one_line(error))

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # makes Hydra raise what it would print over several lines
            try:
                hydra.main(config_path=str(CONF_DIR), config_name=config_name, version_base="1.3")(job)()
            except expected as error:
                sys.exit(_one_line(error))

        return main

    return decorate


def _remove_unused_folder(folder: Path) -> None:
    """What Hydra left in the folder of a run that was refused before it began."""
    if (folder / "config.yaml").exists():
        return  # it had begun
    logging.shutdown()
    for leftover in [*(folder / ".hydra").glob("*.yaml"), *folder.glob("*.log")]:
        leftover.unlink()
    for empty in (folder / ".hydra", folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


# Lines of Hydra's messages that say nothing about the mistake, or advise against finding it.
_NOISE = ("full_key:", "object_type=", "reference_type=", "To append to your config", "Config search path", "provider=")


def _one_line(error: BaseException) -> str:
    while isinstance(error.__cause__, JointFaceError):  # Hydra wraps what a class raises while it is built
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return "error: " + " ".join(line for line in lines if not line.startswith(_NOISE))
