"""What goes wrong with users' data, as functions that do it to the folder of a data set."""

import shutil
from collections.abc import Callable
from pathlib import Path

Fault = Callable[[Path], object]


def removed(*names: str) -> Fault:
    """Files or folders are missing."""

    def fault(root: Path) -> None:
        for path in (root / name for name in names):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return fault


def renamed(old: str, new: str) -> Fault:
    """A file or folder has another name or place."""

    def fault(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return fault


def deeper(name: str, folder: str = ".") -> Fault:
    """What is in a folder lies one folder too deep, in a folder of this name."""

    def fault(root: Path) -> None:
        place = root / folder
        content = list(place.iterdir())
        (place / name).mkdir(parents=True)
        for path in content:
            path.rename(place / name / path.name)

    return fault


def archived(folder: str, archive: str) -> Fault:
    """An archive is not unpacked."""

    def fault(root: Path) -> None:
        shutil.rmtree(root / folder)
        written(archive, b"PK")(root)

    return fault


def written(name: str, content: bytes | int) -> Fault:
    """A file has other content, or only its first bytes."""

    def fault(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)

    return fault


def edited(name: str, line: int, old: str, new: str) -> Fault:
    """A line of a text file differs; lines are counted from 1, as in messages."""

    def fault(root: Path) -> None:
        lines = (root / name).read_text().splitlines()
        assert old in lines[line - 1]
        lines[line - 1] = lines[line - 1].replace(old, new, 1)
        (root / name).write_text("\n".join(lines) + "\n")

    return fault


def without_rows(name: str, rows: int, count: str | None = None) -> Fault:
    """The last rows of a table are missing; `count` replaces its first line."""

    def fault(root: Path) -> None:
        lines = (root / name).read_text().splitlines()[:-rows]
        (root / name).write_text("\n".join([count, *lines[1:]] if count else lines) + "\n")

    return fault
