"""MakeHuman's assets as what a person has and wears: skins by ancestry, sex and age, hair cuts beside the procedural
ones, brows, lashes and teeth. What attributes need to know of them is measured on the mean head."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree
from torch import Tensor

from jointface.geometry.position_map import PositionMap
from jointface.geometry.rasteriser import Cutout, interpolate, rasterise
from jointface.synthesis.appearance import Appearance, Colour
from jointface.synthesis.face_fields import NAMES, SIZE, brow_place, laid_out
from jointface.synthesis.hair_styles import GREY, HOLD, HairStyle, Length, Wave
from jointface.synthesis.head import BODY, CAVITY, SKIN, Head
from jointface.synthesis.makehuman import MakeHumanAssets, Skin, read_assets
from jointface.synthesis.noise import smoothstep
from jointface.synthesis.people import OLD, YOUNG_ADULT, Person
from jointface.synthesis.proxy import Proxy, bind
from jointface.synthesis.skull import ARC, CENTRE, Skull, place
from jointface.synthesis.solids import Solid
from jointface.synthesis.wardrobe import Wardrobe

READ, TEXTURE = 512, 256  # texels a side: as read, for skins and brows; of what proxies are drawn with
LOWEST = -300.0  # mm on the mean head: no picture shows hair below

# How hair of these names falls, and for whom it is: the texture does not tell. Other names go by length.
KNOWN: dict[str, tuple[Wave, float, float]] = {
    "afro01": ("curly", 0.8, 0.8),
    "bob01": ("straight", 1.0, 0.05),
    "bob02": ("straight", 1.0, 0.05),
    "braid01": ("straight", 1.0, 0.05),
    "long01": ("straight", 1.0, 0.1),
    "ponytail01": ("straight", 1.0, 0.1),
    "short01": ("straight", 0.15, 1.0),
    "short02": ("straight", 0.15, 1.0),
    "short03": ("straight", 0.3, 0.9),
    "short04": ("straight", 0.3, 1.0),
}
PLAUSIBLE: dict[Length, tuple[float, float]] = {"short": (0.3, 1.0), "medium": (1.0, 0.1), "long": (1.0, 0.1)}
ONE_EYED = 0.25  # plausibility of hair that falls over an eye
ASSET_WEIGHT = 2.0  # how often an asset's hair is worn for each time that procedural hair of its kind is

# Facial actions that bare teeth.
MOUTHS: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.5},
    {"jawOpen": 0.25, "mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "mouthUpperUpLeft": 0.6, "mouthUpperUpRight": 0.6,
     "mouthLowerDownLeft": 0.6, "mouthLowerDownRight": 0.6},
)  # fmt: skip

BROW_LEFT, BROW_TOP, BROW_STEP = -72.0, 76.0, 0.5  # mm: the corner of the brows' pictures, and their pixels
BROW_ROWS, BROW_COLUMNS = 92, 288
DRAWN_BROWS = 0.25  # share of people whose brows are drawn as if without assets
DARK = 3.0  # `Appearance.tone` from which skins of African ancestry are taken
RELIEF_UNIT = 128  # a skin's relief in 8 bits: this is the colour of the face


@dataclass(frozen=True)
class Brow:
    """A pair of brows as it is painted on the skin.

    shape: coverage as seen from the front of the mean head, 255 in its core; pixels of BROW_STEP from the corner
        (BROW_LEFT, BROW_TOP) to the right and down. thickness, density, arch: what `Appearance` says of drawn brows
        that cover as much skin as densely and that rise as far.
    """

    shape: UInt8[Tensor, "rows columns"]
    thickness: float
    density: float
    arch: float


@dataclass(frozen=True)
class FaceAssets:
    """What an appearance's `asset_` rows refer to, and the colours of the irises. Lashes, teeth, irises: maybe none."""

    skins: tuple[Skin, ...]
    brows: tuple[Brow, ...]
    lashes: tuple[Proxy, ...]
    teeth: tuple[Proxy, ...]
    irises: tuple[Colour, ...]


