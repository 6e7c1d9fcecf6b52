"""The folder that predictions are written to: overlays and meshes of each photo, tables of all faces.

    FOLDER/
        overlays/NAME.jpg          the photo with mesh, landmarks, axes and likeliest attributes of each face
        meshes/NAME_1.glb          the face 1 of that photo; also .obj (with _texture.mtl and .png) and .ply
        faces.csv, faces.json      one row a face; also faces.parquet
        skipped.csv                photos without a result, and why
        contact_sheet.png          up to 96 faces, evenly spaced
    videos/                    of each video what `video_results` lists
        records/NAME.json          what was read of a photo, written last: the photo is done

Every file is written whole or not at all. A photo whose record is of the same file and the same settings is done.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from jaxtyping import UInt8

from jointface.datamodules.face_dataset import evenly_spaced
from jointface.errors import ConfigError, DataError, InputError
from jointface.files import write_atomically
from jointface.geometry.framing import FaceBox
from jointface.inference.crops import cut_crop, to_crop
from jointface.inference.face import VIEW_MARGIN, Face
from jointface.inference.face_tables import face_entry, face_table, to_csv, to_json, to_parquet
from jointface.inference.input_files import InputFile
from jointface.inference.mesh_files import WRITERS, save_mesh
from jointface.inference.photo_overlay import likeliest, photo_overlay
from jointface.inference.photos import Photo, open_photo
from jointface.inference.reader import Reading
from jointface.viz.contact_sheet import contact_sheet
from jointface.viz.overlay import overlay_axes, overlay_landmarks

SMALLEST_PHOTO = 16  # pixels of the shorter side
SHEET_FACES = 96
TILE = 192  # side of a face on the contact sheet in pixels
QUALITY = 90  # of JPEG


@dataclass(frozen=True)
class Outputs:
    """What is written of each photo.

    meshes: endings without dot: glb, obj, ply. mesh_scale: units of a mesh in a pixel of the photo. overlay: whether to
    draw what was read. overlay_side: pixels of the longer side of an overlay at most.
    """

    meshes: tuple[str, ...] = ("glb", "obj", "ply")
    mesh_scale: float = 1.0
    overlay: bool = True
    overlay_side: int = 1600

    def __post_init__(self) -> None:
        for kind in self.meshes:
            if f".{kind}" not in WRITERS:
                known = ", ".join(ending[1:] for ending in WRITERS)
                raise ConfigError(f"meshes={kind}: choose from {known}; meshes=[] writes none")
        if not 0 < self.mesh_scale < float("inf"):
            raise ConfigError(f"mesh_scale={self.mesh_scale}: expected a number above 0")
        if self.overlay_side < 64:
            raise ConfigError(f"overlay_side={self.overlay_side}: expected at least 64 pixels")


class Results:
    """A folder of predictions, see above.

    Args:
        made_with: settings and files that the predictions depend on; after another value of one, photos are read anew.
    """

    def __init__(self, folder: Path, outputs: Outputs, made_with: Mapping[str, Any]) -> None:
        self.folder, self.outputs = folder, outputs
        self.made_with = json.dumps([repr(outputs), dict(made_with)], sort_keys=True, default=str)

    @staticmethod
    def own_paths(folder: Path) -> list[Path]:
        """What such a folder holds, which is no input."""
        names = ("overlays", "meshes", "videos", "records", "contact_sheet.png", "skipped.csv")
        return [folder / name for name in (*names, "faces.csv", "faces.json", "faces.parquet")]

    def is_done(self, file: InputFile) -> bool:
        """Whether all results of this file are there."""
        record = self._record(file)
        return record is not None and record["made_from"] == self._fingerprint(file) and self._is_whole(record)

    def write(self, file: InputFile, reading: Reading) -> str | None:
        """Writes the results of one photo.

        Returns:
            Why there are none, if there are none.

        Raises:
            DataError: a file cannot be written.
        """
        self._remove_results(file)
        photo, reason = reading.photo, why_skipped(reading)
        record: dict[str, Any] = {
            "photo": printable(str(file.path)),
            "made_from": self._fingerprint(file),
            "skipped": reason and printable(reason),
            "files": [],
        }
        if photo is not None:
            record |= {"height": photo.image.shape[0], "width": photo.image.shape[1], "notes": photo.notes}
        record["faces"] = [] if reason else [face_entry(face, number) for number, face in enumerate(reading.faces, 1)]
        if photo is not None and not reason:
            files = [*self._write_meshes(file, reading.faces), *self._write_overlay(file, photo, reading.faces)]
            record["files"] = [path.relative_to(self.folder).as_posix() for path in files]
        write_atomically(self._record_path(file), json.dumps(record).encode())
        return reason

    def take_video(self, file: InputFile, people: int, written: Mapping[str, Path], reason: str | None) -> None:
        """Takes over the results of one video.

        Args:
            written: names of the files below this folder, and where they are now, on the same disk.
            reason: why there are none, if there are none.

        Raises:
            DataError: a file cannot be moved.
        """
        self._remove_results(file)
        try:
            for name, path in written.items():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(self.folder / name)
        except OSError as error:
            raise DataError(f"cannot write to {self.folder.absolute()} ({error.strerror}); make room there") from error
        record = {"photo": str(file.path), "made_from": self._fingerprint(file), "skipped": reason,
                  "files": [*written], "faces": [], "people": people}  # fmt: skip
        write_atomically(self._record_path(file), json.dumps(record).encode())

    def finish(self, files: Sequence[InputFile], parquet: bool = False) -> tuple[int, int]:
        """Writes tables and contact sheet of these photos, as far as they are done.

        Returns:
            Number of faces, in videos of people, and of files without a result.
        """
        for name in ("faces.parquet", "contact_sheet.png"):  # of an earlier run with other settings
            (self.folder / name).unlink(missing_ok=True)
        records = [record for record in map(self._record, files) if record is not None]
        entries = [
            {"photo": record["photo"], "width": record["width"], "height": record["height"], **entry}
            for record in records
            for entry in record["faces"]
        ]
        skipped = [{"photo": record["photo"], "reason": record["skipped"]} for record in records if record["skipped"]]
        people = sum(record.get("people", 0) for record in records)
        if entries or not people:  # not of videos alone
            table = face_table(entries)
            write_atomically(self.folder / "faces.csv", to_csv(table))
            write_atomically(self.folder / "faces.json", to_json(entries))
            if parquet:
                write_atomically(self.folder / "faces.parquet", to_parquet(table))
        write_atomically(self.folder / "skipped.csv", to_csv(pd.DataFrame(skipped, columns=["photo", "reason"])))
        if self.outputs.overlay and entries:
            self._write_contact_sheet(files)
        return len(entries) + people, len(skipped)

    def _write_meshes(self, file: InputFile, faces: Sequence[Face]) -> Iterator[Path]:
        for number, face in enumerate(faces, start=1):
            if face.vertices is None:
                continue
            mesh = face.mesh(self.outputs.mesh_scale)
            for kind in self.outputs.meshes:
                yield from save_mesh(mesh, self.folder / "meshes" / f"{file.name}_{number}.{kind}")

    def _write_overlay(self, file: InputFile, photo: Photo, faces: Sequence[Face]) -> Iterator[Path]:
        if self.outputs.overlay:
            picture = photo_overlay(photo, faces, self.outputs.overlay_side)
            path = self.folder / "overlays" / f"{file.name}.jpg"
            write_atomically(path, _to_jpeg(picture))
            yield path

    def _write_contact_sheet(self, files: Sequence[InputFile]) -> None:
        found = [(file, entry) for file in files for entry in (self._record(file) or {"faces": []})["faces"]]
        tiles, captions = [], []
        for chosen in evenly_spaced(len(found), SHEET_FACES).tolist():
            file, entry = found[chosen]
            with suppress(InputError):  # the photo is gone meanwhile
                tiles.append(_tile(open_photo(file.path), entry))
                captions.append([f"{file.path.stem} {entry['face']}", *likeliest(entry["attributes"])])
        if tiles:
            write_atomically(self.folder / "contact_sheet.png", contact_sheet(tiles, captions))

    def _record_path(self, file: InputFile) -> Path:
        return self.folder / "records" / f"{file.name}.json"

    def _record(self, file: InputFile) -> dict[str, Any] | None:
        """What was written of a file; None if there is nothing, or it is damaged."""
        try:
            record = json.loads(self._record_path(file).read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and {"made_from", "files", "faces", "skipped"} <= {*record} else None

    def _is_whole(self, record: Mapping[str, Any]) -> bool:
        return all((self.folder / name).is_file() for name in record["files"])

    def _remove_results(self, file: InputFile) -> None:
        """Removes what an earlier run wrote of another photo of this name, or with other settings."""
        record = self._record(file)
        self._record_path(file).unlink(missing_ok=True)
        for name in [] if record is None else record["files"]:
            (self.folder / name).unlink(missing_ok=True)

    def _fingerprint(self, file: InputFile) -> str:
        """Another one after every change of the photo or of a setting."""
        return hashlib.sha256(json.dumps([state_of(file.path), self.made_with]).encode()).hexdigest()[:16]


def state_of(path: Path) -> list[Any]:
    """Name, size and time of the last change of a file, which differ between files."""
    try:
        state = path.stat()
    except OSError:
        return [str(path)]
    return [str(path.absolute()), state.st_size, state.st_mtime_ns]


def _tile(photo: Photo, entry: Mapping[str, Any]) -> UInt8[np.ndarray, "size size 3"]:
    """A face with its landmarks and axes, from what was written of it."""
    x, y, size = entry["box"].values()
    picture, transform = cut_crop(photo.image, FaceBox(x, y, VIEW_MARGIN * size), TILE)
    if entry["landmarks"] is None or entry["pose"] is None:
        return picture
    landmarks = to_crop(np.array(entry["landmarks"]), transform)
    picture = overlay_landmarks(picture, landmarks, dots=False)
    return overlay_axes(picture, landmarks[30, :2], np.array(entry["pose"]["matrix"]), TILE / 4)


def why_skipped(reading: Reading) -> str | None:
    """Why a photo has no result, if it has none."""
    if reading.photo is None:
        where = "bytes" if isinstance(reading.source, bytes) else str(reading.source)
        return str(reading.error).removeprefix(f"{where}: ")
    height, width = reading.photo.image.shape[:2]
    if min(height, width) < SMALLEST_PHOTO:
        return f"{width} x {height} pixels are too small; a side needs at least {SMALLEST_PHOTO}"
    return None if reading.faces else no_face(reading.best_score)


def no_face(best_score: float) -> str:
    """Why a photo without a face is skipped, and the setting with which the likeliest place would have been one."""
    if not best_score:
        return "no face was found"
    lower = math.floor(100 * best_score) / 100
    return f"no face was found; the best candidate has a score of {best_score:.2f}, min_score={lower} would take it"


def printable(text: str) -> str:
    """A text in UTF-8 even if it has a file's name that is not."""
    return text.encode(errors="backslashreplace").decode()


def _to_jpeg(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert done
    return data.tobytes()
