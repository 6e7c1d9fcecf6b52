"""What goes wrong, by kind. Every message is one line that says what was looked for and what to do."""


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