def load_asset_wardrobe(head: Head, wardrobe: Wardrobe, folder: Path) -> tuple[Wardrobe, FaceAssets]:
    """The wardrobe with the hair of MakeHuman's assets added, and what else is in their folder.

    Args:
        wardrobe: the procedural one.

    Raises:
        DataError: the folder is not one of MakeHuman's assets, or a file in it is broken.
    """
    assets = read_assets(folder, head.points_of_base(), READ)
    skull = Skull(head)
    added = [asset_hair(head, skull, row, proxy) for row, proxy in enumerate(assets.hair)]
    hair = balanced(wardrobe.hair, added)
    return replace(wardrobe, hair=hair), _face_assets(head, assets)


def _face_assets(head: Head, assets: MakeHumanAssets) -> FaceAssets:
    lashes, teeth = sorted(assets.eyelashes, key=_opacity), _bared(head, assets.teeth)
    colours = [iris_colour(texture) for texture in assets.irises.values()]
    return FaceAssets(
        skins=assets.skins,
        brows=tuple(brow(head, proxy) for proxy in assets.eyebrows),
        lashes=tuple(_named(proxy, "lashes", row, shrunk(proxy.texture)) for row, proxy in enumerate(lashes)),
        teeth=tuple(_named(proxy, "teeth", row, shrunk(proxy.texture)) for row, proxy in enumerate(teeth)),
        irises=tuple(colour for colour in colours if colour is not None),
    )


def with_assets(rng: np.random.Generator, person: Person, look: Appearance, assets: FaceAssets) -> Appearance:
    """The appearance with assets that suit the person: what is measured of it stays what is seen."""
    female = person.gender > 0.5
    chosen = _nearest_brow(rng, look, assets.brows) if rng.random() > DRAWN_BROWS else -1
    if chosen >= 0:
        shape = assets.brows[chosen]
        density = float(np.clip(shape.density * rng.normal(1.0, 0.12), 0.2, 1))
        look = replace(look, brow_thickness=shape.thickness, brow_density=density, brow_arch=shape.arch)
    coloured = bool(assets.irises) and rng.random() < 0.7 * person.ancestry[2]
    return replace(
        look,
        asset_skin=_fitting_skin(rng, person, look.tone, assets.skins),
        asset_brows=chosen,
        asset_lashes=_lashes(rng, female, assets.lashes),
        asset_teeth=int(rng.integers(len(assets.teeth))) if assets.teeth else -1,
        iris=_choice(rng, assets.irises) if coloured else look.iris,
    )


def _fitting_skin(rng: np.random.Generator, person: Person, tone: float, skins: Sequence[Skin]) -> int:
    """A skin of the person's sex, about their age, and of one of their ancestries; the nearest there is.

    Who is dark has an African skin, others have not: shades of dark skin look like bruises on fair skin.
    """
    _, asian, caucasian = np.array(person.ancestry) + 1e-6
    fair = "asian" if rng.random() < asian / (asian + caucasian) else "caucasian"
    ancestry = "african" if tone > DARK else fair
    years = (person.age - YOUNG_ADULT) / (OLD - YOUNG_ADULT) + rng.normal(0, 0.08)
    age = 0 if years < 0.25 else 1 if years < 0.6 else 2
    gender = "female" if person.gender > 0.5 else "male"
    misfit = [
        4 * (skin.ancestry != ancestry) + 2 * (skin.gender != gender)
        + 0.5 * abs(("young", "middleage", "old").index(skin.age) - age)
        for skin in skins
    ]  # fmt: skip
    return int(rng.choice(np.flatnonzero(np.array(misfit) == min(misfit))))


def _nearest_brow(rng: np.random.Generator, look: Appearance, brows: Sequence[Brow]) -> int:
    """The brows most like those that would be drawn, give or take."""
    wanted = (look.brow_thickness * look.brow_density / 0.8, look.brow_arch / 1.2)
    misfit = [np.hypot(brow.thickness * brow.density / 0.8 - wanted[0], brow.arch / 1.2 - wanted[1]) for brow in brows]
    return int(np.argmin(np.array(misfit) + rng.gumbel(0, 0.35, len(brows))))


