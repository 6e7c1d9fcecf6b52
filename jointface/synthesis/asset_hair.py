"""Converts MakeHuman's hair to hair cuts. The properties that attributes need are measured on the mean head."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from jointface.geometry.rasteriser import Cutout, rasterise
from jointface.synthesis.hair_styles import GREY, HOLD, HairStyle, Length, Wave
from jointface.synthesis.head import Head
from jointface.synthesis.noise import smoothstep
from jointface.synthesis.proxy import Proxy, bind
from jointface.synthesis.skull import ARC, CENTRE, Skull, place
from jointface.synthesis.solids import Solid
from jointface.synthesis.textures import TEXTURE_SIZE, shrunk

LOWEST = -300.0  # y in mm on the mean head; hair below is never visible
VIEW = (560, 400)  # height and width of the front view of the mean head in mm, and in pixels

# Wave, and plausibility for women and men, of hair by name, because the files do not say. Others depend on the length.
KNOWN_HAIR: dict[str, tuple[Wave, float, float]] = {
    "afro01": ("curly", 0.8, 0.8),
    **dict.fromkeys(("bob01", "bob02", "braid01"), ("straight", 1.0, 0.05)),
    **dict.fromkeys(("long01", "ponytail01"), ("straight", 1.0, 0.1)),
    **dict.fromkeys(("short01", "short02"), ("straight", 0.15, 1.0)),
    "short03": ("straight", 0.3, 0.9),
    "short04": ("straight", 0.3, 1.0),
}
PLAUSIBILITY: dict[Length, tuple[float, float]] = {"short": (0.3, 1.0), "medium": (1.0, 0.1), "long": (1.0, 0.1)}
ONE_EYED = 0.25  # plausibility of hair that falls over an eye
ASSET_WEIGHT = 2.0  # how often an asset's hair is worn relative to procedural hair of its kind


def balanced(procedural: Sequence[HairStyle], added: Sequence[HairStyle]) -> tuple[HairStyle, ...]:
    """Merges both kinds of hair. Within a group of cuts with the same attributes, asset and procedural cuts share the
    plausibility of the procedural ones, so that attribute frequencies do not change; other cuts keep their own."""

    def share(style: HairStyle, trait: str, weight: float) -> float:
        drawn, worn = (
            sum(getattr(other, trait) for other in styles if _kind(other) == _kind(style))
            for styles in (procedural, added)
        )
        own = getattr(style, trait)
        return weight * own * drawn / (ASSET_WEIGHT * worn + drawn) if drawn and worn else own

    return tuple(
        replace(style, feminine=share(style, "feminine", weight), masculine=share(style, "masculine", weight))
        for styles, weight in ((procedural, 1.0), (added, ASSET_WEIGHT))
        for style in styles
    )


def _kind(style: HairStyle) -> tuple[bool, bool, str, str]:
    return style.bangs, style.receding, style.wave, style.length


def _bound_to_skull(head: Head, skull: Skull, proxy: Proxy) -> Proxy:
    """Binds the proxy like procedural hair: hats press it towards the skull, and hanging hair follows the skull."""
    high = proxy.fit(head.mean[None])[0, :, 1] > LOWEST
    kept = proxy.subset(high[proxy.triangles].all(dim=1))
    points = kept.fit(head.mean[None])[0].double().numpy()
    roots, _ = _roots(skull, points)
    mesh = Solid(points, kept.triangles.numpy())
    return bind(head, kept.name, mesh, kept.uv.numpy().clip(0, 1), kept.texture.numpy(), roots)


def _roots(
    skull: Skull, points: Float[np.ndarray, "points 3"]
) -> tuple[Float[np.ndarray, "points 3"], Float[np.ndarray, "points"]]:
    """Roots of hair points on the skull (straight below points close to it), and distances to the skull in mm."""
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


def _strands(proxy: Proxy) -> UInt8[Tensor, "rows columns 4"]:
    """Converts the texture to grey strands like those of procedural cuts, with mean luminance GREY where visible."""
    texture = shrunk(proxy.texture)
    pixels = torch.cat([proxy.uv * TEXTURE_SIZE - 0.5, torch.zeros(len(proxy.uv), 1)], dim=1)
    pixels[:, 1] = TEXTURE_SIZE - 1 - pixels[:, 1]
    image = torch.zeros(len(proxy.triangles), dtype=torch.int32)
    used = rasterise(pixels, proxy.triangles, image, (1, TEXTURE_SIZE, TEXTURE_SIZE)).triangle[0] >= 0
    light = texture[..., :3].float().mean(-1)
    opaque = used & (texture[..., 3] >= 128)
    shown = light[opaque] if opaque.any() else light.flatten()
    spread = shown.std(correction=0).clamp(min=1)
    contrast = (spread / shown.mean().clamp(min=1)).clamp(max=0.3)
    grey = GREY * (1 + contrast * ((light - shown.mean()) / spread).clamp(-1.8, 2.2))
    grey = grey.clamp(30, 255).round().to(torch.uint8)
    return torch.stack([grey, grey, grey, texture[..., 3]], dim=-1)


def asset_hair(head: Head, skull: Skull, proxy: Proxy) -> HairStyle:
    """Converts a hair proxy to a hair cut, with properties measured on the mean head."""
    proxy = _bound_to_skull(head, skull, proxy)
    proxy = replace(proxy, texture=_strands(proxy))
    hair = _front_view(head, proxy)
    marks = head.model.mean[head.model.landmarks68]
    forehead = hair[_row(98) : _row(76), _column(-30) : _column(30)]
    hides_eye = sum(bool(hair[_row(y), _column(x)]) for x, y in marks[36:48, :2].tolist()) > 3
    low = (hair[_row(0) :].sum(dim=1) >= 6).nonzero()  # wisps do not count for the length
    lowest = -float(low.max()) if len(low) else 0.0
    chin = float(marks[8, 1])
    length: Length = "long" if lowest < chin - 75 else "medium" if lowest < chin + 35 else "short"
    points = proxy.fit(head.mean[None])[0].double().numpy()
    high = _roots(skull, points)[1][points[:, 1] > 60]
    wave, feminine, masculine = KNOWN_HAIR.get(proxy.name, ("straight", *PLAUSIBILITY[length]))
    share = ONE_EYED if hides_eye else 1.0
    return HairStyle(
        proxy=proxy,
        bangs=float(forehead.float().mean()) > 0.5,
        wave=wave,
        length=length,
        receding=False,
        feminine=share * feminine,
        masculine=share * masculine,
        fits_under_hat=len(high) == 0 or float(np.quantile(high, 0.98)) < 35,
    )


def _row(y: float) -> int:
    return round(230 - y)


def _column(x: float) -> int:
    return round(VIEW[1] / 2 + x)


def _front_view(head: Head, proxy: Proxy) -> Bool[Tensor, "rows columns"]:
    """Where hair is visible from the front of the mean head, one pixel per millimetre."""
    points = torch.cat([head.mean, proxy.fit(head.mean[None])[0]])
    pixels = points * torch.tensor([1.0, -1.0, 1.0]) + torch.tensor([_column(0), _row(0), 0.0])
    triangles = torch.cat([head.triangles, proxy.triangles + len(head.mean)])
    cut = (torch.arange(len(triangles)) >= len(head.triangles)).int() - 1
    uv = torch.cat([torch.zeros(len(head.mean), 2), proxy.uv])
    cutout = Cutout(uv, cut, proxy.texture[None, ..., 3].contiguous())
    image = torch.zeros(len(triangles), dtype=torch.int32)
    return rasterise(pixels, triangles, image, (1, *VIEW), cutout=cutout).triangle[0] >= len(head.triangles)
