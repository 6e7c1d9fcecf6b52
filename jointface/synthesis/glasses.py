"""Glasses: rims, bridge, temples and lenses. They are rigid: their shape is the same on every head."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.noise import smoothstep
from jointface.synthesis.proxy import Proxy, bind_rigidly
from jointface.synthesis.solids import Solid, disk, join, tube

MIDDLE = (32.0, 36.0)  # x and y of the right lens' centre on the mean head, in mm; the eye is a little higher
FRONT, WRAP = 27.0, 0.0026  # z of the bridge in mm; backward curvature of the front in mm per mm² of x
HINGE_Y = 45.0
EAR = np.array([78.5, 47.0, -78.0])  # where a temple rests, in mm
NODES = 40  # number of nodes of a rim
GREY, DARK = 153, 26  # luminance of frames and of lenses


@dataclass(frozen=True)
class Glasses:
    """A frame with grey texture (luminance GREY) to be coloured, and dark lenses, rendered only for sunglasses."""

    frame: Proxy
    lenses: Proxy


@dataclass(frozen=True)
class _Shape:
    """Shape of a rim: half its width and height in mm. power: 2 gives an ellipse, larger values corners.

    thickness: radius of the rim in mm. slant: rise of the upper outer corner in mm (cat eyes). sag: how far the lower
    half hangs down outwards in mm (aviators). bars: number of bridges, one above the other.
    """

    name: str
    width: float
    height: float
    power: float
    thickness: float
    slant: float = 0.0
    sag: float = 0.0
    bars: int = 1


SHAPES = (
    _Shape("round_thin", 22.5, 22, 2, 0.9),
    _Shape("round_thick", 23, 22, 2.1, 2.2),
    _Shape("rectangular_thin", 26, 16.5, 4, 1.0),
    _Shape("rectangular_thick", 26, 18.5, 3.6, 2.4),
    _Shape("aviator_thin", 27, 22, 2.5, 0.9, sag=4, bars=2),
    _Shape("aviator_thick", 27, 22, 2.5, 1.8, sag=4, bars=2),
    _Shape("cat_eye_thin", 25.5, 17, 2.5, 1.1, slant=8),
    _Shape("cat_eye_thick", 25.5, 17.5, 2.5, 2.3, slant=8),
)


def glasses(head: Head) -> tuple[Glasses, ...]:
    """Makes all glasses on the mean head."""
    rests = _rests(head)
    return tuple(
        Glasses(
            frame=bind_rigidly(head, shape.name, _frame(shape), GREY, rests, tilt=True),
            lenses=bind_rigidly(head, f"{shape.name}_lenses", join([lens, lens.mirrored()]), DARK, rests, tilt=True),
        )
        for shape, lens in ((shape, disk(_outline(shape), 1.5)) for shape in SHAPES)
    )


def _rests(head: Head) -> np.ndarray:
    """Three of the head's points that carry glasses: above both ears, and on the bridge of the nose."""
    skin = head.triangles[head.material == SKIN].unique()
    skin = skin[skin < len(head.model.mirror)]
    near = torch.from_numpy(EAR).float() - torch.tensor([2.5, 0, 0])
    right: Tensor = skin[(head.mean[skin] - near).norm(dim=1).argmin()]
    return torch.stack([head.model.mirror[right], right, head.model.landmarks68[27]]).numpy()


def _frame(shape: _Shape) -> Solid:
    thick = shape.thickness
    ahead = np.array([0.0, 0.0, 1.0])
    rim = tube(_outline(shape), ahead, (thick, max(thick * 0.8, 0.9)), closed=True)
    temple = tube(_temple(shape), np.array([0.0, 1.0, 0.0]), (min(thick, 1.3), thick * 1.3))
    bars = [tube(_bar(shape, i), ahead, (thick * 0.9, thick * 0.8)) for i in range(shape.bars)]
    return join([rim, rim.mirrored(), temple, temple.mirrored(), *bars])


def _outline(shape: _Shape) -> Float[np.ndarray, "nodes 3"]:
    """Centre line of the right rim, counter-clockwise."""
    turn = np.arange(NODES) / NODES * 2 * np.pi
    out, up = (np.sign(wave) * np.abs(wave) ** (2 / shape.power) for wave in (np.cos(turn), np.sin(turn)))
    x, y = MIDDLE[0] + shape.width * out, MIDDLE[1] + shape.height * up
    y += shape.slant * smoothstep((out + 0.8) / 1.8) * smoothstep((up + 1) / 2)
    x += shape.sag * 0.5 * (-up).clip(0) * (out > -0.5) - shape.sag * 0.3 * (-up).clip(0)
    y -= shape.sag * (-up).clip(0) * smoothstep((out + 1) / 1.5)
    return np.stack([x, y, FRONT - WRAP * x**2], axis=1)


def _bar(shape: _Shape, number: int) -> Float[np.ndarray, "nodes 3"]:
    """Centre line of a bridge from rim to rim: the first rests on the nose, a second joins the upper edges."""
    outline = _outline(shape)
    low = outline[np.argmin(np.hypot(outline[:, 0], 2 * (outline[:, 1] - 42)))]
    end = low if number == 0 else outline[np.argmin(np.hypot(outline[:, 0] - 19, outline[:, 1] - 80))]
    x = np.linspace(-end[0], end[0], 9)
    arch = 1 - (x / end[0]) ** 2
    return np.stack([x, end[1] + 2.0 * arch, end[2] + (FRONT + 1 - end[2]) * arch], axis=1)


def _temple(shape: _Shape) -> Float[np.ndarray, "nodes 3"]:
    """Centre line of a temple, from the outer edge of the rim back along the head and down behind the ear."""
    outline = _outline(shape)
    level = np.abs(outline[:, 1] - HINGE_Y - shape.slant * 0.6) + 0.5 * (outline[:, 0].max() - outline[:, 0])
    start = outline[level.argmin()]
    hinge = np.array([max(start[0] + 4, 64.0), start[1], start[2] - 5])
    along = np.linspace(0, 1, 8)[:, None]
    side = hinge + along * (EAR - hinge) + np.array([4.0, 0, 0]) * np.sin(np.pi * along)
    return np.concatenate([start[None], side, EAR + np.array([[1.0, -4, -10], [-1, -14, -18]])])
