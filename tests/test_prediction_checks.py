"""Predictions in another coordinate system are told from those that are merely bad."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from jointface.datamodules import AFLW2000, CropTransform, FaceSample
from jointface.evaluation.prediction_files import likely_mistake
from jointface.geometry import MorphableModel


@pytest.fixture(scope="module")
def photos(tiny_data: Path, tiny_model: MorphableModel) -> list[FaceSample]:
    """450 x 450, a face of some 150 pixels in the middle, at several yaws."""
    dataset = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(64), tiny_model)
    return [dataset.read(index) for index in range(len(dataset))]


def truth(sample: FaceSample) -> Tensor:
    return sample.labels["landmarks68"]


GOOD = {
    "the truth": lambda sample: truth(sample),
    "in two dimensions": lambda sample: truth(sample)[:, :2],
    "off by half of the face": lambda sample: truth(sample) + torch.tensor([0.5 * sample.box.size, 0, 0]),
    "half as large": lambda sample: truth(sample) * 0.5 + truth(sample).mean(0) * 0.5,
    "with its z from the camera": lambda sample: truth(sample) + torch.tensor([0, 0, 1e4]),
    "partly outside of the photo": lambda sample: truth(sample) + torch.tensor([0, 0.6 * sample.box.size, 0]),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_prediction_that_is_merely_bad_passes(name: str, photos: list[FaceSample]) -> None:
    for sample in photos:
        assert likely_mistake(GOOD[name](sample), None, sample) is None


def upwards(sample: FaceSample) -> Tensor:
    points = truth(sample).clone()
    points[:, 1] = len(sample.image) - points[:, 1]
    return points


WRONG: dict[str, tuple[Callable[[FaceSample], Tensor], str]] = {
    "normalised": (lambda sample: truth(sample) / 450, "normalised to 0..1"),
    "normalised to -1..1": (lambda sample: truth(sample) / 225 - 1, "normalised to 0..1"),
    "of a photo four times as large": (lambda sample: truth(sample) * 4, "outside of the photo"),
    "y upwards from 0": (lambda sample: truth(sample) * torch.tensor([1.0, -1, 1]), "above the photo: is y counted up"),
    "y upwards": (upwards, "upside down: is y counted upwards"),
    "of a crop": (lambda sample: 0.3 * truth(sample), "far off the face"),
    "z in other units": (lambda sample: truth(sample) * torch.tensor([1, 1, 1e-3]), "z of another scale"),
    "z in micrometres": (lambda sample: truth(sample) * torch.tensor([1, 1, 1e3]), "z of another scale"),
    "without z": (lambda sample: truth(sample) * torch.tensor([1, 1, 0]), r"the same z everywhere.*\(68, 2\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_another_coordinate_system_is_told_with_its_likely_cause(name: str, photos: list[FaceSample]) -> None:
    wrong, message = WRONG[name]
    for sample in photos:
        found = likely_mistake(wrong(sample), None, sample)
        assert found is not None
        assert re.search(message, found), found


def test_a_mesh_is_looked_at_where_there_are_no_landmarks(photos: list[FaceSample]) -> None:
    sample = photos[0]
    assert likely_mistake(None, truth(sample), sample) is None
    assert "normalised" in str(likely_mistake(None, truth(sample) / 450, sample))
    assert likely_mistake(truth(sample), truth(sample) / 450, sample) is None
    assert likely_mistake(None, None, sample) is None


def test_a_photo_without_landmarks_is_looked_at_too(photos: list[FaceSample]) -> None:
    bare = FaceSample(photos[0].image, photos[0].box, {})
    assert likely_mistake(truth(photos[0]), None, bare) is None
    assert "outside" in str(likely_mistake(truth(photos[0]) * 4, None, bare))


def test_the_faces_of_real_photos_pass(real_data: Path, bfm: MorphableModel) -> None:
    dataset = AFLW2000(real_data / "AFLW2000", "test", CropTransform(64), bfm)
    for index in range(len(dataset)):
        sample = dataset.read(index)
        assert likely_mistake(truth(sample), None, sample) is None
