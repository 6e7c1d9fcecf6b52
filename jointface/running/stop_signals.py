"""Listens for signals that ask a run to stop. They are only recorded; the run ends itself after a complete step."""

import os
import signal
import threading
import time
from types import FrameType

from lightning.pytorch.utilities import rank_zero_only

# SLURM's option --signal sends one of these before the time limit. Windows does not have them.
AHEAD_OF_LIMIT = [getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name)]
TOGETHER = 5.0  # seconds within which several signals count as one


class StopSignals:
    """Listens for Ctrl-C and SIGTERM, and in a SLURM job for SIGUSR1 and SIGUSR2 unless they have a handler already.

    `received` is the number of the first signal, 0 until then. A second signal ends the program immediately. Signals
    within a few seconds count as one, because both torchrun and SLURM forward them to each process. Without torchrun, a
    second Ctrl-C counts even then.
    """

    def __init__(self) -> None:
        self.received = 0
        self._received_at = 0.0
        asked = (signal.SIGINT, signal.SIGTERM)  # shells may have background jobs ignore them
        self.numbers: list[int] = [number for number in asked if signal.getsignal(number) != signal.SIG_IGN]
        if "SLURM_JOB_ID" in os.environ:
            self.numbers += [number for number in AHEAD_OF_LIMIT if signal.getsignal(number) == signal.SIG_DFL]

    def listen(self) -> None:
        """Replaces the current handlers; Lightning restores them when its trainer ends."""
        if threading.current_thread() is threading.main_thread():  # Python allows it only there
            for number in self.numbers:
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if time.monotonic() - self._received_at > TOGETHER:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        self.received, self._received_at = number, time.monotonic()
        if number == signal.SIGINT and "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(number, signal.SIG_DFL)  # works even while Python is stuck in a library
        if not rank_zero_only.rank:  # type: ignore[attr-defined]
            message = f"\n{signal.Signals(number).name}: stopping after this step; repeat it to stop at once\n"
            os.write(2, message.encode())  # the signal may have interrupted `print` or `logging`
