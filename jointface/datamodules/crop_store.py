"""The file of a packed split: LMDB, with JPEGs and their checksums, and all labels as columns.

LMDB (lmdb.readthedocs.io) is a memory-mapped key-value store whose file stays whole whatever stops the writer. Why it
was chosen: docs/data.md, "Packed copies". Keys and values:

    8 bytes, big-endian index   checksum (CRC-32, 4 bytes, big-endian), the picture's JPEG
    b"labels" + index           labels of one sample, as safetensors, to continue or repair the file
    b"broken" + index           why a sample could not be read
    b"columns"                  checksum, all labels and file names of the split, as safetensors
    b"meta"                     JSON: what the pictures are and how they were made
"""

import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import lmdb
import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from filelock import FileLock, Timeout
from jaxtyping import UInt8
from torch import Tensor

from jointface.datamodules.on_disk import require_file
from jointface.datamodules.sample_check import CheckedSample
from jointface.errors import DataError

FORMAT = 1
HOW = "write it with `python -m jointface.prepare ... pack=true`, or set data.sources.NAME.packed=null for that source"
MAP_SIZE = 1 << 40  # bytes of address space, not of disk
LABELS, BROKEN, COLUMNS, META = b"labels", b"broken", b"columns", b"meta"
AGAIN = "repeat `python -m jointface.prepare ... pack=true`, which repairs it"
ANEW = "delete it and pack the data set anew"


def _key(index: int) -> bytes:
    return index.to_bytes(8, "big")


def _with_checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big") + data


class PackedWriter:
    """Writes a split, continues where an earlier call was stopped, and repairs a copy. To be used in a `with` block.

    The file at `path`, SPLIT.lmdb, is called SPLIT.lmdb.partial until it is whole. `meta` says what the pictures are
    and how they are made, as plain values, with `format`. Raises a DataError if the file cannot be written, another
    process writes it, or it was begun with another meta.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any]) -> None:
        self.path, self.partial = path.resolve(), path.resolve().with_name(path.name + ".partial")
        self.lock = FileLock(self.partial.with_name(self.partial.name + ".lock"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
            self.environment = self._open(meta)
        except Timeout as error:
            raise DataError(f"{self.path}: another process is packing it; wait for that one") from error
        except BaseException:
            self.lock.release()
            raise

    def _open(self, meta: Mapping[str, Any]) -> lmdb.Environment:
        _reading.cache_clear()
        try:
            if self.path.exists():
                self.path.replace(self.partial)
            environment = lmdb.open(str(self.partial), subdir=False, map_size=MAP_SIZE, readahead=False, lock=False)
            with environment.begin(write=True) as writing:
                writing.put(META, json.dumps(meta, sort_keys=True).encode(), overwrite=False)
                same = json.loads(writing.get(META) or b"") == meta
        except (lmdb.Error, OSError) as error:
            raise DataError(f"{self.partial}: cannot be opened for writing ({error}); delete it") from error
        if not same:
            environment.close()
            raise DataError(f"{self.partial}: was begun with other settings; delete it or choose another output_dir")
        return environment

    def _commit(self, values: Mapping[bytes, bytes], delete: Iterable[bytes] = ()) -> None:
        try:
            with self.environment.begin(write=True) as writing:
                for key, value in values.items():
                    writing.put(key, value)
                for key in delete:
                    writing.delete(key)
        except lmdb.Error as error:
            raise DataError(
                f"{self.partial}: cannot be written ({error}); make room and repeat the command, it goes on from here"
            ) from error

    def missing(self, length: int) -> list[int]:
        """The indices below `length` that are not there yet, are damaged, or were broken when they were read."""
        with self.environment.begin(buffers=True) as reading:
            return [index for index in range(length) if not is_whole(reading.get(_key(index)))]

    def write(self, samples: Iterable[CheckedSample]) -> None:
        """Adds the JPEGs and labels of samples, or why they are broken, in one transaction."""
        values: dict[bytes, bytes] = {}
        outdated: list[bytes] = []
        for sample in samples:
            key = _key(sample.index)
            if sample.broken:
                values[BROKEN + key] = sample.broken.encode()
                outdated += [key, LABELS + key]
            else:
                values[key] = _with_checksum(sample.picture)
                values[LABELS + key] = safetensors.numpy.save(sample.labels)
                outdated.append(BROKEN + key)
        self._commit(values, delete=outdated)

    def finish(self, names: np.ndarray) -> None:
        """Puts the labels into columns, with the names (N,) of the samples' files, and gives the file its name."""
        with self.environment.begin() as reading:
            rows = [reading.get(LABELS + _key(index)) for index in range(len(names))]
        columns = columns_of([None if row is None else safetensors.numpy.load(row) for row in rows])
        encoded = np.char.encode(names, "utf-8")
        columns["names"] = torch.from_numpy(encoded.view(np.uint8).reshape(len(names), -1).copy())
        self._commit({COLUMNS: _with_checksum(safetensors.torch.save(columns))})
        self.environment.close()
        self.partial.replace(self.path)

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(self, *error: object) -> None:
        self.environment.close()
        self.lock.release()
        Path(self.lock.lock_file).unlink(missing_ok=True)


