"""The mean head as a surface for hair and hats: the radius as a function of a path down from the crown and an azimuth.

The path starts at the crown, follows a quarter circle around CENTRE until its rays are horizontal, and then goes
straight down. Its first ARC mm are the dome. Azimuth 0 is the front, 90 degrees is +x.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter

from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.noise import Values

CENTRE = np.array([0.0, 60.0, -80.0])
ARC = 160.0  # mm, about a quarter of the way around the skull
STEP, COLUMNS = 4.0, 120  # mm of the path between rows, number of azimuths
LOWEST = -70.0  # mm: below, the neck continues straight down, because shoulders hide hair but do not push it aside
EAR = ((78.0, 118.0), (-16.0, 58.0))  # range of azimuth in degrees and of height in mm in which rays hit an ear

Heights = dict[int, float]
"""Heights (or widths) in mm by degrees of azimuth from the front, equal on both sides."""
Grid = Float[np.ndarray, "rows columns"]


class Skull:
    """Radii of the mean head, (rows, COLUMNS) in mm. bare: without ears. draped: of a cloth over skull and ears."""

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
        """Distance in mm from the axis to the skin."""
        return sample(self.draped if over_ears else self.bare, path / STEP, azimuth / 360 + 0.5)


def sample(grid: Grid, row: Values, turn: Values) -> Float[np.ndarray, "*shape"]:
    """Interpolates a grid. Columns wrap around; the middle of the first is at turn 0.5 / columns."""
    row, turn = np.broadcast_arrays(row, turn)
    around = np.pad(grid, ((0, 0), (1, 1)), mode="wrap")
    return map_coordinates(around, [row, turn * grid.shape[1] + 0.5], order=1, mode="nearest")


def place(path: Values, azimuth: Values, radius: Values) -> Float[np.ndarray, "*shape 3"]:
    """Points on rays at a radius in mm; azimuth in degrees."""
    return _origin(path) + _direction(path, azimuth) * radius[..., None]


def height(path: Float[np.ndarray, "rows"], radius: Grid) -> Grid:
    """Height above CENTRE in mm of points on rays."""
    return radius * np.sin(elevation(path))[:, None] - np.maximum(path - ARC, 0)[:, None]


def elevation(path: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Elevation of rays above the horizontal in radians."""
    return np.maximum(1 - path / ARC, 0) * np.pi / 2


def height_at(heights: Heights, azimuth: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Smooth interpolation at azimuths of 0 ... 180 degrees; others are clamped."""
    return PchipInterpolator(*zip(*sorted(heights.items()), strict=True))(np.clip(azimuth, 0, 180))


def _origin(path: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape 3"]:
    """Origins of rays."""
    return CENTRE - np.maximum(path - ARC, 0)[..., None] * np.array([0.0, 1.0, 0.0])


def _direction(path: Values, azimuth: Values) -> Float[np.ndarray, "*shape 3"]:
    """Unit vectors of rays."""
    up, around = elevation(path), np.radians(azimuth)
    level = np.cos(up)
    return np.stack(np.broadcast_arrays(level * np.sin(around), np.sin(up), level * np.cos(around)), axis=-1)


def _outermost(
    corners: Float[np.ndarray, "triangles 3 3"], path: Float[np.ndarray, "1"], azimuth: Float[np.ndarray, "rays"]
) -> Float[np.ndarray, "rays"]:
    """Length of each ray at a position on the path up to the last triangle that it hits, NaN if it hits none."""
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
    """All triangles that rays from the origin at this elevation may hit, and few others; saves most of the work."""
    # `above` is positive above the cone of these rays. It is concave, so its minimum over a triangle is at a corner. It
    # is 1-Lipschitz, so its maximum exceeds that of the corners by at most the longest edge.
    above = np.cos(up) * corners[..., 1] - np.sin(up) * np.hypot(corners[..., 0], corners[..., 2])
    edge = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    return (above.min(axis=1) < 1e-6) & (above.max(axis=1) > -edge - 1e-6)


def _without_ears(radius: Grid, path: Float[np.ndarray, "rows"], azimuth: Float[np.ndarray, "columns"]) -> Grid:
    """Replaces the radii at the ears by interpolation between the columns in front of and behind them."""
    (front, back), (low, high) = EAR
    y = CENTRE[1] + height(path, radius)
    ear = (np.abs(azimuth) > front) & (np.abs(azimuth) < back) & (y > low) & (y < high)
    smooth = radius.copy()
    for row, hidden in zip(smooth, ear, strict=True):
        row[hidden] = np.interp(azimuth[hidden], azimuth[~hidden], row[~hidden])
    return smooth
