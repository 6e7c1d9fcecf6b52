"""Head pose of a face without a camera, and errors of head pose."""

import torch
from jaxtyping import Float
from torch import Tensor

from jointface.geometry.camera import pose_from_camera


def fit_similarity(
    source: Float[Tensor, "*#batch points 3"], target: Float[Tensor, "*#batch points 3"]
) -> Float[Tensor, "*batch 3 4"]:
    """The similarity (scale, rotation, shift) that takes source nearest to target in the least-squares sense, in
    float64. It never mirrors. Umeyama, TPAMI 1991."""
    source, target = source.double(), target.double()
    source_centre, target_centre = source.mean(-2, keepdim=True), target.mean(-2, keepdim=True)
    centred = source - source_centre
    left, singular, right = torch.linalg.svd((target - target_centre).mT @ centred)
    signs = torch.ones_like(singular)
    signs[..., 2] = torch.linalg.det(left @ right).sign()
    rotation = (left * signs[..., None, :]) @ right
    scale = (singular * signs).sum(-1) / centred.square().sum((-1, -2))
    linear = scale[..., None, None] * rotation
    return torch.cat([linear, target_centre.mT - linear @ source_centre.mT], dim=-1)


def pose_from_vertices(
    vertices: Float[Tensor, "*batch points 3"], mean: Float[Tensor, "points 3"]
) -> Float[Tensor, "*batch 3"]:
    """Pitch, yaw, roll in degrees of faces in image or crop space: of the similarity from the mean face, in model
    space, to them."""
    y_down = vertices.new_tensor([1.0, -1.0, 1.0])
    camera = fit_similarity(mean * y_down, vertices) * torch.cat([y_down, y_down[:1]]).double()
    return pose_from_camera(camera, 0)[..., :3].rad2deg().float()


def pose_errors(predicted: Float[Tensor, "*batch 3"], truth: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Absolute errors of pitch, yaw and roll in degrees, each at most 180.

    Angles are those of a circle. Two triples name each rotation, (p, y, r) and (p + 180, 180 - y, r + 180), and a
    rotation read from a camera has |yaw| of at most 90: the triple nearer to the truth counts, or a perfect prediction
    of a face beyond a profile would be 180 degrees off.
    """
    other = predicted * predicted.new_tensor([1.0, -1.0, 1.0]) + 180
    errors = torch.stack([_on_circle(triple - truth) for triple in (predicted, other)])
    nearer = errors.sum(-1, keepdim=True).argmin(0, keepdim=True)
    return errors.take_along_dim(nearer, dim=0)[0]


def _on_circle(difference: Tensor) -> Tensor:
    return ((difference + 180) % 360 - 180).abs()
