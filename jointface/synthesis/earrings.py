"""Earrings that hang from both ear lobes."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.proxy import EAR_SIDE, PER_POINT, Proxy, bind_rigidly
from jointface.synthesis.solids import Solid, ellipsoid, join, tube

LUMINANCE = 204  # of the metal, 0 ... 255
HOLE = np.array([3.5, 3.0, 2.0])  # offset in mm from the lowest points of the right ear to the earring


def earrings(head: Head) -> tuple[Proxy, ...]:
    """Makes all pairs of earrings on the mean head, in grey with LUMINANCE, to be coloured later."""
    drop = join([ellipsoid((2.2, 2.2, 2.2)), ellipsoid((3.5, 10.0, 3.5)).moved(np.array([0, -14.0, 0]))])
    kinds = {"stud": ellipsoid((3.6, 3.6, 3.6)), "hoop": _hoop(11, 1.2), "large_hoop": _hoop(19, 1.4), "drop": drop}
    return tuple(_pair(name, solid, head) for name, solid in kinds.items())


def _pair(name: str, solid: Solid, head: Head) -> Proxy:
    """Binds one earring to each ear. The solid's origin goes to the outside of the right lobe at mid-height."""
    skin = head.triangles[head.material == SKIN].unique()
    ear = skin[(head.mean[skin, 0] > EAR_SIDE) & (skin < len(head.model.mirror))]
    lobe = ear[head.mean[ear, 1].argsort()[:3]].numpy()  # the lowest points of the right ear
    solid = solid.moved(head.mean[lobe].double().numpy().mean(axis=0) + HOLE)
    right = bind_rigidly(head, name, solid, LUMINANCE, lobe)
    left = bind_rigidly(head, name, solid.mirrored(), LUMINANCE, head.model.mirror[lobe].numpy())
    both: dict[str, Any] = {part: torch.cat([getattr(right, part), getattr(left, part)]) for part in PER_POINT}
    return replace(right, **both, triangles=torch.cat([right.triangles, left.triangles + len(solid.points)]))


def _hoop(radius: float, wire: float) -> Solid:
    """A hoop turned by 45 degrees, so that it looks like a ring from the front and from the side."""
    turn = np.arange(20) / 20 * 2 * np.pi
    ring = np.stack([np.sin(turn) * 0.7, np.cos(turn) - 1, np.sin(turn) * 0.7], axis=1) * radius
    return tube(ring, np.array([-0.7, 0, 0.7]), (wire, wire), closed=True)
