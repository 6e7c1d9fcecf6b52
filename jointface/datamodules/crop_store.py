"""The file format of a packed split: an LMDB file of JPEGs with checksums, and all labels as columns.

LMDB (lmdb.readthedocs.io) is a memory-mapped key-value store whose file stays intact even if the writer is killed.
docs/data.md, "Packed copies", says why it was chosen. Keys and values:

    8 bytes, big-endian index   checksum (CRC-32, 4 bytes, big-endian), then the picture as JPEG
    b"labels" + index           labels of one sample, as safetensors, to resume or repair the packing
    b"broken" + index           why a sample could not be read
    b"columns"                  checksum, then all labels and file names of the split, as safetensors
    b"meta"                     JSON: what the pictures show and how they were made
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
PACK_HINT = "write it with `python -m jointface.prepare ... pack=true`, or set data.sources.NAME.packed=null"
MAP_SIZE = 1 << 26  # bytes of address space for a new file; doubled when they are full, as some systems limit them
LABELS, BROKEN, COLUMNS, META = b"labels", b"broken", b"columns", b"meta"
REPAIR_HINT = "repeat `python -m jointface.prepare ... pack=true`, which repairs it"
REPACK_HINT = "delete it and pack the data set again"


def _key(index: int) -> bytes:
    return index.to_bytes(8, "big")


def _with_checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big") + data


class PackedWriter:
    """Writes a packed split, resumes an interrupted one, or repairs a damaged one. Use it in a `with` block.

    The file at `path`, SPLIT.lmdb, is called SPLIT.lmdb.partial until it is complete. `meta` says in plain values what
    the pictures show and how they are made, and includes `format`. Raises a DataError if the file cannot be written,
    another process is writing it, or it was begun with another `meta`.
    """

    def __init__(self, path: Path, meta: Mapping[str, Any]) -> None:
        self.path, self.partial = path.resolve(), path.resolve().with_name(path.name + ".partial")
        self.lock = FileLock(self.partial.with_name(self.partial.name + ".lock"))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire(timeout=0)
            self.environment = self._open(meta)
        except Timeout as error:
            raise DataError(f"{self.path}: another process is packing it; wait until it has finished") from error
        except BaseException:
            self.lock.release()
            raise

    def _open(self, meta: Mapping[str, Any]) -> lmdb.Environment:
        _read_transaction.cache_clear()
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
        except lmdb.MapFullError:
            self._grow()
            self._commit(values, delete)
        except lmdb.Error as error:
            raise DataError(
                f"{self.partial}: cannot be written ({error}); make room and repeat the command to resume"
            ) from error

    def _grow(self) -> None:
        try:
            self.environment.set_mapsize(2 * self.environment.info()["map_size"])
        except lmdb.Error as error:
            raise DataError(
                f"{self.partial}: no address space to write it ({error}); raise the limit of ulimit -v and repeat the "
                "command to resume"
            ) from error

    def missing(self, length: int) -> list[int]:
        """The indices below `length` whose samples are not packed yet, are damaged, or could not be read before."""
        with self.environment.begin(buffers=True) as reading:
            return [index for index in range(length) if not is_intact(reading.get(_key(index)))]

    def write(self, samples: Iterable[CheckedSample]) -> None:
        """Stores the JPEGs and labels of samples, or why they are broken, in one transaction."""
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
        """Stores the labels as columns with the samples' file names (N,), and gives the file its final name."""
        with self.environment.begin() as reading:
            rows = [reading.get(LABELS + _key(index)) for index in range(len(names))]
        columns = stack_labels([None if row is None else safetensors.numpy.load(row) for row in rows])
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


def is_intact(record: Any) -> bool:
    """Whether a record exists and matches its checksum."""
    return record is not None and zlib.crc32(record[4:]) == int.from_bytes(record[:4], "big")


def stack_labels(rows: Sequence[Mapping[str, np.ndarray] | None]) -> dict[str, Tensor]:
    """Stacks the labels of N samples into one tensor (N, ...) per label; rows of broken samples (None) are zero."""
    like = next((row for row in rows if row is not None), {})
    zeros = {key: np.zeros_like(value) for key, value in like.items()}
    return {key: torch.from_numpy(np.stack([zeros[key] if row is None else row[key] for row in rows])) for key in like}