def is_whole(record: Any) -> bool:
    """Whether a record is there and its checksum is right."""
    return record is not None and zlib.crc32(record[4:]) == int.from_bytes(record[:4], "big")


def columns_of(rows: Sequence[Mapping[str, np.ndarray] | None]) -> dict[str, Tensor]:
    """Labels by name, (N, ...), from the labels of each sample; rows of broken samples (None) are zero."""
    like = next((row for row in rows if row is not None), {})
    zeros = {key: np.zeros_like(value) for key, value in like.items()}
    return {key: torch.from_numpy(np.stack([zeros[key] if row is None else row[key] for row in rows])) for key in like}


@cache  # for as long as the process lives, as it may open an LMDB file only once at a time
def _reading(path: Path) -> lmdb.Transaction:
    """A lasting read transaction of a file. `_reading.cache_clear` closes all files; they open again when needed."""
    environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1)
    return environment.begin(buffers=True)


# LMDB forbids a forked process to use a file that its parent had open; each loader worker opens it for itself.
os.register_at_fork(before=_reading.cache_clear)


def _require_full_length(path: Path) -> None:
    # LMDB maps the file: reading beyond its end would kill the process.
    environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    try:
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    finally:
        environment.close()
    if path.stat().st_size < needed:
        raise DataError(f"{path}: cut short, {path.stat().st_size:,} of {needed:,} bytes are there; {ANEW}")


class PackedReader:
    """Reads a packed split; every picture is checked against its checksum.

    Loader workers share the file's pages and the columns, which are tensors.

    Attributes:
        meta: what the pictures are. columns: labels by name, (N, ...). names: (N, bytes) uint8, padded with zeros.
        broken: why samples could not be read when they were packed, by index.

    Raises a DataError if the file is missing, damaged, or of a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = path.resolve()
        unfinished = os.path.exists(path.with_name(path.name + ".partial"))
        how = "packing was interrupted, repeat the command to finish it" if unfinished else HOW
        require_file(path, "a packed split", how)
        _reading.cache_clear()  # it may have been another file
        try:
            _require_full_length(path)
            meta, columns = self._get(META), self._get(COLUMNS)
            self.meta: dict[str, Any] = json.loads(bytes(meta)) if meta is not None else {}
            if "format" not in self.meta or not is_whole(columns):
                raise DataError(f"{path}: not a whole packed split; {ANEW}")
            self.columns: dict[str, Tensor] = safetensors.torch.load(bytes(columns[4:]))  # type: ignore[index]
            self.broken = self._list_broken()
        except (lmdb.Error, ValueError) as error:
            raise DataError(f"{path}: not a packed split ({error}); {ANEW}") from error
        finally:
            _reading.cache_clear()
        if self.meta["format"] != FORMAT:
            raise DataError(f"{path}: of format {self.meta['format']}, this version reads {FORMAT}; {ANEW}")
        self.names = self.columns.pop("names")

    def _get(self, key: bytes) -> memoryview | None:
        return cast(memoryview | None, _reading(self.path).get(key))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The file that a picture was made of, relative to the data set's folder."""
        return bytes(self.names[index].tolist()).rstrip(b"\0").decode()

    def picture(self, index: int) -> UInt8[np.ndarray, "bytes"]:
        """The JPEG of a sample. Raises a DataError if it was broken when it was packed, or the copy is damaged."""
        if index in self.broken:
            raise DataError(self.broken[index])
        record = self._get(_key(index))
        if not is_whole(record):
            raise DataError(f"{self.path}: the checksum of sample {index} ({self.name(index)}) differs; {AGAIN}")
        return np.frombuffer(bytes(record[4:]), np.uint8)  # type: ignore[index]  # a copy, which outlives the file

    def damaged(self) -> list[int]:
        """Samples whose checksum differs; reads the whole file."""
        there = (index for index in range(len(self)) if index not in self.broken)
        return [index for index in there if not is_whole(self._get(_key(index)))]

    def _list_broken(self) -> dict[int, str]:
        with _reading(self.path).cursor() as cursor:
            cursor.set_range(BROKEN)
            return {
                int.from_bytes(bytes(key[-8:]), "big"): bytes(value).decode()
                for key, value in cursor
                if bytes(key).startswith(BROKEN)
            }
