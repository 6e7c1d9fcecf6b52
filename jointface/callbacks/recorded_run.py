"""What W&B recorded of a run on this machine, whether it was uploaded or not."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jointface.errors import ConfigError, DataError

BLOCK = 32768  # bytes
HEADER = 7  # bytes before each piece: checksum, length, kind; and before the first: magic number and version
MAGIC = b":W&B"
LAST_PIECES = (
    1,
    4,
)  # kinds: a whole record is 1; others have a first (2), any number of middle (3) and a last piece (4)


@dataclass
class RecordedRun:
    """A run as its dashboard has it.

    folder: of the recording; media lie in files/ in it. about: id, project, name, group, job_type, tags, commit.
    config, history, summary: what was set, what each call logged, the last and best values, by key. artifacts: name,
    type, aliases and metadata of each.
    """

    folder: Path
    about: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None  # None while it has not ended

    def values(self, key: str) -> list[tuple[int, Any]]:
        """(optimiser step, value) of a key, in the order of the calls."""
        return [(row["trainer/global_step"], row[key]) for row in self.history if key in row]

    def keys(self) -> list[str]:
        """What was logged, sorted."""
        return sorted({key for row in self.history for key in row})

    def file(self, path: str) -> Path:
        """The file of a medium, by the `path` in its value."""
        return self.folder / "files" / path


def read_run(run_dir: Path) -> RecordedRun:
    """What W&B last recorded in a run's folder.

    Raises:
        DataError: nothing, or something else.
        ConfigError: the package wandb is not installed.
    """
    files = sorted(run_dir.glob("wandb/*run-*/run-*.wandb"), key=lambda path: path.parent.name.removeprefix("offline-"))
    if not files:
        raise DataError(f"no recording of W&B in {run_dir.absolute()}/wandb: train with logger=wandb")
    try:
        from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # made while it is imported
    except ImportError as error:
        raise ConfigError("reading a recording needs the package wandb: pip install 'jointface[wandb]'") from error
    run = RecordedRun(files[-1].parent)
    for content in _records(files[-1]):
        record = Record()
        record.ParseFromString(content)
        _add(run, record)
    return run


def _records(path: Path) -> Iterator[bytes]:
    """The records of a file: the log of LevelDB (its doc/log_format.md) with a header of W&B's. One that is being
    written may end within a record."""
    data, start, record = path.read_bytes(), HEADER, b""
    if not data.startswith(MAGIC):
        raise DataError(f"{path}: not a recording of W&B")
    while start + HEADER <= len(data):
        if BLOCK - start % BLOCK < HEADER:  # the rest of a block that no header fits in is empty
            start += BLOCK - start % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, start)
        record += data[start + HEADER : start + HEADER + length]
        start += HEADER + length
        if kind in LAST_PIECES and start <= len(data):
            yield record
            record = b""


def _add(run: RecordedRun, record: Any) -> None:
    match record.WhichOneof("record_type"):
        case "run":
            about = record.run
            run.about |= {
                "id": about.run_id, "project": about.project, "name": about.display_name, "group": about.run_group,
                "job_type": about.job_type, "tags": list(about.tags), "commit": about.git.commit,
            }  # fmt: skip
            _update(run.config, about.config.update)
        case "config":
            _update(run.config, record.config.update)
        case "history":
            run.history.append({})
            _update(run.history[-1], record.history.item)
        case "summary":
            _update(run.summary, record.summary.update)
        case "artifact":
            artifact = record.artifact
            run.artifacts.append(
                {"name": artifact.name, "type": artifact.type, "aliases": list(artifact.aliases),
                 "metadata": json.loads(artifact.metadata or "{}")}
            )  # fmt: skip
        case "exit":
            run.exit_code = record.exit.exit_code


def _update(values: dict[str, Any], items: Any) -> None:
    """Sets values by their JSON; a nested key reaches into one."""
    for item in items:
        first, *rest = item.nested_key or [item.key]
        value = json.loads(item.value_json)
        if not rest:
            values[first] = value
            continue
        inner = values.setdefault(first, {})
        for key in rest[:-1]:
            inner = inner.setdefault(key, {})
        inner[rest[-1]] = value