def _lashes(rng: np.random.Generator, female: bool, lashes: Sequence[Proxy]) -> int:
    """Any for women, the thinnest for men."""
    if not lashes:
        return -1
    return int(rng.integers(len(lashes))) if female else 0


def _choice(rng: np.random.Generator, options: Sequence[Colour]) -> Colour:
    return options[int(rng.integers(len(options)))]


# Skin


def skin_relief(
    head: Head, fields: Float[Tensor, "pixels fields"], skins: Sequence[Skin]
) -> UInt8[Tensor, "skins pixels 3"]:
    """Colour of skins relative to the colour of their face, over the layout of `face_fields`.

    RELIEF_UNIT is the face's colour. Towards the neck and the scalp it fades to that, as the skin below the head is
    plain, and the shadow of shaved hair belongs to who has hair.
    """
    layout = PositionMap(head.model, SIZE)
    uv = laid_out(layout, layout.sample(head.atlas_uv[: len(head.model.uv)][None])[0])
    field = dict(zip(NAMES, fields.float().T, strict=True))
    plain, face = _plain(head, field), _face(head, layout, field)
    reliefs: dict[int, Tensor] = {}  # skins may share an image
    for skin in skins:
        key = skin.texture.data_ptr()
        if key not in reliefs:
            reliefs[key] = _relief(_bilinear(skin.texture, uv), face, plain)
    return torch.stack([reliefs[skin.texture.data_ptr()] for skin in skins])


def _relief(
    colour: Float[Tensor, "pixels 3"], face: Bool[Tensor, "pixels"], plain: Float[Tensor, "pixels"]
) -> UInt8[Tensor, "pixels 3"]:
    ratio = colour / colour[face].mean(0).clamp(min=1)
    ratio = 1 + (ratio.clamp(0.35, 1.5) - 1) * (1 - plain[:, None])
    return (ratio * RELIEF_UNIT).round().to(torch.uint8)


def _face(head: Head, layout: PositionMap, field: dict[str, Tensor]) -> Bool[Tensor, "pixels"]:
    """Bare skin that is seen from the front: what a tone of skin is the tone of."""
    is_skin = torch.zeros(len(head.mean), 1)
    is_skin[head.triangles[head.material == SKIN].unique()] = 1
    skin = laid_out(layout, layout.sample(is_skin[None, : len(head.model.uv)])[0])[:, 0] > 0.99
    bare = (field["lips"] == 0) & (field["eye_distance"] > 6) & (field["nostril"] < 0.1) & (field["scalp"] < -8)
    chin = head.model.mean[head.model.landmarks68[8], 1]
    return skin & bare & (field["z"] > 0) & (field["y"] > chin)


def _plain(head: Head, field: dict[str, Tensor]) -> Float[Tensor, "pixels"]:
    """1 where a skin's relief is left out: at the edge to the neck, and on the scalp."""
    body, skin = (head.weld[head.triangles[head.material == kind]].unique() for kind in (BODY, SKIN))
    edge = head.mean[skin[torch.isin(skin, body)]].numpy()
    places = torch.stack([field["x"], field["y"], field["z"]], dim=1).numpy()
    near = 1 - smoothstep(KDTree(edge).query(places)[0] / 35)
    scalp = smoothstep((field["scalp"].numpy() + 6) / 20)
    return torch.from_numpy(np.maximum(near, scalp)).float()


def _bilinear(texture: UInt8[Tensor, "rows columns c"], uv: Float[Tensor, "n 2"]) -> Float[Tensor, "n c"]:
    """Texels at UV coordinates, 0 ... 255."""
    image = texture.movedim(-1, 0)[None].float()
    grid = torch.stack([2 * uv[:, 0] - 1, 1 - 2 * uv[:, 1]], dim=1)[None, None]
    return torch.nn.functional.grid_sample(image, grid, padding_mode="border", align_corners=False)[0, :, 0].T


