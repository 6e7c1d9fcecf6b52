"""What evaluation and figures ask of any data set: names, subsets, pictures of the labels."""

from pathlib import Path

import pytest

from jointface.datamodules import AFLW2000, LFWA, W300LP, CelebA, CropTransform, FaceDataset, SyntheticFaces
from jointface.datamodules.face_dataset import evenly_spaced
from jointface.geometry import MorphableModel

CROP = CropTransform(32)


@pytest.fixture(scope="module")
def datasets(tiny_data: Path, tiny_model: MorphableModel) -> dict[str, FaceDataset]:
    return {
        "celeba": CelebA(tiny_data / "celeba", "train", CROP),
        "lfwa": LFWA(tiny_data / "LFWA", "train", CROP),
        "300wlp": W300LP(tiny_data / "300W_LP", "train", CROP, tiny_model),
        "aflw2000": AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model),
        "synthetic": SyntheticFaces("test", CROP, num_faces=5),
    }


@pytest.mark.parametrize(
    ("length", "count", "expected"), [(7, 3, [0, 3, 6]), (3, 5, [0, 1, 2]), (9, 1, [0]), (0, 2, [])]
)
def test_indices_are_evenly_spaced(length: int, count: int, expected: list[int]) -> None:
    assert evenly_spaced(length, count).tolist() == expected


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("celeba", ["000001", "000007", "000012"]),
        ("aflw2000", ["image00002", "image00004", "image00006"]),
        ("synthetic", ["synthetic_test_000000", "synthetic_test_000001", "synthetic_test_000002"]),
    ],
)
def test_a_subset_is_evenly_spaced_and_leaves_the_data_set_as_it_is(
    datasets: dict[str, FaceDataset], name: str, names: list[str]
) -> None:
    dataset = datasets[name]
    length, subset = len(dataset), dataset.subset(3)
    assert [subset.name(index) for index in range(len(subset))] == names
    assert (subset.label_set, subset.has_shape, subset.rendered) == (
        dataset.label_set, dataset.has_shape, dataset.rendered
    )  # fmt: skip
    assert subset[2].keys() == dataset[0].keys()
    assert len(dataset) == length
    assert len(dataset.subset(100)) == length
    if dataset.label_set is not None:
        assert subset.alpha().shape == dataset.alpha().shape


@pytest.mark.parametrize("name", ["celeba", "lfwa", "300wlp", "aflw2000", "synthetic"])
def test_a_plot_shows_the_labels(datasets: dict[str, FaceDataset], name: str) -> None:
    dataset = datasets[name]
    height, width, _ = dataset.plot(0).shape
    assert width == 96
    assert (height > 96) == (dataset.label_set is not None)
    if dataset.has_shape:
        plain = dataset[0]["image"].permute(1, 2, 0).numpy()
        assert (dataset.plot(0)[1:96:3, 1::3] != plain).any(), "landmarks are plotted"
