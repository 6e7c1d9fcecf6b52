"""Files on disk: written completely or not at all; what systems leave beside them; what lies under a wrong name."""

import os
from pathlib import Path

from jointface.errors import DataError

TEMPORARY = ".tmp"  # suffix of files that are still being written; no loader reads them
SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information"}
# How files begin that lie under a data file's name.
DISGUISED = {
    b"<!doctype html": "a web page: the download asked for a login or a confirmation",
    b"<html": "a web page: the download asked for a login or a confirmation",
    b"version https://git-lfs": "a pointer of Git LFS to the file: run git lfs pull",
}


def is_clutter(name: str) -> bool:
    """Whether an operating system left a file or folder of this name: hidden ones such as macOS's ._NAME, Thumbs.db."""
    return name.startswith(".") or name.lower() in SYSTEM_FILES


def disguise(content: bytes | memoryview) -> str:
    """What a file really is that begins like this, for messages: a web page, a pointer of Git LFS; empty if unknown."""
    start = bytes(content[:100]).removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return next((what for beginning, what in DISGUISED.items() if start.startswith(beginning)), "")


def disguise_of(path: Path) -> str:
    """`disguise` of a file; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return disguise(file.read(100))
    except OSError:
        return ""


def cache_folder() -> Path:
    """Folder for what is built once: $XDG_CACHE_HOME/jointface, or ~/.cache/jointface.

    Raises:
        DataError: the user has no home, as in a container that runs under a number without a name.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jointface"
    except RuntimeError as error:
        raise DataError("this user has no home: set HOME or XDG_CACHE_HOME to a folder to keep files in") from error


def write_atomically(path: Path, data: bytes | memoryview, durable: bool = False) -> None:
    """Writes a file under a temporary name in the same folder, then moves it to `path`.

    Creates missing folders. With `durable`, the data is flushed to disk before the move, so that the file also survives
    a power failure; this is slower.

    Raises:
        DataError: the disk is full or the folder is not writable; no partial file is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(data)
            if durable:
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:  # even if it is interrupted
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write {path.absolute()} ({error.strerror or error}); make room there or choose a folder that you "
            "may write to, then run the same command again"
        ) from error
