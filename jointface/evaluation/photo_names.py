"""What the photos of a data set are called in folders of predictions, and which folder is about which of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.florence import Florence
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.errors import DataError
from jointface.evaluation.known_shape import face_name
from jointface.evaluation.methods import prediction_files
from jointface.evaluation.scan_distance import view_name

NAMED = 3  # files of either kind that a message names


def photo_names(dataset: FaceDataset) -> list[str]:
    """STEM of STEM.npz for each photo: that of its file, or the name of a drawn view."""
    indices = range(len(dataset))
    if isinstance(dataset, Florence):
        return [view_name(dataset, index) for index in indices]
    if isinstance(dataset, SyntheticFaces):
        return [face_name(dataset, index) for index in indices]
    return [dataset.path(index).stem for index in indices]


def folders_by_benchmark(folders: Mapping[str, Path], tests: Mapping[str, FaceDataset]) -> dict[str, dict[str, Path]]:
    """For each benchmark the folders, by method, that hold a prediction for one of its photos.

    Raises:
        DataError: a folder is missing or holds no predictions, or none for any photo of any benchmark.
    """
    wanted = {benchmark: [f"{name}.npz" for name in photo_names(test)] for benchmark, test in tests.items()}
    there = {method: prediction_files(method, folder) for method, folder in folders.items()}
    of_benchmark = {
        benchmark: {method: folder for method, folder in folders.items() if not there[method].isdisjoint(names)}
        for benchmark, names in wanted.items()
    }
    for method, folder in folders.items():
        if wanted and not any(method in found for found in of_benchmark.values()):
            looked, found = next(iter(wanted.values())), sorted(there[method])
            raise DataError(
                f"none of the {len(found):,} .npz files in {folder.absolute()} is named after a photo of "
                f"{' or '.join(wanted)}: looked for {_first(looked)}; there is {_first(found)}; name the file for "
                "STEM.jpg STEM.npz"
            )
    return of_benchmark


def _first(files: Sequence[str]) -> str:
    return ", ".join(files[:NAMED]) + (", ..." if len(files) > NAMED else "")
