"""Renders synthetic faces to disk in layouts that other tools can read."""

import importlib.metadata
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import torch
from jaxtyping import Float, UInt8
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jointface.errors import ConfigError, DataError, JointFaceError
from jointface.files import write_atomically
from jointface.geometry.bfm_writers import write_bfm2009, write_bfm_3ddfa
from jointface.geometry.camera import crop_camera, rotation_to_euler
from jointface.geometry.framing import CROP_MARGIN, FaceBox
from jointface.settings import require_whole_number
from jointface.synthesis.faces import DEFAULTS, FaceFactory, SyntheticFace
from jointface.synthesis.layouts import Split, write_300wlp_face, write_celeba_labels, write_image
from jointface.synthesis.measures import SYNTHETIC
from jointface.viz.contact_sheet import contact_sheet

log = logging.getLogger(__name__)

LAYOUTS = ("celeba", "300wlp")
EXTENSIONS = (".jpg", ".png")
# Size of CelebA's aligned images, and the face box that its loader assigns to all of them.
ALIGNED_WIDTH, ALIGNED_HEIGHT, ALIGNED_BOX = 178, 218, FaceBox(88.9, 139.8, 86.2)
W300LP_SIZE, W300LP_BOX = 450, FaceBox(224.5, 224.5, 180.0)
CHUNK = 8  # faces rendered together, which is faster than one by one
SHEET_FACES, SHEET_SIZE = 64, 160


Entry = tuple[str, Split, int]  # stem of the file names, split, and index in the split as for `FaceFactory.face`


@dataclass(frozen=True)
class Plan:
    """What to export.

    num_faces: number of faces in all splits together. val_fraction, test_fraction: their shares. layouts: some of
    LAYOUTS. extension: of CelebA's images. quality: JPEG quality, 1 to 100. num_workers: rendering processes.

    Raises:
        ConfigError: a value is out of its range.
    """

    num_faces: int
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    layouts: Sequence[str] = LAYOUTS
    extension: str = ".jpg"
    quality: int = 95
    num_workers: int = 2

    def __post_init__(self) -> None:
        for name, least, most in (("num_faces", 1, None), ("quality", 1, 100), ("num_workers", 0, None)):
            require_whole_number(name, getattr(self, name), least, most)
        for name in ("val_fraction", "test_fraction"):
            share = getattr(self, name)
            if not isinstance(share, int | float) or not 0 <= share < 1:
                raise ConfigError(f"{name}={share}: expected a number from 0 to below 1")
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"val_fraction={self.val_fraction} and test_fraction={self.test_fraction} leave no face for training"
            )
        if not self.layouts or set(self.layouts) - set(LAYOUTS):
            raise ConfigError(f"layouts={self.layouts}: choose from {', '.join(LAYOUTS)}")
        if self.extension not in EXTENSIONS:
            raise ConfigError(f"extension={self.extension}: choose from {', '.join(EXTENSIONS)}")

    def entries(self) -> list[Entry]:
        """All faces, in the order train, val, test. Indices start at 0 in each split, as in `SyntheticFaces`."""
        val, test = int(self.num_faces * self.val_fraction), int(self.num_faces * self.test_fraction)
        lengths: dict[Split, int] = {"train": self.num_faces - val - test, "val": val, "test": test}
        places = [(split, index) for split, length in lengths.items() for index in range(length)]
        return [(f"{number:06d}", split, index) for number, (split, index) in enumerate(places, 1)]


