"""Writes files whole or not at all."""

import os
from pathlib import Path

from jointface.errors import DataError

TEMPORARY = ".tmp"  # ending of the names that files have while they are written; no loader reads such a file


def write_atomically(path: Path, data: bytes | memoryview, durable: bool = False) -> None:
    """Writes the whole file or nothing: first under a temporary name in the same folder, which then replaces `path`.

    Missing folders are made. A `durable` file reaches the disk before it replaces `path`, so that it also survives a
    loss of power; that takes time.

    Raises:
        DataError: the disk is full, or the folder cannot be written to; nothing is left behind.
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
