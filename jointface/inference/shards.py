"""Large collections of photos in shards, which workers read independently, in any order and more than once.

    FOLDER/
        faces/000000.parquet    the faces in the first photos, as in `output_folder`'s faces.csv; none without a face
        shards/000000.json      what was read, written last: the shard is done
        skipped.csv             photos without a result, and why

A shard that is written again replaces itself, so nothing is lost or there twice when a worker is killed.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from jointface.errors import DataError
from jointface.files import write_atomically
from jointface.inference.face_tables import face_entry, face_table, to_csv, to_parquet
from jointface.inference.input_files import InputFile
from jointface.inference.output_folder import printable, state_of, why_skipped
from jointface.inference.reader import FaceReader

BYTES, PATH = "bytes", "path"  # columns of Parquet files with photos inside; that of paths may be missing


class Shard(NamedTuple):
    """Some photos that are read together.

    number: from 0. names: of their files, or of one Parquet file, as seen from `folder`. row_group: of that file; None
    for files of photos.
    """

    number: int
    folder: Path
    names: list[str]
    row_group: int | None

    @property
    def paths(self) -> list[Path]:
        return [self.folder / name for name in self.names]


def make_shards(files: Sequence[InputFile], size: int) -> list[Shard]:
    """Shards of so many photos each; of Parquet files, one of each row group.

    Raises:
        DataError: a Parquet file is damaged, or has no column of photos.
    """
    tables = [str(file.path) for file in files if file.path.suffix.lower() == ".parquet"]
    photos = [str(file.path) for file in files if file.path.suffix.lower() != ".parquet"]
    parts: list[tuple[list[str], int | None]] = [(photos[i : i + size], None) for i in range(0, len(photos), size)]
    parts += [([table], group) for table in tables for group in range(_open_table(Path(table)).num_row_groups)]
    return [Shard(number, Path.cwd(), *part) for number, part in enumerate(parts)]


def count_photos(shard: Shard) -> int:
    """How many photos are in a shard."""
    if shard.row_group is None:
        return len(shard.names)
    return _open_table(shard.paths[0]).metadata.row_group(shard.row_group).num_rows


def _open_table(path: Path) -> Any:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        table = ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({' '.join(str(error).split())[:100]})") from error
    if BYTES not in table.schema_arrow.names:
        raise DataError(f"{path}: no column '{BYTES}' with the files of photos; it has {table.schema_arrow.names}")
    return table


def open_shard(shard: Shard) -> Iterator[tuple[str, Path | bytes]]:
    """Name and source of each photo."""
    if shard.row_group is None:
        yield from zip(shard.names, shard.paths, strict=True)
        return
    table = _open_table(shard.paths[0])
    names = [name for name in (BYTES, PATH) if name in table.schema_arrow.names]
    rows = table.read_row_group(shard.row_group, columns=names)
    for number, content in enumerate(rows[BYTES]):
        where = f"{shard.names[0]}, row group {shard.row_group}, row {number}"
        yield (rows[PATH][number].as_py() if PATH in names else None) or where, content.as_py() or b""


class ShardResults:
    """The folder of results, see above.

    Args:
        made_with: settings and files that the predictions depend on; after another value of one, shards are read anew.
    """

    def __init__(self, folder: Path, made_with: dict[str, Any]) -> None:
        self.folder = folder
        self.made_with = json.dumps(made_with, sort_keys=True, default=str)

    @staticmethod
    def own_paths(folder: Path) -> list[Path]:
        """What such a folder holds, which is no input."""
        return [folder / name for name in ("faces", "shards", "skipped.csv")]

    def is_done(self, shard: Shard) -> bool:
        """Whether these photos were read with these settings, and the result is there."""
        record = self._record(shard)
        if record is None or record["made_from"] != self._fingerprint(shard):
            return False
        return not record["faces"] or self._path(shard, "faces", "parquet").is_file()

    def read(self, reader: FaceReader, shard: Shard) -> None:
        """Reads a shard's photos and writes what was read.

        Raises:
            DataError: a file cannot be read or written.
        """
        photos = [*open_shard(shard)]
        entries, skipped = [], []
        readings = reader.read(source for _, source in photos)
        for (name, _), reading in zip(photos, readings, strict=True):
            if reason := why_skipped(reading):
                skipped.append({"photo": printable(name), "reason": printable(reason)})
                continue
            height, width = reading.faces[0].photo.image.shape[:2]
            photo = {"photo": printable(name), "width": width, "height": height}
            entries += [photo | face_entry(face, number) for number, face in enumerate(reading.faces, 1)]
        self._path(shard, "shards", "json").unlink(missing_ok=True)
        faces = self._path(shard, "faces", "parquet")
        if entries:
            write_atomically(faces, to_parquet(face_table(entries)))
        else:
            faces.unlink(missing_ok=True)
        record = {"made_from": self._fingerprint(shard), "faces": len(entries), "skipped": skipped}
        write_atomically(self._path(shard, "shards", "json"), json.dumps(record).encode())

    def finish(self, shards: Sequence[Shard]) -> tuple[int, int]:
        """Writes skipped.csv, and removes what is left of shards that are no more.

        Returns:
            Number of faces, and of photos without a result.
        """
        records = [self._record(shard) or {"faces": 0, "skipped": []} for shard in shards]
        for number, path in self._numbered():
            if number >= len(records):
                path.unlink()
        skipped = [row for record in records for row in record["skipped"]]
        write_atomically(self.folder / "skipped.csv", to_csv(pd.DataFrame(skipped, columns=["photo", "reason"])))
        return sum(record["faces"] for record in records), len(skipped)

    def _numbered(self) -> list[tuple[int, Path]]:
        """The files of all shards of this and of earlier runs, with their numbers."""
        paths = [*(self.folder / "faces").glob("*.parquet"), *(self.folder / "shards").glob("*.json")]
        return [(int(path.stem), path) for path in paths if path.stem.isdecimal()]

    def _path(self, shard: Shard, kind: str, ending: str) -> Path:
        return self.folder / kind / f"{shard.number:06}.{ending}"

    def _record(self, shard: Shard) -> dict[str, Any] | None:
        try:
            record = json.loads(self._path(shard, "shards", "json").read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and {"made_from", "faces", "skipped"} <= {*record} else None

    def _fingerprint(self, shard: Shard) -> str:
        """Another one after every change of a photo or of a setting."""
        states = [shard.row_group, *map(state_of, shard.paths)]
        return hashlib.sha256(json.dumps([states, self.made_with]).encode()).hexdigest()[:16]
