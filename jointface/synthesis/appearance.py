"""Samples how a person looks in a picture: skin, hair, make-up, accessories, lights and view.

Real-life correlations are kept: hair colour depends on ancestry and age, make-up and hair cuts on sex.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.synthesis.people import OLD, YOUNG_ADULT, Person
from jointface.synthesis.wardrobe import Wardrobe

Colour = tuple[float, float, float]  # sRGB, 0 ... 1

# From palest to darkest.
SKIN_TONES: tuple[Colour, ...] = (
    (0.96, 0.85, 0.79), (0.92, 0.76, 0.67), (0.86, 0.66, 0.54), (0.78, 0.56, 0.42), (0.62, 0.42, 0.29),
    (0.45, 0.29, 0.20), (0.30, 0.19, 0.13),
)  # fmt: skip
HAIR_COLOURS: dict[str, Colour] = {
    "black": (0.07, 0.06, 0.06),
    "dark_brown": (0.17, 0.11, 0.08),
    "brown": (0.30, 0.19, 0.12),
    "light_brown": (0.43, 0.30, 0.19),
    "auburn": (0.40, 0.17, 0.09),
    "blond": (0.72, 0.56, 0.35),
    "light_blond": (0.85, 0.73, 0.52),
    "gray": (0.62, 0.61, 0.60),
    "white": (0.82, 0.81, 0.79),
}
IRISES: tuple[Colour, ...] = (
    (0.20, 0.12, 0.07), (0.30, 0.18, 0.09), (0.38, 0.26, 0.13), (0.36, 0.35, 0.20), (0.30, 0.42, 0.46),
    (0.28, 0.40, 0.58), (0.40, 0.46, 0.50),
)  # fmt: skip
LIP = (0.62, 0.28, 0.26)  # mixed with the skin colour for bare lips
LIPSTICKS = ((0.72, 0.14, 0.18), (0.62, 0.2, 0.25), (0.8, 0.35, 0.4), (0.75, 0.4, 0.38), (0.5, 0.13, 0.2))
EYE_SHADOWS = ((0.25, 0.17, 0.15), (0.35, 0.22, 0.18), (0.2, 0.2, 0.24), (0.4, 0.25, 0.32), (0.22, 0.28, 0.38))
FRAMES = ((0.05, 0.05, 0.05), (0.2, 0.12, 0.07), (0.55, 0.5, 0.42), (0.35, 0.35, 0.38), (0.4, 0.1, 0.1))
METALS = ((0.85, 0.7, 0.35), (0.8, 0.8, 0.82), (0.9, 0.9, 0.88), (0.25, 0.3, 0.5))


@dataclass(frozen=True)
class Appearance:
    """How a face looks. Strengths are in 0 ... 1, colours sRGB in 0 ... 1, lengths in millimetres on the mean head."""

    # skin
    skin: Colour
    tone: float  # position in SKIN_TONES
    mottling: float
    freckles: float
    flush: float
    eye_bags: float  # darkness below the eyes
    wrinkles: float
    shine: float
    lip: Colour
    # make-up
    lipstick: float
    blush: float
    eye_shadow: float
    shadow_colour: Colour
    liner: float
    # brows, lashes, eyes
    brow_colour: Colour
    brow_thickness: float
    brow_density: float
    brow_arch: float
    lashes: float
    iris: Colour
    pupil: float  # share of the iris' radius
    # hair
    hair: int  # row of the wardrobe, -1 if bald
    bangs: bool
    wave: str  # "straight", "wavy" or "curly"; "" without hair
    hair_length: str  # "short", "medium" or "long"; "" without hair
    receding: bool
    hair_colour: Colour
    hair_kind: str  # key of HAIR_COLOURS
    stubble: float
    moustache: float
    goatee: float
    beard: float
    sideburns: float
    beard_colour: Colour
    # accessories: rows of the wardrobe, -1 if none
    hat: int
    hat_colour: Colour
    glasses: int
    sunglasses: bool
    frame_colour: Colour
    earrings: int
    metal: Colour
    clothes: Colour
    collar: float  # height of the neckline
    # MakeHuman's assets: rows, -1 if none
    asset_skin: int = -1
    asset_brows: int = -1
    asset_lashes: int = -1
    asset_teeth: int = -1


def sample_appearance(rng: np.random.Generator, person: Person, wardrobe: Wardrobe) -> Appearance:
    """Samples an appearance that suits the person's ancestry, sex and age."""
    female = person.gender > 0.5
    years = (person.age - YOUNG_ADULT) / (OLD - YOUNG_ADULT)  # 0 young adult ... 1 very old
    african, asian, caucasian = person.ancestry
    tone = _clip(african * rng.normal(4.6, 0.7) + asian * rng.normal(1.9, 0.5) + caucasian * rng.normal(1.1, 0.6), 0, 6)
    hair_kind = _hair_kind(rng, years, caucasian)
    natural = HAIR_COLOURS["gray" if hair_kind == "white" else hair_kind]
    made_up = female and rng.random() < 0.86
    heavy = made_up and rng.random() < 0.8
    facial = _facial_hair(rng, female)
    style = _hair_style(rng, female, years, wardrobe)
    lipstick = float(rng.uniform(0.55, 1.0)) if made_up and rng.random() < 0.95 else 0.0
    hat = int(rng.integers(len(wardrobe.hats))) if rng.random() < 0.075 else -1
    glasses = int(rng.integers(len(wardrobe.glasses))) if rng.random() < 0.05 + 0.08 * years else -1
    dark_hair = _vary(rng, _mix(natural, HAIR_COLOURS["dark_brown"], 0.5), 0.03)
    if hat >= 0 and style >= 0 and not wardrobe.hair[style].fits_under_hat:
        hat = -1
    cut = wardrobe.hair[style] if style >= 0 else None
    return Appearance(
        skin=_vary(rng, _skin_colour(tone), 0.025),
        tone=tone,
        mottling=float(rng.uniform(0.3, 1.0)) * (0.5 if heavy else 1.0),
        freckles=float(rng.uniform(0, 1)) if rng.random() < 0.15 * caucasian else 0.0,
        flush=float(rng.beta(2, 3)),
        eye_bags=_clip(rng.beta(1.3, 3) * (0.5 if heavy else 1.1) + 0.4 * years, 0, 1),
        wrinkles=_clip(1.5 * years + rng.normal(0, 0.1) - 0.15, 0, 1) * (0.75 if heavy else 1),
        shine=float(rng.uniform(0.1, 1.0)),
        lip=_vary(rng, _choose(rng, LIPSTICKS) if lipstick else _mix(_skin_colour(tone), LIP, 0.55), 0.03),
        lipstick=lipstick,
        blush=float(rng.uniform(0.35, 1.0)) if made_up and rng.random() < 0.17 else 0.0,
        eye_shadow=float(rng.uniform(0.4, 1.0)) if heavy else float(rng.uniform(0, 0.35)) if made_up else 0.0,
        shadow_colour=_choose(rng, EYE_SHADOWS),
        liner=float(rng.uniform(0.6, 1.0)) if heavy else float(rng.uniform(0.1, 0.5)) if made_up else 0.0,
        brow_colour=dark_hair,
        brow_thickness=_clip(rng.normal(2.9 if female else 4.2, 0.7 if female else 0.9), 1.3, 7),
        brow_density=_clip(rng.normal(0.65, 0.16), 0.2, 1),
        brow_arch=_clip(rng.normal(2.0 if female else 0.1, 1.2), -2, 5),
        lashes=float(rng.uniform(0.6, 1.0)) if female else float(rng.uniform(0.2, 0.55)),
        iris=_vary(rng, _choose(rng, IRISES if rng.random() < 0.7 * caucasian else IRISES[:2]), 0.03),
        pupil=float(rng.uniform(0.28, 0.5)),
        hair=style,
        bangs=cut is not None and cut.bangs,
        wave=cut.wave if cut is not None else "",
        hair_length=cut.length if cut is not None else "",
        receding=cut is not None and cut.receding,
        hair_colour=_vary(rng, HAIR_COLOURS[hair_kind], 0.03),
        hair_kind=hair_kind,
        beard_colour=_vary(rng, _mix(natural, HAIR_COLOURS["dark_brown"], 0.35), 0.03),
        hat=hat,
        hat_colour=_random_colour(rng),
        glasses=glasses,
        sunglasses=bool(rng.random() < 0.35),
        frame_colour=_choose(rng, FRAMES),
        earrings=int(rng.integers(len(wardrobe.earrings))) if rng.random() < (0.36 if female else 0.02) else -1,
        metal=_choose(rng, METALS),
        clothes=_random_colour(rng),
        collar=float(rng.uniform(-190, -105)),
        **facial,
    )