# Brows


def brow(head: Head, proxy: Proxy) -> Brow:
    """A pair of brows, painted and measured."""
    coverage = _coverage(head, proxy)
    rows, columns = torch.meshgrid(torch.arange(BROW_ROWS), torch.arange(BROW_COLUMNS), indexing="ij")
    x, y = BROW_LEFT + BROW_STEP * (columns + 0.5), BROW_TOP - BROW_STEP * (rows + 0.5)
    along, across, length = brow_place(head, x.flatten(), y.flatten())
    weight = coverage.flatten() * ((along > 0) & (along < 1)).float()
    total = weight.sum().clamp(min=1e-6)
    core = float((weight * coverage.flatten()).sum() / total)  # mean opacity of what is hair
    width = float(total) * BROW_STEP**2 / (2 * length) / max(core, 1e-6)
    # `materials.brow_shape` of thickness t is 0.752 t + 0.7 wide on average, and its hair about 0.9 x density opaque.
    return Brow(
        shape=(coverage / max(core, 1e-6)).clamp(0, 1).mul(255).round().to(torch.uint8),
        thickness=float(np.clip((width - 0.7) / 0.752, 1.0, 8.0)),
        density=float(np.clip(core / 0.9, 0.2, 1.0)),
        arch=_arch(along, across, weight),
    )


def _coverage(head: Head, proxy: Proxy) -> Float[Tensor, "rows columns"]:
    """Share of each pixel that the proxy's opaque texels cover."""
    fine = 4
    points = proxy.fit(head.mean[None])[0]
    scale = fine / BROW_STEP
    pixels = torch.stack(
        [(points[:, 0] - BROW_LEFT) * scale - 0.5, (BROW_TOP - points[:, 1]) * scale - 0.5, points[:, 2]], dim=1
    )
    fragments = rasterise(
        pixels, proxy.triangles, torch.zeros(len(proxy.triangles), dtype=torch.int32),
        (1, BROW_ROWS * fine, BROW_COLUMNS * fine),
    )  # fmt: skip
    uv = interpolate(fragments, proxy.triangles, proxy.uv)[0]
    alpha = _bilinear(proxy.texture[..., 3:], uv.flatten(0, 1)).view(uv.shape[:2]) / 255
    alpha = torch.where(fragments.triangle[0] >= 0, alpha, 0.0)
    return torch.nn.functional.avg_pool2d(alpha[None], fine)[0]


def _arch(along: Float[Tensor, "n"], across: Float[Tensor, "n"], weight: Float[Tensor, "n"]) -> float:
    """How far the brow rises over the line of its ends where drawn brows are highest, beyond what the bone does, mm."""
    seen = weight > 0.1
    if not seen.any():
        return 0.0
    inner, outer = along[seen].quantile(torch.tensor([0.02, 0.98])).tolist()
    part = ((along - inner) / max(outer - inner, 1e-6) * 8).floor()

    def height(*parts: int) -> float:
        share = weight * torch.isin(part, torch.tensor(parts))
        return float((share * across).sum() / share.sum().clamp(min=1e-6))

    low, high = height(0), height(7)
    return height(4, 5) - (low + (high - low) * 5 / 7)


# Hair


class _Measured(NamedTuple):
    bangs: bool
    hides_eye: bool
    length: Length
    fits_under_hat: bool


def asset_hair(head: Head, skull: Skull, row: int, proxy: Proxy) -> HairStyle:
    """A hair proxy as a hair cut."""
    bound = _bound_to_skull(head, skull, proxy)
    worn = _named(bound, "hair", row, strands(bound))
    measured = _measure_hair(head, skull, worn)
    wave, feminine, masculine = KNOWN.get(proxy.name, ("straight", *PLAUSIBLE[measured.length]))
    share = ONE_EYED if measured.hides_eye else 1.0
    return HairStyle(worn, measured.bangs, wave, measured.length, False, share * feminine,
                     share * masculine, measured.fits_under_hat)  # fmt: skip


