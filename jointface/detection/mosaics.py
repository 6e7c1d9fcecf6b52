"""Training pictures of the finder: faces of known framing, pasted into scenes, one to many in each."""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8

from jointface.datamodules import CropTransform
from jointface.datamodules.face_dataset import BROKEN, Batch, FaceDataset, FaceSample, Item
from jointface.detection.cutouts import Cutout, Heads, free_photos, shuffled_tiles
from jointface.errors import ConfigError
from jointface.geometry.framing import FaceBox, face_box
from jointface.synthesis.backgrounds import random_background
from jointface.synthesis.faces import SPLITS

log = logging.getLogger(__name__)

SMALLEST, LARGEST = 9.0, 400.0  # sizes of the faces in pixels; the largest reach beyond the scene
CROWD_LARGEST = 120.0  # of all faces of a scene but the first
MOST = 24  # faces in a scene
OVERLAP = 0.25  # of two faces in a scene at the most, as intersection over the smaller one
PHOTO_SHARE = 0.6  # of the faces that are photos, where there are photos
WHOLE_SHARE = 0.15  # of the scenes that are a photo as it was taken, with its face, to which others are added
TURNED_SHARE = 0.5  # of the heads that are the more turned one of two

Scene = tuple[UInt8[np.ndarray, "size size 3"], Float[np.ndarray, "faces 3"]]


