"""The mean head as something to put hair and hats on: a radius over a path from the crown downwards and an azimuth.

The path starts at the crown, goes down a quarter circle around CENTRE until rays from there are level, and then
straight down: its first ARC mm are the dome, the rest hangs. Azimuth 0 is the front, 90 degrees is +x.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from jointface.synthesis.head import SKIN, Head

CENTRE = np.array([0.0, 60.0, -80.0])
ARC = 160.0  # mm, about a quarter of the way around the skull
STEP, COLUMNS = 4.0, 120  # mm of the path, azimuths around
LOWEST = -70.0  # mm: below, the neck goes straight down; shoulders do not push hair aside, they hide it
EAR = ((78.0, 118.0), (-16.0, 58.0))  # degrees, mm: where the radius is that of an ear


class Skull:
    """Radii of the mean head.

    Attributes:
        bare: (rows, COLUMNS) mm, of the skull without ears.
        draped: of a cloth over skull and ears.
    """

    def __init__(self, head: Head) -> None:
        path = np.arange(0, ARC + CENTRE[1] - LOWEST + STEP, STEP)
        azimuth = (np.arange(COLUMNS) + 0.5) / COLUMNS * 360 - 180
        corners = head.mean[head.triangles[head.material == SKIN]].double().numpy()
        radius = np.stack([_outermost(corners, origin(s), direction(s, azimuth)) for s in path[:, None]])
        for row in radius:  # rays that leave through the neck's opening
            row[~np.isfinite(row)] = np.interp(
                azimuth[~np.isfinite(row)], azimuth[np.isfinite(row)], row[np.isfinite(row)]
            )
        self.bare = _without_ears(radius, path, azimuth)
        cloth = maximum_filter(radius, size=(7, 5), mode=("nearest", "wrap"))
        self.draped = np.maximum(gaussian_filter(cloth, (2.5, 2), mode=("nearest", "wrap")), radius)

    def radius(
        self, path: Float[np.ndarray, "*#shape"], azimuth: Float[np.ndarray, "*#shape"], over_ears: bool
    ) -> Float[np.ndarray, "*shape"]:
        """mm from the axis to the skin. path in mm, azimuth in degrees; broadcast against each other."""
        return sample(self.draped if over_ears else self.bare, path / STEP, azimuth / 360 + 0.5)


def sample(
    grid: Float[np.ndarray, "rows columns"], row: Float[np.ndarray, "*#shape"], turn: Float[np.ndarray, "*#shape"]
) -> Float[np.ndarray, "*shape"]:
    """A grid between its nodes; columns go around (the middle of the first at turn 0.5 / columns), rows end."""
    row, turn = np.broadcast_arrays(row, turn)
    around = np.pad(grid, ((0, 0), (1, 1)), mode="wrap")
    return map_coordinates(around, [row, turn * grid.shape[1] + 0.5], order=1, mode="nearest")


def origin(path: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """Where rays start."""
    below = np.maximum(path - ARC, 0)
    return CENTRE - below[..., None] * np.array([0.0, 1.0, 0.0])


def elevation(path: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Radians of rays above the horizon."""
    return np.maximum(1 - path / ARC, 0) * np.pi / 2


def direction(
    path: Float[np.ndarray, "*#shape"], azimuth: Float[np.ndarray, "*#shape"]
) -> Float[np.ndarray, "*shape 3"]:
    """Unit vectors of rays; azimuth in degrees."""
    up, around = elevation(path), np.radians(azimuth)
    level = np.cos(up)
    return np.stack(np.broadcast_arrays(level * np.sin(around), np.sin(up), level * np.cos(around)), axis=-1)


def place(
    path: Float[np.ndarray, "*#shape"], azimuth: Float[np.ndarray, "*#shape"], radius: Float[np.ndarray, "*#shape"]
) -> Float[np.ndarray, "*shape 3"]:
    """Points in mm."""
    return origin(path) + direction(path, azimuth) * radius[..., None]


def grid_triangles(rows: int, columns: int) -> Int[np.ndarray, "triangles 3"]:
    """Of a grid of points whose rows go down and whose columns go to larger azimuths: seen from outside, x's growing
    azimuth is to the right in front, so these are counter-clockwise."""
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    return np.stack([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)], axis=1).reshape(-1, 3)


def _outermost(
    corners: Float[np.ndarray, "triangles 3 3"], start: Float[np.ndarray, "1 3"], rays: Float[np.ndarray, "rays 3"]
) -> Float[np.ndarray, "rays"]:
    """Length of each ray up to the last triangle that it meets, NaN without one."""
    a, b, c = np.moveaxis(corners - start, 1, 0)
    normals = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
    volume = (a * normals[0]).sum(axis=1)
    weights = np.einsum("kti,ri->krt", normals, rays, optimize=True)
    total = weights.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        length = volume / total
        inside = (weights * np.sign(total) >= 0).all(axis=0) & (length > 0)
    longest = np.where(inside, length, -np.inf).max(axis=1)
    return np.where(np.isfinite(longest), longest, np.nan)


def _without_ears(
    radius: Float[np.ndarray, "rows columns"], path: Float[np.ndarray, "rows"], azimuth: Float[np.ndarray, "columns"]
) -> Float[np.ndarray, "rows columns"]:
    """The skull where the ears stand, between the columns before and behind them."""
    (front, back), (low, high) = EAR
    height = CENTRE[1] + sample_height(path, radius)
    ear = (np.abs(azimuth) > front) & (np.abs(azimuth) < back) & (height > low) & (height < high)
    smooth = radius.copy()
    for row, hidden in zip(smooth, ear, strict=True):
        row[hidden] = np.interp(azimuth[hidden], azimuth[~hidden], row[~hidden])
    return smooth


def sample_height(
    path: Float[np.ndarray, "rows"], radius: Float[np.ndarray, "rows columns"]
) -> Float[np.ndarray, "rows columns"]:
    """mm above CENTRE."""
    return radius * np.sin(elevation(path))[:, None] - np.maximum(path - ARC, 0)[:, None]
