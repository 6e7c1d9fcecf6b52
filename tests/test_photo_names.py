"""Which folder of predictions is about which benchmark's photos."""

from pathlib import Path

import numpy as np
import pytest

from jointface.datamodules import AFLW2000, CelebA, CropTransform
from jointface.errors import DataError
from jointface.evaluation.participants import folders_by_benchmark
from jointface.geometry import MorphableModel

CROP = CropTransform(64)


@pytest.fixture
def tests(tiny_data: Path, tiny_model: MorphableModel) -> dict[str, AFLW2000 | CelebA]:
    """Two data sets of photos."""
    return {
        "aflw2000": AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model),
        "celeba": CelebA(tiny_data / "celeba", "test", CROP),
    }


def folder_of(path: Path, *stems: str) -> Path:
    path.mkdir()
    for stem in stems:
        np.savez(path / f"{stem}.npz", landmarks68=np.zeros((68, 2)))
    return path


def test_a_folder_takes_part_where_it_has_a_photo(tests: dict[str, AFLW2000 | CelebA], tmp_path: Path) -> None:
    first, both = folder_of(tmp_path / "a", "image00004", "x"), folder_of(tmp_path / "b", "image00002", "000017")
    found = folders_by_benchmark({"A": first, "B": both}, tests)
    assert found == {"aflw2000": {"A": first, "B": both}, "celeba": {"B": both}}


def test_a_folder_of_other_photos_is_refused_with_what_is_there(
    tests: dict[str, AFLW2000 | CelebA], tmp_path: Path
) -> None:
    good = folder_of(tmp_path / "a", "image00004")
    other = folder_of(tmp_path / "b", *(f"frame{n}" for n in range(5)))
    message = (
        r"none of the 5 .npz files in .*b is named after a photo of aflw2000 or celeba: looked for image00002.npz, "
        r"image00004.npz, image00006.npz; there is frame0.npz, frame1.npz, frame2.npz, ...; name the file for STEM.jpg"
    )
    with pytest.raises(DataError, match=message) as error:
        folders_by_benchmark({"A": good, "B": other}, tests)
    assert "\n" not in str(error.value)


def test_where_no_benchmark_asks_for_faces_folders_only_have_to_be_there(tmp_path: Path) -> None:
    assert folders_by_benchmark({"A": folder_of(tmp_path / "a", "x")}, {}) == {}
    with pytest.raises(DataError, match=r"no .npz file in .*empty"):
        folders_by_benchmark({"A": folder_of(tmp_path / "empty")}, {})