def export(factory: FaceFactory, settings: Mapping[str, Any], output_dir: Path, plan: Plan) -> None:
    """Writes faces, labels, bases, a manifest and a contact sheet. A repeated call continues a stopped one.

        output_dir/celeba/                img_align_celeba/, list_attr_celeba.txt, list_eval_partition.txt,
                                          identity_CelebA.txt
        output_dir/300W_LP/               Synthetic_train/, Synthetic_val/, Synthetic_test/: .jpg + .mat (below)
        output_dir/bfm_3ddfa/             the basis that the .mat files refer to, in 3DDFA's layout
        output_dir/bfm2009/               the same basis as face3d's BFM.mat
        output_dir/manifest.csv           one row per face: files, split, index, identity, pose, attributes
        output_dir/settings.json          the settings that the faces were made with
        output_dir/contact_sheet.png

    300W-LP has no official splits, and `W300LP` splits photos by a hash of their names. Here, folders are the splits:
    `W300LP(root, "train", ..., subsets=["Synthetic_train"], val_fraction=0)` reads the training faces and
    `W300LP(root, "val", ..., subsets=["Synthetic_val"], val_fraction=1)` the validation faces. In a config these are
    two sources, with `splits: {train: train}` and `splits: {val: val}`; reading all subsets as one source would mix the
    splits. `AFLW2000(root / "Synthetic_test", ...)` reads the test faces with their pt3d_68.

    Args:
        settings: arguments of `factory`, saved with the faces.

    Raises:
        ConfigError: the folder holds faces with other settings.
        DataError: the folder is not writable.
    """
    kept = {key: getattr(plan, key) for key in ("num_faces", "val_fraction", "test_fraction", "extension", "quality")}
    kept["jointface"] = importlib.metadata.version("jointface")
    _require_same_settings(output_dir / "settings.json", {**settings, **kept})
    try:
        _write(_Renderings(factory, output_dir, plan), output_dir)
    except JointFaceError:
        # If no face was written, remove the settings, so that the next call may use others.
        if {path.name for path in output_dir.rglob("*") if not path.is_dir()} <= {"settings.json"}:
            shutil.rmtree(output_dir)
        raise
    log.info("%d faces, labels, manifest.csv and contact_sheet.png are in %s", plan.num_faces, output_dir)


def _write(renderings: "_Renderings", output_dir: Path) -> None:
    factory, plan, rows = renderings.factory, renderings.plan, []
    chunks = DataLoader(renderings, batch_size=None, num_workers=plan.num_workers)
    for result in track(chunks, total=len(renderings), description=f"Drawing {plan.num_faces} faces"):
        if isinstance(result, str):
            raise DataError(result)
        rows += result
    manifest = pandas.DataFrame(rows)
    if "celeba" in plan.layouts:
        write_celeba_labels(output_dir / "celeba", manifest.assign(file=manifest["name"] + plan.extension))
    if "300wlp" in plan.layouts:
        write_bfm_3ddfa(output_dir / "bfm_3ddfa", factory.head.model)
        write_bfm2009(output_dir / "bfm2009", factory.head.model)
    write_atomically(output_dir / "manifest.csv", manifest.to_csv(index=False).encode())
    write_atomically(output_dir / "contact_sheet.png", _contact_sheet(factory, renderings.entries[:SHEET_FACES]))


