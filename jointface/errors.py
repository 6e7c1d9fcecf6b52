"""What goes wrong, by kind. Every message is one line that says what was looked for and what to do."""

from pathlib import Path


class JointFaceError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigError(JointFaceError):
    """A config that cannot work: an unknown key, an impossible combination."""


class DataError(JointFaceError):
    """A data set, a sample or a morphable model on disk that is missing, broken or of another kind."""


class InputError(JointFaceError):
    """An image that the network cannot read: of another type, shape or range."""


class CheckpointError(JointFaceError):
    """A checkpoint that is missing, damaged, or was written by another model or a newer version."""


class SweepError(JointFaceError):
    """A sweep of which too many runs failed."""


class DivergedError(JointFaceError):
    """A training step whose loss or gradients are not finite; its update was not applied."""


class TrialPruned(Exception):
    """Ends a run that its study gave up; no error."""


class RunStopped(JointFaceError):
    """A run that a signal asked to stop, and that did so after a whole step.

    checkpoint: the file to go on from. signal: number of the signal, which makes the exit code 128 + signal.
    """

    def __init__(self, message: str, checkpoint: Path, signal: int) -> None:
        super().__init__(message)
        self.checkpoint, self.signal = checkpoint, signal
