"""Other methods' predictions: the format of their files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from jointface.errors import DataError
from jointface.evaluation.prediction_files import read_prediction, write_prediction
from jointface.geometry import MorphableModel


def test_a_prediction_reads_back_as_written(tmp_path: Path, tiny_model: MorphableModel) -> None:
    face = {
        "landmarks68": torch.rand(68, 3),
        "vertices": tiny_model.mean,
        "triangles": tiny_model.triangles,
        "pose": torch.tensor([1.0, -80, 3]),
    }
    write_prediction(tmp_path / "folder" / "photo.npz", **face)
    read = read_prediction(tmp_path / "folder" / "photo.npz")
    assert read.keys() == face.keys()
    for name, tensor in face.items():
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["photo.npz"]


def test_landmarks_alone_are_a_prediction_in_any_number_type(tmp_path: Path) -> None:
    np.savez(tmp_path / "photo.npz", landmarks68=np.arange(136).reshape(68, 2))
    read = read_prediction(tmp_path / "photo.npz")
    assert read["landmarks68"].dtype == torch.float32
    assert read["landmarks68"][67].tolist() == [134, 135]


POINTS, TRIANGLES = np.zeros((4, 3)), np.array([[0, 1, 2], [1, 3, 2]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds neither landmarks68 nor vertices"),
        ({"pose": np.zeros(3)}, "holds neither landmarks68 nor vertices"),
        ({"landmarks68": np.zeros((3, 68))}, r"landmarks68 has shape \(3, 68\), expected \(68, 2\) or \(68, 3\)"),
        ({"landmarks68": np.zeros((68, 4))}, r"landmarks68 has shape \(68, 4\)"),
        ({"landmarks68": np.full((68, 2), np.nan)}, "landmarks68 holds NaN"),
        ({"landmarks68": np.full((68, 2), "a")}, "landmarks68 holds NaN or values that are no finite numbers"),
        ({"landmarks68": np.full((68, 2), None)}, "pickled objects, which are not read"),
        ({"landmarks68": np.zeros((68, 2)), "pose": np.zeros(7)}, r"pose has shape \(7,\), expected \(3,\)"),
        ({"vertices": POINTS}, "vertices and triangles belong together"),
        ({"vertices": POINTS[:, :2], "triangles": TRIANGLES}, r"vertices has shape \(4, 2\), expected \(V, 3\)"),
        ({"vertices": POINTS, "triangles": TRIANGLES.T}, r"triangles has shape \(3, 2\), expected \(F, 3\)"),
        ({"vertices": POINTS, "triangles": TRIANGLES + 1}, "whole numbers from 0 to 3"),
        ({"vertices": POINTS, "triangles": TRIANGLES / 2}, "whole numbers from 0 to 3"),
        ({"vertices": POINTS[:0], "triangles": TRIANGLES}, r"vertices has shape \(0, 3\)"),
    ],
)
def test_a_file_that_is_no_prediction_is_refused_in_one_line(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "photo.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        read_prediction(tmp_path / "photo.npz")
    assert "photo.npz" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"], ids=["empty", "other", "cut"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"photo.npz") as error:
        read_prediction(tmp_path / "photo.npz")
    assert "\n" not in str(error.value)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "photo.npz").open("wb") as file:
        np.save(file, np.zeros((68, 2)))
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        read_prediction(tmp_path / "photo.npz")


def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.npz"
    write_prediction(path, torch.rand(68, 3))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        read_prediction(path)
