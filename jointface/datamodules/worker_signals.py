"""Signals that ask a run to stop reach its loaders' processes too, which must outlive them."""

import atexit
import multiprocessing
import multiprocessing.util  # its own exit function, registered here, runs after the one below
import signal
from types import FrameType


def leave_signals_to_main() -> None:
    """In a loader's process: Ctrl-C, SIGTERM and SLURM's warnings are the main process's business.

    A terminal and SLURM send them to every process of a run. A loader that ended there would fail the step after which
    the run is to save. The main process ends loaders that hang by SIGTERM, twice, so only the first is let pass.
    """
    for name in ("SIGINT", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, name):  # Windows has the first one alone
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _pass_once)


def _pass_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)


@atexit.register
def end_loaders() -> None:
    """Ends what loaders a stopped run has left: Python sends them one SIGTERM at exit, which they let pass, and waits
    for them without end."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()