@cache  # because a process may open an LMDB file only once at a time
def _read_transaction(path: Path) -> lmdb.Transaction:
    """A read transaction that stays open. `cache_clear` closes all files; they are opened again when needed."""
    environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, max_readers=1)
    return environment.begin(buffers=True)


# LMDB forbids a forked process to use a file that its parent had opened, so each loader worker opens it again.
if hasattr(os, "register_at_fork"):  # Windows cannot fork
    os.register_at_fork(before=_read_transaction.cache_clear)


def _require_full_length(path: Path) -> None:
    # LMDB maps the file into memory: reading beyond its end would kill the process.
    environment = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    try:
        needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    finally:
        environment.close()
    if path.stat().st_size < needed:
        raise DataError(f"{path}: truncated, has {path.stat().st_size:,} of {needed:,} bytes; {REPACK_HINT}")


class PackedReader:
    """Reads a packed split and verifies the checksum of every picture.

    Loader workers share the memory of the file's pages and of the columns, which are tensors.

    Attributes:
        meta: what the pictures show and how they were made. columns: labels by name, (N, ...).
        names: file names, (N, bytes) uint8, padded with zeros.
        broken: why samples could not be read when they were packed, by index.

    Raises a DataError if the file is missing, damaged, or in another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path = path.resolve()
        unfinished = os.path.exists(path.with_name(path.name + ".partial"))
        how = "packing was interrupted, repeat the command to finish it" if unfinished else PACK_HINT
        require_file(path, "a packed split", how)
        _read_transaction.cache_clear()  # the path may have held another file before
        try:
            _require_full_length(path)
            meta, columns = self._get(META), self._get(COLUMNS)
            self.meta: dict[str, Any] = json.loads(bytes(meta)) if meta is not None else {}
            if "format" not in self.meta or not is_intact(columns):
                raise DataError(f"{path}: not a complete packed split; {REPACK_HINT}")
            self.columns: dict[str, Tensor] = safetensors.torch.load(bytes(columns[4:]))  # type: ignore[index]
            self.broken = self._list_broken()
        except (lmdb.Error, ValueError) as error:
            raise DataError(f"{path}: not a packed split ({error}); {REPACK_HINT}") from error
        finally:
            _read_transaction.cache_clear()
        if self.meta["format"] != FORMAT:
            raise DataError(
                f"{path}: has format {self.meta['format']}, this version reads format {FORMAT}; {REPACK_HINT}"
            )
        self.names = self.columns.pop("names")

    def _get(self, key: bytes) -> memoryview | None:
        return cast(memoryview | None, _read_transaction(self.path).get(key))

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The file that a picture was made from, relative to the data set's folder."""
        return bytes(self.names[index].tolist()).rstrip(b"\0").decode()

    def picture(self, index: int) -> UInt8[np.ndarray, "bytes"]:
        """The JPEG of a sample. Raises a DataError if the sample was broken when packed, or the copy is damaged."""
        if index in self.broken:
            raise DataError(self.broken[index])
        record = self._get(_key(index))
        if not is_intact(record):
            raise DataError(f"{self.path}: wrong checksum of sample {index} ({self.name(index)}); {REPAIR_HINT}")
        return np.frombuffer(bytes(record[4:]), np.uint8)  # type: ignore[index]  # copied, to outlive the file

    def damaged(self) -> list[int]:
        """The samples with a wrong checksum; reads the whole file."""
        there = (index for index in range(len(self)) if index not in self.broken)
        return [index for index in there if not is_intact(self._get(_key(index)))]

    def _list_broken(self) -> dict[int, str]:
        with _read_transaction(self.path).cursor() as cursor:
            cursor.set_range(BROKEN)
            return {
                int.from_bytes(bytes(key[-8:]), "big"): bytes(value).decode()
                for key, value in cursor
                if bytes(key).startswith(BROKEN)
            }