def balanced(procedural: Sequence[HairStyle], added: Sequence[HairStyle]) -> tuple[HairStyle, ...]:
    """Both kinds of hair: cuts that attributes cannot tell apart share what the procedural ones of them had, so each
    attribute of hair is as frequent as without assets. Cuts without a procedural like keep their own plausibility."""
    return tuple(
        replace(
            style,
            feminine=_share(style, procedural, added, lambda one: one.feminine),
            masculine=_share(style, procedural, added, lambda one: one.masculine),
        )
        for style in (*procedural, *added)
    )


def _share(
    style: HairStyle,
    procedural: Sequence[HairStyle],
    added: Sequence[HairStyle],
    plausible: Callable[[HairStyle], float],
) -> float:
    """Plausibility of a style among both kinds."""
    drawn, worn = (
        sum(plausible(other) for other in styles if _kind(other) == _kind(style)) for styles in (procedural, added)
    )
    if not drawn or not worn:
        return plausible(style)
    weight = ASSET_WEIGHT if any(style is other for other in added) else 1.0
    return weight * plausible(style) * drawn / (ASSET_WEIGHT * worn + drawn)


def _kind(style: HairStyle) -> tuple[bool, bool, str, str]:
    return style.bangs, style.receding, style.wave, style.length


def _bound_to_skull(head: Head, skull: Skull, proxy: Proxy) -> Proxy:
    """The proxy bound anew as procedural hair is: hats press it towards the skull, and what hangs follows the skull."""
    high = proxy.fit(head.mean[None])[0, :, 1] > LOWEST
    kept = _subset(proxy, high[proxy.triangles].all(dim=1))
    points = kept.fit(head.mean[None])[0].double().numpy()
    roots, _ = _roots(skull, points)
    mesh = Solid(points, kept.triangles.numpy())
    return bind(head, kept.name, mesh, kept.uv.numpy().clip(0, 1), kept.texture.numpy(), roots)


def _roots(
    skull: Skull, points: Float[np.ndarray, "points 3"]
) -> tuple[Float[np.ndarray, "points 3"], Float[np.ndarray, "points"]]:
    """Where on the skull points of hair grow, and mm to the skull. Hair that lies on the skin grows where it is."""
    out = points - CENTRE
    level = np.hypot(out[:, 0], out[:, 2])
    above = ARC * (1 - np.arctan2(out[:, 1].clip(0), level) / (np.pi / 2))
    path = above + (-out[:, 1]).clip(0)
    azimuth = np.degrees(np.arctan2(out[:, 0], out[:, 2]))
    radius = np.hypot(level, out[:, 1].clip(0))
    off = radius - skull.radius(path, azimuth, over_ears=False)
    hanging = smoothstep((off - 10) / 20) * (1 - HOLD)
    root = path - hanging * (path - ARC).clip(0)
    return place(root, azimuth, skull.radius(root, azimuth, over_ears=False)), off


def strands(proxy: Proxy) -> UInt8[Tensor, "rows columns 4"]:
    """The texture in grey as hair cuts have it, to be coloured: mean luminance GREY over what the mesh shows."""
    texture = shrunk(proxy.texture)
    pixels = torch.cat([proxy.uv * TEXTURE - 0.5, torch.zeros(len(proxy.uv), 1)], dim=1)
    pixels[:, 1] = TEXTURE - 1 - pixels[:, 1]
    image = torch.zeros(len(proxy.triangles), dtype=torch.int32)
    used = rasterise(pixels, proxy.triangles, image, (1, TEXTURE, TEXTURE)).triangle[0] >= 0
    light = texture[..., :3].float().mean(-1)
    shown = light[used & (texture[..., 3] >= 128)]
    if not len(shown):
        shown = light.flatten()
    spread = shown.std(correction=0).clamp(min=1)
    contrast = (spread / shown.mean().clamp(min=1)).clamp(max=0.3)
    grey = GREY * (1 + contrast * ((light - shown.mean()) / spread).clamp(-1.8, 2.2))
    grey = grey.clamp(30, 255).round().to(torch.uint8)
    return torch.stack([grey, grey, grey, texture[..., 3]], dim=-1)


