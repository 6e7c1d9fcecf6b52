"""Writes the faces that a benchmark renders to image files, so that other methods can be run on them."""

import logging
from pathlib import Path

import cv2
import pandas as pd

from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.on_disk import file_names
from jointface.errors import ConfigError, DataError
from jointface.files import write_atomically

log = logging.getLogger(__name__)

BOXES = "face_boxes.csv"


def write_images(dataset: FaceDataset, folder: Path) -> list[str]:
    """Writes the image of each face that a benchmark renders; its pixels are exactly those that networks get.

        subject_01_pitch-15_yaw+40.png    a view of Florence; predictions for it are subject_01_pitch-15_yaw+40.npz
        synthetic_test_000012.png         a synthetic face
        face_boxes.csv                    file, x, y, size: centre and size of the face box that networks get

    Files with these names are replaced. Scans that cannot be read are left out with a warning.

    Returns:
        The names of the images, without .png.

    Raises:
        ConfigError: the data set consists of photo files.
        DataError: the folder holds other images or cannot be written to, or no face can be rendered.
    """
    if not dataset.rendered:
        raise ConfigError(
            f"images: nothing to render, since the photos of this benchmark are files, e.g. {dataset.path(0)}: run "
            "other methods on these"
        )
    names = [dataset.name(index) for index in range(len(dataset))]
    present = file_names(folder) if folder.is_dir() else set()
    if others := sorted(file for file in present if file.endswith(".png") and file.removesuffix(".png") not in names):
        raise DataError(  # a method would also run on them
            f"{folder.absolute()}: holds {len(others):,} other pictures, e.g. {others[0]}; choose another folder"
        )
    boxes, reason = [], None
    for index, name in enumerate(names):
        try:
            sample = dataset.read(index)
        except DataError as error:
            if str(error) != reason:  # log it once for all views of a scan
                log.warning("Left out: %s", error)
            reason = str(error)
            continue
        png = cv2.imencode(".png", cv2.cvtColor(sample.image, cv2.COLOR_RGB2BGR))[1]
        write_atomically(folder / f"{name}.png", png.tobytes())
        boxes.append({"file": f"{name}.png", **sample.box._asdict()})
    if not boxes:
        raise DataError(f"no face can be rendered; {reason}")
    table = pd.DataFrame(boxes).to_csv(index=False, float_format="%.3f", lineterminator="\n")
    write_atomically(folder / BOXES, table.encode())
    return [Path(box["file"]).stem for box in boxes]


def image_files(dataset: FaceDataset, rendered: Path | None) -> dict[str, Path]:
    """The file of each image by its name: the photo, or for rendered faces the file that `write_images` wrote."""
    names = [dataset.name(index) for index in range(len(dataset))]
    if not dataset.rendered:
        return {name: dataset.path(index) for index, name in enumerate(names)}
    if rendered is None:
        raise ConfigError(
            "import: the faces of this benchmark are rendered; also set images=FOLDER to the folder of images that the "
            "method was run on, as written by images=FOLDER"
        )
    return {name: rendered / f"{name}.png" for name in names}
