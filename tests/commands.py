"""Commands of the package, run as users run them but without the seconds that their imports take."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from lightning.pytorch.utilities import rank_zero_only

from jointface.datamodules.loading import end_workers

PATIENCE = 300  # seconds


def run_command(
    name: str, *arguments: str, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m jointface.NAME ARGUMENTS` in a folder: its exit code, and what it printed.

    It runs in a fork of this process, or in a new one where forks cannot train. It sees `environment`, else that of
    this process.
    """
    words = [sys.executable, "-m", f"jointface.{name}", *arguments]
    environment = environment or dict(os.environ)
    if sys.platform != "linux" or torch.cuda.is_available():
        environment |= {"PYTHONPATH": str(Path(__file__).parents[1])}
        return subprocess.run(
            words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    main = import_module(f"jointface.{name}").main
    with TemporaryDirectory() as printed:
        files = [Path(printed) / stream for stream in ("stdout", "stderr")]
        process = multiprocessing.get_context("fork").Process(
            target=_become, args=(main, [name, *arguments], folder, environment, files)
        )
        process.start()
        process.join(PATIENCE)
        assert process.exitcode is not None, f"{name} has not ended after {PATIENCE} s"
        return subprocess.CompletedProcess(words, process.exitcode, *(file.read_text() for file in files))


def _become(
    main: Callable[[], None], words: list[str], folder: Path, environment: dict[str, str], files: list[Path]
) -> None:
    """Does in a fork what a new process would do."""
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv = words
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    rank_zero_only.rank = int(environment.get("LOCAL_RANK", 0))  # Lightning reads it when it is imported
    try:
        main()
    finally:
        end_workers()
