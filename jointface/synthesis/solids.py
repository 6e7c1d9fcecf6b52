"""Simple meshes in numpy, from which glasses, earrings, hats and hair are made: grids, tubes, ellipsoids and disks."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Solid(NamedTuple):
    """Points in mm and triangles, counter-clockwise from outside."""

    points: Float[np.ndarray, "points 3"]
    triangles: Int[np.ndarray, "triangles 3"]

    def mirrored(self) -> "Solid":
        """The same solid on the other side of the face."""
        return Solid(self.points * [-1, 1, 1], self.triangles[:, ::-1])

    def moved(self, by: Float[np.ndarray, "3"]) -> "Solid":
        return Solid(self.points + by, self.triangles)


def join(solids: Iterable[Solid]) -> Solid:
    """Joins solids into one."""
    solids = list(solids)
    starts = np.cumsum([0, *(len(solid.points) for solid in solids)])
    triangles = [solid.triangles + start for solid, start in zip(solids, starts, strict=False)]
    return Solid(np.concatenate([solid.points for solid in solids]), np.concatenate(triangles))


def grid(points: Float[np.ndarray, "rows columns 3"]) -> Solid:
    """A sheet with two triangles per cell. Seen from outside, rows go down and columns to the right."""
    rows, columns, _ = points.shape
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    triangles = np.stack([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)], axis=1)
    return Solid(points.reshape(-1, 3), triangles.reshape(-1, 3))


def tube(
    line: Float[np.ndarray, "nodes 3"],
    across: Float[np.ndarray, "3"],
    radii: tuple[float, float],
    closed: bool = False,
    sides: int = 6,
) -> Solid:
    """A tube around a line. Its two radii in mm are perpendicular to line and `across`, and along `across`.

    across: roughly perpendicular to the line everywhere. closed: whether the line returns to its first node.
    """
    ahead = np.roll(line, -1, axis=0) - np.roll(line, 1, axis=0) if closed else np.gradient(line, axis=0)
    beside = np.cross(ahead, across)
    beside /= np.linalg.norm(beside, axis=1, keepdims=True)
    turn = np.linspace(0, 2 * np.pi, sides + 1)[:, None]
    points = line[:, None] + radii[0] * np.cos(turn) * beside[:, None] + radii[1] * np.sin(turn) * across
    return grid(np.concatenate([points, points[:1]]) if closed else points)


def ellipsoid(radii: tuple[float, float, float], rows: int = 6, columns: int = 10) -> Solid:
    """An ellipsoid around the origin."""
    around, down = np.meshgrid(np.linspace(-np.pi, np.pi, columns + 1), np.linspace(0, np.pi, rows + 1))
    ball = np.stack([np.sin(down) * np.sin(around), np.cos(down), np.sin(down) * np.cos(around)], axis=-1)
    return grid(ball * radii)


def disk(outline: Float[np.ndarray, "nodes 3"], bulge: float) -> Solid:
    """Fills a closed counter-clockwise outline; its centre is raised by `bulge` mm in z."""
    points = np.concatenate([outline, outline.mean(axis=0, keepdims=True) + np.array([0, 0, bulge])])
    node = np.arange(len(outline))
    return Solid(points, np.stack([node, np.roll(node, -1), np.full_like(node, len(outline))], axis=1))
