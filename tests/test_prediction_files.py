"""Other methods' predictions: the format of their files, and coordinates that are not pixels of the photo."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from jointface.datamodules import AFLW2000, CropTransform, FaceSample
from jointface.errors import DataError
from jointface.evaluation.prediction_files import likely_mistake, read_prediction, write_prediction
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
        ({"landmarks68": np.full((68, 2), np.nan)}, "landmarks68 holds values that are not finite"),
        ({"landmarks68": np.full((68, 2), "a")}, "landmarks68 holds values that are not finite numbers"),
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


def damage(path: Path, kind: str) -> None:
    """Writes a file that is no whole .npz."""
    write_prediction(path, landmarks68=torch.rand(68, 3))
    match kind:
        case "single array":
            with path.open("wb") as file:
                np.save(file, np.zeros((68, 2)))
        case "cut in the middle":
            path.write_bytes(path.read_bytes()[:500])
        case _:
            path.write_bytes({"empty": b"", "text": b"68 landmarks", "cut at the start": b"PK\x03\x04 cut"}[kind])


@pytest.mark.parametrize("kind", ["empty", "text", "cut at the start", "cut in the middle", "single array"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    damage(tmp_path / "photo.npz", kind)
    reason = "the file is empty" if kind == "empty" else r"not a readable .npz file"
    with pytest.raises(DataError, match=rf"photo\.npz: {reason}") as error:
        read_prediction(tmp_path / "photo.npz")
    assert "\n" not in str(error.value)
    assert "allow_pickle" not in str(error.value)


# --- coordinates


@pytest.fixture(scope="module")
def photos(tiny_data: Path, tiny_model: MorphableModel) -> list[FaceSample]:
    """450 x 450, a face of some 150 pixels in the middle, at several yaws."""
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)
    return [dataset.read(index) for index in range(len(dataset))]


def truth(sample: FaceSample) -> Tensor:
    return sample.labels["landmarks68"]


BAD_BUT_PLAUSIBLE = {
    "the truth": lambda sample: truth(sample),
    "in two dimensions": lambda sample: truth(sample)[:, :2],
    "off by half of the face": lambda sample: truth(sample) + torch.tensor([0.5 * sample.box.size, 0, 0]),
    "half as large": lambda sample: truth(sample) * 0.5 + truth(sample).mean(0) * 0.5,
    "with its z from the camera": lambda sample: truth(sample) + torch.tensor([0, 0, 1e4]),
    "partly outside the photo": lambda sample: truth(sample) + torch.tensor([0, 0.6 * sample.box.size, 0]),
}


@pytest.mark.parametrize("name", BAD_BUT_PLAUSIBLE)
def test_a_bad_prediction_in_pixels_is_no_mistake(name: str, photos: list[FaceSample]) -> None:
    for sample in photos:
        assert likely_mistake(BAD_BUT_PLAUSIBLE[name](sample), None, sample) is None


def upwards(sample: FaceSample) -> Tensor:
    points = truth(sample).clone()
    points[:, 1] = len(sample.image) - points[:, 1]
    return points


WRONG: dict[str, tuple[Callable[[FaceSample], Tensor], str]] = {
    "normalised": (lambda sample: truth(sample) / 450, "normalised to 0..1"),
    "normalised to -1..1": (lambda sample: truth(sample) / 225 - 1, "normalised to 0..1"),
    "of a photo four times as large": (lambda sample: truth(sample) * 4, "outside the photo"),
    "y upwards from 0": (lambda sample: truth(sample) * torch.tensor([1.0, -1, 1]), "above the photo: is y counted up"),
    "y upwards": (upwards, "upside down: is y counted upwards"),
    "of a crop": (lambda sample: 0.3 * truth(sample), "far from the face"),
    "z in other units": (lambda sample: truth(sample) * torch.tensor([1, 1, 1e-3]), "z in another scale"),
    "z in micrometres": (lambda sample: truth(sample) * torch.tensor([1, 1, 1e3]), "z in another scale"),
    "without z": (lambda sample: truth(sample) * torch.tensor([1, 1, 0]), r"the same z everywhere.*\(68, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_another_coordinate_system_is_a_mistake_with_a_likely_cause(name: str, photos: list[FaceSample]) -> None:
    wrong, message = WRONG[name]
    for sample in photos:
        found = likely_mistake(wrong(sample), None, sample)
        assert found is not None
        assert re.search(message, found), found


def test_a_mesh_is_checked_where_there_are_no_landmarks(photos: list[FaceSample]) -> None:
    sample = photos[0]
    assert likely_mistake(None, truth(sample), sample) is None
    assert "normalised" in str(likely_mistake(None, truth(sample) / 450, sample))
    assert likely_mistake(truth(sample), truth(sample) / 450, sample) is None


def test_predictions_for_a_photo_without_landmarks_are_checked(photos: list[FaceSample]) -> None:
    bare = FaceSample(photos[0].image, photos[0].box, {})
    assert likely_mistake(truth(photos[0]), None, bare) is None
    assert "outside" in str(likely_mistake(truth(photos[0]) * 4, None, bare))


def test_the_faces_of_real_photos_are_no_mistakes(real_data: Path, bfm: MorphableModel) -> None:
    dataset = AFLW2000(real_data / "AFLW2000", "test", CropTransform(64), bfm)
    for index in range(len(dataset)):
        sample = dataset.read(index)
        assert likely_mistake(truth(sample), None, sample) is None
