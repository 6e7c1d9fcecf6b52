"""Meshes that follow a head: MakeHuman's proxies, and procedural meshes that are bound to the mean head like them."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import KDTree
from torch import Tensor

from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.solids import Solid
from jointface.synthesis.textures import TEXTURE_SIZE, grey_texture

CANDIDATES = 16  # number of triangles with the nearest centroids among which the nearest triangle is searched
STILL = 8.0  # mm: nothing is bound to skin that a facial action moves further, such as the jaw
EAR_SIDE, EAR_TOP = 77.0, 56.0  # mm on the mean head: skin further out and below belongs to an ear
PER_POINT = ("corners", "weights", "offsets", "uv")  # fields of `Proxy`

Points = Float[np.ndarray, "points 3"]
Texture = UInt8[np.ndarray, "rows columns 4"]


@dataclass(frozen=True, eq=False)  # without eq a proxy is hashable, as a store needs
class Proxy:
    """A mesh whose points are weighted sums of three head points plus an offset that scales with the head.

    corners: rows of the head's points. weights: of the corners; they sum to 1 and may be negative.
    offsets: x to the left of the head, y up, z to the front, on the head that the proxy was made for, in any unit
        (MakeHuman: decimetres; procedural: mm).
    scale_points: for x, y and z, the two head points whose distance along that axis measures the scale.
        scale_reference: that distance on the head that the proxy was made for, in the unit of the offsets.
    triangles: counter-clockwise from outside; hair, brows and lashes are sheets, visible from both sides.
    uv: u to the right, v up, 0 ... 1. texture: RGBA, first row at v = 1; colours with alpha 0 are undefined.
    """

    name: str
    corners: Int[Tensor, "points 3"]
    weights: Float[Tensor, "points 3"]
    offsets: Float[Tensor, "points 3"]
    scale_points: Int[Tensor, "3 2"]
    scale_reference: Float[Tensor, "3"]
    triangles: Int[Tensor, "triangles 3"]
    uv: Float[Tensor, "points 2"]
    texture: UInt8[Tensor, "rows columns 4"]

    def fit(self, points: Float[Tensor, "batch base 3"]) -> Float[Tensor, "batch points 3"]:
        """The proxy's points on heads with these points, in any unit; x to the head's left, y up, z to the front."""
        ends = points[:, self.scale_points, torch.arange(3, device=points.device)[:, None]]  # (batch, axis, end)
        scale = (ends[..., 0] - ends[..., 1]).abs() / self.scale_reference
        surface = (points[:, self.corners] * self.weights[..., None]).sum(dim=2)
        return surface + scale[:, None] * self.offsets

    def subset(self, kept: Bool[Tensor, "triangles"]) -> "Proxy":
        """The proxy with only the kept triangles and their points; unchanged if no triangle is kept."""
        if not kept.any():
            return self
        rows, triangles = self.triangles[kept].unique(return_inverse=True)
        per_point: dict[str, Any] = {name: getattr(self, name)[rows] for name in PER_POINT}
        return replace(self, **per_point, triangles=triangles)


def bind(
    head: Head, name: str, mesh: Solid, uv: Float[np.ndarray, "points 2"], texture: Texture, roots: Points | None = None
) -> Proxy:
    """Binds each point to the nearest position on skin that hardly moves, excluding the ears.

    That position is a continuous function of the point, so a surface stays smooth on other heads.

    mesh: on the mean head. roots: positions whose nearest skin is used instead of that of the points, so that hair
    beside the neck follows the skull it grows on.
    """
    at = mesh.points if roots is None else roots
    mean, triangles, tree = _still_skin(head)
    nearest = triangles[tree.query(at, k=CANDIDATES)[1]]  # (points, candidates, 3)
    weights = _barycentric(at[:, None], mean[nearest])
    distance = np.linalg.norm((weights[..., None] * mean[nearest]).sum(axis=-2) - at[:, None], axis=-1)
    rows = np.arange(len(at)), distance.argmin(axis=1)
    return _bound(head, name, mesh, uv, texture, nearest[rows], weights[rows])


def bind_rigidly(
    head: Head, name: str, solid: Solid, luminance: int, corners: Int[np.ndarray, "3"], tilt: bool = False
) -> Proxy:
    """Binds all points to the same three head points, so that rigid objects such as glasses keep their shape.

    luminance: of the plain grey texture. corners: rows of the three head points. tilt: whether to follow the tilt and
    stretch of their triangle too, not only their centroid.
    """
    triangle = head.mean.double().numpy()[corners]
    weights = np.full((len(solid.points), 3), 1 / 3)
    if tilt:
        weights = _barycentric(solid.points, triangle[None].repeat(len(solid.points), axis=0), clamp=False)
    uv, texture = np.full((len(solid.points), 2), 0.5), grey_texture(np.full((TEXTURE_SIZE, TEXTURE_SIZE), luminance))
    return _bound(head, name, solid, uv, texture, np.tile(corners, (len(solid.points), 1)), weights)


def _bound(
    head: Head,
    name: str,
    mesh: Solid,
    uv: Float[np.ndarray, "points 2"],
    texture: Texture,
    corners: Int[np.ndarray, "points 3"],
    weights: Points,
) -> Proxy:
    mean, landmarks = head.mean.double().numpy(), head.model.landmarks68.numpy()
    skin = np.unique(head.triangles[head.material == SKIN].numpy())
    top, back = skin[mean[skin, 1].argmax()], skin[mean[skin, 2].argmin()]
    # Scales: ear to ear, bridge of the nose to the crown, bridge of the nose to the back of the head.
    ends = np.array([landmarks[[0, 16]], [landmarks[27], top], [landmarks[27], back]])
    reference = np.abs(mean[ends[:, 0], range(3)] - mean[ends[:, 1], range(3)])
    offsets = mesh.points - (weights[..., None] * mean[corners]).sum(axis=-2)
    return Proxy(
        name=name,
        corners=torch.from_numpy(corners.astype(np.int64)),
        weights=torch.from_numpy(weights.astype(np.float32)),
        offsets=torch.from_numpy(offsets.astype(np.float32)),
        scale_points=torch.from_numpy(ends),
        scale_reference=torch.from_numpy(reference.astype(np.float32)),
        triangles=torch.from_numpy(mesh.triangles.astype(np.int64)),
        uv=torch.from_numpy(uv.astype(np.float32)),
        texture=torch.from_numpy(texture),
    )


@lru_cache(maxsize=2)
def _still_skin(head: Head) -> tuple[Points, Int[np.ndarray, "triangles 3"], KDTree]:
    """The mean head's points, the skin triangles that meshes may be bound to, and a tree of their centroids."""
    motion = head.basis[:, :, head.model.num_shape :].norm(dim=0).amax(dim=-1)
    ear = (head.mean[:, 0].abs() > EAR_SIDE) & (head.mean[:, 1] < EAR_TOP)
    carries = (motion < STILL) & ~ear
    triangles = head.triangles[carries[head.triangles].all(dim=1) & (head.material == SKIN)].numpy()
    mean = head.mean.double().numpy()
    return mean, triangles, KDTree(mean[triangles].mean(axis=1))


def _barycentric(
    points: Float[np.ndarray, "*#batch 3"], corners: Float[np.ndarray, "*#batch 3 3"], clamp: bool = True
) -> Float[np.ndarray, "*batch 3"]:
    """Barycentric weights of the points' projection onto the triangle's plane, optionally clamped to the triangle."""
    a, b, c = np.moveaxis(corners, -2, 0)
    normal = np.cross(b - a, c - a)
    second = (np.cross(points - a, c - a) * normal).sum(-1) / (normal**2).sum(-1)
    third = (np.cross(b - a, points - a) * normal).sum(-1) / (normal**2).sum(-1)
    weights = np.stack([1 - second - third, second, third], axis=-1)
    if clamp:
        weights = weights.clip(0)
        weights /= weights.sum(axis=-1, keepdims=True)
    return weights
