"""JointFace: dense 3D face reconstruction and facial attributes, learned jointly by one network."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jointface.inference.face import Face
    from jointface.inference.reader import FaceReader

__version__ = version("jointface")

_LAZY = {"Face": "jointface.inference.face", "FaceReader": "jointface.inference.reader"}


def __getattr__(name: str) -> Any:
    """Imports what users take from the package itself when it is asked for: torch takes seconds to import."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
