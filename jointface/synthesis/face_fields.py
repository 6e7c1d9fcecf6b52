"""Smooth fields over the surface of the mean head that locate lips, brows, beard, wrinkles and so on.

Fields are stored over the UV coordinates of the head's morphable model, so they can be looked up for any head.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.path import Path as Polygon
from scipy.interpolate import CubicSpline
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree
from torch import Tensor

from jointface.geometry.position_map import UVLayout
from jointface.synthesis.head import Head
from jointface.synthesis.noise import smoothstep

SIZE = 512  # pixels of the layout
NAMES = (
    "x", "y", "z",  # of the mean head, in millimetres
    "lips",  # 1 on the vermilion
    "mouth_line",  # distance from the line between the lips, mm
    "eye_distance", "eye_up",  # distance from the eye's opening, mm; 1 above it ... -1 below
    "brow_along", "brow_across",  # 0 inner ... 1 outer end; distance from the brow's curve, mm, upwards positive
    "cheek", "flush", "under_eye",  # where blush goes; where skin is redder; bag below the eye
    "nasolabial", "crow", "forehead",  # distance from the fold, mm; crow's feet beside the eye; forehead
    "moustache", "goatee", "beard", "sideburns", "scalp",  # where hair grows; beard: cheeks and jaw
    "nostril",
)  # fmt: skip


def layout_pixel(uv: Float[Tensor, "2 points"]) -> Int[Tensor, "points"]:
    """Index of the nearest layout pixel, in reading order."""
    u, v = uv.clamp(0, 1).unbind(0)
    return ((1 - v) * (SIZE - 1)).round().long() * SIZE + (u * (SIZE - 1)).round().long()


def look_up(fields: Float[Tensor, "pixels fields"], pixel: Int[Tensor, "points"]) -> dict[str, Float[Tensor, "points"]]:
    """Looks up the fields at layout pixels, by name."""
    return dict(zip(NAMES, fields.index_select(0, pixel).T.float().contiguous().unbind(0), strict=True))


@lru_cache(maxsize=2)
def make_fields(head: Head) -> Float[Tensor, "pixels fields"]:
    """Computes the fields NAMES of a head, in half precision. Rows are the SIZE * SIZE pixels in reading order."""
    layout = UVLayout(head.model, SIZE)
    points = layout.sample(head.model.mean[None])[0].double().numpy()
    marks = head.model.mean[head.model.landmarks68].double().numpy()
    fields = _fields(points, marks)
    return laid_out(layout, torch.from_numpy(np.stack([fields[name] for name in NAMES], axis=1)).half())


def laid_out(layout: UVLayout, values: Float[Tensor, "points channels"]) -> Float[Tensor, "pixels channels"]:
    """Extends values at a layout's covered pixels to all SIZE * SIZE pixels by nearest neighbour, because a point at
    the edge of a UV island can round to an uncovered pixel."""
    table = torch.zeros(SIZE * SIZE, values.shape[1], dtype=values.dtype)
    table[layout.pixels] = values
    bare = np.ones(SIZE * SIZE, dtype=bool)
    bare[layout.pixels.numpy()] = False
    row, column = distance_transform_edt(bare.reshape(SIZE, SIZE), return_distances=False, return_indices=True)
    return table[torch.from_numpy(row * SIZE + column).flatten().long()]


def brow_place(
    head: Head, x: Float[Tensor, "points"], y: Float[Tensor, "points"]
) -> tuple[Float[Tensor, "points"], Float[Tensor, "points"], float]:
    """ "brow_along" and "brow_across" of points on the front of the mean head, and the length of a brow in mm."""
    brow = _brow(head.model.mean[head.model.landmarks68].double().numpy())
    along, across = _brow_coordinates(brow, np.stack([x.abs().double().numpy(), y.double().numpy()], axis=1))
    length = float(np.linalg.norm(np.diff(brow, axis=0), axis=1).sum())
    return torch.from_numpy(along).float(), torch.from_numpy(across).float(), length


def _brow(marks: np.ndarray) -> np.ndarray:
    """The curve of a brow from its inner to its outer end, on the side x > 0."""
    return _open_curve((marks * [-1, 1, 1])[17:22][::-1, :2])


def _brow_coordinates(brow: np.ndarray, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position along the brow (0 ... 1) and signed distance from it in mm, for (N, 2) points (|x|, y)."""
    across, along = _nearest(flat, brow)
    above = flat[:, 1] > np.interp(flat[:, 0], *brow[np.argsort(brow[:, 0])].T)
    return along, across * np.where(above, 1, -1)


