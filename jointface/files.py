"""Files that are written whole or not at all."""

import os
from pathlib import Path

from jointface.errors import DataError

TEMPORARY = ".tmp"  # how the names end under which files are written; no loader takes such a file for data


def write_atomically(path: Path, data: bytes | memoryview, durable: bool = False) -> None:
    """Writes the whole file or nothing: under a temporary name in the same folder, which then takes the place.

    Whoever sees `path` sees it whole, whatever stops the writer. Missing folders are made. A `durable` file is on the
    disk itself before it takes the place, so that it is whole after a loss of power too; waiting for the disk takes
    time.

    Raises:
        DataError: the disk is full, or the folder cannot be written to; nothing of the attempt stays.
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
        finally:  # also where it is interrupted
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"cannot write {path.absolute()} ({error.strerror or error}); make room there or choose a folder that you "
            "may write to, then run the same command again"
        ) from error
