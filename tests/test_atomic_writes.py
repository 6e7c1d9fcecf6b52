"""Files are written whole or not at all."""

import errno
from pathlib import Path

import pytest

from jointface.errors import DataError
from jointface.files import write_atomically


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.npy"
    write_atomically(path, b"old")

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"cannot write .*file.npy \(No space left on device\); make room") as caught:
        write_atomically(path, b"new content")
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["file.npy"]
    assert path.read_bytes() == b"old"


def test_an_interrupted_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file.npy", b"content")
    assert not list(tmp_path.iterdir())