def shrunk(texture: UInt8[Tensor, "rows columns 4"]) -> UInt8[Tensor, "size size 4"]:
    """A texture at the size that it is drawn with. Colours are averaged by their alpha, as clear texels are black;
    a texel is opaque where its parts are so by a third, or thin strands would be lost."""
    image = texture.movedim(-1, 0)[None].float()
    alpha = image[:, 3:] / 255
    pool = torch.nn.functional.adaptive_avg_pool2d
    weight = pool(alpha, TEXTURE)
    colour = pool(image[:, :3] * alpha, TEXTURE) / weight.clamp(min=1e-3)
    opacity = (weight * 255 * 1.5).clamp(max=255)
    return torch.cat([colour, opacity], dim=1)[0].round().clamp(0, 255).to(torch.uint8).movedim(0, -1).contiguous()


def _measure_hair(head: Head, skull: Skull, proxy: Proxy) -> _Measured:
    hair = _front_view(head, proxy)
    marks = head.model.mean[head.model.landmarks68]
    forehead = hair[_row(98) : _row(76), _column(-30) : _column(30)]
    eyes = [hair[_row(y), _column(x)] for x, y in marks[36:48, :2].tolist()]
    # Wisps do not make hair longer.
    low = (hair[_row(0) :].sum(dim=1) >= 6).nonzero()
    lowest = -float(low.max()) if len(low) else 0.0
    chin = float(marks[8, 1])
    points = proxy.fit(head.mean[None])[0].double().numpy()
    high = _roots(skull, points)[1][points[:, 1] > 60]
    return _Measured(
        bangs=float(forehead.float().mean()) > 0.5,
        hides_eye=sum(map(bool, eyes)) > 3,
        length="long" if lowest < chin - 75 else "medium" if lowest < chin + 35 else "short",
        fits_under_hat=len(high) == 0 or float(np.quantile(high, 0.98)) < 35,
    )


VIEW = (560, 400)  # pixels of a mm: the front of the mean head


def _row(y: float) -> int:
    return round(230 - y)


def _column(x: float) -> int:
    return round(VIEW[1] / 2 + x)


def _front_view(head: Head, proxy: Proxy) -> Bool[Tensor, "rows columns"]:
    """Where hair is seen on the mean head, at a pixel a millimetre."""
    points = torch.cat([head.mean, proxy.fit(head.mean[None])[0]])
    pixels = points * torch.tensor([1.0, -1.0, 1.0]) + torch.tensor([_column(0), _row(0), 0.0])
    triangles = torch.cat([head.triangles, proxy.triangles + len(head.mean)])
    cut = torch.full((len(triangles),), -1, dtype=torch.int32)
    cut[len(head.triangles) :] = 0
    uv = torch.cat([torch.zeros(len(head.mean), 2), proxy.uv])
    cutout = Cutout(uv, cut, proxy.texture[None, ..., 3].contiguous())
    image = torch.zeros(len(triangles), dtype=torch.int32)
    return rasterise(pixels, triangles, image, (1, *VIEW), cutout=cutout).triangle[0] >= len(head.triangles)


# Teeth, eyes


def _bared(head: Head, teeth: Sequence[Proxy]) -> list[Proxy]:
    """The triangles that are ever seen between the lips: most are roots, gums and backs."""
    seen: list[tuple[Tensor, Tensor]] = []  # of each mesh, which several sets of teeth share
    for proxy in teeth:
        if not any(torch.equal(proxy.triangles, triangles) for triangles, _ in seen):
            seen.append((proxy.triangles, _seen_teeth(head, proxy)))
    return [
        _subset(proxy, next(kept for triangles, kept in seen if torch.equal(proxy.triangles, triangles)))
        for proxy in teeth
    ]


