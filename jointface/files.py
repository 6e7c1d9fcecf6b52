"""Atomic writes: a file is written completely or not at all."""

import os
from pathlib import Path

from jointface.errors import DataError

TEMPORARY = ".tmp"  # suffix of files that are still being written; no loader reads them


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
