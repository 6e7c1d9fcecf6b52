"""An end without warning, for tests of resuming."""

import os
import signal
from typing import Any

from lightning import Callback, Trainer


class KillAt(Callback):
    """Kills the process after an optimiser step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)