class Mosaics(FaceDataset):
    """Scenes with 0 to 24 faces: synthetic heads, and parts of free photos where a folder has them.

    Every face is scaled, turned and mirrored; some are cut off at the border. Scene i of a split is the same in any
    process. An item holds `image` (3, S, S), `index` (), and `boxes` (24, 3): x, y and size of each face in pixels in
    this package's framing, followed by zeros.

    Args:
        split: "train", "val" or "test"; no photo and no synthetic person is in two of them.
        transform: its size is the side of the scenes.
        num_scenes: length of each split. num_heads: synthetic heads of each split.
        photos_dir: folder that may hold `fairface/` and `portraits/`; without both, scenes have synthetic heads alone.
        synthesis: arguments of `synthesis.faces.FaceFactory`.

    Raises:
        ConfigError: a number is out of its range. DataError: a table of landmarks is damaged.
    """

    splits = tuple(SPLITS)
    rendered = True

    def __init__(
        self,
        split: str,
        transform: CropTransform,
        num_scenes: Mapping[str, int],
        num_heads: Mapping[str, int],
        photos_dir: str,
        synthesis: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(split, transform)
        if num_scenes[split] < 1 or num_heads[split] < 1:
            raise ConfigError(
                f"the finder's scenes: num_scenes.{split}={num_scenes[split]} and num_heads.{split}={num_heads[split]} "
                "must be at least 1"
            )
        self.num_scenes, self.size = num_scenes[split], transform.size
        self.heads = Heads(split, num_heads[split], synthesis or {})
        self.photos = free_photos(Path(photos_dir), split)
        if self.photos is None and split == "train":
            folder = Path(photos_dir).absolute()
            log.info("No fairface/ or portraits/ in %s: the finder sees synthetic heads alone", folder)

    def __len__(self) -> int:
        return self.num_scenes

    def path(self, index: int) -> Path:
        """A name for the scene, not a file."""
        return Path("mosaics") / self.split / str(index)

    def read(self, index: int) -> FaceSample:
        """The scene with the box of its first face, which is that of the whole scene where it has none."""
        image, boxes = self.scene(index)
        middle = ((self.size - 1) / 2, (self.size - 1) / 2, float(self.size))
        return FaceSample(image, FaceBox(*(boxes[0].tolist() if len(boxes) else middle)), {})

    def __getitem__(self, index: int) -> Item:
        image, boxes = self.scene(index)
        padded = np.zeros((MOST, 3), np.float32)
        padded[: len(boxes)] = boxes
        return {
            "image": torch.from_numpy(image).permute(2, 0, 1),
            "boxes": torch.from_numpy(padded),
            "index": torch.tensor(index),
        }

    def batch(self, indices: Sequence[int]) -> Batch:
        """Scenes as a batch; those with a photo that cannot be read are left out and listed as `broken`."""
        items, broken = [], []
        for index in indices:
            try:
                items.append(self[index])
            except Exception:  # the main process logs the reason
                broken.append(index)
        batch: Batch = torch.utils.data.default_collate(items) if items else {}
        return batch | ({BROKEN: torch.tensor(broken)} if broken else {})

    def scene(self, index: int) -> Scene:
        """A picture and the boxes of its faces: x, y and size in pixels."""
        if not 0 <= index < self.num_scenes:
            raise IndexError(f"scene {index} of {self.num_scenes}")
        rng = np.random.default_rng((SPLITS[self.split], index))
        boxes: list[FaceBox] = []
        if self.photos is not None and rng.random() < WHOLE_SHARE:
            canvas = self._whole_photo(rng, boxes)
        else:
            canvas = self._background(rng)
        for _ in range(_number_of_faces(rng) - len(boxes)):
            largest = CROWD_LARGEST if boxes else LARGEST
            size = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(largest))))
            self._paste_face(rng, canvas, boxes, size)
        return _degrade(rng, canvas), np.array(boxes, np.float32).reshape(-1, 3)

    def _background(self, rng: np.random.Generator) -> UInt8[np.ndarray, "size size 3"]:
        """Painted scenery, a part of a photo without faces, parts of photos beside their faces, shuffled photos."""
        size = self.size
        if rng.random() < 0.25:
            canvas = _sample_of_scenery(rng, size)
        else:
            painted = (random_background(rng, size // 2) * 255).astype(np.uint8)
            canvas = cv2.resize(painted, (size, size), interpolation=cv2.INTER_LINEAR)
        pieces = int(rng.integers(0, 7)) if self.photos is not None and rng.random() < 0.8 else 0
        for _ in range(pieces):
            assert self.photos is not None
            photo = self.photos[int(rng.integers(len(self.photos)))]
            piece = shuffled_tiles(rng, photo.image) if rng.random() < 0.15 else _faceless_part(rng, photo)
            if piece is not None:
                _paste_rectangle(rng, canvas, piece)
        return canvas

    def _whole_photo(self, rng: np.random.Generator, boxes: list[FaceBox]) -> UInt8[np.ndarray, "size size 3"]:
        """A photo, or a part of one, that fills the scene; adds the box of its face."""
        assert self.photos is not None
        photo = self.photos[int(rng.integers(len(self.photos)))]
        image, landmarks = photo.image, photo.landmarks
        scale = rng.uniform(1.0, 1.8) * self.size / min(image.shape[:2])
        linear = scale * np.diag([-1.0 if rng.random() < 0.5 else 1.0, 1.0])
        ends = np.array([[0, 0], [image.shape[1] - 1, image.shape[0] - 1]]) @ linear.T
        high = -ends.min(0)
        shift = rng.uniform(np.minimum(self.size - 1 - ends.max(0), high), high)
        placed = face_box(torch.from_numpy((landmarks @ linear.T + shift).astype(np.float32)))
        if 0 <= placed.x < self.size and 0 <= placed.y < self.size:
            boxes.append(placed)
        canvas = np.zeros((self.size, self.size, 3), np.uint8)
        _blend(canvas, image, np.full(image.shape[:2], 255, np.uint8), np.column_stack([linear, shift]))
        return canvas

    def _cutout(self, rng: np.random.Generator) -> Cutout:
        """A random photo or head; many heads are turned, since few photos are."""
        if self.photos is not None and rng.random() < PHOTO_SHARE:
            return self.photos[int(rng.integers(len(self.photos)))]
        head, other = (self.heads[int(index)] for index in rng.integers(len(self.heads), size=2))
        return other if rng.random() < TURNED_SHARE and other.turn > head.turn else head

    def _paste_face(self, rng: np.random.Generator, canvas: np.ndarray, boxes: list[FaceBox], size: float) -> None:
        """Pastes a random face of this size at a random place, and adds its box; does nothing where others are."""
        cutout = self._cutout(rng)
        box = face_box(torch.from_numpy(cutout.landmarks))
        angle = float(rng.normal(0, 0.2)) if rng.random() < 0.9 else float(rng.uniform(-0.9, 0.9))
        scale, mirror = size / box.size, -1.0 if rng.random() < 0.5 else 1.0
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        linear = np.array([[mirror * cos, sin], [-mirror * sin, cos]])
        margin = (-0.2 if rng.random() < 0.1 else 0.5) * size  # some faces are cut off at the border
        low, high = min(margin, 0.4 * self.size), max(self.size - margin, 0.6 * self.size)
        shift = rng.uniform(low, high, 2) - linear @ np.array([box.x, box.y])
        transform = np.concatenate([linear, shift[:, None]], axis=1)
        points = (cutout.landmarks @ linear.T + shift).astype(np.float32)
        placed = face_box(torch.from_numpy(points))
        if any(_overlap(placed, other) > OVERLAP for other in boxes):
            return
        alpha = cutout.alpha
        if alpha is None:
            alpha = _oval(cutout, box) if rng.random() < 0.7 else _feathered(cutout)
        _blend(canvas, cutout.image, alpha, transform)
        boxes.append(placed)


def _number_of_faces(rng: np.random.Generator) -> int:
    kind = rng.random()
    if kind < 0.5:
        return 0 if kind < 0.1 else 1
    return int(rng.integers(2, 7)) if kind < 0.85 else int(rng.integers(7, MOST + 1))


@lru_cache(maxsize=1)
def _scenery() -> list[UInt8[np.ndarray, "height width 3"]]:
    """Two photos without faces, CC BY 2.0, that scikit-learn ships: a temple and a flower."""
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)


def _sample_of_scenery(rng: np.random.Generator, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """A random part of a photo without faces, mirrored in half of the cases."""
    photos = _scenery()
    photo = photos[int(rng.integers(len(photos)))]
    side = int(rng.integers(60, min(photo.shape[:2]) + 1))
    top, left = (int(rng.integers(0, length - side + 1)) for length in photo.shape[:2])
    part = cv2.resize(photo[top : top + side, left : left + side], (size, size), interpolation=cv2.INTER_AREA)
    return cv2.flip(part, 1) if rng.random() < 0.5 else part


def _faceless_part(rng: np.random.Generator, photo: Cutout) -> UInt8[np.ndarray, "height width 3"] | None:
    """A rectangle of a photo beside its face; None where there is too little room."""
    height, width = photo.image.shape[:2]
    (left, top), (right, bottom) = photo.landmarks.min(0), photo.landmarks.max(0)
    above, below = top - 0.6 * (bottom - top), bottom + 0.05 * (bottom - top)  # the forehead is part of the face
    sides = [(0, 0, left, height), (right, 0, width, height), (0, 0, width, above), (0, below, width, height)]
    roomy = [side for side in sides if side[2] - side[0] >= 12 and side[3] - side[1] >= 12]
    if not roomy:
        return None
    x0, y0, x1, y1 = (max(0, round(float(v))) for v in roomy[int(rng.integers(len(roomy)))])
    return photo.image[y0:y1, x0:x1]


def _paste_rectangle(rng: np.random.Generator, canvas: np.ndarray, piece: UInt8[np.ndarray, "h w 3"]) -> None:
    """Puts a piece of a photo at a random place, a half to four times as large, in place."""
    size = canvas.shape[0]
    scale = float(np.exp(rng.uniform(np.log(0.5), np.log(4.0))))
    width, height = (max(4, min(size, round(scale * side))) for side in piece.shape[1::-1])
    piece = cv2.resize(piece, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    x, y = int(rng.integers(0, size - width + 1)), int(rng.integers(0, size - height + 1))
    canvas[y : y + height, x : x + width] = piece


def _blend(
    canvas: UInt8[np.ndarray, "size size 3"],
    image: UInt8[np.ndarray, "height width 3"],
    alpha: UInt8[np.ndarray, "height width"],
    transform: Float[np.ndarray, "2 3"],
) -> None:
    """Pastes the image under a similarity where alpha says so, in place; shrinks it first, to avoid aliasing."""
    scale = float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))
    if scale < 0.7:
        small = tuple(max(4, round(side * scale)) for side in image.shape[1::-1])
        ratio = np.array([image.shape[1] / small[0], image.shape[0] / small[1]])
        image, alpha = (cv2.resize(part, small, interpolation=cv2.INTER_AREA) for part in (image, alpha))
        shift = transform[:, 2] + transform[:, :2] @ ((ratio - 1) / 2)  # pixel centres are at integers
        transform = np.concatenate([transform[:, :2] * ratio, shift[:, None]], axis=1)
    corners = np.array([[0, 0], [0, image.shape[0]], [image.shape[1], 0], image.shape[1::-1]]) @ transform[:, :2].T
    low = np.floor(corners.min(0) + transform[:, 2] - 1).clip(0, canvas.shape[0]).astype(int)
    high = np.ceil(corners.max(0) + transform[:, 2] + 1).clip(0, canvas.shape[0]).astype(int)
    width, height = (high - low).tolist()
    if width < 1 or height < 1:
        return
    transform = transform - np.array([[0, 0, low[0]], [0, 0, low[1]]])
    moved = cv2.warpAffine(image, transform, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(alpha, transform, (width, height), flags=cv2.INTER_LINEAR).astype(np.float32) / 255
    part = canvas[low[1] : high[1], low[0] : high[0]]
    part[:] = cv2.blendLinear(moved, part.copy(), mask, 1 - mask)


def _oval(cutout: Cutout, box: FaceBox) -> UInt8[np.ndarray, "height width"]:
    """An oval around face and hair with a soft edge."""
    mask = np.zeros(cutout.image.shape[:2], np.uint8)
    centre = (round(box.x), round(box.y - 0.12 * box.size))
    cv2.ellipse(mask, centre, (round(0.72 * box.size), round(0.88 * box.size)), 0, 0, 360, 255, -1)
    edge = max(1, round(0.06 * box.size))
    mask[:edge], mask[-edge:], mask[:, :edge], mask[:, -edge:] = 0, 0, 0, 0
    return cv2.blur(mask, (2 * edge + 1, 2 * edge + 1))


def _feathered(cutout: Cutout) -> UInt8[np.ndarray, "height width"]:
    """The whole photo, with a soft edge."""
    mask = np.zeros(cutout.image.shape[:2], np.uint8)
    mask[3:-3, 3:-3] = 255
    return cv2.blur(mask, (7, 7))


def _overlap(box: FaceBox, other: FaceBox) -> float:
    """Intersection of two boxes over the smaller one."""
    reach, least = (box.size + other.size) / 2, min(box.size, other.size)
    x, y = reach - abs(box.x - other.x), reach - abs(box.y - other.y)
    return min(max(0.0, x), least) * min(max(0.0, y), least) / least**2


def _degrade(rng: np.random.Generator, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """Changes light and colours of a scene; blurs, adds noise, compresses."""
    gain = rng.normal(1, 0.12, 3) * rng.uniform(0.6, 1.35)
    table = np.arange(256)[:, None] * gain + rng.uniform(-25, 25)
    image = cv2.LUT(image, table.clip(0, 255).astype(np.uint8)[None])
    if rng.random() < 0.1:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.6)))
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(2, 14), image.shape[:2])
        image = (image + noise[..., None]).clip(0, 255).astype(np.uint8)
    if rng.random() < 0.4:
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])[1]
        image = np.asarray(
            cv2.imdecode(encoded, cv2.IMREAD_COLOR)
        )  # both take it for BGR, so channels keep their place
    return image
