"""Prepares MakeHuman's skins, brows, lashes, teeth and irises for the renderer, and chooses them for a person."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from scipy.ndimage import distance_transform_edt
from scipy.spatial import KDTree
from torch import Tensor

from jointface.geometry.camera import euler_to_rotation
from jointface.geometry.position_map import UVLayout
from jointface.geometry.rasteriser import rasterise
from jointface.synthesis.appearance import Appearance, Colour
from jointface.synthesis.asset_brows import Brow, paint_brow
from jointface.synthesis.asset_hair import asset_hair, balanced
from jointface.synthesis.face_fields import NAMES, SIZE, laid_out
from jointface.synthesis.head import BODY, CAVITY, SKIN, Head
from jointface.synthesis.makehuman import Skin, read_assets
from jointface.synthesis.noise import smoothstep
from jointface.synthesis.people import OLD, YOUNG_ADULT, Person
from jointface.synthesis.proxy import Proxy
from jointface.synthesis.skull import Skull
from jointface.synthesis.textures import bilinear, shrunk
from jointface.synthesis.wardrobe import Wardrobe

READ_SIZE = 512  # texels along each side of a texture when read

# Facial actions that show the teeth.
OPEN_MOUTHS: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.5},
    {"jawOpen": 0.25, "mouthSmileLeft": 1.0, "mouthSmileRight": 1.0, "mouthUpperUpLeft": 0.6, "mouthUpperUpRight": 0.6,
     "mouthLowerDownLeft": 0.6, "mouthLowerDownRight": 0.6},
)  # fmt: skip

PROCEDURAL_BROWS = 0.25  # share of people whose brows are procedural
DARK = 3.0  # above this `Appearance.tone`, skins of African ancestry are used
RELIEF_UNIT = 128  # 8-bit relief value that stands for the mean colour of the face


@dataclass(frozen=True)
class FaceAssets:
    """The assets that an appearance's `asset_` rows index, and iris colours. Lashes, teeth and irises may be empty."""

    skins: tuple[Skin, ...]
    brows: tuple[Brow, ...]
    lashes: tuple[Proxy, ...]  # thinnest first
    teeth: tuple[Proxy, ...]
    irises: tuple[Colour, ...]


def load_assets(head: Head, wardrobe: Wardrobe, folder: Path) -> tuple[Wardrobe, FaceAssets]:
    """Loads the assets of a folder, and adds their hair to the procedural wardrobe.

    Raises:
        DataError: the folder does not contain MakeHuman's assets, or a file in it is broken.
    """
    assets, skull = read_assets(folder, head.points_of_base(), READ_SIZE), Skull(head)
    hair = balanced(wardrobe.hair, [asset_hair(head, skull, proxy) for proxy in assets.hair])
    lashes = sorted(assets.eyelashes, key=lambda proxy: float(proxy.texture[..., 3].float().mean()))
    colours = [iris_colour(texture) for texture in assets.irises.values()]
    return replace(wardrobe, hair=hair), FaceAssets(
        skins=assets.skins,
        brows=tuple(paint_brow(head, proxy) for proxy in assets.eyebrows),
        lashes=tuple(replace(proxy, texture=shrunk(proxy.texture)) for proxy in lashes),
        teeth=tuple(replace(proxy, texture=shrunk(proxy.texture)) for proxy in _visible_teeth(head, assets.teeth)),
        irises=tuple(colour for colour in colours if colour is not None),
    )


def with_assets(rng: np.random.Generator, person: Person, look: Appearance, assets: FaceAssets) -> Appearance:
    """Adds assets that suit the person. The values that attributes are measured on are updated to match them."""
    chosen = _nearest_brow(rng, look, assets.brows) if rng.random() > PROCEDURAL_BROWS else -1
    if chosen >= 0:
        shape = assets.brows[chosen]
        density = float(np.clip(shape.density * rng.normal(1.0, 0.12), 0.2, 1))
        look = replace(look, brow_thickness=shape.thickness, brow_density=density, brow_arch=shape.arch)
    coloured = bool(assets.irises) and rng.random() < 0.7 * person.ancestry[2]
    female = person.gender > 0.5  # men wear the thinnest lashes
    return replace(
        look,
        asset_skin=_fitting_skin(rng, person, look.tone, assets.skins),
        asset_brows=chosen,
        asset_lashes=_any_row(rng, assets.lashes if female else assets.lashes[:1]),
        asset_teeth=_any_row(rng, assets.teeth),
        iris=assets.irises[int(rng.integers(len(assets.irises)))] if coloured else look.iris,
    )


def _any_row(rng: np.random.Generator, options: Sequence[Proxy]) -> int:
    return int(rng.integers(len(options))) if options else -1


