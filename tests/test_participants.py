"""What participants are called, and which folder of predictions is about which benchmark."""

from pathlib import Path

import numpy as np
import pytest

from jointface.datamodules import AFLW2000, CelebA, CropTransform
from jointface.errors import ConfigError, DataError
from jointface.evaluation.participants import folders_by_benchmark, named_checkpoints, named_folders, require_different
from jointface.geometry import MorphableModel


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/joint/2026-01-01_10-00-00/*/best"], ["joint"]),
        (["runs/sweep/real/0/*/best"], ["real"]),
        (["runs/joint/2026-01-01_10-00-00/*/best", "runs/shape/multirun_2026-01-01/3/*/last"], ["joint", "shape"]),
        # jobs of one sweep
        (["runs/sweep/real/0/*/best", "runs/sweep/real/1/*/best"], ["real/0", "real/1"]),
        (["joint/multirun_2026-01-01/0/*/best", "joint/multirun_2026-01-01/10/*/best"], ["joint/0", "joint/10"]),
        # runs of one name
        (["runs/joint/2026-01-01/*/best", "runs/joint/2026-01-02/*/best"], ["joint/2026-01-01", "joint/2026-01-02"]),
        (["a/real/0/*/best", "b/real/0/*/best"], ["a/real", "b/real"]),
        (["a/real/0/*/best", "a/real/1/*/best", "b/real/0/*/best"], ["a/real/0", "a/real/1", "b/real/0"]),
        # checkpoints of one run
        (["joint/2026-01-01/*/best", "joint/2026-01-01/*/last"], ["joint/best", "joint/last"]),
        (["joint/*/step=100", "joint/*/step=200"], ["joint/step=100", "joint/step=200"]),
        # files that somebody has named
        (["A", "models/B.v2"], ["A", "B.v2"]),
        (["x/A", "y/A"], ["x/A", "y/A"]),
        # only those that would be called alike get longer names
        (["real/0/*/best", "real/1/*/best", "shape/*/best"], ["real/0", "real/1", "shape"]),
    ],
)
def test_checkpoints_have_the_shortest_name_that_tells_them_apart(paths: list[str], names: list[str]) -> None:
    files = [f"{path.replace('*', 'checkpoints')}.ckpt" for path in paths]
    assert named_checkpoints(files) == {name: Path(file) for name, file in zip(names, files, strict=True)}


def test_a_given_name_is_the_name() -> None:
    a, b = "runs/real/0/checkpoints/best.ckpt", "runs/real/1/checkpoints/best.ckpt"
    assert named_checkpoints([f"ours:{a}", b]) == {"ours": Path(a), "real": Path(b)}
    assert named_folders(["PRNet:out/prnet"]) == {"PRNet": Path("out/prnet")}


def test_a_path_with_a_colon_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "run:1.ckpt"
    path.touch()
    assert named_checkpoints([str(path)]) == {"run:1": path}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["ours:a.ckpt", "ours:b.ckpt"], "two methods are called 'ours': write NAME:PATH"),
        (["a.ckpt", "a.ckpt"], "two methods are called 'a'"),
        (["x/real/best.ckpt", "real:y/best.ckpt"], "two methods are called 'real'"),
        ([":a.ckpt"], "expected the name of the method, without /"),
        (["a/b:c.ckpt"], "expected the name of the method, without /"),
    ],
)
def test_names_that_cannot_be_are_refused(entries: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        named_checkpoints(entries)


def test_folders_need_a_name_and_methods_different_ones() -> None:
    with pytest.raises(ConfigError, match="compare=out: expected NAME:FOLDER"):
        named_folders(["out"])
    with pytest.raises(ConfigError, match="two methods are called 'a'"):
        require_different(["a", "b", "a"])


# --- folders of predictions

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


def test_a_folder_takes_part_where_it_has_a_prediction(tests: dict[str, AFLW2000 | CelebA], tmp_path: Path) -> None:
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
        r"image00004.npz, image00006.npz; found frame0.npz, frame1.npz, frame2.npz, ...; name the file for STEM.jpg"
    )
    with pytest.raises(DataError, match=message) as error:
        folders_by_benchmark({"A": good, "B": other}, tests)
    assert "\n" not in str(error.value)


def test_where_no_benchmark_asks_for_faces_folders_only_have_to_be_there(tmp_path: Path) -> None:
    assert folders_by_benchmark({"A": folder_of(tmp_path / "a", "x")}, {}) == {}
    with pytest.raises(DataError, match=r"no .npz file in .*empty"):
        folders_by_benchmark({"A": folder_of(tmp_path / "empty")}, {})
