"""Head pose, and the affine (3, 4) camera from model space to image or crop space (see docs/conventions.md).

Pose conventions are those of 300W-LP (Zhu et al., CVPR 2016).
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jointface.geometry.full_precision import full_precision

Camera = Float[Tensor, "*batch 3 4"]
Rotation = Float[Tensor, "*batch 3 3"]


@full_precision
def euler_to_rotation(angles: Float[Tensor, "*batch 3"]) -> Rotation:
    """Rotation R = Rx(pitch) Ry(yaw) Rz(roll) as in 300W-LP's Pose_Para, from (pitch, yaw, roll) in radians.

    Equals roma's euler_to_rotmat("XYZ", -angles), but is eight times as fast.
    """
    (sp, sy, sr), (cp, cy, cr) = angles.sin().unbind(-1), angles.cos().unbind(-1)
    zero, one = torch.zeros_like(sp), torch.ones_like(sp)
    return _matrix(one, zero, zero, zero, cp, sp, zero, -sp, cp) @ (
        _matrix(cy, zero, -sy, zero, one, zero, sy, zero, cy) @ _matrix(cr, sr, zero, -sr, cr, zero, zero, zero, one)
    )


def _matrix(*entries: Tensor) -> Rotation:
    return torch.stack(entries, dim=-1).unflatten(-1, (3, 3))


def rotation_to_euler(rotation: Rotation) -> Float[Tensor, "*batch 3"]:
    """(pitch, yaw, roll) in radians with yaw in [-pi/2, pi/2]; at yaw = +-pi/2 roll is set to zero."""
    r = rotation
    yaw = torch.asin((-r[..., 0, 2]).clamp(-1, 1))
    gimbal = r[..., 0, :2].norm(dim=-1) < 1e-6
    pitch = torch.where(gimbal, torch.atan2(-r[..., 2, 1], r[..., 1, 1]), torch.atan2(r[..., 1, 2], r[..., 2, 2]))
    roll = torch.where(gimbal, torch.zeros_like(yaw), torch.atan2(r[..., 0, 1], r[..., 0, 0]))
    return torch.stack([pitch, yaw, roll], dim=-1)


def rotation_6d_to_matrix(rows: Float[Tensor, "*batch 6"]) -> Rotation:
    """Rotation from its first two rows, which are orthonormalised (Zhou et al., CVPR 2019): easy to regress."""
    import roma  # slow to import, and only morphable decoders need it

    return roma.special_gramschmidt(rows.unflatten(-1, (2, 3)).mT).mT


def camera_from_pose(pose: Float[Tensor, "*batch 7"], image_height: float) -> Camera:
    """Camera from model space to 0-based image space for a 300W-LP Pose_Para (pitch, yaw, roll, tx, ty, tz, s).

    With V = s R v + t in MATLAB's 1-based image with y up: x = V.x - 1, y = image_height - V.y, z = V.z.
    """
    scaled_rotation = pose[..., 6, None, None] * euler_to_rotation(pose[..., :3])
    y_down = pose.new_tensor([1.0, -1.0, 1.0])
    offset = pose.new_tensor([-1.0, float(image_height), 0.0])
    return torch.cat([scaled_rotation * y_down[:, None], (pose[..., 3:6] * y_down + offset)[..., None]], dim=-1)


def pose_from_camera(camera: Camera, image_height: float) -> Float[Tensor, "*batch 7"]:
    """Inverse of `camera_from_pose`, for an unmirrored camera with uniform scale."""
    y_down = camera.new_tensor([1.0, -1.0, 1.0])
    offset = camera.new_tensor([-1.0, float(image_height), 0.0])
    scaled_rotation = camera[..., :3] * y_down[:, None]
    scale = scaled_rotation.norm(dim=-1).mean(-1)
    angles = rotation_to_euler(scaled_rotation / scale[..., None, None])
    return torch.cat([angles, (camera[..., 3] - offset) * y_down, scale[..., None]], dim=-1)


@full_precision
def crop_camera(camera: Camera, transform: Float[Tensor, "*#batch 2 3"]) -> Camera:
    """The camera followed by an image similarity. z is scaled like x and y, so that all three share one unit."""
    scale = torch.linalg.det(transform[..., :2]).abs().sqrt()
    plane = transform[..., :2] @ camera[..., :2, :]
    plane = torch.cat([plane[..., :3], plane[..., 3:] + transform[..., 2:]], dim=-1)
    return torch.cat([plane, scale[..., None, None] * camera[..., 2:, :]], dim=-2)


@full_precision
def apply_camera(
    camera: Float[Tensor, "batch 3 4"], points: Float[Tensor, "batch points 3"]
) -> Float[Tensor, "batch points 3"]:
    """Maps points from model space with the camera."""
    return torch.baddbmm(camera[:, :, 3:], camera[:, :, :3], points.mT).mT


def is_mirrored(camera: Camera) -> Bool[Tensor, "*batch"]:
    """Whether the camera shows a flipped image. Since y points down, an unflipped camera has a negative determinant."""
    return torch.linalg.det(camera[..., :3]) > 0


def center_depth(vertices: Float[Tensor, "*batch vertices 3"]) -> Float[Tensor, "*batch vertices 3"]:
    """Makes z relative to the mean z of each face, as in crop space."""
    depth = vertices[..., 2:]
    return torch.cat([vertices[..., :2], depth - depth.mean(dim=-2, keepdim=True)], dim=-1)
