"""The faces of benchmarks that have no photos, as picture files, for other methods to run on."""

import logging
from pathlib import Path

import cv2
import pandas as pd
from jaxtyping import UInt8
from numpy import ndarray

from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.florence import Florence
from jointface.datamodules.on_disk import file_names
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.errors import ConfigError, DataError
from jointface.evaluation.photo_names import photo_names
from jointface.files import write_atomically

log = logging.getLogger(__name__)

BOXES = "face_boxes.csv"


def is_drawn(dataset: FaceDataset) -> bool:
    """Whether the photos of a data set are drawn as they are asked for, and no files."""
    return isinstance(dataset, Florence | SyntheticFaces)


def write_images(dataset: FaceDataset, folder: Path) -> list[str]:
    """Writes the picture of each face that a benchmark draws, pixel for pixel what networks are judged on.

        subject_01_pitch-15_yaw+40.png    a view of Florence; predictions for it are subject_01_pitch-15_yaw+40.npz
        synthetic_test_000012.png         a synthetic face
        face_boxes.csv                    file, x, y, size: middle and size of the face box that networks are given

    Files of these names are replaced, each whole. A scan that cannot be read is left out with a warning.

    Returns:
        The names of the pictures that were written, without .png.

    Raises:
        ConfigError: the photos of the data set are files themselves.
        DataError: the folder holds pictures of something else or cannot be written to, or no face can be drawn.
    """
    if not is_drawn(dataset):
        raise ConfigError(
            f"images: nothing to draw, the photos of this benchmark are files themselves, e.g. {dataset.path(0)}: run "
            "other methods on these"
        )
    names = photo_names(dataset)
    _require_no_others(folder, names)
    boxes, reason = [], None
    for index, name in enumerate(names):
        try:
            sample = dataset.read(index)
        except DataError as error:
            if str(error) != reason:  # once for all views of a scan
                log.warning("Left out: %s", error)
            reason = str(error)
            continue
        write_atomically(folder / f"{name}.png", _png(sample.image))
        boxes.append({"file": f"{name}.png", **sample.box._asdict()})
    if not boxes:
        raise DataError(f"no face can be drawn; {reason}")
    table = pd.DataFrame(boxes).to_csv(index=False, float_format="%.3f", lineterminator="\n")
    write_atomically(folder / BOXES, table.encode())
    return [Path(box["file"]).stem for box in boxes]


def _require_no_others(folder: Path, names: list[str]) -> None:
    """A method that runs on the folder would run on other pictures too."""
    there = file_names(folder) if folder.is_dir() else set()
    others = sorted(name for name in there if name.endswith(".png") and name.removesuffix(".png") not in names)
    if others:
        raise DataError(
            f"{folder.absolute()}: holds {len(others):,} other pictures, e.g. {others[0]}; choose another folder"
        )


def _png(image: UInt8[ndarray, "height width 3"]) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def photo_files(dataset: FaceDataset, images: Path | None) -> dict[str, Path]:
    """The file of each photo by its stem; of drawn faces those in the folder that `write_images` left.

    Raises:
        ConfigError: the faces are drawn, and no folder is given.
    """
    if not is_drawn(dataset):
        return {dataset.path(index).stem: dataset.path(index) for index in range(len(dataset))}
    if images is None:
        raise ConfigError(
            "import: the faces of this benchmark are drawn; set images=FOLDER to the folder that images=FOLDER wrote "
            "them to, which the files were made from"
        )
    return {name: images / f"{name}.png" for name in photo_names(dataset)}
