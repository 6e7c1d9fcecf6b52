"""MICC Florence: 3D scans of 53 people, rendered at large poses; the usual test set of dense reconstruction."""

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset, FaceSample, Item, evenly_spaced
from jointface.datamodules.on_disk import (
    Count,
    file_names,
    innermost,
    log_left_out,
    missing,
    require_file,
    require_folder,
)
from jointface.errors import ConfigError, DataError
from jointface.geometry.camera import apply_camera, euler_to_rotation
from jointface.geometry.framing import face_box
from jointface.geometry.mesh import vertex_normals
from jointface.geometry.model_fit import fit_to_surface
from jointface.geometry.morphable_model import MorphableModel
from jointface.geometry.scan import Scan, find_face, near, read_scan, render_scan
from jointface.settings import as_list

SUBJECTS = 53
FRONTAL = ("frontal1", "frontal2")  # in order of preference
SCANS = (*FRONTAL, "sidel", "sider")
NOSE = 30  # iBUG's nose tip
FACE_RADIUS = 95.0  # mm around the nose tip in which reconstructions are measured
MIN_FACE_VERTICES = 500
FACE_SHARE = 0.4  # size of the frontal face box as a fraction of the view's side; as in 300W-LP
JAW_WIDTH = 145.0  # mm from landmark 0 to landmark 16; 146 on the Basel Face Model's mean


@dataclass
class _Subject:
    """What the views of a subject are rendered from, in scan space."""

    scan: Scan
    nose_tip: Float[Tensor, "3"]
    landmarks68: Float[Tensor, "68 3"]


