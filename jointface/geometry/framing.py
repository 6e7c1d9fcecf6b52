"""Face boxes in images and the crops around them. All data sets share this framing."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

CROP_MARGIN = 1.58  # side of the crop / size of the face box, as PRNet crops 300W-LP


class FaceBox(NamedTuple):
    """Square face box in image space: centre (x, y) and size = (width + height) / 2 of the landmarks, in pixels."""

    x: float
    y: float
    size: float


def face_box(landmarks: Float[Tensor, "68 *xyz"]) -> FaceBox:
    """Box of the 68 projected landmarks."""
    low, high = landmarks[:, :2].amin(0), landmarks[:, :2].amax(0)
    x, y = ((low + high) / 2).tolist()
    return FaceBox(x, y, (high - low).mean().item())


def similarity(scale: float, angle: float, shift: tuple[float, float], flip: bool, size: int) -> Float[Tensor, "2 3"]:
    """`similarities` for one crop."""
    one = torch.tensor([[scale, angle, *shift]], dtype=torch.get_default_dtype())
    return similarities(one[:, 0], one[:, 1], one[:, 2:], torch.tensor([flip]), size)[0]


def similarities(
    scale: Float[Tensor, "batch"],
    angle: Float[Tensor, "batch"],
    shift: Float[Tensor, "batch 2"],
    flip: Bool[Tensor, "batch"],
    size: int,
) -> Float[Tensor, "batch 2 3"]:
    """Similarities of size x size crops about their centre: flip, then scale and rotate (radians, counter-clockwise on
    screen), then shift (fractions of the crop)."""
    centre = (size - 1) / 2
    cos, sin, mirror = scale * angle.cos(), scale * angle.sin(), 1 - 2 * flip.to(scale.dtype)
    linear = torch.stack([mirror * cos, sin, -mirror * sin, cos], dim=1).unflatten(1, (2, 2))
    offset = centre + size * shift - centre * linear.sum(2)
    return torch.cat([linear, offset[:, :, None]], dim=2)


def crop_transform(box: FaceBox, size: int) -> Float[Tensor, "2 3"]:
    """Similarity from image space to a size x size crop that shows CROP_MARGIN times the box around its centre."""
    scale = size / (CROP_MARGIN * box.size)
    centre = (size - 1) / 2
    return torch.tensor([[scale, 0.0, centre - scale * box.x], [0.0, scale, centre - scale * box.y]])


def compose(outer: Float[Tensor, "*#batch 2 3"], inner: Float[Tensor, "*#batch 2 3"]) -> Float[Tensor, "*#batch 2 3"]:
    """The similarity that applies `inner`, then `outer`."""
    linear = outer[..., :2]
    return torch.cat([linear @ inner[..., :2], linear @ inner[..., 2:] + outer[..., 2:]], dim=-1)


def warp_points(
    transform: Float[Tensor, "*batch 2 3"], points: Float[Tensor, "*batch points dims"]
) -> Float[Tensor, "*batch points dims"]:
    """Moves points in 2D or 3D by an image similarity; z is scaled like x and y."""
    plane = points[..., :2] @ transform[..., :2].mT + transform[..., 2].unsqueeze(-2)
    scale = torch.linalg.det(transform[..., :2]).abs().sqrt()
    return torch.cat([plane, scale[..., None, None] * points[..., 2:]], dim=-1)
