"""Hair cuts: each is a sheet around the skull, cut out by the alpha channel of its texture.

The sheet is the grid of `synthesis.skull` at some distance from the skin; hanging hair leaves the skull at its widest
part. A cut defines the thickness of the hair, and the heights between which it grows.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import binary_dilation, distance_transform_edt

from jointface.synthesis.head import Head
from jointface.synthesis.noise import smoothstep, value_noise
from jointface.synthesis.proxy import Proxy, bind
from jointface.synthesis.skull import ARC, CENTRE, Heights, Skull, elevation, height_at, place, sample
from jointface.synthesis.solids import Solid, ellipsoid, grid, join
from jointface.synthesis.textures import TEXTURE_SIZE as TEXTURE
from jointface.synthesis.textures import grey_texture

ROWS, COLUMNS = 44, 72  # number of cells of the sheet
LEAST = 2.0  # smallest distance between hair and skin, mm
GREY, CONTRAST = 153, 0.17  # mean luminance of the strands (0 ... 255), and their relative standard deviation
MARGIN = 14.0  # mm of the sheet below the lowest hair, for frayed ends
FALL = ARC - 25  # mm along the path beyond which hair may hang
HOLD = 0.15  # share to which hanging hair follows the neck instead of the skull

SWAY = {"straight": 0.0, "wavy": 2.5, "curly": 2.0}  # degrees by which waves shift the edge of the hair

Wave = Literal["straight", "wavy", "curly"]
Length = Literal["short", "medium", "long"]
Flow = Literal["crown", "back", "part"]


@dataclass(frozen=True)
class HairStyle:
    """A hair cut.

    proxy: mesh with grey strands (mean luminance GREY) to be coloured. bangs: hair covers the forehead. receding: the
    hairline has receded. feminine, masculine: plausibility of the cut for women and men, 0 ... 1. fits_under_hat: hair
    above the rim of a hat is thinner than the hat's room.
    """

    proxy: Proxy
    bangs: bool
    wave: Wave
    length: Length
    receding: bool
    feminine: float
    masculine: float
    fits_under_hat: bool


@dataclass(frozen=True)
class _Cut:
    """Parameters of a cut. Heights and lengths are in mm.

    low, high: heights between which hair grows. top, sides, back: thickness; quiff: additional thickness above the
    forehead. root: distance from the edge over which the thickness builds up. cling: inward slope of hanging hair, mm
    per mm down; flare: relative widening at its ends. ripple: depth of waves or curls. fray: unevenness of the ends.
    flow: origin of the strands. part: x of the parting. bun: adds a knot behind the crown. The other fields are those
    of `HairStyle`. Hair that is not short hangs over the ears.
    """

    name: str
    low: Heights
    top: float
    sides: float
    back: float
    feminine: float
    masculine: float
    high: Heights = field(default_factory=lambda: {0: 999.0, 180: 999.0})
    quiff: float = 0.0
    root: float = 18.0
    cling: float = 0.0
    flare: float = 0.0
    ripple: float = 0.0
    fray: float = 3.0
    flow: Flow = "crown"
    part: float = 0.0
    bun: bool = False
    bangs: bool = False
    wave: Wave = "straight"
    length: Length = "short"
    receding: bool = False
    fits_under_hat: bool = True


# Around the ears: sideburns, above the ears, nape.
SIDES: Heights = {60: 76, 68: 60, 74: 33, 80: 24, 84: 50, 98: 60, 108: 52, 116: 15, 125: -25, 145: -43, 180: -46}
SHORT: Heights = {0: 112, 25: 113, 42: 114, 52: 100} | SIDES
FRINGE: Heights = {0: 66, 25: 66, 42: 68, 52: 70} | SIDES | {60: 66, 68: 52}
RECEDING: Heights = {0: 130, 20: 135, 34: 144, 44: 137, 53: 114} | SIDES | {60: 84}
UP: Heights = {0: 115, 25: 115, 42: 110, 52: 100} | SIDES | {74: 52, 80: 46, 125: -5, 145: -22, 180: -25}
CROWN: Heights = {0: 20, 55: 50, 64: 64, 75: 84, 100: 98, 140: 104, 180: 106}


def _long(end: float, bangs: bool = False) -> Heights:
    """Lower edge of long hair: along the forehead (below it with bangs), then down to `end` at the sides and back."""
    top = {0: 66, 25: 66, 42: 68, 51: 66, 56: 45} if bangs else {0: 120, 15: 117, 30: 109, 42: 94, 50: 72, 56: 40}
    return {**top, 60: end, 180: end}


CUTS = (
    _Cut("buzz", SHORT, 2.5, 2.2, 2.2, 0.1, 1.0, root=4, fray=1.5),
    _Cut("crop", SHORT, 9, 4.5, 5, 0.25, 1.0, quiff=4, root=12),
    _Cut("side_part", SHORT, 12, 6, 7, 0.15, 1.0, quiff=6, flow="part", part=28, fray=2),
    _Cut("slick_back", SHORT, 11, 5, 9, 0.3, 0.9, quiff=5, root=14, flow="back", fray=1.5),
    _Cut("crew_wavy", SHORT, 14, 7, 8, 0.35, 1.0, quiff=5, ripple=3, fray=5, wave="wavy"),
    _Cut("receding_short", RECEDING, 5, 4, 5, 0.0, 1.0, root=10, receding=True, fray=2),
    _Cut("horseshoe", SHORT, 4, 5, 6, 0.0, 0.8, high=CROWN, root=12, receding=True, fray=2),
    _Cut("fringe_short", FRINGE, 13, 9, 9, 0.7, 0.8, root=8, bangs=True, fray=6),
    _Cut("afro", SHORT, 46, 42, 44, 0.7, 0.8, root=34, ripple=4, fray=4, wave="curly", fits_under_hat=False),
    _Cut("bob_straight", _long(-52), 12, 11, 12, 1.0, 0.05, cling=0.05, flow="part", part=-25, length="medium"),
    _Cut("bob_bangs", _long(-52, bangs=True), 13, 11, 12, 1.0, 0.05, root=10, cling=0.05, fray=5, bangs=True,
         length="medium"),
    _Cut("long_straight", _long(-210), 9, 8, 9, 1.0, 0.15, cling=0.03, fray=12, flow="part", length="long"),
    _Cut("long_straight_bangs", _long(-210, bangs=True), 10, 9, 9, 1.0, 0.05, root=10, cling=0.03, fray=8, bangs=True,
         length="long"),
    _Cut("long_wavy", _long(-200), 12, 12, 13, 1.0, 0.15, flare=0.06, ripple=4, fray=12, flow="part", part=18,
         wave="wavy", length="long"),
    _Cut("long_curly", _long(-180), 22, 24, 24, 1.0, 0.15, root=30, flare=0.12, ripple=6, fray=12, wave="curly",
         length="long", fits_under_hat=False),
    _Cut("pulled_back", UP, 5, 4, 5, 1.0, 0.15, root=8, fray=1.5, flow="back", bun=True, fits_under_hat=False),
    _Cut("shoulder_wavy", _long(-115), 12, 12, 13, 1.0, 0.2, flare=0.05, ripple=4, fray=10, flow="part", part=-15,
         wave="wavy", length="medium"),
)  # fmt: skip


def hair_styles(head: Head, skull: Skull) -> tuple[HairStyle, ...]:
    """Makes all cuts on the mean head."""
    traits = [trait.name for trait in fields(HairStyle) if trait.name != "proxy"]
    return tuple(
        HairStyle(_proxy(cut, head, skull), **{trait: getattr(cut, trait) for trait in traits}) for cut in CUTS
    )


def _proxy(cut: _Cut, head: Head, skull: Skull) -> Proxy:
    form = _Form(cut, skull)
    uv, mesh = _kept_cells(form)
    path, azimuth = (1 - uv[:, 1]) * form.end, uv[:, 0] * 360 - 180
    root = np.minimum(path, ARC) + (path - np.minimum(path, ARC)) * (1 if cut.length == "short" else HOLD)
    roots = place(root, azimuth, skull.radius(root, azimuth, over_ears=False))
    if cut.bun:
        knot, knot_uv = _bun()
        mesh, roots, uv = join([mesh, knot]), np.concatenate([roots, knot.points]), np.concatenate([uv, knot_uv])
    return bind(head, cut.name, mesh, uv, form.texture(), roots)


class _Form:
    """A cut sampled at the texels of its texture: rows go down the path to `end`, columns around from the back.

    alpha: whether there is hair. radius: of the sheet in mm.
    """

    def __init__(self, cut: _Cut, skull: Skull) -> None:
        self.cut, self.skull = cut, skull
        self.end = ARC + CENTRE[1] - min(cut.low.values()) + MARGIN
        middle = (np.arange(TEXTURE) + 0.5) / TEXTURE
        self.v, self.u = middle[:, None], middle[None]
        self.path, self.azimuth = self.v * self.end, self.u * 360 - 180
        self.skin = skull.radius(self.path, self.azimuth, over_ears=cut.length != "short")
        self.wave = self._wave()
        self.alpha = self._alpha()
        self.radius = self._radius()

    def _alpha(self) -> Bool[np.ndarray, "rows columns"]:
        """Whether there is hair: between the lower and the upper line, with an end of its own for each strand."""
        bare = self.skull.radius(self.path, self.azimuth, over_ears=False)
        height = place(self.path, self.azimuth, bare)[..., 1]
        strands = value_noise(self.u, self.v, (110, 2), 1) + value_noise(self.u, self.v, (30, 2), 2)
        sway = 1.2 * value_noise(self.u, self.v, (40, 30), 3) + SWAY[self.cut.wave] * self.wave
        # A parting shifts the hairline on the forehead to its side.
        shift = 0.6 * self.cut.part * (1 - np.abs(self.azimuth) / 60).clip(0)
        azimuth = np.abs(self.azimuth - shift) + sway
        # Hair starts evenly at the hairline on the forehead; bangs end there and are frayed.
        frayed = 1.0 if self.cut.bangs else smoothstep((np.abs(self.azimuth) - 45) / 15)
        fray = 0.7 * (1 + (self.cut.fray - 1) * frayed)
        ends = fray * strands + value_noise(self.u, self.v, (TEXTURE, TEXTURE), 9)
        ends = ends * np.cos(elevation(self.path))  # near the crown, small height differences are long distances
        return (height > height_at(self.cut.low, azimuth) + ends) & (height < height_at(self.cut.high, azimuth) - ends)

    def _wave(self) -> Float[np.ndarray, "rows columns"]:
        """Outward displacement of waves, -1 ... 1; that of curls is noise."""
        if self.cut.wave == "curly":
            fine = 0.6 * value_noise(self.u, self.v, (40, round(self.end / 13)), 4)
            return (fine + 0.6 * value_noise(self.u, self.v, (20, round(self.end / 26)), 5)).clip(-1, 1)
        phase = 1.5 * value_noise(self.u, self.v, (16, 3), 6) + 0.8 * value_noise(self.u, self.v, (40, 7), 16)
        return np.sin(2 * np.pi * self.path / 50 + phase)

    def _radius(self) -> Float[np.ndarray, "rows columns"]:
        cut = self.cut
        behind = (1 - np.cos(np.radians(self.azimuth))) / 2
        low = cut.sides + (cut.back - cut.sides) * behind
        quiff = cut.quiff * np.exp(-((self.azimuth / 45) ** 2) - ((self.path - 95) / 30) ** 2)
        thickness = low + (cut.top - low) * np.sin(elevation(self.path)) ** 2 + quiff
        uneven = 1 + 0.08 * value_noise(self.u, self.v, (10, 6), 7)
        hair = self.skin + thickness * uneven * self._taper()
        if cut.length != "short":
            step = self.end / TEXTURE
            for row in range(int(FALL / step), TEXTURE):
                hair[row] = np.maximum(hair[row], hair[row - 1] - cut.cling * step)
            hair *= 1 + cut.flare * smoothstep((self.path - ARC) / 150)
        onset = smoothstep((self.path - 25) / 60) if cut.wave == "wavy" else 1.0
        # Full ripples only where hair is thick; the hairline stays close to the skin.
        hair = hair + cut.ripple * self.wave * onset * smoothstep((hair - self.skin) / (cut.ripple + 4))
        return np.maximum(hair, self.skin + LEAST)

    def _taper(self) -> Float[np.ndarray, "rows columns"]:
        """Relative thickness, which grows to 1 from the edge of the hair inwards."""
        turn = TEXTURE // 4  # padding, because the pattern continues around the back
        hair = np.pad(self.alpha, ((1, 0), (turn, turn)), mode="wrap")
        hair[0] = True
        distance = distance_transform_edt(hair, sampling=(self.end / TEXTURE, 100 * 2 * np.pi / TEXTURE))
        return smoothstep(0.15 + 0.85 * distance[1:, turn:-turn] / self.cut.root)

    def texture(self) -> UInt8[np.ndarray, "rows columns 4"]:
        """RGBA texture: grey strands and the alpha channel."""
        light = self._strands()
        light = (light - light[self.alpha].mean()) / light[self.alpha].std()
        sheen = 0.1 * np.exp(-(((self.path - 95) / 22) ** 2))
        light = GREY * (1 + CONTRAST * light) * (1 + sheen)
        if self.cut.flow == "part":  # a dark line along the parting
            x, _, z = self._place()
            on = (self.path < ARC) & (z > -120)
            light *= 1 - 0.45 * (on * np.exp(-(((x - self.cut.part) / 1.8) ** 2)))
        light *= GREY / light[self.alpha].mean()
        return grey_texture(light.clip(30, 255), self.alpha)

    def _strands(self) -> Float[np.ndarray, "rows columns"]:
        if self.cut.wave == "curly":
            fine = value_noise(self.u, self.v, (90, round(self.end / 6)), 8)
            return fine + 1.5 * self.wave
        wave = self.wave * (self.cut.wave == "wavy")
        across = self._flow() + 0.012 * wave
        noise = (((150, 6), 1.0), ((60, 4), 0.8), ((22, 3), 0.7))
        strands = sum(weight * value_noise(across, self.v, cells, 10 + i) for i, (cells, weight) in enumerate(noise))
        return strands + 0.5 * wave

    def _flow(self) -> Float[np.ndarray, "rows columns"]:
        """Coordinate across the strands, constant along each strand; period 1."""
        x, y, z = self._place()
        if self.cut.flow == "back":
            return np.arctan2(x, y - 20) / (2 * np.pi)
        if self.cut.flow == "part":
            return _around_segment(x - self.cut.part, z) / 520
        return self.u + 0 * self.v

    def _place(self) -> Float[np.ndarray, "3 rows columns"]:
        return np.moveaxis(place(self.path, self.azimuth, self.radius), -1, 0)


def _around_segment(x: Float[np.ndarray, "*shape"], z: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Position in mm on a line that surrounds a segment of the z axis at a distance of 50 mm; 0 in front."""
    back, front = -130.0, -20.0
    ahead, behind = (z - front).clip(0), (back - z).clip(0)
    side = np.abs(x) + 1e-6
    around = np.where(ahead > 0, np.arctan2(side, ahead), np.pi / 2) + np.arctan2(behind, side)
    return np.sign(x) * (50 * around + front - z.clip(back, front))


