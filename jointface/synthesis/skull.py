"""The mean head as a surface to put hair and hats on: a radius over a path from the crown downwards and an azimuth.

The path starts at the crown, follows a quarter circle around CENTRE until its rays are level, and then goes straight
down: its first ARC mm are the dome, the rest hangs. Azimuth 0 is the front, 90 degrees is +x.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.noise import Values

CENTRE = np.array([0.0, 60.0, -80.0])
ARC = 160.0  # mm, about a quarter of the way around the skull
STEP, COLUMNS = 4.0, 120  # mm of the path, azimuths around
LOWEST = -70.0  # mm: below, the neck goes straight down; shoulders hide hair, they do not push it aside
EAR = ((78.0, 118.0), (-16.0, 58.0))  # degrees, mm: where the radius is that of an ear

Heights = dict[int, float]
"""Heights (or widths) in mm by degrees of azimuth from the front, the same on both sides."""
Grid = Float[np.ndarray, "rows columns"]


class Skull:
    """Radii of the mean head, (rows, COLUMNS) in mm. bare: without ears; draped: of a cloth over skull and ears."""

    def __init__(self, head: Head) -> None:
        path = np.arange(0, ARC + CENTRE[1] - LOWEST + STEP, STEP)
        azimuth = (np.arange(COLUMNS) + 0.5) / COLUMNS * 360 - 180
        corners = head.mean[head.triangles[head.material == SKIN]].double().numpy()
        radius = np.stack([_outermost(corners, at, azimuth) for at in path[:, None]])
        for row in radius:  # rays that leave through the neck's opening
            hit = np.isfinite(row)
            row[~hit] = np.interp(azimuth[~hit], azimuth[hit], row[hit])
        self.bare = _without_ears(radius, path, azimuth)
        cloth = maximum_filter(radius, size=(7, 5), mode=("nearest", "wrap"))
        self.draped = np.maximum(gaussian_filter(cloth, (2.5, 2), mode=("nearest", "wrap")), radius)

    def radius(self, path: Values, azimuth: Values, over_ears: bool) -> Float[np.ndarray, "*shape"]:
        """mm from the axis to the skin."""
        return sample(self.draped if over_ears else self.bare, path / STEP, azimuth / 360 + 0.5)


def sample(grid: Grid, row: Values, turn: Values) -> Float[np.ndarray, "*shape"]:
    """A grid interpolated between its nodes; columns wrap around (the middle of the first is at turn 0.5 / columns)."""
    row, turn = np.broadcast_arrays(row, turn)
    around = np.pad(grid, ((0, 0), (1, 1)), mode="wrap")
    return map_coordinates(around, [row, turn * grid.shape[1] + 0.5], order=1, mode="nearest")


def place(path: Values, azimuth: Values, radius: Values) -> Float[np.ndarray, "*shape 3"]:
    """Points of rays, in mm; azimuth in degrees."""
    return _origin(path) + _direction(path, azimuth) * radius[..., None]


def height(path: Float[np.ndarray, "rows"], radius: Grid) -> Grid:
    """mm above CENTRE."""
    return radius * np.sin(elevation(path))[:, None] - np.maximum(path - ARC, 0)[:, None]


def elevation(path: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Radians of rays above the horizon."""
    return np.maximum(1 - path / ARC, 0) * np.pi / 2


def height_at(heights: Heights, azimuth: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Smooth interpolation at azimuths of 0 ... 180 degrees; others are clamped."""
    return PchipInterpolator(*zip(*sorted(heights.items()), strict=True))(np.clip(azimuth, 0, 180))


def _origin(path: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """Where rays start."""
    return CENTRE - np.maximum(path - ARC, 0)[..., None] * np.array([0.0, 1.0, 0.0])


def _direction(path: Values, azimuth: Values) -> Float[np.ndarray, "*shape 3"]:
    """Unit vectors of rays."""
    up, around = elevation(path), np.radians(azimuth)
    level = np.cos(up)
    return np.stack(np.broadcast_arrays(level * np.sin(around), np.sin(up), level * np.cos(around)), axis=-1)


def _outermost(
    corners: Float[np.ndarray, "triangles 3 3"], path: Float[np.ndarray, "1"], azimuth: Float[np.ndarray, "rays"]
) -> Float[np.ndarray, "rays"]:
    """Length of the rays at a place of the path up to the last triangle that each meets, NaN if it meets none."""
    corners = corners - _origin(path)
    a, b, c = np.moveaxis(corners[_near_cone(corners, float(elevation(path)[0]))], 1, 0)
    normals = np.stack([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
    volume = (a * normals[0]).sum(axis=1)
    weights = np.einsum("kti,ri->krt", normals, _direction(path, azimuth), optimize=True)
    total = weights.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        length = volume / total
        inside = (weights * np.sign(total) >= 0).all(axis=0) & (length > 0)
    longest = np.where(inside, length, -np.inf).max(axis=1)
    return np.where(np.isfinite(longest), longest, np.nan)


def _near_cone(corners: Float[np.ndarray, "triangles 3 3"], up: float) -> Bool[np.ndarray, "triangles"]:
    """All triangles that may meet rays from the origin at this elevation, and few others: it saves most of the work."""
    # Above the cone of these rays this is positive, and as it is concave, a triangle's least is at a corner. It changes
    # by no more than the distance, so a triangle's largest exceeds its corners' by no more than the longest edge.
    above = np.cos(up) * corners[..., 1] - np.sin(up) * np.hypot(corners[..., 0], corners[..., 2])
    edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    return (above.min(axis=1) < 1e-6) & (above.max(axis=1) > -edge - 1e-6)


def _without_ears(radius: Grid, path: Float[np.ndarray, "rows"], azimuth: Float[np.ndarray, "columns"]) -> Grid:
    """The radii with those of the ears interpolated between the columns before and behind them."""
    (front, back), (low, high) = EAR
    y = CENTRE[1] + height(path, radius)
    ear = (np.abs(azimuth) > front) & (np.abs(azimuth) < back) & (y > low) & (y < high)
    smooth = radius.copy()
    for row, hidden in zip(smooth, ear, strict=True):
        row[hidden] = np.interp(azimuth[hidden], azimuth[~hidden], row[~hidden])
    return smooth
