"""Pictures of people who are plain squares of their own colour, with a network and a finder that see these."""

from collections.abc import Sequence

import numpy as np

from jointface.detection.finders import FoundFace
from jointface.geometry import FaceBox
from jointface.inference import FaceReader
from jointface.inference.backends import MeshFacts, NetworkFacts, NetworkOutput

SIZE = 64  # of the crops
COLOURS = np.array([[230, 30, 30], [30, 230, 30], [30, 30, 230]])
Box = tuple[float, float, float]


def painted(boxes: Sequence[Box | None], width: int = 320, height: int = 120) -> np.ndarray:
    """A grey picture with a square for each person; the last is in front, None is not there."""
    picture = np.full((height, width, 3), 128, np.uint8)
    for colour, box in zip(COLOURS, boxes, strict=False):
        if box is not None:
            x, y, size = box
            left, right, top, bottom = (
                max(0, round(at)) for at in (x - size / 2, x + size / 2, y - size / 2, y + size / 2)
            )
            picture[top:bottom, left:right] = colour
    return picture


def edges(picture: np.ndarray, person: int) -> tuple[int, int, int, int] | None:
    """First and last column, first and last row in which a person is seen."""
    seen = (np.abs(picture.astype(int) - COLOURS[person]) < 60).all(2)
    if seen.sum() < 12:
        return None
    rows, columns = np.nonzero(seen)
    return int(columns.min()), int(columns.max()), int(rows.min()), int(rows.max())


class SquareNetwork:
    """Sees the person who fills most of the middle of a crop: four vertices, the corners of the square.

    Args:
        noise: of the vertices, in pixels of the crop. shape: whether it predicts vertices.
    """

    def __init__(self, noise: float = 0.0, shape: bool = True) -> None:
        corners = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32)
        triangles = np.array([[0, 1, 2], [0, 2, 3]])
        mesh = MeshFacts(triangles, corners[:, :2], np.arange(68) % 4, corners, np.full(4, True))
        self.facts = NetworkFacts(SIZE, (), np.zeros(0, np.float32), mesh if shape else None)
        self.noise, self.rng, self.reads = noise, np.random.default_rng(0), 0

    def __call__(self, crops: np.ndarray) -> NetworkOutput:
        self.reads += len(crops)
        if self.facts.mesh is None:
            return NetworkOutput()
        vertices = np.stack([self._corners(crop.transpose(1, 2, 0)) for crop in crops])
        vertices += self.noise * self.rng.standard_normal(vertices.shape)
        return NetworkOutput(vertices.astype(np.float32), np.tile(np.eye(3, dtype=np.float32), (len(crops), 1, 1)))

    def _corners(self, crop: np.ndarray) -> np.ndarray:
        middle = crop[SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4].astype(int)
        shares = [(np.abs(middle - colour) < 60).all(2).mean() for colour in COLOURS]
        left, right, top, bottom = edges(crop, int(np.argmax(shares))) or (16, 47, 16, 47)
        return np.array([[left, top, 0.0], [right, top, 0], [right, bottom, 0], [left, bottom, 0]])


class SquareFinder:
    """Finds every square of which enough is seen. looks: how often it was asked."""

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self, photo: np.ndarray) -> list[FoundFace]:
        self.looks += 1
        found = []
        for left, right, top, bottom in filter(None, (edges(photo, person) for person in range(len(COLOURS)))):
            if min(right - left, bottom - top) >= 0.6 * max(right - left, bottom - top):
                size = (right - left + bottom - top) / 2
                found.append(FoundFace(FaceBox((left + right) / 2, (top + bottom) / 2, size), 0.9))
        return found


def square_reader(noise: float = 0.0, shape: bool = True, two_passes: bool = True) -> FaceReader:
    """A reader of such people."""
    return FaceReader(SquareNetwork(noise, shape), SquareFinder(), two_passes)
