"""A packed split: one LMDB file of encoded pictures with checksums, and all labels in a few columns.

LMDB (lmdb.readthedocs.io) is a memory-mapped key-value store whose transactions leave the file whole whatever stops
the writer. Why LMDB: docs/data.md, "Packed copies". Keys and values:

    8 bytes, big-endian index   checksum (CRC-32, 4 bytes, big-endian), the picture's JPEG
    b"labels" + index           labels of one sample, as safetensors; only while it is being written
    b"broken" + index           why a sample could not be read
    b"columns"                  checksum, all labels and file names of the split, as safetensors
    b"meta"                     JSON: what the pictures are and how they were made
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lmdb
import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from jaxtyping import UInt8
from torch import Tensor

from jointface.errors import DataError

FORMAT = 1
MAP_SIZE = 1 << 40  # bytes of address space, not of disk
LABELS, BROKEN, COLUMNS, META = b"labels", b"broken", b"columns", b"meta"
AGAIN = "pack the data set again with `python -m jointface.prepare ... pack=true`"


def _key(index: int) -> bytes:
    return index.to_bytes(8, "big")


def _with_checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big") + data


class PackedWriter:
    """Writes a split; goes on where an earlier call was stopped. The file takes its name when it is whole.

    Args:
        path: `SPLIT.lmdb`; until it is whole, the file is called `SPLIT.lmdb.partial`.
        meta: what the pictures are and how they are made, as plain values, with `format`; an unfinished file of another
            meta is begun anew.

    Raises:
        DataError: the file cannot be written.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any]) -> None:
        self.path, self.partial = path, path.with_name(path.name + ".partial")
        self.meta = json.dumps(meta, sort_keys=True).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        self.environment = self._open()
        with self.environment.begin() as reading:
            found = reading.get(META)
        if found not in (None, self.meta):
            self.environment.close()
            _remove(self.partial)
            self.environment = self._open()
        self._put({META: self.meta})

    def _open(self) -> lmdb.Environment:
        try:
            return lmdb.open(str(self.partial), subdir=False, map_size=MAP_SIZE, readahead=False)
        except lmdb.Error as error:
            raise DataError(f"{self.partial.absolute()}: cannot be opened for writing ({error}); delete it") from error

    def _put(self, values: Mapping[bytes, bytes]) -> None:
        try:
            with self.environment.begin(write=True) as writing:
                for key, value in values.items():
                    writing.put(key, value)
        except lmdb.Error as error:
            raise DataError(
                f"{self.partial.absolute()}: cannot be written ({error}); make room and repeat the command, it goes on "
                "from here"
            ) from error

    def missing(self, length: int) -> list[int]:
        """The indices below `length` that are not in the file yet, neither whole nor as broken."""
        with self.environment.begin() as reading, reading.cursor() as cursor:
            there = {key[-8:] for key in cursor.iternext(values=False) if len(key) == 8 or key.startswith(BROKEN)}
        return [index for index in range(length) if _key(index) not in there]

    def write(self, pictures: Iterable[tuple[int, bytes, Mapping[str, np.ndarray]]], broken: Mapping[int, str]) -> None:
        """Adds JPEGs with the labels of their samples, and reasons why others are broken, all or none."""
        values: dict[bytes, bytes] = {}
        for index, picture, labels in pictures:
            values[_key(index)] = _with_checksum(picture)
            values[LABELS + _key(index)] = safetensors.numpy.save(dict(labels))
        values |= {BROKEN + _key(index): reason.encode() for index, reason in broken.items()}
        self._put(values)

    def finish(self, names: np.ndarray) -> None:
        """Puts the labels into columns, with the names (N,) of the samples' files, and gives the file its name."""
        with self.environment.begin() as reading:
            rows = [reading.get(LABELS + _key(index)) for index in range(len(names))]
        columns = columns_of([None if row is None else safetensors.numpy.load(row) for row in rows])
        encoded = np.char.encode(names, "utf-8")
        columns["names"] = torch.from_numpy(encoded.view(np.uint8).reshape(len(names), -1).copy())
        self._put({COLUMNS: _with_checksum(safetensors.torch.save(columns))})
        with self.environment.begin(write=True) as writing:
            for index in range(len(names)):
                writing.delete(LABELS + _key(index))
        self.close()
        self.partial.replace(self.path)

    def close(self) -> None:
        self.environment.close()
        self.partial.with_name(self.partial.name + "-lock").unlink(missing_ok=True)


