"""Synthetic faces on disk, in the layouts that other tools read."""

import csv
import importlib.metadata
import io
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from jaxtyping import Float
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jointface.attributes import CELEBA
from jointface.errors import ConfigError, DataError, JointFaceError
from jointface.files import write_atomically
from jointface.geometry.basis_files import write_bfm2009, write_bfm_3ddfa
from jointface.geometry.camera import crop_camera, rotation_to_euler
from jointface.geometry.framing import CROP_MARGIN, FaceBox
from jointface.synthesis.faces import FaceFactory, SyntheticFace
from jointface.synthesis.layouts import CelebAFolder, Record, Split, W300LPFolder
from jointface.synthesis.measures import SYNTHETIC
from jointface.viz.contact_sheet import contact_sheet

log = logging.getLogger(__name__)

LAYOUTS = ("celeba", "300wlp")
EXTENSIONS = (".jpg", ".png")
# CelebA's aligned images, and the face box that its loader gives every one of them.
ALIGNED_WIDTH, ALIGNED_HEIGHT, ALIGNED_BOX = 178, 218, FaceBox(88.9, 139.8, 86.2)
W300LP_SIZE, W300LP_BOX = 450, FaceBox(224.5, 224.5, 180.0)
CHUNK = 8  # faces drawn at once, which is faster than one by one
SHEET_FACES, SHEET_SIZE = 64, 160


@dataclass(frozen=True)
class Entry:
    """A face of the export. index: of its split, as `FaceFactory.face` counts; name: of its files."""

    name: str
    split: Split
    index: int


def export(
    factory: FaceFactory,
    settings: Mapping[str, Any],
    output_dir: Path,
    num_faces: int,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    layouts: Sequence[str] = LAYOUTS,
    extension: str = ".jpg",
    quality: int = 95,
    num_workers: int = 2,
) -> None:
    """Writes faces, labels, bases, manifest and a contact sheet; goes on where an earlier call was stopped.

        output_dir/celeba/                img_align_celeba/, list_attr_celeba.txt, list_eval_partition.txt,
                                          identity_CelebA.txt
        output_dir/300W_LP/               Synthetic_train/, Synthetic_val/, Synthetic_test/: .jpg + .mat
        output_dir/bfm_3ddfa/             the basis that the .mat files refer to, as 3DDFA lays it out
        output_dir/bfm2009/               the same as face3d's BFM.mat
        output_dir/manifest.csv           a row a face: files, split, index, identity, pose, attributes
        output_dir/settings.json          what it was made with
        output_dir/contact_sheet.png

    Args:
        factory: makes the faces. settings: what it was made with, to be kept beside the faces.
        output_dir: folder to write to. num_faces: of all splits. val_fraction, test_fraction: shares of them.
        layouts: "celeba", "300wlp" or both. extension, quality: of CelebA's images. num_workers: processes that draw.

    Raises:
        ConfigError: a number is out of its range, or the folder holds faces of other settings.
        DataError: the folder cannot be written to.
    """
    require_plan(num_faces, val_fraction, test_fraction, layouts, extension, quality, num_workers)
    output_dir = Path(output_dir)
    plan: dict[str, Any] = {"num_faces": num_faces, "val_fraction": val_fraction, "test_fraction": test_fraction}
    plan |= {"extension": extension, "quality": quality, "jointface": importlib.metadata.version("jointface")}
    _require_same_settings(output_dir / "settings.json", {**settings, **plan})
    try:
        entries = list(_entries(num_faces, val_fraction, test_fraction))
        _write(_Writer(factory, output_dir, entries, layouts, extension, quality), output_dir, num_workers)
    except JointFaceError:
        _remove_if_empty(output_dir)
        raise
    log.info("%d faces, labels, manifest.csv and contact_sheet.png are in %s", num_faces, output_dir)


