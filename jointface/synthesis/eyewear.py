"""Glasses: rims before the eyes, a bridge, temples to the ears, and lenses. They stay in form on every head."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.synthesis.binding import bind_together
from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.makehuman import Proxy
from jointface.synthesis.noise import smoothstep
from jointface.synthesis.solids import Solid, disk, join, tube

MIDDLE = (32.0, 36.0)  # x and y of the right lens on the mean head, in mm; the eye is a little higher
FRONT, WRAP = 27.0, 0.0026  # z of the bridge in mm, and how far the front bends back: mm per mm squared of x
HINGE_Y = 45.0
EAR = np.array([78.5, 47.0, -78.0])  # where a temple rests
NODES = 40  # of a rim
GREY, DARK = 153, 26  # luminance of frames and of lenses
BRIDGE = 27  # of the 68 landmarks


@dataclass(frozen=True)
class Glasses:
    """Glasses.

    Attributes:
        frame: opaque grey, luminance 153 of 255, to be coloured.
        lenses: opaque and dark, to be drawn for sunglasses only.
    """

    name: str
    frame: Proxy
    lenses: Proxy


@dataclass(frozen=True)
class _Model:
    """A rim: half its width and height in mm; power 2 is an ellipse, a larger one has corners.

    slant: mm by which the upper outer corner goes up (cat eyes). sag: mm by which the lower half hangs down outwards
    (aviators). thickness: radius of the rim in mm. bars: bridges one above the other.
    """

    name: str
    width: float
    height: float
    power: float
    thickness: float
    slant: float = 0.0
    sag: float = 0.0
    bars: int = 1


MODELS = (
    _Model("round_thin", 22.5, 22, 2, 0.9),
    _Model("round_thick", 23, 22, 2.1, 2.2),
    _Model("rectangular_thin", 26, 16.5, 4, 1.0),
    _Model("rectangular_thick", 26, 18.5, 3.6, 2.4),
    _Model("aviator_thin", 27, 22, 2.5, 0.9, sag=4, bars=2),
    _Model("aviator_thick", 27, 22, 2.5, 1.8, sag=4, bars=2),
    _Model("cat_eye_thin", 25.5, 17, 2.5, 1.1, slant=8),
    _Model("cat_eye_thick", 25.5, 17.5, 2.5, 2.3, slant=8),
)


def glasses(head: Head) -> tuple[Glasses, ...]:
    """All glasses, made on the mean head."""
    rests = _rests(head)

    def proxy(name: str, solid: Solid, light: int) -> Proxy:
        uv = np.full((len(solid.points), 2), 0.5)
        return bind_together(solid.points, rests, head, tilt=True).proxy(name, solid.triangles, uv, plain(light))

    return tuple(
        Glasses(model.name, proxy(model.name, _frame(model), GREY), proxy(f"{model.name}_lenses", _lenses(model), DARK))
        for model in MODELS
    )


def plain(light: int) -> np.ndarray:
    """A texture of one grey."""
    return np.tile(np.array([light, light, light, 255], dtype=np.uint8), (4, 4, 1))


def _rests(head: Head) -> np.ndarray:
    """Rows of the head's points: above both ears, and on the bridge of the nose."""
    skin = head.triangles[head.material == SKIN].unique()
    skin = skin[skin < len(head.model.mirror)]
    near = torch.from_numpy(EAR).float() - torch.tensor([2.5, 0, 0])
    right: Tensor = skin[(head.mean[skin] - near).norm(dim=1).argmin()]
    return torch.stack([head.model.mirror[right], right, head.model.landmarks68[BRIDGE]]).numpy()


def _frame(model: _Model) -> Solid:
    thick = model.thickness
    ahead = np.array([0.0, 0.0, 1.0])
    rim = tube(_outline(model), ahead, (thick, max(thick * 0.8, 0.9)), closed=True)
    temple = tube(_temple(model), np.array([0.0, 1.0, 0.0]), (min(thick, 1.3), thick * 1.3))
    bars = [tube(_bar(model, i), ahead, (thick * 0.9, thick * 0.8)) for i in range(model.bars)]
    return join([rim, rim.mirrored(), temple, temple.mirrored(), *bars])


def _lenses(model: _Model) -> Solid:
    lens = disk(_outline(model), 1.5)
    return join([lens, lens.mirrored()])


def _outline(model: _Model) -> Float[np.ndarray, "nodes 3"]:
    """The right rim's middle line, counter-clockwise."""
    turn = np.arange(NODES) / NODES * 2 * np.pi
    out, up = (np.sign(wave) * np.abs(wave) ** (2 / model.power) for wave in (np.cos(turn), np.sin(turn)))
    x, y = MIDDLE[0] + model.width * out, MIDDLE[1] + model.height * up
    y += model.slant * smoothstep((out + 0.8) / 1.8) * smoothstep((up + 1) / 2)
    x += model.sag * 0.5 * (-up).clip(0) * (out > -0.5) - model.sag * 0.3 * (-up).clip(0)
    y -= model.sag * (-up).clip(0) * smoothstep((out + 1) / 1.5)
    return np.stack([x, y, _front(x)], axis=1)


def _front(x: Float[np.ndarray, "nodes"]) -> Float[np.ndarray, "nodes"]:
    return FRONT - WRAP * x**2


def _bar(model: _Model, number: int) -> Float[np.ndarray, "nodes 3"]:
    """From rim to rim; the first rests on the nose, a second joins the upper edges."""
    outline = _outline(model)
    low = outline[np.argmin(np.hypot(outline[:, 0], 2 * (outline[:, 1] - 42)))]
    end = low if number == 0 else outline[np.argmin(np.hypot(outline[:, 0] - 19, outline[:, 1] - 80))]
    x = np.linspace(-end[0], end[0], 9)
    arch = 1 - (x / end[0]) ** 2
    return np.stack([x, end[1] + 2.0 * arch, end[2] + (FRONT + 1 - end[2]) * arch], axis=1)


def _temple(model: _Model) -> Float[np.ndarray, "nodes 3"]:
    """From the rim's outer edge back along the head, then down behind the ear."""
    outline = _outline(model)
    level = np.abs(outline[:, 1] - HINGE_Y - model.slant * 0.6) + 0.5 * (outline[:, 0].max() - outline[:, 0])
    start = outline[level.argmin()]
    hinge = np.array([max(start[0] + 4, 64.0), start[1], start[2] - 5])
    along = np.linspace(0, 1, 8)[:, None]
    side = hinge + along * (EAR - hinge) + np.array([4.0, 0, 0]) * np.sin(np.pi * along)
    return np.concatenate([start[None], side, EAR + np.array([[1.0, -4, -10], [-1, -14, -18]])])