def columns_of(rows: Sequence[Mapping[str, np.ndarray] | None]) -> dict[str, Tensor]:
    """Labels by name, (N, ...), of the labels of samples; rows of broken samples (None) are zero."""
    like = next((row for row in rows if row is not None), {})
    zeros = {key: np.zeros_like(value) for key, value in like.items()}
    return {key: torch.from_numpy(np.stack([zeros[key] if row is None else row[key] for row in rows])) for key in like}


def _remove(partial: Path) -> None:
    for path in (partial, partial.with_name(partial.name + "-lock")):
        path.unlink(missing_ok=True)


_open: dict[str, tuple[lmdb.Environment, lmdb.Transaction]] = {}


def _reading(path: Path) -> lmdb.Transaction:
    """A lasting read transaction; LMDB opens a file at most once in a process."""
    if str(path) not in _open:
        environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1)
        _open[str(path)] = environment, environment.begin(buffers=True)
    return _open[str(path)][1]


def _close(path: str) -> None:
    if path in _open:
        environment, transaction = _open.pop(path)
        transaction.abort()
        environment.close()


def _close_all() -> None:
    for path in list(_open):
        _close(path)


# LMDB forbids to use a file in a forked process that was open in its parent; each loader worker opens it for itself.
os.register_at_fork(before=_close_all)


class PackedReader:
    """Reads a packed split; every picture is checked against its checksum.

    Loader workers share the file's pages and the columns, which are tensors.

    Attributes:
        meta: what the pictures are. columns: labels by name, (N, ...). names: (N, bytes) uint8, padded with zeros.
        broken: why samples could not be read when they were packed, by index.

    Raises:
        DataError: the file is missing, damaged, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            unfinished = path.with_name(path.name + ".partial").exists()
            what = "packing was interrupted, repeat the command to finish it" if unfinished else AGAIN
            raise DataError(f"no file {path.absolute()}: looked there for a packed split; {what}")
        _close(str(path))  # it may have been another file
        try:
            meta, columns = self._get(META), self._get(COLUMNS)
            self.meta: dict[str, Any] = json.loads(bytes(meta)) if meta is not None else {}
            whole = columns is not None and zlib.crc32(columns[4:]) == int.from_bytes(columns[:4], "big")
            if not whole or "format" not in self.meta:
                raise DataError(f"{path.absolute()}: not a whole packed split; delete it and {AGAIN}")
            self.columns: dict[str, Tensor] = safetensors.torch.load(bytes(columns[4:]))  # type: ignore[index]
            self.broken = self._list_broken()
        except (lmdb.Error, ValueError) as error:
            raise DataError(f"{path.absolute()}: not a packed split ({error}); delete it and {AGAIN}") from error
        finally:
            _close(str(path))
        if self.meta["format"] != FORMAT:
            raise DataError(f"{path.absolute()}: of format {self.meta['format']}, this version reads {FORMAT}; {AGAIN}")
        self.names = self.columns.pop("names")

    def _get(self, key: bytes) -> memoryview | None:
        return cast(memoryview | None, _reading(self.path).get(key))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The file that a picture was made of, relative to the data set's folder."""
        return bytes(self.names[index].tolist()).rstrip(b"\0").decode()

    def picture(self, index: int) -> UInt8[np.ndarray, "bytes"]:
        """The JPEG of a sample.

        Raises:
            DataError: the sample was broken when it was packed, or the copy is damaged.
        """
        if index in self.broken:
            raise DataError(self.broken[index])
        record = self._get(_key(index))
        if record is None:
            raise DataError(f"{self.path}: no sample {index}; {AGAIN}")
        if zlib.crc32(record[4:]) != int.from_bytes(record[:4], "big"):
            raise DataError(f"{self.path}: the checksum of sample {index} ({self.name(index)}) differs; {AGAIN}")
        return np.frombuffer(bytes(record[4:]), np.uint8)  # a copy, which outlives the transaction

    def _list_broken(self) -> dict[int, str]:
        with _reading(self.path).cursor() as cursor:
            cursor.set_range(BROKEN)
            return {
                int.from_bytes(bytes(key[-8:]), "big"): bytes(value).decode()
                for key, value in cursor
                if bytes(key).startswith(BROKEN)
            }
