"""Head pose of a face without a camera, and errors of head pose."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jointface.geometry.camera import rotation_to_euler
from jointface.metrics.alignment import fit_similarity


def pose_from_vertices(
    vertices: Float[Tensor, "*batch points 3"], mean: Float[Tensor, "points 3"]
) -> Float[Tensor, "*batch 3"]:
    """Pitch, yaw, roll in degrees of faces in image or crop space: those of `rotation_from_vertices`."""
    return rotation_to_euler(rotation_from_vertices(vertices, mean)).rad2deg().float()


def rotation_from_vertices(
    vertices: Float[Tensor, "*batch points 3"], mean: Float[Tensor, "points 3"]
) -> Float64[Tensor, "*batch 3 3"]:
    """The rotation, from model space to that of the picture with y up, of the similarity that takes the mean face, in
    model space, to each of the faces in image or crop space."""
    y_down = vertices.new_tensor([1.0, -1.0, 1.0])
    scaled = fit_similarity(mean, vertices * y_down)[..., :3]
    return scaled / torch.linalg.det(scaled).pow(1 / 3)[..., None, None]


def pose_errors(predicted: Float[Tensor, "*batch 3"], truth: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Absolute errors of pitch, yaw and roll in degrees, each at most 180.

    Two triples name the same rotation, (p, y, r) and (p + 180, 180 - y, r + 180), and |yaw| read from a camera is at
    most 90. The triple nearer to the truth counts; otherwise a perfect prediction of a face turned beyond the profile
    would be 180 degrees off.
    """
    other = predicted * predicted.new_tensor([1.0, -1.0, 1.0]) + 180
    differences = torch.stack([predicted, other]) - truth
    errors = ((differences + 180) % 360 - 180).abs()
    nearer = errors.sum(-1, keepdim=True).argmin(0, keepdim=True)
    return errors.take_along_dim(nearer, dim=0)[0]
