"""NoW: phone photos of people whose neutral heads were scanned; a usual test of identity shape."""

import copy
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, FindBox, box_in_photo, evenly_spaced, read_image
from jointface.datamodules.on_disk import (
    Count,
    file_names,
    find_photos,
    innermost,
    log_left_out,
    missing,
    photo_names,
    require_file,
    require_folder,
)
from jointface.errors import DataError
from jointface.geometry.scan import read_surface

LIST, PHOTOS = "imagepathsvalidation.txt", Path("NoW_Dataset", "final_release_version", "iphone_pictures")
SCANS, LANDMARKS = "scans", "scans_lmks_onlypp"
CHALLENGES = ("multiview_neutral", "multiview_expressions", "multiview_occlusions", "selfie")
NUM_LANDMARKS = 7


class NoW(FaceDataset):
    """The validation part of the NoW benchmark: 352 photos of 20 people, with a scan of each.

    On disk, as published:

        root/imagepathsvalidation.txt                         rows of SUBJECT/CHALLENGE/IMAGE.jpg
        root/NoW_Dataset/final_release_version/iphone_pictures/SUBJECT/CHALLENGE/IMAGE.jpg
        root/scans/SUBJECT/NAME.obj                           a head in mm, with a neutral face
        root/scans_lmks_onlypp/SUBJECT/NAME.pp                seven points picked in MeshLab: the outer and the inner
                                                              corner of the right eye, the inner and the outer one of
                                                              the left, the base of the nose, the corners of the mouth

    Scans of the test part are not published. The published face boxes (`detected_face/*.npy`) are pickled and are not
    read: faces are framed by `find_box`. Get it from now.is.tue.mpg.de. Licence: non-commercial research. Cite: Sanyal,
    Bolkart, Feng, Black, "Learning to Regress 3D Face Shape and Expression from an Image without 3D Supervision", CVPR
    2019.

    Items hold `identity`, the subject's place among the sorted names. `scan` and `landmarks` give the ground truth.

    Args:
        find_box: the box of the largest face in a photo, or None, see `jointface.detection.finders.largest_face`.
    """

    splits = ("val",)

    def __init__(self, root: str | Path, split: str, transform: CropTransform, find_box: FindBox) -> None:
        super().__init__(split, transform)
        self.root = require_folder(Path(root), "NoW", "set paths.data_dir to the folder that holds NoW/")
        self.find_box = find_box
        listed = self.root / LIST
        require_file(listed, "the list of NoW's validation photos", "get it from NoW's download page")
        rows = [line.strip() for line in listed.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        if wrong := [row for row in rows if row.count("/") != 2]:
            raise DataError(f"{listed.absolute()}: expected rows SUBJECT/CHALLENGE/IMAGE.jpg, found {wrong[0][:80]!r}")
        self.photos = require_folder(self.root / PHOTOS, "NoW's photos", "unpack NoW_Dataset.zip there")
        files, there = find_photos(np.array(rows, dtype=np.str_), self._on_disk())
        log_left_out("NoW", "listed photos are not on disk", files[~there])
        self.names = files[there]
        if not len(self.names):
            raise missing(self.photos / rows[0] if rows else self.photos, "NoW's first photo", "unpack it there")
        self.listed = len(rows)
        people, subjects = np.unique([name.partition("/")[0] for name in self.names.tolist()], return_inverse=True)
        self.subjects = torch.from_numpy(subjects)
        for person in people.tolist():
            self._file(SCANS, person, ".obj")
            self._file(LANDMARKS, person, ".pp")
        self._last: tuple[str, tuple[Tensor, Tensor]] | None = None

    def _on_disk(self) -> set[str]:
        """All photos, SUBJECT/CHALLENGE/IMAGE.jpg."""
        names = set()
        for person in file_names(self.photos):
            for challenge in file_names(self.photos / person) if (self.photos / person).is_dir() else ():
                folder = self.photos / person / challenge
                photos = photo_names(file_names(folder)).values() if folder.is_dir() else ()
                names |= {f"{person}/{challenge}/{name}" for name in photos}
        return names

    def _file(self, kind: str, person: str, ending: str) -> Path:
        """The one file of a subject's scan or landmarks."""
        folder = innermost(self.root / kind) / person
        names = sorted(file_names(folder)) if folder.is_dir() else []
        found = [folder / name for name in names if name.lower().endswith(ending)]
        if not found:
            raise missing(folder / f"{person}{ending}", f"NoW's {ending} of a person", f"unpack NoW's {kind}/ there")
        return found[0]

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        return self.photos / str(self.names[index])

    def name(self, index: int) -> str:
        """SUBJECT_CHALLENGE_IMAGE, since photos of several people have the same name."""
        return str(self.names[index]).rpartition(".")[0].replace("/", "_")

    def subject(self, index: int) -> str:
        return str(self.names[index]).split("/")[0]

    def challenge(self, index: int) -> str:
        return str(self.names[index]).split("/")[1]

    def read(self, index: int) -> FaceSample:
        image = read_image(self.path(index))
        box = box_in_photo(self.find_box, image, self.path(index))
        return FaceSample(image, box, {"identity": self.subjects[index]})

    def scan(self, index: int) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "triangles 3"]]:
        """The scan of a photo's subject in mm; the one read last stays in memory."""
        subject = self.subject(index)
        if self._last is None or self._last[0] != subject:
            self._last = subject, read_surface(self._file(SCANS, subject, ".obj"))
        return self._last[1]

    def landmarks(self, index: int) -> Float[Tensor, "7 3"]:
        """The seven points of a photo's subject on the scan, in mm."""
        return read_picked_points(self._file(LANDMARKS, self.subject(index), ".pp"))

    def subset(self, count: int) -> "NoW":
        subset, chosen = copy.copy(self), evenly_spaced(len(self), count)
        subset.names, subset.subjects, subset._last = self.names[chosen], self.subjects[chosen], None
        return subset

    def inventory(self) -> list[Count]:
        return [Count("photos", len(self.names), 352), Count("people", len(self.subjects.unique()), 20)]


def read_picked_points(path: Path) -> Float[Tensor, "7 3"]:
    """The seven points of a .pp file of MeshLab, in its order."""
    require_file(path, "NoW's landmarks", "get scans_lmks_onlypp from NoW's download page")
    try:
        points = ElementTree.parse(path).getroot().iter("point")
        places = [[float(point.attrib[axis]) for axis in "xyz"] for point in points]
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise DataError(f"{path}: not a readable .pp file of MeshLab ({error}); get it again") from error
    if len(places) != NUM_LANDMARKS or not np.isfinite(places).all():
        raise DataError(f"{path}: holds {len(places)} points, expected {NUM_LANDMARKS}; get it again")
    return torch.tensor(places)
