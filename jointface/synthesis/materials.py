"""Colour (linear, before lighting) and shine of each visible point, by material.

Functions process N visible points of any number of pictures at once. Points are the last dimension, which is several
times faster than the first. `canonical` is the position of each point on the mean head, in mm.
"""

from collections.abc import Set
from functools import lru_cache

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


class Look:
    """`Appearance` values of N points, by name: (N,) or (3, N), with N = 1 for a batch of one picture.

    table: (B,) or (3, B), one column per picture. present: names whose values are not zero in every picture.
    """

    def __init__(self, table: dict[str, Tensor], present: Set[str], picture: Int[Tensor, "points"]) -> None:
        self.table, self.present, self.picture = table, present, picture
        self.noise_table = _noise_table(picture.device)

    def has(self, name: str) -> bool:
        """Whether the value may be nonzero in a picture."""
        return name in self.present

    def __getitem__(self, name: str) -> Tensor:
        columns = self.table[name]
        return columns if columns.shape[-1] == 1 else columns.index_select(-1, self.picture)


Points = Float[Tensor, "3 points"]
Base = Float[Tensor, "3 #points"]  # the skin's own colour
NOISE_SIZE = 256
BEARD = ("moustache", "goatee", "beard", "sideburns")
IRIS, PUPIL_EDGE = 0.40, 0.04  # half angles on the eyeball, radians


def linear(srgb: Tensor) -> Tensor:
    """Converts sRGB to linear light, approximated by a square for speed."""
    return srgb.square()


def srgb(linear: Tensor) -> Tensor:
    """Inverse of `linear`."""
    return linear.clamp(0, 1).sqrt()


