"""Makes docs/figures/many_photos.jpg: `python -m bench.many_photos_picture DATA CHECKPOINT`.

The CC0 portraits in DATA/portraits, read on Ray, with their landmarks, and arranged by the yaw in the table that it
writes.
"""

import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir

from jointface.command_line import CONF_DIR
from jointface.geometry import FaceBox
from jointface.inference.crops import cut_crop
from jointface.inference.face import VIEW_MARGIN
from jointface.inference.photos import open_photo
from jointface.predict import predict
from jointface.viz.overlay import overlay_landmarks

OUTPUT = Path("docs/figures/many_photos.jpg")
ROWS, COLUMNS, SIZE = 4, 15, 92  # pixels of a face


def read_table(data: str, checkpoint: str) -> pd.DataFrame:
    """The surest face of each photo, the surest first."""
    with tempfile.TemporaryDirectory() as scratch, initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        given = [f"input={data}/portraits/photos", f"checkpoint={checkpoint}", f"output_dir={scratch}", "engine=ray"]
        predict(compose("predict", overrides=[*given, "ray.workers=1"]))
        faces = pd.read_parquet(Path(scratch) / "faces")
    return faces.sort_values("score", ascending=False).drop_duplicates("photo")


def picture(face: pd.Series) -> np.ndarray:
    """The part of its photo that shows a face, with its landmarks; drawn twice as large, then reduced."""
    x, y, size = face[["box_x_px", "box_y_px", "box_size_px"]]
    crop, similarity = cut_crop(open_photo(face["photo"]).image, FaceBox(x, y, VIEW_MARGIN * size), 2 * SIZE)
    marks = np.array([[face[f"landmark_{i:02}_{axis}_px"] for axis in "xy"] for i in range(68)], np.float64)
    drawn = overlay_landmarks(crop, marks @ similarity[:, :2].T + similarity[:, 2], dots=False)
    return cv2.resize(drawn, (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def main(data: str, checkpoint: str) -> None:
    """Writes the picture."""
    faces = read_table(data, checkpoint).head(ROWS * COLUMNS).sort_values("yaw_deg", ascending=False)
    pictures = [picture(face) for _, face in faces.iterrows()]
    columns = [np.concatenate(pictures[i : i + ROWS], axis=0) for i in range(0, len(pictures), ROWS)]
    cv2.imwrite(str(OUTPUT), np.concatenate(columns, axis=1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main(*sys.argv[1:])
