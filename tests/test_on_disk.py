"""What is said of a folder that is not what it should be, and tables of published data sets."""

import os
from pathlib import Path

import numpy as np
import pytest

from jointface.datamodules.on_disk import file_names, read_table, require_file, require_folder, require_room_for
from jointface.errors import DataError

HOW = "set paths.data_dir"


def looked_for(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        require_folder(folder, "the photos", HOW)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_there_says_what_to_do(tmp_path: Path) -> None:
    assert looked_for(tmp_path / "photos") == f"no folder {tmp_path / 'photos'}: looked there for the photos; {HOW}"
    assert HOW in looked_for(tmp_path / "missing" / "photos")


@pytest.mark.parametrize(
    ("there", "wanted"), [("300W-LP", "300W_LP"), ("AFLW2000-3D", "AFLW2000"), ("Photos", "photos")]
)
def test_another_spelling_is_to_be_renamed(tmp_path: Path, there: str, wanted: str) -> None:
    (tmp_path / there).mkdir()
    assert f"found {there!r} there, rename it to {wanted!r}" in looked_for(tmp_path / wanted)


@pytest.mark.parametrize(
    "archive", ["300W_LP.zip", "300w-lp.ZIP", "300W_LP.7z", "300W_LP.7z.001", "300W_LP.tar.gz", "300W-LP-3D.rar"]
)
def test_an_archive_is_to_be_unpacked(tmp_path: Path, archive: str) -> None:
    (tmp_path / archive).write_bytes(b"PK")
    assert f"found {archive} there, unpack it" in looked_for(tmp_path / "300W_LP")


def test_one_folder_too_deep_and_one_too_high(tmp_path: Path) -> None:
    (tmp_path / "deep" / "inner" / "photos").mkdir(parents=True)
    assert f"one folder too deep, in {tmp_path / 'deep' / 'inner'}" in looked_for(tmp_path / "deep" / "photos")
    (tmp_path / "high" / "root").mkdir(parents=True)
    (tmp_path / "high" / "photos").mkdir()
    assert f"one folder up, in {tmp_path / 'high'}" in looked_for(tmp_path / "high" / "root" / "photos")


def test_no_permission_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "table.txt").write_text("a 1\n")
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    assert "no permission to read the folder" in looked_for(tmp_path)
    assert f"{tmp_path}: no permission to read the folder" in looked_for(tmp_path / "closed" / "photos")
    with pytest.raises(DataError, match="no permission to read the file"):
        require_file(tmp_path / "table.txt", "a table", HOW)


def test_an_empty_file_and_an_unreadable_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "table.txt").touch()
    with pytest.raises(DataError, match=r"table.txt: the file is empty; set paths.data_dir"):
        require_file(tmp_path / "table.txt", "a table", HOW)
    with pytest.raises(DataError, match="cannot list the folder"):
        file_names(tmp_path / "table.txt")


def table(folder: Path, text: str) -> Path:
    path = folder / "table.txt"
    path.write_text(text)
    return path


def test_a_table_is_names_and_whole_numbers(tmp_path: Path) -> None:
    names, numbers = read_table(table(tmp_path, "head\nNA  1 -1\nnull -1  7\nb.jpg 0 0\n"), 2, header_lines=1)
    assert names.tolist() == ["NA", "null", "b.jpg"]
    assert numbers.tolist() == [[1, -1], [-1, 7], [0, 0]]
    assert numbers.dtype == np.int32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 1 2\nb 3\n", r"line 2: expected a file name and 2 whole numbers"),
        ("a 1 2\nb 3 x\n", r"line 2: expected a file name and 2 whole numbers"),
        ("a 1 2\nb 3 4.5\n", r"line 2: expected a file name and 2 whole numbers"),
        ("a 1 2\n\nb 3 4\n", r"line 2: expected a file name and 2 whole numbers"),
        ("a 1 2\nb 3 4 5\n", r"line 2: expected a file name and 2 whole numbers"),
        ("a 1 2 9\nb 3 4 9\n", r"line 1: expected a file name and 2 whole numbers"),
        ("a 1 2 9\nb 3 4\n", r"line 1: expected a file name and 2 whole numbers"),
    ],
)
def test_a_row_that_differs_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        read_table(table(tmp_path, text), 2)
    assert "\n" not in str(caught.value)


def test_room_is_looked_for_without_making_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require_room_for(tmp_path / "new" / "folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write to the folder, .*file is a file; choose another"):
        require_room_for(tmp_path / "file" / "below")
    monkeypatch.setattr(os, "access", lambda *arguments: False)
    with pytest.raises(DataError, match="no permission to write there"):
        require_room_for(tmp_path / "new")