def _require_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings before any face, or compares them with those of an earlier call."""
    if path.parent.exists() and not path.parent.is_dir():
        raise ConfigError(f"output_dir={path.parent} is a file: choose a folder")
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2).encode())
        return
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); choose another output_dir or delete this one") from error
    found, settings = {**DEFAULTS, **found}, {**DEFAULTS, **settings}  # an older version did not know all of them
    if different := sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key)):
        raise ConfigError(
            f"{path.parent} holds faces made with other settings ({', '.join(different)}): choose another output_dir"
        )


class _Renderings(Dataset[list[dict[str, Any]] | str]):
    """Renders and writes chunk i of the faces when item i is read. An item is the faces' manifest rows, or an error
    message, because exceptions lose their type when they leave a loader process."""

    def __init__(self, factory: FaceFactory, root: Path, plan: Plan) -> None:
        self.factory, self.root, self.plan, self.entries = factory, root, plan, plan.entries()

    def __len__(self) -> int:
        return -(-len(self.entries) // CHUNK)

    def __getitem__(self, chunk: int) -> list[dict[str, Any]] | str:
        entries = self.entries[chunk * CHUNK : (chunk + 1) * CHUNK]
        try:
            faces = [self.factory.face(split, index) for _, split, index in entries]
            if "celeba" in self.plan.layouts:
                self._write_celeba(entries, faces)
            if "300wlp" in self.plan.layouts:
                self._write_300wlp(entries, faces)
            attributes = self.factory.attributes(faces).int().tolist()
        except JointFaceError as error:
            return str(error)
        return [
            {"name": name, "split": split, "index": index, "identity": face.identity}
            | _pose(face)
            | dict(zip(SYNTHETIC.attributes, row, strict=True))
            for (name, split, index), face, row in zip(entries, faces, attributes, strict=True)
        ]

    def _write_celeba(self, entries: Sequence[Entry], faces: Sequence[SyntheticFace]) -> None:
        folder = self.root / "celeba" / "img_align_celeba"
        paths = [folder / f"{name}{self.plan.extension}" for name, *_ in entries]
        side = (ALIGNED_HEIGHT - ALIGNED_WIDTH) // 2  # render squares, then crop to CelebA's width
        box = ALIGNED_BOX._replace(x=ALIGNED_BOX.x + side)
        for place, _, image in self._missing(faces, [[path] for path in paths], box, ALIGNED_HEIGHT):
            write_image(paths[place], image[:, side : side + ALIGNED_WIDTH], self.plan.quality)

    def _write_300wlp(self, entries: Sequence[Entry], faces: Sequence[SyntheticFace]) -> None:
        photos = [self.root / "300W_LP" / f"Synthetic_{split}" / f"{name}.jpg" for name, split, _ in entries]
        files = [[photo, photo.with_suffix(".mat")] for photo in photos]
        for place, camera, image in self._missing(faces, files, W300LP_BOX, W300LP_SIZE):
            face, landmarks68 = faces[place], self.factory.landmarks68(faces[place], camera)
            labels = camera, face.shape, face.expression, landmarks68
            write_300wlp_face(photos[place], image, *labels, self.plan.quality)

    def _missing(
        self, faces: Sequence[SyntheticFace], files: Sequence[Sequence[Path]], box: FaceBox, size: int
    ) -> Iterator[tuple[int, Float[Tensor, "3 4"], UInt8[np.ndarray, "size size 3"]]]:
        """Renders the faces that lack a file, framed so that the face box is `box`; yields index, camera, RGB image."""
        places = [place for place, of_face in enumerate(files) if not all(path.is_file() for path in of_face)]
        if places:
            side = CROP_MARGIN * box.size
            to_image = torch.tensor([[side, 0.0, box.x], [0.0, side, box.y]])
            cameras = torch.stack([crop_camera(faces[place].camera, to_image) for place in places])
            images = self.factory.render([faces[place] for place in places], cameras, size).movedim(1, -1).numpy()
            yield from zip(places, cameras, images, strict=True)


def _pose(face: SyntheticFace) -> dict[str, float]:
    linear = face.camera[:, :3] * torch.tensor([[1.0], [-1.0], [1.0]])
    angles = rotation_to_euler(linear / linear.norm(dim=1, keepdim=True)).rad2deg()
    return {name: round(angle, 3) for name, angle in zip(("pitch", "yaw", "roll"), angles.tolist(), strict=True)}


def _contact_sheet(factory: FaceFactory, entries: Sequence[Entry]) -> bytes:
    faces = [factory.face(split, index) for _, split, index in entries]
    cameras = torch.stack([factory.crop_camera(face, SHEET_SIZE) for face in faces])
    images = torch.cat([
        factory.render(faces[start : start + CHUNK], cameras[start : start + CHUNK], SHEET_SIZE)
        for start in range(0, len(faces), CHUNK)
    ])  # fmt: skip
    present = [list(compress(SYNTHETIC.attributes, row)) for row in factory.attributes(faces).tolist()]
    return contact_sheet(list(images.movedim(1, -1).numpy()), present)
