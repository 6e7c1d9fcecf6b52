"""The changes of `Augmentation` for whole batches in torch, on any device, without a loop over crops."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from jointface.datamodules.augmentation import LUMA, Augmentation, change_colours
from jointface.datamodules.perspective import Maps, map_points

Images = UInt8[Tensor, "batch 3 height width"]
# Quantisation tables of JPEG (ITU-T T.81, annex K), for luminance and chrominance.
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51,
    87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99,
    99, 99, 99, *[99] * 32,
)  # fmt: skip
QUALITY = (30.0, 90.0)  # of the compression
NOISE = (0.02, 0.08)  # standard deviation, as a fraction of the range of values
HOLE = (0.1, 0.3)  # side of a blacked-out rectangle, as a fraction of the crop's side


def warp_batch(
    images: Images, transforms: Float[Tensor, "batch 2 3"], size: int, perspectives: Maps | None = None
) -> UInt8[Tensor, "batch 3 size size"]:
    """Warps each image by its affine map into a crop of size x size pixels, bilinearly; borders are reflected.

    perspectives: where each crop is then looked up by a homography, see `perspective`.
    """
    height, width = images.shape[2:]
    linear = torch.linalg.inv(transforms[:, :, :2])
    offset = -linear @ transforms[:, :, 2:]
    # Pixel x of a picture of width W is the coordinate (2 x + 1) / W - 1 of affine_grid and grid_sample.
    scale = transforms.new_tensor([2 / width, 2 / height])[:, None]
    centre = (size - 1) / 2
    linear_part = linear * scale * (size / 2)
    shift = (linear.sum(2, keepdim=True) * centre + offset + 0.5) * scale - 1
    affine = torch.cat([linear_part, shift], dim=2)
    if perspectives is None:
        grid = F.affine_grid(affine, [len(images), 3, size, size], align_corners=False)
    else:
        identity = torch.eye(2, 3, device=images.device).expand_as(affine)
        plain = F.affine_grid(identity, [len(images), 3, size, size], align_corners=False)
        looked_up = map_points(perspectives, plain).flatten(1, 2)
        grid = (looked_up @ linear_part.mT + shift.mT).view_as(plain)
    warped = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return warped.round_().clamp_(0, 255).to(torch.uint8)


def change_batch(images: Images, augmentation: Augmentation) -> Images:
    """Changes colours, blurs, adds noise, compresses and blacks out at random, as often as `augmentation` says."""
    count, device = len(images), images.device
    if augmentation.changes_colours:
        images = change_colours(images, augmentation.sample_colour_matrices(count).to(device))
    kind, hidden = torch.rand(2, count).unbind()
    limits = torch.tensor([augmentation.blur, augmentation.noise, augmentation.compression]).cumsum(0)
    for change, low, high in zip((blur, add_noise, compress), (0.0, *limits), limits, strict=False):
        if len(chosen := ((kind >= low) & (kind < high)).nonzero()[:, 0].to(device)):
            images = images.index_copy(0, chosen, change(images[chosen]))
    if len(chosen := (hidden < augmentation.occlusion).nonzero()[:, 0].to(device)):
        images = images.index_copy(0, chosen, black_out(images[chosen]))
    return images


def blur(images: Images) -> Images:
    """Blurs each image with a Gaussian of a random standard deviation between 0.5 and 1.1 pixels."""
    sigma = torch.empty(len(images)).uniform_(0.5, 1.1).to(images.device)
    kernel = torch.exp(-0.5 * (torch.arange(-2, 3, device=images.device) / sigma[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]
    planes = F.pad(images.float(), (2, 2, 2, 2), mode="reflect").flatten(0, 1)[None]
    across = F.conv2d(planes, kernel[:, :, None], groups=len(kernel))
    return _to_bytes(F.conv2d(across, kernel[..., None], groups=len(kernel))[0].unflatten(0, (-1, 3)))


def add_noise(images: Images) -> Images:
    """Adds noise that the three channels share."""
    sigma = 255 * torch.empty(len(images), 1, 1, 1).uniform_(*NOISE).to(images.device)
    noise = torch.randn(len(images), 1, *images.shape[2:]).to(images.device)
    return _to_bytes(images + sigma * noise)


def compress(images: Images) -> Images:
    """What JPEG at a random quality leaves of each image: quantised cosine transforms of 8 x 8 blocks, chrominance
    without subsampling."""
    height, width = images.shape[2:]
    padded = F.pad(images.float(), (0, -width % 8, 0, -height % 8), mode="replicate")
    device = images.device
    to_ycc = torch.stack([LUMA, *torch.tensor([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])]).to(device)
    planes = torch.einsum("kc,bchw->bkhw", to_ycc, padded)
    planes[:, 0] -= 128
    step = torch.arange(8, device=device)
    cosines = torch.cos((2 * step + 1) * step[:, None] * torch.pi / 16) * 0.5
    cosines[0] *= 0.5**0.5
    quality = torch.empty(len(images)).uniform_(*QUALITY).to(device)
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50)[:, None, None, None, None, None]
    tables = torch.tensor([LUMINANCE, CHROMINANCE, CHROMINANCE], device=device).view(3, 1, 1, 8, 8)
    quantum = (tables * factor).round().clamp(1, 255)
    blocks = planes.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # (B, 3, rows, columns, 8, 8)
    blocks = cosines.T @ ((cosines @ blocks @ cosines.T / quantum).round() * quantum) @ cosines
    planes = blocks.transpose(3, 4).flatten(4, 5).flatten(2, 3)
    planes[:, 0] += 128
    return _to_bytes(torch.einsum("ck,bkhw->bchw", torch.linalg.inv(to_ycc), planes)[..., :height, :width])


def black_out(images: Images) -> Images:
    """Blacks out one or two rectangles in each image."""
    count, size = len(images), images.new_tensor(images.shape[2:], dtype=torch.float32)
    low, high = (bound * size for bound in HOLE)
    sides = (low + torch.rand(count, 2, 2).to(images.device) * (high - low)).round()
    corners = (torch.rand(count, 2, 2).to(images.device) * (size - sides)).round()
    sides[:, 1] *= (torch.rand(count) < 0.5).to(images.device)[:, None]  # the second one is there in half of the cases
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    inside: Bool[Tensor, "batch 2 height width"] = (
        _between(rows, corners[..., 0], sides[..., 0])[:, :, :, None]
        & _between(columns, corners[..., 1], sides[..., 1])[:, :, None]
    )
    return images.masked_fill(inside.any(1, keepdim=True), 0)


def _between(positions: Tensor, start: Tensor, length: Tensor) -> Bool[Tensor, "batch 2 side"]:
    return (positions >= start[..., None]) & (positions < (start + length)[..., None])


def _to_bytes(values: Tensor) -> Images:
    return values.round().clamp(0, 255).to(torch.uint8)