def _write(writer: "_Writer", output_dir: Path, num_workers: int) -> None:
    chunks = DataLoader(writer, batch_size=None, num_workers=num_workers)
    rows = []
    for result in track(chunks, total=len(writer), description=f"Drawing {len(writer.entries)} faces"):
        if isinstance(result, str):
            raise DataError(result)
        rows += result
    factory = writer.factory
    if "celeba" in writer.layouts:
        writer.celeba.write_labels([_record(row) for row in rows])
    if "300wlp" in writer.layouts:
        write_bfm_3ddfa(output_dir / "bfm_3ddfa", factory.head.model)
        write_bfm2009(output_dir / "bfm2009", factory.head.model)
    write_atomically(output_dir / "manifest.csv", _csv(rows))
    write_atomically(output_dir / "contact_sheet.png", _sheet(factory, writer.entries[:SHEET_FACES]))


def require_plan(
    num_faces: int,
    val_fraction: float,
    test_fraction: float,
    layouts: Sequence[str],
    extension: str,
    quality: int,
    num_workers: int,
) -> None:
    """What is asked for must make sense; cheap, so that it can be checked before anything is built.

    Raises:
        ConfigError: it does not.
    """
    whole = {"num_faces": (num_faces, 1, None), "quality": (quality, 1, 100), "num_workers": (num_workers, 0, None)}
    for name, (value, low, high) in whole.items():
        if not isinstance(value, int) or value < low or (high is not None and value > high):
            limits = f"from {low} to {high}" if high is not None else f"of at least {low}"
            raise ConfigError(f"{name}={value}: expected a whole number {limits}")
    for name, share in {"val_fraction": val_fraction, "test_fraction": test_fraction}.items():
        if not isinstance(share, int | float) or not 0 <= share < 1:
            raise ConfigError(f"{name}={share}: expected a number from 0 to below 1")
    if val_fraction + test_fraction >= 1:
        raise ConfigError(f"val_fraction={val_fraction} and test_fraction={test_fraction} leave no face for training")
    if not layouts or set(layouts) - set(LAYOUTS):
        raise ConfigError(f"layouts={list(layouts)}: known are {', '.join(LAYOUTS)}")
    if extension not in EXTENSIONS:
        raise ConfigError(f"extension={extension}: known are {', '.join(EXTENSIONS)}")


def _remove_if_empty(folder: Path) -> None:
    """A call that came to nothing leaves no settings that the next would have to keep to."""
    if any(path.is_file() and path.name != "settings.json" for path in folder.rglob("*")):
        return
    (folder / "settings.json").unlink(missing_ok=True)
    for empty in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        empty.rmdir()
    folder.rmdir()


def _entries(num_faces: int, val_fraction: float, test_fraction: float) -> Iterator[Entry]:
    """Faces in the order train, val, test; each split counts from 0, as the direct source does."""
    val, test = int(num_faces * val_fraction), int(num_faces * test_fraction)
    lengths = dict(zip(get_args(Split), (num_faces - val - test, val, test), strict=True))
    number = 0
    for split, length in lengths.items():
        for index in range(length):
            number += 1
            yield Entry(f"{number:06d}", split, index)


