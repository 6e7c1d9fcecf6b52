"""Earrings, which hang at the lobes of both ears."""

from dataclasses import dataclass

import numpy as np

from jointface.synthesis.binding import EAR_SIDE, bind_together
from jointface.synthesis.eyewear import plain
from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.makehuman import Proxy
from jointface.synthesis.solids import Solid, ellipsoid, join, tube

GREY = 204  # luminance of metal
HOLE = np.array([3.5, 3.0, 2.0])  # mm from the lowest points of the right ear to where earrings sit
LOBE_ROWS = 3  # lowest points of an ear that an earring follows


@dataclass(frozen=True)
class Earrings:
    """Earrings for both ears, grey, luminance 204 of 255, to be coloured."""

    name: str
    proxy: Proxy


def earrings(head: Head) -> tuple[Earrings, ...]:
    """All earrings, made on the mean head."""
    kinds = {"stud": _stud(), "hoop": _hoop(11, 1.2), "large_hoop": _hoop(19, 1.4), "drop": _drop()}
    return tuple(Earrings(name, _pair(name, solid, head)) for name, solid in kinds.items())


def _pair(name: str, solid: Solid, head: Head) -> Proxy:
    """On both ears; the solid's origin is on the right lobe, mid-height, outside."""
    right = _lobe(head)
    hole = head.mean[right].double().numpy().mean(axis=0) + HOLE
    left = head.model.mirror[right].numpy()
    sides = [solid.moved(hole), solid.moved(hole).mirrored()]
    bound = [bind_together(side.points, lobe, head) for side, lobe in zip(sides, (right, left), strict=True)]
    both, points = join(sides), len(solid.points)
    # One proxy for both: scale is the same, the rest stands one side after the other.
    binding = bind_together(both.points, right, head)
    for whole, parts in zip(binding[:3], zip(*bound, strict=True), strict=False):
        whole[:points], whole[points:] = parts[0], parts[1]
    return binding.proxy(name, both.triangles, np.full((2 * points, 2), 0.5), plain(GREY))


def _lobe(head: Head) -> np.ndarray:
    """Rows of the lowest points of the right ear."""
    skin = head.triangles[head.material == SKIN].unique()
    ear = skin[(head.mean[skin, 0] > EAR_SIDE) & (skin < len(head.model.mirror))]
    return ear[head.mean[ear, 1].argsort()[:LOBE_ROWS]].numpy()


def _stud() -> Solid:
    return ellipsoid((3.6, 3.6, 3.6))


def _hoop(radius: float, wire: float) -> Solid:
    """Half turned to the side, so that it is seen as a ring from the front and from the side."""
    turn = np.arange(20) / 20 * 2 * np.pi
    ring = np.stack([np.sin(turn) * 0.7, np.cos(turn) - 1, np.sin(turn) * 0.7], axis=1) * radius
    return tube(ring, np.array([-0.7, 0, 0.7]), (wire, wire), closed=True)


def _drop() -> Solid:
    return join([ellipsoid((2.2, 2.2, 2.2)), ellipsoid((3.5, 10.0, 3.5)).moved(np.array([0, -14.0, 0]))])
