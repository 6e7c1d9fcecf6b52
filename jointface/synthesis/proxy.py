"""Meshes that follow a head: MakeHuman's proxies, and procedural meshes bound to the mean head in the same way."""

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

CANDIDATES = 16  # triangles with the nearest centroids, among which the nearest one is looked for
STILL = 8.0  # mm: skin that a facial action moves further, above all the jaw, carries nothing
EAR_SIDE, EAR_TOP = 77.0, 56.0  # mm on the mean head: skin further out and below belongs to an ear
PER_POINT = ("corners", "weights", "offsets", "uv")  # fields of `Proxy`

Points = Float[np.ndarray, "points 3"]
Texture = UInt8[np.ndarray, "rows columns 4"]


@dataclass(frozen=True, eq=False)  # without eq a proxy is hashable, so that it can be found in a store
class Proxy:
    """A mesh each of whose points is a weighted sum of three of the head's, plus an offset that grows with the head.

    corners: rows of the head's points; their weights sum to 1, single ones may be negative.
    offsets: x to the left of the head, y up, z to the front, on the head that the proxy was made on and in any unit
        (MakeHuman: decimetres; procedural: mm).
    scale_points: for x, y, z the two of the head's points whose distance along that axis measures the scale;
        scale_reference: that distance on the head that the proxy was made on, in the unit of the offsets.
    triangles: counter-clockwise from outside; hair, brows and lashes are sheets, seen from both sides.
    uv: u to the right, v up, 0 ... 1. texture: RGBA, the first row at v = 1; where alpha is 0 colour means nothing.
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
        """The proxy's points on heads of these points, in any unit; x to the left of the head, y up, z to the front."""
        ends = points[:, self.scale_points, torch.arange(3, device=points.device)[:, None]]  # (batch, axis, end)
        scale = (ends[..., 0] - ends[..., 1]).abs() / self.scale_reference
        surface = (points[:, self.corners] * self.weights[..., None]).sum(dim=2)
        return surface + scale[:, None] * self.offsets

    def subset(self, kept: Bool[Tensor, "triangles"]) -> "Proxy":
        """Some of the triangles, and their points; all if none is to be kept."""
        if not kept.any():
            return self
        rows, triangles = self.triangles[kept].unique(return_inverse=True)
        per_point: dict[str, Any] = {name: getattr(self, name)[rows] for name in PER_POINT}
        return replace(self, **per_point, triangles=triangles)


def bind(
    head: Head, name: str, mesh: Solid, uv: Float[np.ndarray, "points 2"], texture: Texture, roots: Points | None = None
) -> Proxy:
    """Binds each point to the nearest place on the still skin, ears left out.

    That place moves continuously with the point, so a surface stays smooth on other heads.

    mesh: as it lies on the mean head. roots: where to look for the skin instead: hair that hangs beside the neck
    follows the skull it grows on.
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
    """Binds all points to the same three of the head's, so that stiff things such as glasses keep their form.

    luminance: of its plain grey texture. corners: rows of the head's points. tilt: follow how the plane of the three
    stretches and shears too, not only their centroid.
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
    # Between the ears, from the bridge of the nose to the crown, and from there to the back of the head.
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
    """The mean head's points, the triangles of skin that may carry something, and a tree of their centroids."""
    motion = head.basis[:, :, head.model.num_shape :].norm(dim=0).amax(dim=-1)
    ear = (head.mean[:, 0].abs() > EAR_SIDE) & (head.mean[:, 1] < EAR_TOP)
    carries = (motion < STILL) & ~ear
    triangles = head.triangles[carries[head.triangles].all(dim=1) & (head.material == SKIN)].numpy()
    mean = head.mean.double().numpy()
    return mean, triangles, KDTree(mean[triangles].mean(axis=1))


def _barycentric(
    points: Float[np.ndarray, "*#batch 3"], corners: Float[np.ndarray, "*#batch 3 3"], clamp: bool = True
) -> Float[np.ndarray, "*batch 3"]:
    """Weights of the corners at the foot of the perpendicular; clamped, those of a place inside the triangle."""
    a, b, c = np.moveaxis(corners, -2, 0)
    normal = np.cross(b - a, c - a)
    second = (np.cross(points - a, c - a) * normal).sum(-1) / (normal**2).sum(-1)
    third = (np.cross(b - a, points - a) * normal).sum(-1) / (normal**2).sum(-1)
    weights = np.stack([1 - second - third, second, third], axis=-1)
    if clamp:
        weights = weights.clip(0)
        weights /= weights.sum(axis=-1, keepdims=True)
    return weights