def _fields(points: np.ndarray, marks: np.ndarray) -> dict[str, np.ndarray]:
    x, y, z = points.T
    side = np.abs(x)
    left = marks * [-1, 1, 1]  # everything is described on the side x > 0 and mirrored
    flat = np.stack([side, y], axis=1)
    eye = _closed_curve(left[36:42, :2])
    eye_distance, _ = _nearest(flat, eye)
    eye_centre = eye.mean(0)
    outside = ~Polygon(eye).contains_points(flat)
    along, across = _brow_coordinates(_brow(marks), flat)
    outer = _closed_curve(marks[48:60, :2])
    front = z > marks[48, 2] - 8
    lips = Polygon(outer).contains_points(points[:, :2]) & front
    edge, _ = _nearest(points[:, :2], outer)
    mouth_line, _ = _nearest(points[:, :2], marks[[60, 61, 62, 63, 64], :2])
    nose, chin, mouth = marks[30], marks[8], marks[[48, 54]].mean(0)
    fold = np.array([left[31, :2] + [7, 5], left[31, :2] + [15, -7], left[48, :2] + [7, 3], left[48, :2] + [10, -11]])
    facing = z > marks[0, 2] + 12
    nasolabial, _ = _nearest(flat, _open_curve(fold))
    beard_line = np.interp(side, [0, 30, 45, 62, 75], [mouth[1] - 12, mouth[1] - 2, mouth[1] + 12, mouth[1] + 32,
                                                       marks[0, 1] - 8])  # fmt: skip
    ear = z < left[2, 2] - 4
    cheek = np.array([left[36, 0] + 2, (left[36, 1] + nose[1]) / 2 - 5])
    crow = np.array([left[36, 0] + 10, left[36, 1]])
    brow_level = left[17:22, 1].max()
    return {
        "x": x, "y": y, "z": z,
        "lips": np.where(lips, _step(edge, -0.2, 1.0), 0.0),
        "mouth_line": mouth_line,
        "eye_distance": np.where(facing, eye_distance * np.where(outside, 1, -1), 60.0).clip(-20, 60),
        "eye_up": ((y - eye_centre[1]) / np.hypot(side - eye_centre[0], y - eye_centre[1]).clip(1)).clip(-1, 1),
        "brow_along": along,
        "brow_across": np.where(facing, across, 60.0).clip(-60, 60),
        "cheek": facing * _blob(flat - cheek, 16, 12),
        "flush": facing * (_blob(points[:, :2] - nose[:2], 13, 11) + 0.6 * _blob(flat - cheek, 18, 14)
                           + 0.5 * _blob(points[:, :2] - chin[:2], 16, 9)).clip(0, 1),
        "under_eye": facing * _blob(flat - eye_centre - [-2, -12.5], 13, 3.6),
        "nasolabial": np.where(facing, nasolabial, 60.0).clip(0, 60),
        "crow": facing * _blob(flat - crow, 9, 11),
        "forehead": facing * _step(y, brow_level + 4, brow_level + 12) * _step(-side, -60, -45),
        "moustache": facing * (1 - lips) * _step(y, mouth[1] + 1, mouth[1] + 4) * _step(-side, -31, -23)
        * _step(-y, -(nose[1] - 12), -(nose[1] - 17)),
        "goatee": facing * (1 - lips) * _step(-side, -25, -17) * _step(-y, -(mouth[1] - 9), -(mouth[1] - 12)),
        "beard": facing * (1 - lips) * _step(beard_line - y, -3, 4) * ~ear,
        "sideburns": _step(side, 60, 64) * _step(y, left[2, 1] - 4, left[2, 1] + 2)
        * _step(-y, -(left[0, 1] + 40), -(left[0, 1] + 30))
        * _step(z, left[0, 2] - 12, left[0, 2] - 6) * _step(-z, -(left[0, 2] + 16), -(left[0, 2] + 8)),
        "scalp": _above_hairline(y, z, marks).clip(-60, 60),
        "nostril": facing * _blob(flat - left[32, :2] - [1.0, 3.6], 3.6, 2.4),
    }  # fmt: skip


def _above_hairline(y: np.ndarray, z: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Height above the hairline in mm. The line runs across forehead and temples, around the ear and to the nape."""
    brow, ear, nose = marks[17:22, 1].max(), marks[0], marks[30]
    behind = nose[2] - ear[2] - 12
    depths = [0, 25, 45, 70, behind, behind + 25, behind + 60, 250]  # mm behind the tip of the nose
    heights = [brow + 45, brow + 45, brow + 37, brow + 15, ear[1] - 5, ear[1] + 5, ear[1] - 55, ear[1] - 60]
    return y - np.interp(nose[2] - z, depths, heights)


def _closed_curve(points: np.ndarray) -> np.ndarray:
    """A smooth closed curve through (n, 2) points."""
    loop = np.concatenate([points, points[:1]])
    spline = CubicSpline(np.arange(len(loop)), loop, bc_type="periodic")
    return spline(np.linspace(0, len(points), 12 * len(points), endpoint=False))


def _open_curve(points: np.ndarray) -> np.ndarray:
    """A smooth curve through (n, 2) points, from the first to the last."""
    return CubicSpline(np.arange(len(points)), points)(np.linspace(0, len(points) - 1, 12 * len(points)))


def _nearest(points: np.ndarray, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of (N, 2) points from a finely sampled curve, and position (0 ... 1) of the nearest point along it."""
    distance, index = KDTree(curve).query(points)
    return distance, index / (len(curve) - 1)


def _step(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """Smooth step from 0 at low to 1 at high."""
    return smoothstep((value - low) / (high - low))


def _blob(offset: np.ndarray, width: float, height: float) -> np.ndarray:
    """Unnormalised Gaussian of (N, 2) offsets."""
    return np.exp(-0.5 * ((offset[:, 0] / width) ** 2 + (offset[:, 1] / height) ** 2))
