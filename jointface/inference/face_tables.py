"""Tables of faces, one row a face, with the unit of each column in its name; the same as JSON with nested parts."""

import io
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd

from jointface.errors import ConfigError
from jointface.inference.face import Face, Pose

UNITS = {
    "width": "pixels of the upright photo",
    "height": "pixels of the upright photo",
    "box": "pixels of the upright photo, x right, y down, pixel centres at integers: centre and mean side of the "
    "box of the 68 landmarks",
    "score": "of the finder, 0 to 1",
    "pose": "degrees; matrix = Rx(pitch) Ry(yaw) Rz(roll) from model space to the photo with y up, signs as in 300W-LP",
    "landmarks": "iBUG's 68, x and y as of the box; z towards the viewer in the same unit, relative to the mean of the "
    "vertices",
    "landmark_std": "standard deviation of x and of y of each landmark, in pixels; only of networks that predict it",
    "attributes": "probability, 0 to 1, at the prevalence of the training data",
}
COLUMNS = ["photo", "width_px", "height_px", "face", "score"]  # of a table without a face


def face_entry(face: Face, number: int) -> dict[str, Any]:
    """What is known of a face as JSON values, but its mesh. number: from 1, the largest face of a photo first."""
    std = face.landmark_std
    return {
        "face": number,
        "score": round(face.score, 5),
        "box": {name: round(value, 3) for name, value in face.box._asdict().items()},
        "pose": None if face.pose is None else _pose(face.pose),
        "attributes": {name: round(value, 5) for name, value in face.attributes.items()},
        "landmarks": None if face.landmarks is None else face.landmarks.astype(np.float64).round(3).tolist(),
        "landmark_std": None if std is None else std.astype(np.float64).round(3).tolist(),
    }


def _pose(pose: Pose) -> dict[str, Any]:
    matrix, *angles = pose
    return {
        **dict(zip(("pitch", "yaw", "roll"), np.round(angles, 3).tolist(), strict=True)),
        "matrix": matrix.astype(np.float64).round(6).tolist(),
    }


def face_table(entries: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """One row a face. Columns end with their unit: _px pixels of the upright photo, _deg degrees, _prob probability;
    width, height, score and the rotation matrix have none."""
    return pd.DataFrame([_row(entry) for entry in entries]) if entries else pd.DataFrame(columns=COLUMNS)


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"photo": entry["photo"], "width_px": entry["width"], "height_px": entry["height"]}
    row |= {"face": entry["face"], "score": entry["score"]}
    row |= {f"box_{name}_px": value for name, value in entry["box"].items()}
    if entry["pose"] is not None:
        row |= {f"{name}_deg": entry["pose"][name] for name in ("pitch", "yaw", "roll")}
        row |= {f"rotation_{i}{j}": entry["pose"]["matrix"][i][j] for i in range(3) for j in range(3)}
    row |= {f"{name}_prob": value for name, value in entry["attributes"].items()}
    for number, point in enumerate(entry["landmarks"] or []):
        row |= {f"landmark_{number:02}_{axis}_px": value for axis, value in zip("xyz", point, strict=True)}
    row |= {f"landmark_{number:02}_std_px": value for number, value in enumerate(entry.get("landmark_std") or [])}
    return row


def to_csv(table: pd.DataFrame) -> bytes:
    """The table as a CSV file."""
    return table.to_csv(index=False).encode()


def to_json(entries: Sequence[Mapping[str, Any]]) -> bytes:
    """The entries and their units, one face a line."""
    faces = ",\n".join(json.dumps(entry) for entry in entries)
    return f'{{"units": {json.dumps(UNITS, indent=1)},\n"faces": [\n{faces}\n]}}\n'.encode()


def to_parquet(table: pd.DataFrame) -> bytes:
    """The table as a Parquet file."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def require_parquet() -> None:
    """Raises a ConfigError where pyarrow, which writes Parquet, is not installed."""
    if find_spec("pyarrow") is None:
        raise ConfigError("parquet=true needs pyarrow: pip install 'jointface[parquet]', or set parquet=false")
