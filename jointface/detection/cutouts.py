"""Faces to paste into the finder's training pictures: synthetic heads with their outline, photos with landmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from jointface.datamodules.face_dataset import read_image
from jointface.datamodules.landmark_table import read_landmark_table, stretched
from jointface.geometry.framing import CROP_MARGIN
from jointface.synthesis.faces import shared_factory

HEAD_SIZE = 160  # side of a head's picture in pixels
HEAD_VIEW = 2.4  # the same in sizes of its face box: hair and shoulders are in it
CHUNK = 8  # heads that are rendered together
HELD_OUT = 8  # every so many portraits is for testing


@dataclass(frozen=True)
class Cutout:
    """A face to paste. image: RGB. alpha: opaque at 255; None for a whole photo. landmarks: in pixels of the image."""

    image: UInt8[np.ndarray, "height width 3"]
    alpha: UInt8[np.ndarray, "height width"] | None
    landmarks: Float[np.ndarray, "68 2"]

    @property
    def turn(self) -> float:
        """How far the head is turned to a side: distance of the nose from the middle of the contour, in widths."""
        across = self.landmarks[:, 0]
        return float(abs(across[30] - (across[0] + across[16]) / 2) / np.ptp(across))


class Heads(Sequence[Cutout]):
    """Synthetic heads of a split, rendered in groups when one of them is first asked for, and kept.

    Args:
        synthesis: arguments of `synthesis.faces.FaceFactory`.
    """

    def __init__(self, split: str, count: int, synthesis: Mapping[str, Any]) -> None:
        self.split, self.length, self.settings = split, count, dict(synthesis)
        self.rendered: dict[int, list[Cutout]] = {}

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Cutout:  # type: ignore[override]
        group, place = divmod(index, CHUNK)
        if group not in self.rendered:
            self.rendered[group] = self._render(range(group * CHUNK, min((group + 1) * CHUNK, self.length)))
        return self.rendered[group][place]

    def _render(self, indices: range) -> list[Cutout]:
        factory, size = shared_factory(**self.settings), HEAD_SIZE
        faces = [factory.face(self.split, index) for index in indices]
        cameras = [_wide(factory.crop_camera(face, size), size) for face in faces]
        scenes = [factory.scene(face, camera, size) for face, camera in zip(faces, cameras, strict=True)]
        grounds = (torch.full((3, size, size), grey) for grey in (0.0, 1.0))
        black, white = (
            factory.renderer.render([replace(scene, background=ground) for scene in scenes], size) for ground in grounds
        )
        opacity = 255 - (white.int() - black.int()).amin(1).clamp(0, 255)
        colours = (black.int() * 255 // opacity.clamp(min=1)[:, None]).clamp(max=255)  # not darkened at the outline
        return [
            Cutout(
                image.permute(1, 2, 0).to(torch.uint8).numpy(),
                alpha.to(torch.uint8).numpy(),
                factory.landmarks68(face, camera)[:, :2].numpy(),
            )
            for image, alpha, face, camera in zip(colours, opacity, faces, cameras, strict=True)
        ]


def _wide(camera: Float[torch.Tensor, "3 4"], size: int) -> Float[torch.Tensor, "3 4"]:
    """The camera of a crop as that of a picture of HEAD_VIEW face sizes, with room for the hair above."""
    zoom = CROP_MARGIN / HEAD_VIEW
    centre = torch.tensor([(size - 1) / 2, (size - 1) / 2, 0.0])
    shift = zoom * (camera[:, 3] - centre) + centre + torch.tensor([0.0, 0.06 * size, 0.0])
    return torch.cat([zoom * camera[:, :3], shift[:, None]], dim=1)


class Photos(Sequence[Cutout]):
    """Photos of one face each, read when they are asked for.

    Args:
        files: path and landmarks of each photo.
    """

    def __init__(self, files: Sequence[tuple[Path, Float[np.ndarray, "68 2"]]]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Cutout:  # type: ignore[override]
        path, landmarks = self.files[index]
        return Cutout(_read(path), None, landmarks)


@lru_cache(maxsize=5000)
def _read(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    return read_image(path)


def free_photos(folder: Path, split: str) -> Photos | None:
    """The photos in `fairface/` and `portraits/` of a folder that belong to a split; None if it has neither.

    The split "train" has FairFace's training photos and most portraits, each of them 16 times; "val" the first half
    of FairFace's validation photos, "test" the other half and the remaining portraits.

    Raises:
        DataError: a table is damaged.
    """
    table = "landmarks68_train.csv" if split == "train" else "landmarks68_val.csv"
    faces = _table(folder / "fairface" / table)
    half = len(faces) // 2
    faces = {"train": faces, "val": faces[:half], "test": faces[half:]}[split]
    portraits = _table(folder / "portraits" / "landmarks68.csv")
    if split == "train":
        faces += [row for number, row in enumerate(portraits) if number % HELD_OUT] * 16
    elif split == "test":
        faces += portraits[::HELD_OUT]
    return Photos(faces) if faces else None


def _table(path: Path) -> list[tuple[Path, Float[np.ndarray, "68 2"]]]:
    """Photos and landmarks of a table; [] if it is not there."""
    if not path.is_file():
        return []
    names, landmarks = read_landmark_table(path)
    points = stretched(landmarks[..., :2])
    return [(path.parent / name, of_photo) for name, of_photo in zip(names.tolist(), points, strict=True)]


def shuffled_tiles(rng: np.random.Generator, image: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """A photo cut into 16 tiles in random order: colours and textures of a face that are no face."""
    height, width = (side // 4 for side in image.shape[:2])
    tiles = [image[y * height : (y + 1) * height, x * width : (x + 1) * width] for y in range(4) for x in range(4)]
    order = [tiles[number] for number in rng.permutation(16)]
    return cv2.vconcat([cv2.hconcat(order[row : row + 4]) for row in range(0, 16, 4)])
