"""Hats: a dome around the skull down to the rim, and a brim below it."""

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from jointface.synthesis.head import Head
from jointface.synthesis.noise import smoothstep, value_noise
from jointface.synthesis.proxy import Proxy, bind
from jointface.synthesis.skull import ARC, CENTRE, Heights, Skull, elevation, height, height_at, place
from jointface.synthesis.solids import Solid, grid
from jointface.synthesis.textures import TEXTURE_SIZE as TEXTURE
from jointface.synthesis.textures import grey_texture

DOME, BRIM, COLUMNS = 28, 6, 72  # grid cells: rows of the dome and the brim, and columns
CUFF = 0.78  # share of the dome's rows above a cuff or ribbon
GREY = 153  # mean luminance of the cloth, 0 ... 255
GAP = 3.0  # mm between hat and hair
LOOSE = 30.0  # mm below the rim over which hair regains its thickness

Cloth = Literal["knit", "panels", "felt"]
Row = Float[np.ndarray, "columns"]  # around the head
Rows = Float[np.ndarray, "rows columns 3"]  # points, mm


@dataclass(frozen=True)
class Hat:
    """A hat.

    proxy: mesh with grey cloth (mean luminance GREY) to be coloured. rim: height in mm on the mean head for each degree
    of azimuth from -180; hair above it is under the hat. room: mm between skull and hat at the rim.
    """

    proxy: Proxy
    rim: Float[np.ndarray, "360"]
    room: float

    def press(self, hair: Proxy, head: Head) -> Proxy:
        """Presses hair towards the skin wherever it would penetrate this hat."""
        roots = (head.mean[hair.corners] * hair.weights[..., None]).sum(dim=1)
        points = (roots + hair.offsets).double().numpy()
        azimuth = np.degrees(np.arctan2(points[:, 0], points[:, 2] - CENTRE[2]))
        rim = np.interp(azimuth, np.arange(-180, 180), self.rim, period=360)
        below = smoothstep((rim - points[:, 1]) / LOOSE)
        length = hair.offsets.double().norm(dim=1).numpy()
        share = np.minimum(1, (self.room - GAP + below * length) / length.clip(1e-6))
        return replace(hair, offsets=hair.offsets * torch.from_numpy(share).to(hair.offsets)[:, None])


@dataclass(frozen=True)
class _Pattern:
    """Parameters of a hat. Lengths are in mm.

    rim: its height. room, top: distance to the skull at the rim and at the crown; bulge: additional distance half way.
    cuff: additional thickness at the rim. brim: its width; ahead: whether it is a visor; droop: mm down per mm out.
    """

    name: str
    cloth: Cloth
    rim: Heights
    top: float
    bulge: float = 0.0
    room: float = 15.0
    over_ears: bool = False
    cuff: float = 0.0
    brim: Heights = field(default_factory=lambda: {0: 0.0, 180: 0.0})
    ahead: bool = False
    droop: float = 0.0


PATTERNS = (
    _Pattern("beanie", "knit", {0: 88, 40: 85, 70: 58, 90: 32, 125: 5, 180: -8}, top=24, room=10, over_ears=True,
             cuff=3),
    _Pattern("baseball_cap", "panels", {0: 90, 30: 89, 60: 74, 80: 66, 100: 62, 130: 42, 180: 30}, top=20, bulge=9,
             room=12, brim={0: 68, 15: 66, 30: 54, 42: 34, 52: 10, 57: 0, 180: 0}, ahead=True, droop=0.22),
    _Pattern("wide_brim", "felt", {0: 92, 60: 80, 90: 68, 130: 56, 180: 48}, top=24, bulge=20, room=13,
             brim={0: 72, 90: 66, 180: 72}, droop=0.16),
)  # fmt: skip


def hats(head: Head, skull: Skull) -> tuple[Hat, ...]:
    """Makes all hats on the mean head."""
    return tuple(Hat(_proxy(p, head, skull), _around(p.rim, np.arange(-180.0, 180.0)), p.room) for p in PATTERNS)


