"""What is written of a video, in the folder of `results`:

    videos/NAME.mp4     each picture with mesh, landmarks, axes and number of each person, and the sound
    videos/NAME.csv     one row a person and picture; also NAME.parquet
    videos/NAME_1.glb   the person 1 as a moving mesh

Everything is written aside, and taken over when the video ends.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jointface.files import write_atomically
from jointface.inference.face_tables import face_entry, face_table, to_parquet
from jointface.inference.moving_mesh import MovingMesh
from jointface.inference.output_folder import Outputs
from jointface.inference.photo_overlay import photo_overlay
from jointface.inference.photos import Photo
from jointface.inference.tracking import TrackedFace
from jointface.inference.video_files import Frame, Picture, Video, VideoWriter

ROWS = 500  # of the table that are kept in memory


@dataclass(frozen=True)
class VideoOutputs:
    """What is written of a video beside the table. moving_mesh: a .glb of each person. parquet: the table as such."""

    moving_mesh: bool = False
    parquet: bool = False


class VideoRecorder:
    """Writes the files of one video, picture by picture.

    Args:
        scratch: an empty folder, where they are written.
        name: of the video. sound: file whose sound is kept.
    """

    def __init__(
        self, scratch: Path, name: str, video: Video, outputs: Outputs, more: VideoOutputs, sound: Path | None
    ) -> None:
        self.video, self.outputs, self.more, self.sound = video, outputs, more, sound
        self._scratch, self._name = scratch, name
        self._entries: list[dict[str, Any]] = []
        self._meshes: defaultdict[int, MovingMesh] = defaultdict(MovingMesh)
        self._people: set[int] = set()
        self._early: list[float] = []  # times of damaged pictures before the first whole one
        self._overlay: VideoWriter | None = None
        self._shown: Picture | None = None

    @property
    def people(self) -> int:
        """How many persons were seen."""
        return len(self._people)

    def add(self, frame: Frame, faces: list[TrackedFace]) -> None:
        """Adds a picture. In place of a damaged one, the overlay shows the one before, or else the first whole one."""
        for person, face in faces:
            self._people.add(person)
            self._entries.append(self._entry(frame, face_entry(face, person)))
            if self.more.moving_mesh:
                self._meshes[person].add(face, frame.time)
        if len(self._entries) >= ROWS:
            self._write_rows()
        if self.outputs.overlay:
            self._write_overlay(frame, faces)

    def finish(self) -> dict[str, Path]:
        """Ends the files. Returns their names below the folder of results, and where they are."""
        self._write_rows()
        table = self._scratch / "table.csv"
        files = {"csv": table}
        if self.more.parquet:
            write_atomically(self._scratch / "table.parquet", to_parquet(pd.read_csv(table)))
            files["parquet"] = self._scratch / "table.parquet"
        if self._overlay is not None:
            self._overlay.close()
            files["mp4"] = self._overlay.path
        named = {f"videos/{self._name}.{ending}": path for ending, path in files.items()}
        for person, mesh in self._meshes.items():
            if mesh.times:
                path = self._scratch / f"{person}.glb"
                write_atomically(path, mesh.glb(self.outputs.mesh_scale))
                named[f"videos/{self._name}_{person}.glb"] = path
        return named

    def _entry(self, frame: Frame, entry: dict[str, Any]) -> dict[str, Any]:
        assert frame.image is not None
        height, width = frame.image.shape[:2]
        where = {"photo": self.video.name, "width": width, "height": height}
        return where | {"frame": frame.number, "time": round(frame.time, 6)} | entry

    def _write_rows(self) -> None:
        if not self._entries:
            return
        rows = face_table(self._entries).rename(columns={"photo": "video", "face": "person"})
        rows.insert(1, "frame", [entry["frame"] for entry in self._entries])
        rows.insert(2, "time_s", [entry["time"] for entry in self._entries])
        path = self._scratch / "table.csv"
        rows.to_csv(path, mode="a", header=not path.exists(), index=False)
        self._entries.clear()

    def _write_overlay(self, frame: Frame, faces: list[TrackedFace]) -> None:
        if frame.image is not None:
            numbers = [person for person, _ in faces]
            photo = Photo(frame.image)
            self._shown = photo_overlay(photo, [face for _, face in faces], self.outputs.overlay_side, numbers=numbers)
        if self._shown is None:
            self._early.append(frame.time)
            return
        if self._overlay is None:
            size = (self._shown.shape[1], self._shown.shape[0])
            self._overlay = VideoWriter(self._scratch / "overlay.mp4", size, self.video.rate, self.sound)
        for time in [*self._early, frame.time]:
            self._overlay.write(self._shown, time)
        self._early.clear()