def _hair_kind(rng: np.random.Generator, years: float, caucasian: float) -> str:
    """Key of HAIR_COLOURS. Age makes grey hair likelier, European ancestry fair hair; some hair is dyed."""
    if rng.random() < _clip(2.4 * (years - 0.35), 0, 0.95):
        return "white" if rng.random() < years * 0.5 else "gray"
    if rng.random() < 0.85 * caucasian + 0.08:
        kinds = ("black", "dark_brown", "brown", "light_brown", "auburn", "blond", "light_blond")
        return str(rng.choice(kinds, p=[0.1, 0.2, 0.24, 0.14, 0.06, 0.18, 0.08]))
    return str(rng.choice(("black", "dark_brown"), p=[0.62, 0.38]))


def _hair_style(rng: np.random.Generator, female: bool, years: float, wardrobe: Wardrobe) -> int:
    if not female and rng.random() < 0.03 + 0.12 * years:
        return -1
    thinning = 0.25 + 3.5 * years
    fit = np.array([style.feminine if female else style.masculine for style in wardrobe.hair])
    weights = fit * [thinning if style.receding else 1.0 for style in wardrobe.hair]
    return int(rng.choice(len(weights), p=weights / weights.sum()))


# Kinds of facial hair: probability, range of stubble strength, and the parts that are grown.
BEARDS: tuple[tuple[float, tuple[float, float], tuple[str, ...]], ...] = (
    (0.6, (0, 0.25), ()),
    (0.25, (0.45, 1.0), ()),
    (0.01, (0.1, 0.5), ("moustache",)),
    (0.045, (0.1, 0.5), ("moustache", "goatee")),
    (0.055, (0.1, 0.5), ("moustache", "goatee", "beard", "sideburns")),
    (0.04, (0.1, 0.5), ("goatee",)),
)


