"""Signals that ask a run to stop: they are noted, and the run ends itself when a step is whole."""

import os
import signal
import threading
import time
from types import FrameType

from lightning.pytorch.utilities import rank_zero_only

# What SLURM sends ahead of a time limit, as its option --signal says; Windows does not know them.
AHEAD_OF_LIMIT = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]


TOGETHER = 5.0  # seconds within which several signals are one


class StopSignals:
    """Ctrl-C, SIGTERM, and in a job of SLURM those of SIGUSR1 and SIGUSR2 that nobody else listens to.

    `received` is the number of the first that came, 0 until then. A second one ends the program at once, whatever it is
    doing. Those that come within seconds of each other are one: torchrun and SLURM both pass signals on to each
    process. Without torchrun a second Ctrl-C counts at once.
    """

    def __init__(self) -> None:
        self.received = 0
        self._since = 0.0  # when that came
        asked = (signal.SIGINT, signal.SIGTERM)  # but nobody asks whose shell has them ignored, for the background
        self.numbers: list[int] = [number for number in asked if signal.getsignal(number) != signal.SIG_IGN]
        if "SLURM_JOB_ID" in os.environ:
            self.numbers += [number for number in AHEAD_OF_LIMIT if signal.getsignal(number) == signal.SIG_DFL]

    def listen(self) -> None:
        """Takes the place of the handlers there are; Lightning puts them back when its trainer is through."""
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            for number in self.numbers:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if time.monotonic() - self._since > TOGETHER:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.received, self._since = number, time.monotonic()
        if number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:  # heard also where Python is stuck
            signal.signal(number, signal.SIG_DFL)
        # Not through `print` or `logging`, which the signal may have interrupted.
        if not rank_zero_only.rank:  # type: ignore[attr-defined]
            os.write(
                2, f"\n{signal.Signals(number).name}: stopping after this step; once more stops at once\n".encode()
            )
