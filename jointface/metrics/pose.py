"""Head pose computed from vertices, and head pose errors."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jointface.geometry.camera import rotation_to_euler
from jointface.metrics.alignment import fit_similarity


def pose_from_vertices(
    vertices: Float[Tensor, "*batch points 3"], mean: Float[Tensor, "points 3"]
) -> Float[Tensor, "*batch 3"]:
    """Pitch, yaw and roll in degrees of faces in image or crop space; see `rotation_from_vertices`."""
    return rotation_to_euler(rotation_from_vertices(vertices, mean)).rad2deg().float()


def rotation_from_vertices(
    vertices: Float[Tensor, "*batch points 3"], mean: Float[Tensor, "points 3"]
) -> Float64[Tensor, "*batch 3 3"]:
    """Rotation from model space to picture space with y up, for faces in image or crop space: that of the similarity
    that best maps the mean face, in model space, to each face."""
    y_down = vertices.new_tensor([1.0, -1.0, 1.0])
    scaled = fit_similarity(mean, vertices * y_down)[..., :3]
    return scaled / torch.linalg.det(scaled).pow(1 / 3)[..., None, None]


def pose_errors(predicted: Float[Tensor, "*batch 3"], truth: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Absolute errors of pitch, yaw and roll in degrees, each at most 180.

    The triples (p, y, r) and (p + 180, 180 - y, r + 180) describe the same rotation, and |yaw| computed from a camera
    is at most 90. The triple nearer to the truth counts; otherwise a perfect prediction of a face turned beyond the
    profile would be 180 degrees off.
    """
    other = predicted * predicted.new_tensor([1.0, -1.0, 1.0]) + 180
    differences = torch.stack([predicted, other]) - truth
    errors = ((differences + 180) % 360 - 180).abs()
    nearer = errors.sum(-1, keepdim=True).argmin(0, keepdim=True)
    return errors.take_along_dim(nearer, dim=0)[0]