def _kept_cells(form: _Form) -> tuple[Float[np.ndarray, "points 2"], Solid]:
    """Texture coordinates and mesh of the sheet's cells in which hair is visible."""
    columns, rows = np.meshgrid(np.linspace(0, 1, COLUMNS + 1), np.linspace(0, 1, ROWS + 1))
    uv = np.stack([columns.ravel(), 1 - rows.ravel()], axis=1)
    seen = form.alpha
    for axis, cells in enumerate((ROWS, COLUMNS)):
        seen = np.logical_or.reduceat(seen, np.linspace(0, TEXTURE, cells + 1).astype(int)[:-1], axis=axis)
    seen = binary_dilation(seen)  # a cell can show half a texel of its neighbours
    radius = sample(form.radius, (1 - uv[:, 1]) * TEXTURE - 0.5, uv[:, 0])
    points = place((1 - uv[:, 1]) * form.end, uv[:, 0] * 360 - 180, radius)
    sheet = grid(points.reshape(ROWS + 1, COLUMNS + 1, 3))
    kept, triangles = np.unique(sheet.triangles[np.repeat(seen.ravel(), 2)], return_inverse=True)
    return uv[kept], Solid(sheet.points[kept], triangles.reshape(-1, 3))


def _bun() -> tuple[Solid, Float[np.ndarray, "points 2"]]:
    """A knot behind the crown, with texture coordinates at the crown."""
    rows, columns = 10, 16
    around, down = np.meshgrid(np.linspace(-np.pi, np.pi, columns + 1), np.linspace(0, np.pi, rows + 1))
    uv = np.stack([around / (2 * np.pi) + 0.5, 0.98 - 0.16 * down / np.pi], axis=-1)
    return ellipsoid((30, 27, 26), rows, columns).moved(np.array([0.0, 118.0, -187.0])), uv.reshape(-1, 2)
