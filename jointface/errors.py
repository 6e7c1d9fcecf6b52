"""Exceptions by kind of failure. Every message is one line that names the problem and says what to do."""

from pathlib import Path


class JointFaceError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(JointFaceError):
    """A config that cannot work: it has an unknown key or an impossible combination of values."""


class DataError(JointFaceError):
    """A data set, sample or morphable model on disk is missing, broken or of the wrong kind."""


class InputError(JointFaceError):
    """An input that cannot be used: it has the wrong type, shape or range."""


class CheckpointError(JointFaceError):
    """A checkpoint is missing or damaged, or was written by another model or a newer version."""


class SweepError(JointFaceError):
    """A sweep in which too many runs failed."""


class DivergedError(JointFaceError):
    """A training step whose loss or gradients are not finite; its update was not applied."""


class TrialPruned(Exception):
    """Raised to end a run that its study pruned; not an error."""


class RunStopped(JointFaceError):
    """A run stopped after a complete step because it received a signal.

    checkpoint: the file to resume from. signal: number of the signal; the exit code is 128 + signal.
    """

    def __init__(self, message: str, checkpoint: Path, signal: int) -> None:
        super().__init__(message)
        self.checkpoint, self.signal = checkpoint, signal