def _seen_teeth(head: Head, proxy: Proxy) -> Bool[Tensor, "triangles"]:
    rows = {label: row for row, label in enumerate(head.expression_labels)}
    seen = torch.zeros(len(proxy.triangles), dtype=torch.bool)
    for actions in MOUTHS:
        expression = torch.zeros(1, len(rows))
        for action, strength in actions.items():
            expression[0, rows[action]] = strength
        points = head.points(torch.zeros(1, head.model.num_shape), expression)
        seen |= _seen_from_around(head, points, proxy)
    # What is beside it is seen on other heads.
    corner = torch.zeros(len(proxy.uv), dtype=torch.bool)
    corner[proxy.triangles[seen]] = True
    return corner[proxy.triangles].any(dim=1)


def _seen_from_around(head: Head, points: Float[Tensor, "1 points 3"], proxy: Proxy) -> Bool[Tensor, "triangles"]:
    front = head.triangles[(head.material == SKIN) | (head.material == CAVITY)]
    triangles = torch.cat([front, proxy.triangles + len(head.mean)])
    image = torch.zeros(len(triangles), dtype=torch.int32)
    mouth = head.model.landmarks68[48:]
    place = torch.cat([points[0], proxy.fit(points)[0]]) - points[0, mouth].mean(0)
    seen = torch.zeros(len(triangles), dtype=torch.bool)
    for yaw in (-0.9, -0.45, 0.0, 0.45, 0.9):
        for pitch in (-0.35, 0.0, 0.35):
            turned = place @ _rotation(yaw, pitch).T * torch.tensor([6.0, -6.0, 6.0]) + torch.tensor([210, 210, 0])
            shown = rasterise(turned, triangles, image, (1, 420, 420)).triangle
            seen[shown[shown >= 0].unique().long()] = True
    return seen[len(front) :]


def _rotation(yaw: float, pitch: float) -> Float[Tensor, "3 3"]:
    (a, b), (c, d) = (np.cos([yaw, pitch]), np.sin([yaw, pitch]))
    around_y = np.array([[a, 0, c], [0, 1, 0], [-c, 0, a]])
    around_x = np.array([[1, 0, 0], [0, b, -d], [0, d, b]])
    return torch.from_numpy(around_x @ around_y).float()


def iris_colour(texture: UInt8[Tensor, "rows columns 4"]) -> Colour | None:
    """Colour of the iris around the pupil of an eyeball's texture; None if it has no pupil."""
    colour, alpha = texture[..., :3].numpy(), texture[..., 3].numpy()
    pupil = (colour.max(-1) < 45) & (alpha > 127)
    if not pupil.any():
        return None
    # The pupil is the thickest of what is black; the rim of the iris may be as dark.
    depth = distance_transform_edt(pupil)
    centre = np.unravel_index(depth.argmax(), depth.shape)
    away = np.hypot(*(np.indices(depth.shape) - np.array(centre)[:, None, None])) / depth.max()
    ring = (away > 1.4) & (away < 2.2)
    middle = np.median(colour[ring], axis=0) / 255
    # The textures are vivid; the drawn eye brightens them towards the pupil.
    muted = 0.8 * (0.7 * middle + 0.3 * middle.mean())
    return float(muted[0]), float(muted[1]), float(muted[2])


def _opacity(proxy: Proxy) -> float:
    return float(proxy.texture[..., 3].float().mean())


def _subset(proxy: Proxy, kept: Bool[Tensor, "triangles"]) -> Proxy:
    """Some of a proxy's triangles, and their points; all if none is to be kept."""
    if not kept.any():
        return proxy
    rows, triangles = proxy.triangles[kept].unique(return_inverse=True)
    return replace(proxy, corners=proxy.corners[rows], weights=proxy.weights[rows], offsets=proxy.offsets[rows],
                   uv=proxy.uv[rows], triangles=triangles)  # fmt: skip


def _named(proxy: Proxy, kind: str, row: int, texture: UInt8[Tensor, "rows columns 4"]) -> Proxy:
    """With its texture as it is drawn, and a name that no other proxy has: by it the renderer keeps the texture."""
    return replace(proxy, name=f"makehuman_{kind}_{row}_{proxy.name}", texture=texture)
