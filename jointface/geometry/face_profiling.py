"""Rotates photographed faces out of plane, in the spirit of 300W-LP's face profiling (Zhu et al., CVPR 2016).

The photo becomes a relief: face pixels take the depth of the fitted mesh, and the background extends the depth at the
face's outline. The relief is rotated, near points hide far ones, and each pixel of the result samples the photo at its
point's original position.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jointface.geometry.camera import crop_camera
from jointface.geometry.full_precision import full_precision

Images = Float[Tensor, "batch channels height width"]
Known = Bool[Tensor, "batch 1 height width"]


@full_precision
def turn_faces(
    images: Images,
    camera: Float[Tensor, "batch 3 4"],
    vertices: Float[Tensor, "batch vertices 3"],
    landmarks68: Int[Tensor, "68"],
    rotation: Float[Tensor, "batch 3 3"],
) -> tuple[Images, Float[Tensor, "batch 3 4"]]:
    """Rotates faces in crop space (x right, y down, z towards the viewer); returns the new crops and cameras.

    The landmark box keeps its centre and size, so the framing does not change.
    """
    size = images.shape[-1]
    depth = relief(vertices, size)
    centre = vertices.mean(1)
    turned_camera = torch.cat(
        [rotation @ camera[..., :3], rotation @ (camera[..., 3] - centre)[..., None] + centre[..., None]], -1
    )
    landmarks = vertices[:, landmarks68]
    reframe = _same_framing((landmarks - centre[:, None]) @ rotation.mT + centre[:, None], landmarks)
    grid = pixel_grid(size, images.device)
    surface = torch.cat([grid.expand(len(images), -1, -1), depth.flatten(2).mT], dim=-1)
    moved = (surface - centre[:, None]) @ rotation.mT + centre[:, None]
    place = moved[..., :2] @ reframe[..., :2].mT + reframe[:, None, :, 2]
    origin = fill_holes(*splat(grid.expand(len(images), -1, -1), place, moved[..., 2], size))
    origin = origin.permute(0, 2, 3, 1) * (2 / (size - 1)) - 1
    sampled = F.grid_sample(images, origin, padding_mode="reflection", align_corners=True)
    return sampled, crop_camera(turned_camera, reframe)


def relief(vertices: Float[Tensor, "batch vertices 3"], size: int) -> Float[Tensor, "batch 1 size size"]:
    """Depth of the front of the face at each pixel, extended over the background."""
    return fill_holes(*splat(vertices[..., 2:], vertices[..., :2], vertices[..., 2], size))


def splat(
    values: Float[Tensor, "batch points channels"],
    place: Float[Tensor, "batch points 2"],
    depth: Float[Tensor, "batch points"],
    size: int,
) -> tuple[Images, Known]:
    """Value at each pixel, and which pixels have one: the mean over the nearest point and all points at most one pixel
    behind it."""
    column, row = place.round().long().unbind(-1)
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    pixel = torch.where(inside, row * size + column, size * size)  # an extra pixel collects the points outside
    front = depth.new_full((len(depth), size * size + 1), -torch.inf).scatter_reduce(1, pixel, depth, "amax")
    weight = (depth >= front.gather(1, pixel) - 1).to(depth.dtype)
    total = values.new_zeros(len(values), size * size + 1, values.shape[-1])
    total = total.scatter_add(1, pixel[..., None].expand_as(values), values * weight[..., None])[:, :-1]
    count = weight.new_zeros(front.shape).scatter_add(1, pixel, weight)[:, :-1]
    mean = total / count.clamp(min=1)[..., None]
    return mean.mT.unflatten(-1, (size, size)), (count > 0).unflatten(1, (1, size, size)).squeeze(1)[:, None]


def fill_holes(image: Images, known: Known) -> Images:
    """Fills unknown pixels from their surroundings, coarse to fine (pull-push; Gortler et al., SIGGRAPH 1996)."""
    if image.shape[-1] == 1 or bool(known.all()):
        return image
    weight = known.to(image.dtype)
    coarse_weight = F.avg_pool2d(weight, 2, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool2d(image * weight, 2, ceil_mode=True, count_include_pad=False) / coarse_weight.clamp(min=1e-6)
    coarse = fill_holes(coarse, coarse_weight > 0)
    return torch.where(known, image, F.interpolate(coarse, size=image.shape[-2:], mode="bilinear", align_corners=False))


def pixel_grid(size: int, device: torch.device) -> Float[Tensor, "1 pixels 2"]:
    """(x, y) of all pixels of a crop, in reading order."""
    along = torch.arange(size, dtype=torch.float32, device=device)
    return torch.stack(torch.meshgrid(along, along, indexing="xy"), dim=-1).flatten(0, 1)[None]


def _same_framing(moved: Tensor, original: Float[Tensor, "batch 68 3"]) -> Float[Tensor, "batch 2 3"]:
    """Scale and shift that give the box of the moved landmarks the centre and mean side of the original box."""
    extremes = [(points[..., :2].amin(1), points[..., :2].amax(1)) for points in (moved, original)]
    from_centre, to_centre = ((low + high) / 2 for low, high in extremes)
    from_size, to_size = ((high - low).mean(1) for low, high in extremes)
    scale = (to_size / from_size)[:, None, None]
    linear = scale * torch.eye(2, device=moved.device)
    return torch.cat([linear, to_centre[..., None] - scale * from_centre[..., None]], dim=-1)