def _require_same_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Settings are written first, so that another call can tell whether it goes on with the same faces."""
    if path.parent.exists() and not path.parent.is_dir():
        raise ConfigError(f"output_dir={path.parent} is a file: choose a folder")
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2).encode())
        return
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); choose another output_dir or delete this one") from error
    if different := sorted(key for key in {*found, *settings} if found.get(key) != settings.get(key)):
        raise ConfigError(
            f"{path.parent} holds faces made with other settings ({', '.join(different)}): choose another output_dir"
        )


def _in_picture(face: SyntheticFace, box: FaceBox) -> Float[Tensor, "3 4"]:
    """The camera to a picture in which the face box is `box`."""
    side = CROP_MARGIN * box.size
    return crop_camera(face.camera, torch.tensor([[side, 0.0, box.x], [0.0, side, box.y]]))


class _Writer(Dataset[list[dict[str, Any]] | str]):
    """Draws and writes a chunk of faces when it is asked for; gives their rows of the manifest, or what went wrong."""

    def __init__(
        self,
        factory: FaceFactory,
        root: Path,
        entries: Sequence[Entry],
        layouts: Sequence[str],
        extension: str,
        quality: int,
    ) -> None:
        self.factory, self.entries, self.layouts = factory, entries, layouts
        self.celeba = CelebAFolder(root / "celeba", extension, quality)
        self.w300lp = W300LPFolder(root / "300W_LP", quality=quality)

    def __len__(self) -> int:
        return -(-len(self.entries) // CHUNK)

    def __getitem__(self, chunk: int) -> list[dict[str, Any]] | str:
        entries = self.entries[chunk * CHUNK : (chunk + 1) * CHUNK]
        try:
            faces = [self.factory.face(entry.split, entry.index) for entry in entries]
            if "celeba" in self.layouts:
                self._write_celeba(entries, faces)
            if "300wlp" in self.layouts:
                self._write_300wlp(entries, faces)
            attributes = self.factory.attributes(faces)
        except JointFaceError as error:
            return str(error)
        return [
            {"name": entry.name, "split": entry.split, "index": entry.index, "identity": face.identity, **_pose(face),
             **dict(zip(SYNTHETIC.attributes, row, strict=True))}
            for entry, face, row in zip(entries, faces, attributes.int().tolist(), strict=True)
        ]  # fmt: skip

    def _write_celeba(self, entries: Sequence[Entry], faces: Sequence[SyntheticFace]) -> None:
        missing = [n for n, entry in enumerate(entries) if not self.celeba.exists(entry.name)]
        if not missing:
            return
        side = (ALIGNED_HEIGHT - ALIGNED_WIDTH) // 2  # drawn square, then cut
        box = ALIGNED_BOX._replace(x=ALIGNED_BOX.x + side)
        cameras = torch.stack([_in_picture(faces[n], box) for n in missing])
        images = self.factory.render([faces[n] for n in missing], cameras, ALIGNED_HEIGHT)
        for n, image in zip(missing, images[..., side : side + ALIGNED_WIDTH], strict=True):
            self.celeba.write_image(entries[n].name, image.movedim(0, -1).numpy())

    def _write_300wlp(self, entries: Sequence[Entry], faces: Sequence[SyntheticFace]) -> None:
        missing = [n for n, entry in enumerate(entries) if not self.w300lp.exists(entry.name, entry.split)]
        if not missing:
            return
        cameras = torch.stack([_in_picture(faces[n], W300LP_BOX) for n in missing])
        images = self.factory.render([faces[n] for n in missing], cameras, W300LP_SIZE)
        for n, camera, image in zip(missing, cameras, images, strict=True):
            face, entry = faces[n], entries[n]
            self.w300lp.write_face(
                entry.name, entry.split, image.movedim(0, -1).numpy(), camera, face.shape, face.expression,
                self.factory.landmarks68(face, camera),
            )  # fmt: skip


def _pose(face: SyntheticFace) -> dict[str, float]:
    linear = face.camera[:, :3] * torch.tensor([[1.0], [-1.0], [1.0]])
    angles = rotation_to_euler(linear / linear.norm(dim=1, keepdim=True)).rad2deg()
    return dict(zip(("pitch", "yaw", "roll"), (round(angle, 3) for angle in angles.tolist()), strict=True))


def _record(row: Mapping[str, Any]) -> Record:
    known = {name: bool(row[name]) for name in CELEBA.attributes if name in row}
    return Record(row["name"], row["split"], row["identity"], known)


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _sheet(factory: FaceFactory, entries: Sequence[Entry]) -> bytes:
    faces = [factory.face(entry.split, entry.index) for entry in entries]
    cameras = torch.stack([factory.crop_camera(face, SHEET_SIZE) for face in faces])
    images = torch.cat([
        factory.render(faces[start : start + CHUNK], cameras[start : start + CHUNK], SHEET_SIZE)
        for start in range(0, len(faces), CHUNK)
    ])  # fmt: skip
    present = [
        [name for name, there in zip(SYNTHETIC.attributes, row, strict=True) if there]
        for row in factory.attributes(faces).tolist()
    ]
    return contact_sheet(list(images.movedim(1, -1).numpy()), present)
