"""Ties points to a head, as MakeHuman's proxies are: a place on a triangle plus an offset that grows with the head."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.makehuman import Proxy

CANDIDATES = 16  # triangles with the nearest middles, among which the nearest one is looked for
STILL = 8.0  # mm: skin that a facial action moves further, above all the jaw, carries nothing
EAR_SIDE, EAR_TOP = 77.0, 56.0  # mm on the mean head: skin further out and below is an ear's


class Binding(NamedTuple):
    """The first five of a proxy's tensors; offsets and reference in mm."""

    corners: Int[Tensor, "points 3"]
    weights: Float[Tensor, "points 3"]
    offsets: Float[Tensor, "points 3"]
    scale_points: Int[Tensor, "3 2"]
    scale_reference: Float[Tensor, "3"]

    def proxy(
        self,
        name: str,
        triangles: Int[np.ndarray, "triangles 3"],
        uv: Float[np.ndarray, "points 2"],
        texture: np.ndarray,
    ) -> Proxy:
        """The proxy whose points are the bound ones."""
        faces, coordinates = torch.from_numpy(triangles.astype(np.int64)), torch.from_numpy(uv.astype(np.float32))
        return Proxy(name, *self, faces, coordinates, torch.from_numpy(texture))


def bind(points: Float[np.ndarray, "points 3"], head: Head, at: Float[np.ndarray, "points 3"] | None = None) -> Binding:
    """Each point follows the place of the still skin, ears left out, that is nearest to it.

    The place moves continuously with the point, so a surface stays smooth on other heads.

    Args:
        points: on the mean head, in mm.
        at: where to look for the skin instead: hair that hangs beside the neck follows the skull that it grows on.
    """
    mean, triangles = head.mean.double().numpy(), head.triangles[_carries(head)].numpy()
    at = points if at is None else at
    middles = mean[triangles].mean(axis=1)
    nearest = triangles[KDTree(middles).query(at, k=CANDIDATES)[1]]  # (points, candidates, 3)
    weights = _barycentric(at[:, None], mean[nearest])
    distance = np.linalg.norm(_blend(weights, mean[nearest]) - at[:, None], axis=-1)
    rows = np.arange(len(at)), distance.argmin(axis=1)
    return _bound(points, nearest[rows], weights[rows], head)


def bind_together(
    points: Float[np.ndarray, "points 3"], corners: Int[np.ndarray, "3"], head: Head, tilt: bool = False
) -> Binding:
    """All points follow the same three of the head's points: stiff things such as glasses keep their form.

    Args:
        corners: rows of the head's points.
        tilt: the points also follow how the plane of the three stretches and shears; otherwise only their middle.
    """
    triangle = head.mean.double().numpy()[corners]
    weights = np.full((len(points), 3), 1 / 3)
    if tilt:
        weights = _barycentric(points, triangle[None].repeat(len(points), axis=0), clamp=False)
    return _bound(points, np.tile(corners, (len(points), 1)), weights, head)


def _bound(
    points: Float[np.ndarray, "points 3"],
    corners: Int[np.ndarray, "points 3"],
    weights: Float[np.ndarray, "points 3"],
    head: Head,
) -> Binding:
    mean = head.mean.double().numpy()
    ends = scale_points(head)
    reference = np.abs(mean[ends[:, 0], range(3)] - mean[ends[:, 1], range(3)])
    offsets = points - _blend(weights, mean[corners])
    return Binding(
        torch.from_numpy(corners.astype(np.int64)),
        torch.from_numpy(weights.astype(np.float32)),
        torch.from_numpy(offsets.astype(np.float32)),
        torch.from_numpy(ends),
        torch.from_numpy(reference.astype(np.float32)),
    )


def scale_points(head: Head) -> Int[np.ndarray, "3 2"]:
    """Between the ears, from the bridge of the nose to the crown, from there to the back of the head."""
    mean, landmarks = head.mean.numpy(), head.model.landmarks68.numpy()
    skin = np.unique(head.triangles[head.material == SKIN].numpy())
    top, back = skin[mean[skin, 1].argmax()], skin[mean[skin, 2].argmin()]
    return np.array([landmarks[[0, 16]], [landmarks[27], top], [landmarks[27], back]])


def _carries(head: Head) -> Bool[np.ndarray, "triangles"]:
    motion = head.basis[:, :, head.model.num_shape :].norm(dim=0).amax(dim=-1)
    mean = head.mean
    ear = (mean[:, 0].abs() > EAR_SIDE) & (mean[:, 1] < EAR_TOP)
    carries = (motion < STILL) & ~ear
    return (carries[head.triangles].all(dim=1) & (head.material == SKIN)).numpy()


def _barycentric(
    points: Float[np.ndarray, "*#batch 3"], corners: Float[np.ndarray, "*#batch 3 3"], clamp: bool = True
) -> Float[np.ndarray, "*batch 3"]:
    """Weights of the corners at the foot of the perpendicular; clamped they are of a place inside the triangle."""
    a, b, c = np.moveaxis(corners, -2, 0)
    normal = np.cross(b - a, c - a)
    second = (np.cross(points - a, c - a) * normal).sum(-1) / (normal**2).sum(-1)
    third = (np.cross(b - a, points - a) * normal).sum(-1) / (normal**2).sum(-1)
    weights = np.stack([1 - second - third, second, third], axis=-1)
    if clamp:
        weights = weights.clip(0)
        weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _blend(
    weights: Float[np.ndarray, "*batch 3"], corners: Float[np.ndarray, "*batch 3 3"]
) -> Float[np.ndarray, "*batch 3"]:
    return (weights[..., None] * corners).sum(axis=-2)