def _facial_hair(rng: np.random.Generator, female: bool) -> dict[str, Any]:
    """Strengths of stubble, moustache, goatee, beard and sideburns."""
    strengths = dict.fromkeys(("stubble", "moustache", "goatee", "beard", "sideburns"), 0.0)
    if female:
        return strengths
    probability, stubble, parts = zip(*BEARDS, strict=True)
    kind = int(rng.choice(len(BEARDS), p=probability))
    strong = float(rng.uniform(0.65, 1.0))
    strengths["sideburns"] = float(rng.uniform(0.6, 1)) if rng.random() < 0.1 else 0.0
    return strengths | dict.fromkeys(parts[kind], strong) | {"stubble": float(rng.uniform(*stubble[kind]))}


def _skin_colour(tone: float) -> Colour:
    low = min(int(tone), len(SKIN_TONES) - 2)
    return _mix(SKIN_TONES[low], SKIN_TONES[low + 1], tone - low)


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    return tuple((1 - share) * x + share * y for x, y in zip(a, b, strict=True))  # type: ignore[return-value]


def _vary(rng: np.random.Generator, colour: Colour, spread: float) -> Colour:
    varied = rng.normal(1, 2 * spread) * np.array(colour) + rng.normal(0, 0.5 * spread, 3)
    return tuple(varied.clip(0.01, 1).tolist())


def _random_colour(rng: np.random.Generator) -> Colour:
    return tuple((rng.uniform(0.03, 0.9) + rng.normal(0, 0.15, 3)).clip(0.02, 0.95).tolist())


def _choose(rng: np.random.Generator, options: Sequence[Colour]) -> Colour:
    return options[int(rng.integers(len(options)))]


def _clip(value: float, low: float, high: float) -> float:
    return float(min(max(value, low), high))


@dataclass(frozen=True)
class Lights:
    """Colours of sky and ground, and directions (x right, y up, z towards the viewer) and colours of further lights."""

    sky: Colour
    ground: Colour
    directions: tuple[Colour, ...]
    colours: tuple[Colour, ...]


def sample_lights(rng: np.random.Generator) -> Lights:
    """Samples a key light from above, mostly in front of the face, a fill light from anywhere, and tinted ambience."""
    warmth = rng.normal(0, 0.07)
    surrounding = rng.uniform(0.3, 0.75)

    def tinted(strength: float, tint: float) -> Colour:
        return (strength * (1 + tint), strength, strength * (1 - tint))

    directions, colours = [], []
    for reach, strength in ((0.75, rng.uniform(0.35, 0.95)), (1.6, rng.uniform(0.0, 0.4))):
        azimuth, height = rng.normal(0, reach), rng.normal(0.45, 0.4)
        level = np.cos(height)
        directions.append((float(np.sin(azimuth) * level), float(np.sin(height)), float(np.cos(azimuth) * level)))
        colours.append(tinted(strength, warmth + rng.normal(0, 0.08)))
    sky = tinted(surrounding, warmth + rng.normal(0, 0.06))
    ground = tinted(surrounding * rng.uniform(0.4, 0.9), warmth + rng.normal(0.03, 0.06))
    return Lights(sky, ground, tuple(directions), tuple(colours))


def sample_view(rng: np.random.Generator, max_yaw: float = 90.0) -> Float[Tensor, "3"]:
    """Samples pitch, yaw and roll of the head in radians, in 300W-LP's convention. Most views are near frontal; 30 %
    have a yaw uniform up to `max_yaw` degrees."""
    limit = np.radians(max_yaw)
    yaw = rng.uniform(-limit, limit) if rng.random() < 0.3 else rng.normal(0, 0.3)
    pitch, roll = rng.normal(0, 0.16), rng.normal(0, 0.12)
    return torch.tensor([_clip(pitch, -0.6, 0.6), _clip(yaw, -limit, limit), _clip(roll, -0.5, 0.5)])