def to_bytes(picture: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Converts 0 ... 1 to 0 ... 255, rounded."""
    return (picture * 255).add_(0.5).to(torch.uint8)


@lru_cache(maxsize=4)
def _noise_table(device: torch.device) -> Float[Tensor, "texels 4"]:
    """Periodic noise in [-1, 1]: blotches, spots, grain, and strands that run along the second coordinate."""
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(4, NOISE_SIZE, NOISE_SIZE, generator=generator)
    frequency = torch.fft.fftfreq(NOISE_SIZE)[:, None].square() + torch.fft.fftfreq(NOISE_SIZE)[None].square()
    spectrum = torch.fft.fft2(white)
    blotches = torch.fft.ifft2(spectrum[0] / (frequency + 2e-4)).real
    spots = torch.fft.ifft2(spectrum[1] * torch.exp(-frequency * 30)).real
    strands = torch.fft.ifft2(spectrum[3] * torch.exp(-2500 * torch.fft.fftfreq(NOISE_SIZE)[None].square())).real
    table = torch.stack([blotches, spots, white[2], strands], dim=-1)
    return (table / table.flatten(0, 1).std(0) / 2).clamp(-1, 1).flatten(0, 1).to(device)


def noise(a: Tensor, b: Tensor, look: Look) -> tuple[Tensor, ...]:
    """Blotches, spots, grain and strands at (a, b) in texels, shifted by each person's seed."""
    offset = look["seed"]
    row = (a + 37 * offset).int() & (NOISE_SIZE - 1)
    column = (b + 91 * offset).int() & (NOISE_SIZE - 1)
    return look.noise_table.index_select(0, row * NOISE_SIZE + column).T.contiguous().unbind(0)


def mix(a: Tensor, b: Tensor, share: Tensor) -> Float[Tensor, "3 points"]:
    """Interpolates linearly: a at share 0, b at share 1."""
    return a + (b - a) * share


def unit(vectors: Float[Tensor, "3 points"]) -> Float[Tensor, "3 points"]:
    """Normalises vectors to length 1."""
    return vectors * vectors.square().sum(0).clamp(min=1e-20).rsqrt()


def bump(distance: Tensor, width: Tensor | float) -> Tensor:
    """Gaussian bump: 1 at distance 0, falling off over the width."""
    # The limit avoids denormal numbers, which are slow.
    return torch.exp(-(distance / width).square().clamp(max=40))


def step(value: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """Smooth step from 0 at low to 1 at high."""
    t = ((value - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def skin(field: dict[str, Tensor], base: Base, look: Look) -> tuple[Tensor, Tensor]:
    """Facial skin of colour `base` with make-up and facial hair.

    field: see `face_fields`; "brow", if present, is the coverage by MakeHuman's brows.
    """
    x, y = field["x"], field["y"]
    blotches, spots, grain, _ = noise(x * 0.9 + 400, y * 0.9 + 400, look)
    colour = base * (1 + look["mottling"] * (0.05 * blotches + 0.03 * grain))
    flush = field["flush"] * (0.25 + look["flush"])
    colour = colour * (1 + flush * colour.new_tensor([0.06, -0.10, -0.10])[:, None])
    if look.has("freckles"):
        freckle = look["freckles"] * step(spots, 0.5, 0.9) * (field["flush"] + field["cheek"]).clamp(max=1)
        colour = mix(colour, colour * colour.new_tensor([0.62, 0.48, 0.38])[:, None], freckle * 0.8)
    colour = _apply_makeup(_apply_wrinkles(colour, field, look, blotches), field, look)
    colour = _apply_lip_colour(colour, field, look, grain)
    greasy, glossy = 0.1 * look["shine"] * (0.5 + field["flush"]), 0.22 * field["lips"] * look["lipstick"]
    return _apply_hair(colour, field, look), (0.06 + greasy + glossy).clamp(max=0.4)


def _apply_wrinkles(colour: Tensor, field: dict[str, Tensor], look: Look, blotches: Tensor) -> Tensor:
    x, y, age = field["x"], field["y"], look["wrinkles"]
    own = 1 - 0.5 * look["skin_painted"] if look.has("skin_painted") else 1.0  # painted skins already show some folds
    folds = own * (0.07 + 0.45 * age) * bump(field["nasolabial"], 1.5)
    lines = field["forehead"] * step(-x.abs(), -48.0, -25.0) * bump((y + 2.5 * blotches) % 9 - 4.5, 1.1)
    feet = field["crow"] * bump((y + 0.4 * x.abs()) % 4.5 - 2.2, 0.8)
    below = field["under_eye"] * (own * 0.06 + 0.42 * look["eye_bags"])
    crease = own * 0.14 * bump(field["eye_distance"] - 4.5, 1.1) * step(field["eye_up"], 0.1, 0.6)
    shadow = (1 - folds) * (1 - 0.42 * age * lines) * (1 - 0.4 * age * feet) * (1 - below) * (1 - crease)
    shadow = shadow * (1 - own * 0.75 * field["nostril"])
    return colour * shadow


def _apply_makeup(colour: Tensor, field: dict[str, Tensor], look: Look) -> Tensor:
    distance, up = field["eye_distance"], field["eye_up"]
    if look.has("blush"):
        rouge = linear(colour.new_tensor([0.86, 0.36, 0.38])[:, None])
        colour = mix(colour, rouge, 0.5 * look["blush"] * field["cheek"])
    if look.has("eye_shadow"):
        lid = bump(distance, 6.5) * step(up, -0.35, 0.3)
        colour = mix(colour, linear(look["shadow_colour"]), 0.75 * look["eye_shadow"] * lid)
    line = bump(distance, 0.9) * (0.30 + 0.3 * step(up, -0.2, 0.2))
    if look.has("liner"):
        line = line + look["liner"] * bump(distance, 1.5)
    return mix(colour, torch.full_like(colour, 0.012), line.clamp(max=0.92))


def _apply_lip_colour(colour: Tensor, field: dict[str, Tensor], look: Look, grain: Tensor) -> Tensor:
    strength = 0.72 + 0.26 * look["lipstick"]
    if look.has("skin_painted"):  # painted skins already have lips
        strength = strength - 0.42 * look["skin_painted"] * (look["lipstick"] == 0)
    strength = field["lips"] * strength
    colour = mix(colour, linear(look["lip"]) * (1 + 0.06 * grain), strength)
    return colour * (1 - 0.45 * bump(field["mouth_line"], 0.9) * field["lips"])


def brow_shape(along: Tensor, across: Tensor, look: Look) -> Tensor:
    """Coverage by the brow, 0 ... 1: a band that rises by `brow_arch` beyond its middle and narrows outwards."""
    rise = look["brow_arch"] * torch.sin(torch.pi * along.clamp(0, 1) ** 1.6)
    half = 0.5 * look["brow_thickness"] * (1 - 0.62 * along**1.5) * step(along, -0.02, 0.1).clamp(min=0.35)
    ends = step(along, 0.0, 0.04) * step(-along, -1.0, -0.93)
    return step(half + 0.9 - (across - rise + 1.0).abs(), 0.0, 1.1) * ends


def _apply_hair(colour: Tensor, field: dict[str, Tensor], look: Look) -> Tensor:
    x, y = field["x"], field["y"]
    _, _, grain, strands = noise(x * 2.1 + 700, y * 1.1 + 700, look)
    hairs = 0.72 + 0.28 * grain
    if look.has("drawn_brows"):
        brow = brow_shape(field["brow_along"], field["brow_across"], look) * look["brow_density"] * hairs
        colour = mix(colour, linear(look["brow_colour"]), (1.25 * brow).clamp(max=0.95) * look["drawn_brows"])
    if "brow" in field:
        brow = field["brow"] * look["brow_density"] * hairs
        colour = mix(colour, linear(look["brow_colour"]), (1.25 * brow).clamp(max=0.95))
    shade = linear(look["beard_colour"])
    if look.has("stubble"):
        region = torch.stack([field[part] for part in BEARD]).amax(0)
        colour = mix(colour, shade, 0.42 * look["stubble"] * region * (0.65 + 0.35 * grain))
    hair = shade * (1 + 0.35 * strands)
    for part in BEARD:
        if look.has(part):
            colour = mix(colour, hair, (look[part] * field[part] * (0.85 + 0.25 * grain)).clamp(0, 0.96))
    if look.has("has_hair"):
        roots = look["has_hair"] * step(field["scalp"], 16.0, 24.0)
        colour = mix(colour, 0.7 * linear(look["hair_colour"]), 0.85 * roots)
    return colour


def neck_and_clothes(canonical: Points, base: Base, look: Look) -> tuple[Tensor, Tensor]:
    """Skin above the neckline, cloth below."""
    x, y, z = canonical.unbind(0)
    blotches, _, grain, _ = noise(x * 0.9 + 400, y * 0.9 + 400, look)
    cloth = linear(look["clothes"]) * (1 + 0.12 * grain + 0.1 * blotches)
    dressed = step(look["collar"] + 0.3 * x.abs() - 0.25 * (z + 40) - y, -1.0, 1.0)
    beard = 0.42 * (look["stubble"] + look["beard"]).clamp(max=1) * step(y, -110.0, -88.0) * step(z, -60.0, -40.0)
    bare = mix(base * (1 + 0.05 * look["mottling"] * blotches), linear(look["beard_colour"]), beard)
    return mix(bare, cloth, dressed), 0.06 * (1 - dressed)


def eye(canonical: Points, centre: Float[Tensor, "3"], look: Look) -> tuple[Tensor, Tensor]:
    """Sclera, iris and pupil by the angle from the eyeball's axis. centre: of the eye at x > 0."""
    offset = torch.cat([canonical[:1].abs(), canonical[1:]]) - centre[:, None]
    across, up, front = unit(offset).unbind(0)
    angle = torch.atan2(torch.hypot(across, up), front)
    around = torch.atan2(up, across)
    _, _, grain, _ = noise(around * 14 + 60, angle * 30, look)
    iris = linear(look["iris"]) * (0.95 + 0.45 * grain + 0.9 * bump(angle - 0.22, 0.08))
    iris = iris * (1 - 0.75 * step(angle, IRIS - 0.1, IRIS))
    white = angle.new_tensor([0.80, 0.76, 0.74])[:, None]
    white = white * (1 - 0.35 * step(angle, 0.45, 1.1)) * (1 - 0.06 * grain)
    colour = mix(iris, white, step(angle, IRIS - 0.03, IRIS + 0.03))
    edge = -IRIS * look["pupil"]
    colour = mix(colour, torch.full_like(colour, 0.004), step(-angle, edge - PUPIL_EDGE, edge))
    shaded = 1 - 0.55 * step(up, 0.02, 0.34)  # the upper lid and its lashes
    return colour * shaded, torch.full_like(angle, 0.9)


def cavity(canonical: Points, base: Base) -> tuple[Tensor, Tensor]:
    """The inside of the mouth, which gets darker with depth, and the moist rim of the eye."""
    _, y, z = canonical.unbind(0)
    deep = torch.exp(((z - 10) / 12).clamp(max=0))
    mouth = base.new_tensor([0.30, 0.07, 0.06])[:, None] * (0.06 + 0.94 * deep)
    rim = base * base.new_tensor([0.75, 0.55, 0.52])[:, None]
    return torch.where(y > 0, rim, mouth), torch.full_like(y, 0.1)


def teeth(canonical: Points) -> tuple[Tensor, Tensor]:
    """Enamel with gaps between the teeth, darker towards the corners of the mouth."""
    x = canonical[0].abs()
    gaps = 1 - 0.35 * bump(x % 7.4 - 0.2, 0.45)
    shade = gaps * (1 - 0.75 * step(x, 9.0, 24.0))
    return canonical.new_tensor([0.72, 0.66, 0.56])[:, None] * shade, 0.25 * shade


def painted_teeth(texture: Points, canonical: Points) -> tuple[Tensor, Tensor]:
    """Textured teeth and gums, which get darker with depth."""
    x, _, z = canonical.unbind(0)
    shade = (0.1 + 0.9 * torch.exp(((z - 10) / 14).clamp(max=0))) * (1 - 0.6 * step(x.abs(), 12.0, 28.0))
    warm = texture.new_tensor([1.2, 1.1, 0.98])[:, None]  # the texture is bluish
    return warm * linear(texture) * shade, 0.25 * shade


def dyed(texture: Float[Tensor, "3 points"], colour: Float[Tensor, "3 #points"]) -> Tensor:
    """Recolours a texture: keeps its light and shade; medium brightness becomes `colour`."""
    brightness = texture.mean(0, keepdim=True)
    return linear(colour) * (brightness / 0.6).clamp(0.15, 1.7).square()