def _proxy(pattern: _Pattern, head: Head, skull: Skull) -> Proxy:
    azimuth = np.linspace(-180, 180, COLUMNS + 1)
    dome, under = _dome(pattern, azimuth, skull)
    mesh = grid(np.concatenate([dome, _brim(pattern, azimuth, dome[-1])]))
    # The brim is stiff, so all of it follows the rim.
    roots = np.concatenate([under, np.broadcast_to(under[-1], (BRIM, *under[-1].shape))])
    v = np.concatenate([np.linspace(1, 0.25, DOME + 1), np.linspace(0.25, 0, BRIM + 1)[1:]])
    uv = np.stack(np.meshgrid(np.linspace(0, 1, COLUMNS + 1), v), axis=-1)
    a, b, c = np.moveaxis(mesh.points[mesh.triangles], 1, 0)
    has_area = np.linalg.norm(np.cross(b - a, c - a), axis=1) > 2e-3  # without a brim, its triangles have none
    mesh = Solid(mesh.points, mesh.triangles[has_area])
    return bind(head, pattern.name, mesh, uv.reshape(-1, 2), _texture(pattern.cloth), roots.reshape(-1, 3))


def _dome(pattern: _Pattern, azimuth: Row, skull: Skull) -> tuple[Rows, Rows]:
    """Points of the dome, and the points of the skull below them."""
    down = np.linspace(0, 1, DOME + 1)[:, None]
    path = down * _path(_around(pattern.rim, azimuth), azimuth, skull)
    up = np.sin(elevation(path))
    thickness = pattern.room + (pattern.top - pattern.room) * up**2 + pattern.bulge * 4 * up**2 * (1 - up**2)
    thickness = thickness + pattern.cuff * smoothstep((down - CUFF) * 30)
    skin = skull.radius(path, azimuth, over_ears=False)
    # Cloth over the ears is tight and holds them down.
    outside = np.maximum(skin + thickness, skull.radius(path, azimuth, pattern.over_ears) + 2)
    return place(path, azimuth, outside), place(path, azimuth, skin)


def _path(y: Row, azimuth: Row, skull: Skull) -> Row:
    """Position on the path at which the skull has the height y."""
    steps = np.arange(0, ARC + 130, 2.0)
    heights = CENTRE[1] + height(steps, skull.radius(steps[:, None], azimuth, over_ears=False))
    columns = np.minimum.accumulate(heights).T
    return np.array([np.interp(-wanted, -column, steps) for wanted, column in zip(y, columns, strict=True)])


def _brim(pattern: _Pattern, azimuth: Row, rim: Float[np.ndarray, "columns 3"]) -> Rows:
    around = np.radians(azimuth)
    out = np.stack([np.sin(around), np.zeros_like(around), np.cos(around)], axis=-1)
    if pattern.ahead:  # a visor: flatter than the forehead, with its corners bent down
        out = np.stack([0.35 * out[:, 0], -0.5 * out[:, 0] ** 2, np.ones_like(around)], axis=-1)
    out[:, 1] -= pattern.droop
    width = np.linspace(0, 1, BRIM + 1)[1:, None] * _around(pattern.brim, azimuth)
    return rim + out * width[..., None]


def _texture(cloth: Cloth) -> UInt8[np.ndarray, "rows columns 4"]:
    middle = (np.arange(TEXTURE) + 0.5) / TEXTURE
    u, v = middle[None], middle[:, None]  # v downwards
    light = 1 + 0.05 * value_noise(u, v, (128, 128), 1) + 0.05 * value_noise(u, v, (12, 10), 2)
    if cloth == "knit":
        ribs = np.cos(2 * np.pi * 44 * u) + 0.4 * np.cos(2 * np.pi * (44 * u + 50 * v))
        light = light + 0.13 * ribs - 0.25 * np.exp(-(((v / 0.75 - CUFF) / 0.012) ** 2))
    elif cloth == "panels":
        seam = np.abs((u * 6) % 1 - 0.5) * 2  # 1 on the seams, one of them in front
        light = light - 0.25 * (seam > 0.96) * (v < 0.75) - 0.15 * (np.abs(v - 0.75) < 0.01)
    else:
        light = light * np.where((v > CUFF * 0.75) & (v < 0.75), 0.45, 1)
    light = GREY * light / light.mean()
    return grey_texture(np.broadcast_to(light, (TEXTURE, TEXTURE)).clip(0, 255))


def _around(values: Heights, azimuth: Row) -> Row:
    return height_at(values, np.abs(azimuth))