def _fitting_skin(rng: np.random.Generator, person: Person, tone: float, skins: Sequence[Skin]) -> int:
    """Row of the best matching skin: same sex, similar age, and one of the person's ancestries.

    African skins are used only for dark tones, because their shading looks like bruises on fair skin.
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
    """Row of the brows most similar to the procedural ones of this appearance, with some randomness."""
    wanted = (look.brow_thickness * look.brow_density / 0.8, look.brow_arch / 1.2)
    misfit = [np.hypot(brow.thickness * brow.density / 0.8 - wanted[0], brow.arch / 1.2 - wanted[1]) for brow in brows]
    return int(np.argmin(np.array(misfit) + rng.gumbel(0, 0.35, len(brows))))


def skin_relief(
    head: Head, fields: Float[Tensor, "pixels fields"], skins: Sequence[Skin]
) -> UInt8[Tensor, "skins pixels 3"]:
    """Colour of each skin relative to the mean colour of its face, over the layout of `face_fields`.

    RELIEF_UNIT stands for the mean colour. The relief fades to it towards the neck, whose skin is plain, and towards
    the scalp, because not everyone has the shadow of shaved hair.
    """
    layout = UVLayout(head.model, SIZE)
    uv = laid_out(layout, layout.sample(head.atlas_uv[: len(head.model.uv)][None])[0])
    field = dict(zip(NAMES, fields.float().T, strict=True))
    plain, face = _plain_skin(head, field), _facial_skin(head, layout, field)
    reliefs = {}  # several skins may share an image
    for texture in {id(skin.texture): skin.texture for skin in skins}.values():
        colour = bilinear(texture[..., :3], uv)
        ratio = colour / colour[face].mean(0).clamp(min=1)
        ratio = 1 + (ratio.clamp(0.35, 1.5) - 1) * (1 - plain[:, None])
        reliefs[id(texture)] = (ratio * RELIEF_UNIT).round().to(torch.uint8)
    return torch.stack([reliefs[id(skin.texture)] for skin in skins])


def _facial_skin(head: Head, layout: UVLayout, field: dict[str, Tensor]) -> Bool[Tensor, "pixels"]:
    """Mask of the bare facial skin visible from the front, whose mean colour is the reference."""
    is_skin = torch.zeros(len(head.mean), 1)
    is_skin[head.triangles[head.material == SKIN].unique()] = 1
    skin = laid_out(layout, layout.sample(is_skin[None, : len(head.model.uv)])[0])[:, 0] > 0.99
    bare = (field["lips"] == 0) & (field["eye_distance"] > 6) & (field["nostril"] < 0.1) & (field["scalp"] < -8)
    chin = head.model.mean[head.model.landmarks68[8], 1]
    return skin & bare & (field["z"] > 0) & (field["y"] > chin)


def _plain_skin(head: Head, field: dict[str, Tensor]) -> Float[Tensor, "pixels"]:
    """1 where the relief is left out, near the neck and on the scalp; 0 on the face; smooth in between."""
    body, skin = (head.weld[head.triangles[head.material == kind]].unique() for kind in (BODY, SKIN))
    edge = head.mean[skin[torch.isin(skin, body)]].numpy()
    places = torch.stack([field["x"], field["y"], field["z"]], dim=1).numpy()
    near = 1 - smoothstep(KDTree(edge).query(places)[0] / 35)
    scalp = smoothstep((field["scalp"].numpy() + 6) / 20)
    return torch.from_numpy(np.maximum(near, scalp)).float()


def _visible_teeth(head: Head, teeth: Sequence[Proxy]) -> list[Proxy]:
    """Removes triangles that are never visible between the lips: roots, gums and backs, which are most of them."""
    seen: dict[bytes, Tensor] = {}  # visible triangles by mesh; several sets of teeth share a mesh
    for proxy in teeth:
        mesh = proxy.triangles.numpy().tobytes()
        if mesh not in seen:
            seen[mesh] = _visible_triangles(head, proxy)
    return [proxy.subset(seen[proxy.triangles.numpy().tobytes()]) for proxy in teeth]


def _visible_triangles(head: Head, proxy: Proxy) -> Bool[Tensor, "triangles"]:
    """Mask of triangles visible on the mean head with an open mouth from several sides, and of their neighbours."""
    front = head.triangles[(head.material == SKIN) | (head.material == CAVITY)]
    triangles = torch.cat([front, proxy.triangles + len(head.mean)])
    image = torch.zeros(len(triangles), dtype=torch.int32)
    seen = torch.zeros(len(triangles), dtype=torch.bool)
    for actions in OPEN_MOUTHS:
        expression = torch.tensor([[actions.get(action, 0.0) for action in head.expression_labels]])
        points = head.points(torch.zeros(1, head.model.num_shape), expression)
        place = torch.cat([points[0], proxy.fit(points)[0]]) - points[0, head.model.landmarks68[48:]].mean(0)
        for yaw, pitch in itertools.product((-0.9, -0.45, 0.0, 0.45, 0.9), (-0.35, 0.0, 0.35)):
            turned = place @ euler_to_rotation(torch.tensor([pitch, yaw, 0.0])).T
            pixels = turned * torch.tensor([6.0, -6.0, 6.0]) + torch.tensor([210, 210, 0])
            shown = rasterise(pixels, triangles, image, (1, 420, 420)).triangle
            seen[shown[shown >= 0].unique().long()] = True
    corner = torch.zeros(len(proxy.uv), dtype=torch.bool)
    corner[proxy.triangles[seen[len(front) :]]] = True
    return corner[proxy.triangles].any(dim=1)  # neighbours may be visible on other heads


def iris_colour(texture: UInt8[Tensor, "rows columns 4"]) -> Colour | None:
    """Colour of the iris around the pupil in an eyeball texture; None if the texture has no pupil."""
    colour, alpha = texture[..., :3].numpy(), texture[..., 3].numpy()
    pupil = (colour.max(-1) < 45) & (alpha > 127)
    if not pupil.any():
        return None
    # The pupil is the thickest black area; the rim of the iris can be equally dark.
    depth = distance_transform_edt(pupil)
    centre = np.unravel_index(depth.argmax(), depth.shape)
    away = np.hypot(*(np.indices(depth.shape) - np.array(centre)[:, None, None])) / depth.max()
    ring = (away > 1.4) & (away < 2.2)
    middle = np.median(colour[ring], axis=0) / 255
    # Mute the vivid texture colours, because `materials.eye` brightens irises towards the pupil.
    muted = 0.8 * (0.7 * middle + 0.3 * middle.mean())
    return float(muted[0]), float(muted[1]), float(muted[2])