class Florence(FaceDataset):
    """MICC Florence 2D/3D, a test set: a frontal scan of each subject, rendered in several poses.

    On disk, as published:

        root/subject_01/Model/frontal1/obj/110920150452.obj, .mtl, .bmp     textured mesh in mm, y up, z to the viewer
        root/subject_01/Model/frontal2/obj/, sidel/obj/, sider/obj/         further scans; each also as vrml/
        root/subject_01/Video/                                              not read
        ... subject_53/

    The first scan in frontal1 represents the subject, or in frontal2 if there is none. Subjects without either are left
    out, and the log counts them. The nose tip is detected on the surface, unless a file `nose_tip.txt` with three
    numbers (mm, in scan space) lies beside the .obj. Get the data from MICC, University of Florence. Licence: research,
    on agreement. Cite: Bagdanov, Del Bimbo, Masi, "The Florence 2D/3D Hybrid Face Dataset", J-HGBU 2011.

    The views are the ones of VRN (Jackson et al., ICCV 2017), also used by PRNet (Feng et al., ECCV 2018); docs/data.md
    says what the papers leave open. The angles rotate the scan from its original pose: the pitches make up for the fact
    that scans look down by about 20 degrees. Positive pitch looks up, as in 300W-LP.

    Items hold `identity`, the subject's number, and no coefficients. `scan`, `view_camera`, `nose_tip`, `landmarks68`
    and `face_region` give the ground truth for benchmarks. Consecutive indices are the views of one subject, with yaw
    varying faster than pitch; the subject read last stays in memory.

    Args:
        morphable_model: is fitted to each scan to locate the 68 landmarks, see `jointface.geometry.model_fit`.
        pitches, yaws: angles of the views, in degrees.
        view_size: side of a view in pixels, before cropping.
    """

    splits = ("test",)
    rendered = True

    def __init__(
        self,
        root: str | Path,
        split: str,
        transform: CropTransform,
        morphable_model: MorphableModel,
        pitches: Sequence[float] = (-15.0, 20.0, 25.0),
        yaws: Sequence[float] = (-80.0, -40.0, 0.0, 40.0, 80.0),
        view_size: int = 450,
    ) -> None:
        super().__init__(split, transform)
        pitches, yaws = as_list(pitches), as_list(yaws)
        if not pitches or not yaws or view_size < 1:
            raise ConfigError("Florence needs at least one pitch, one yaw and a view_size of at least 1")
        self.root, self.view_size = find_root(Path(root)), view_size
        self.angles = torch.tensor([[pitch, yaw, 0.0] for pitch in pitches for yaw in yaws]).deg2rad()
        self.model, self.mean_face = morphable_model, mean_face(morphable_model)
        folders = subject_folders(self.root)
        found = {folder: scan for folder in folders if (scan := frontal_scan(folder)) is not None}
        if not found:
            raise _no_scan(folders[0])
        log_left_out("Florence", "subjects have no frontal .obj", [f.name for f in folders if f not in found])
        self.subjects = np.array([int(folder.name.removeprefix("subject_")) for folder in found])
        self.scans = np.array([str(scan.relative_to(self.root)) for scan in found.values()])
        self._last: tuple[int, _Subject] | None = None

    def __len__(self) -> int:
        return len(self.scans) * len(self.angles)

    def path(self, index: int) -> Path:
        return self.root / str(self.scans[index // len(self.angles)])

    def read(self, index: int) -> FaceSample:
        image = render_scan(self.scan(index), self.view_camera(index), self.view_size)
        labels = {"identity": torch.tensor(int(self.subjects[index // len(self.angles)]))}
        return FaceSample(image, face_box(self.image_landmarks(index, labels)), labels)

    def image_landmarks(self, index: int, labels: Item) -> Float[Tensor, "68 3"]:
        return apply_camera(self.view_camera(index)[None], self.landmarks68(index)[None])[0]

    def image_surface(self, index: int) -> tuple[Float[Tensor, "vertices 3"], Int[Tensor, "triangles 3"]]:
        scan = self.scan(index)
        return apply_camera(self.view_camera(index)[None], scan.vertices[None])[0], scan.triangles

    def name(self, index: int) -> str:
        """A name like subject_01_pitch-15_yaw+40, with angles in whole degrees."""
        subject = Path(str(self.scans[index // len(self.angles)])).parts[0]
        pitch, yaw, _ = self.angles[index % len(self.angles)].rad2deg().round().int().tolist()
        return f"{subject}_pitch{pitch:+d}_yaw{yaw:+d}"

    def subset(self, count: int) -> "Florence":
        """All views of evenly spaced subjects; as many subjects as it takes to give at least `count` views."""
        subset = copy.copy(self)
        subjects = evenly_spaced(len(self.scans), math.ceil(count / len(self.angles)))
        subset.subjects, subset.scans, subset._last = self.subjects[subjects], self.scans[subjects], None
        return subset

    def scan(self, index: int) -> Scan:
        """The complete scan that a view shows; it is the same for all views of a subject."""
        return self._subject(index).scan

    def nose_tip(self, index: int) -> Float[Tensor, "3"]:
        """The position of the nose tip, in scan space."""
        return self._subject(index).nose_tip

    def landmarks68(self, index: int) -> Float[Tensor, "68 3"]:
        """The subject's landmarks in scan space, taken from the morphable model fitted to the scan."""
        return self._subject(index).landmarks68

    def face_region(self, index: int) -> Bool[Tensor, "vertices"]:
        """The vertices within 95 mm of the nose tip, on which reconstructions are measured."""
        return near(self.scan(index), self.nose_tip(index), FACE_RADIUS)

    def view_camera(self, index: int) -> Float[Tensor, "3 4"]:
        """Affine map from scan space to the image space of the rendered view.

        The scan rotates about the middle of the bounding box of its landmarks, which stays in the middle of the image.
        """
        low, high = self._subject(index).landmarks68.aminmax(dim=0)
        scale = FACE_SHARE * self.view_size / (high - low)[:2].mean()
        rotation = euler_to_rotation(self.angles[index % len(self.angles)])
        linear = scale * rotation * torch.tensor([[1.0], [-1.0], [1.0]])  # y down
        middle = torch.tensor([(self.view_size - 1) / 2, (self.view_size - 1) / 2, 0.0])
        return torch.cat([linear, (middle - linear @ (low + high) / 2)[:, None]], dim=1)

    def _subject(self, index: int) -> _Subject:
        """The subject of a view; it is kept in memory for the other views."""
        row = index // len(self.angles)
        if self._last is None or self._last[0] != row:
            self._last = row, self._read_subject(self.path(index))
        return self._last[1]

    def _read_subject(self, path: Path) -> _Subject:
        require_file(path, "a scan of Florence", "unpack it there")
        scan = read_scan(path)
        nose_tip, pose = find_face(scan, self.mean_face, read_nose_tip(path.with_name("nose_tip.txt")))
        count = int(near(scan, nose_tip, FACE_RADIUS).sum())
        if count < MIN_FACE_VERTICES:
            place = ", ".join(f"{value:.0f}" for value in nose_tip.tolist())
            raise DataError(
                f"{path}: {count} vertices lie within {FACE_RADIUS:.0f} mm of the nose tip at ({place}), a face has at "
                f"least {MIN_FACE_VERTICES}; give the nose tip (mm) in nose_tip.txt beside the scan, or get it again"
            )
        basis = millimetres(self.model) * self.model.shape_basis.cpu()
        normals = vertex_normals(scan.vertices.double(), scan.triangles)
        try:
            face = fit_to_surface(scan.vertices, normals, self.mean_face, basis, pose)
        except DataError as error:
            raise DataError(f"{path}: {error}; give the nose tip (mm) in nose_tip.txt beside the scan") from error
        return _Subject(scan, nose_tip, face[self.model.landmarks68])

    def known_yaw(self) -> Float[np.ndarray, "views"]:
        return np.resize(self.angles[:, 1].rad2deg().numpy(), len(self))

    def inventory(self) -> list[Count]:
        folders = subject_folders(self.root)
        found = sum(_obj_file(folder / "Model" / name / "obj") is not None for folder in folders for name in SCANS)
        frontal = sum(frontal_scan(folder) is not None for folder in folders)
        return [
            Count("subjects", len(folders), SUBJECTS),
            Count("subjects with a frontal scan", frontal, SUBJECTS),
            Count("scans", found),
        ]


def mean_face(model: MorphableModel) -> Float[Tensor, "vertices 3"]:
    """The mean face in millimetres, relative to its nose tip; see `millimetres`."""
    return millimetres(model) * (model.mean - model.mean[model.landmarks68[NOSE]]).cpu()


def millimetres(model: MorphableModel) -> float:
    """The unit of a morphable model, in millimetres.

    Models come in micrometres (Basel), millimetres (anny) or metres (FLAME). The unit is the one that brings the jaw
    width of the mean face closest to 145 mm.

    Raises:
        DataError: no unit gives a plausible face width.
    """
    width = (model.mean[model.landmarks68[16]] - model.mean[model.landmarks68[0]]).norm().item()
    unit = 1000.0 ** -round(math.log(max(width, 1e-9) / JAW_WIDTH, 1000))
    if not 0.5 < width * unit / JAW_WIDTH < 2:
        raise DataError(
            f"the mean face of morphable model {model.name!r} is {width:.3g} units wide at the jaw: this is no "
            "plausible face in micrometres, millimetres or metres"
        )
    return unit


def find_root(root: Path) -> Path:
    """The folder of the data set; raises a DataError if it is missing."""
    return require_folder(root, "MICC Florence", "set paths.data_dir to the folder that holds florence/")


def subject_folders(root: Path) -> list[Path]:
    """The folders subject_01, subject_02, ... of the data set. Raises a DataError if there is none."""
    folders = sorted(root / name for name in file_names(root) if re.fullmatch(r"subject_\d+", name))
    if not (folders := [folder for folder in folders if folder.is_dir()]):
        raise missing(root / "subject_01", "the first subject of MICC Florence", "unpack the data set there")
    return folders


def frontal_scan(subject: Path) -> Path | None:
    """The .obj of a subject's first frontal scan, None if there is none."""
    scans = (_obj_file(subject / "Model" / name / "obj") for name in FRONTAL)
    return next((scan for scan in scans if scan), None)


def _obj_file(folder: Path) -> Path | None:
    """The .obj in a folder; one named by a number is preferred, because the published ones are."""
    if not folder.is_dir():
        return None
    folder = innermost(folder)
    names = [name for name in file_names(folder) if name.lower().endswith(".obj")]
    return folder / min(names, key=lambda name: (not Path(name).stem.isdigit(), name)) if names else None


def _no_scan(subject: Path) -> DataError:
    """The error for a data set without any scan; it names the first missing folder in the path."""
    what, how = "the first frontal scan of MICC Florence", "unpack the data set there"
    path = subject / "Model" / FRONTAL[0] / "obj"
    if absent := [folder for folder in (path, *path.parents[:2]) if not folder.is_dir()]:
        return missing(absent[-1], what, how)
    return DataError(f"no .obj in {path.absolute()}: looked there for {what}; {how}")


def read_nose_tip(path: Path) -> Float[Tensor, "3"] | None:
    """Reads x, y, z in millimetres; None if the file does not exist. Raises a DataError for any other content."""
    if not path.exists():
        return None
    try:
        values = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float32)
        if values.shape == (3,) and np.isfinite(values).all():
            return torch.from_numpy(values)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the nose tip ({error}); write three numbers x y z in mm") from error
    raise DataError(f"{path}: expected three finite numbers x y z in mm, found {values.size} values")
