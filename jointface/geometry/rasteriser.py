"""A batched z-buffer: which triangle is seen in each pixel, where on it, and how far away.

Image space is that of docs/conventions.md: x right, y down, pixel centres at integers, z towards the viewer, so that
the larger z hides the smaller. The kernels are written for Warp (github.com/NVIDIA/warp). They run where the tensors
are, on the CPU or on CUDA, with the same results. Nothing here has a gradient.

Warp compiles the kernels on their first use on a device and keeps them in the user's cache folder (WARP_CACHE_PATH
moves it). `load_kernels` does so ahead of time, for instance before a data loader forks its workers.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import warp as wp
from jaxtyping import Bool, Float, Float32, Int, Int32, UInt8
from torch import Tensor

from jointface.errors import InputError
from jointface.geometry import raster_kernels as kernels

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LARGEST = 2**31 - 1  # threads and pixels are counted in int32

Vertices = Float[Tensor, "batch vertices 3"]
Triangles = Int[Tensor, "triangles 3"]


@dataclass
class Fragments:
    """What is seen in each pixel."""

    triangle: Int32[Tensor, "batch height width"]  # row of `triangles`, -1 in the background
    barycentric: Float32[Tensor, "batch height width 3"]  # of its corners, perspective-correct; 0 in the background
    depth: Float32[Tensor, "batch height width"]  # z of the surface, -inf in the background


@dataclass
class Cutout:
    """Textures whose alpha cuts holes into triangles: hair cards, brows, lashes.

    A triangle is seen in a pixel where the nearest texel has an alpha of at least 128. Beyond [0, 1] the border of the
    texture is continued.
    """

    uv: Float32[Tensor, "points 2"]  # of each point in [0, 1], v upwards: the first row of a plane is v = 1
    texture: Int32[Tensor, "triangles"]  # the alpha plane of each triangle, -1 if it is opaque
    alpha: UInt8[Tensor, "textures rows columns"]  # the alpha planes


def rasterise(
    points: Float[Tensor, "points 3"],
    triangles: Triangles,
    image: Int[Tensor, "triangles"],
    size: tuple[int, int, int],
    inverse_w: Float[Tensor, "points"] | None = None,
    cutout: Cutout | None = None,
) -> Fragments:
    """The nearest surface in each pixel of a batch of images, each with meshes of its own.

    A triangle covers the pixels whose centres lie in it or on its edge, whichever way it is wound. Of several surfaces
    at one depth the first in `triangles` is seen. Triangles with a corner that is not finite are left out, and so are
    those that reach behind a perspective camera.

    Args:
        points: (x, y, z) in pixels of their image; with a perspective camera after the division by w, z included.
        image: the image of the batch that each triangle belongs to.
        size: (batch, height, width) of the images, in pixels.
        inverse_w: 1 / w of each point for a perspective camera, positive in front of it; None is an affine camera.

    Raises:
        InputError: shapes, devices or indices do not fit.
    """
    _check_size(size)
    _check("points", points, (None, 3))
    _check("triangles", triangles, (None, 3), INTEGERS, points)
    _check("image", image, (len(triangles),), INTEGERS, points)
    if inverse_w is not None:
        _check("inverse_w", inverse_w, (len(points),), like=points)
    indices = [("triangles", triangles, 0, len(points)), ("image", image, 0, size[0])]
    if cutout is not None:
        _check("cutout.uv", cutout.uv, (len(points), 2), like=points)
        _check("cutout.texture", cutout.texture, (len(triangles),), INTEGERS, points)
        _check("cutout.alpha", cutout.alpha, (None, None, None), (torch.uint8,), points)
        if not cutout.alpha.numel() and len(cutout.alpha):
            raise InputError(f"cutout.alpha: expected planes of at least one texel, found {tuple(cutout.alpha.shape)}")
        indices.append(("cutout.texture", cutout.texture, -1, len(cutout.alpha)))
    _check_indices(*indices)
    return _rasterise(points[None], triangles, image, size, inverse_w[None] if inverse_w is not None else None, cutout)


def rasterise_meshes(vertices: Vertices, triangles: Triangles, height: int, width: int) -> Fragments:
    """One mesh in several poses, one for each image, under an affine camera; otherwise as `rasterise`."""
    _check_poses(vertices, triangles, height, width)
    return _rasterise(vertices, triangles, None, (len(vertices), height, width), None, None)


def interpolate(
    fragments: Fragments,
    triangles: Triangles,
    values: Float[Tensor, "points channels"] | Float[Tensor, "batch points channels"],
) -> Float32[Tensor, "batch height width channels"]:
    """Values of the points, interpolated in each pixel; 0 in the background.

    Args:
        values: a row for each point; after `rasterise_meshes` either one table for all images, or one for each.

    Raises:
        InputError: shapes, devices or indices do not fit.
    """
    values = values[None] if values.ndim == 2 else values
    _check("fragments.triangle", fragments.triangle, (None, None, None), (torch.int32,))
    _check("fragments.barycentric", fragments.barycentric, (*fragments.triangle.shape, 3), like=fragments.triangle)
    _check("triangles", triangles, (None, 3), INTEGERS, fragments.triangle)
    _check("values", values, (len(fragments.triangle) if len(values) != 1 else 1, None, None), like=fragments.triangle)
    _check_indices(
        ("triangles", triangles, 0, values.shape[1]), ("fragments.triangle", fragments.triangle, -1, len(triangles))
    )
    batch, height, width = fragments.triangle.shape
    output = torch.empty(batch, height, width, values.shape[2], device=values.device)
    arguments = fragments.triangle, fragments.barycentric, triangles, values, height * width, output
    _launch(kernels.blend, batch * height * width, values.device, *arguments)
    return output


def visible_vertices(
    vertices: Vertices, triangles: Triangles, height: int, width: int, tolerance: float = 1.0
) -> Bool[Tensor, "batch vertices"]:
    """Which vertices lie in the image and are hidden by no triangle.

    Vertices are tested where they are, not at the centres of pixels; the size of the image only bounds them. One that
    lies at most `tolerance`, in the unit of z, behind a surface still counts as visible.
    """
    _check_poses(vertices, triangles, height, width)
    x, y, z = vertices.detach().float().unbind(-1)
    visible = (x >= -0.5) & (x < width - 0.5) & (y >= -0.5) & (y < height - 0.5) & z.isfinite()
    visible = visible.contiguous()  # the kernel must write to it, not to a copy
    column, row = (torch.where(visible, place + 0.5, 0).floor().long() for place in (x, y))
    pixel = torch.where(visible, row.clamp(max=height - 1) * width + column.clamp(max=width - 1), height * width)
    pixel, binned = pixel.sort(dim=1)
    pixels = torch.arange(height * width, device=pixel.device).expand(len(pixel), -1).contiguous()
    start, end = (
        torch.searchsorted(pixel, pixels, right=right).unflatten(1, (height, width)) for right in (False, True)
    )
    arguments = vertices, triangles, binned, start, end, tolerance, visible
    _launch(kernels.hide, len(vertices) * len(triangles), vertices.device, *arguments)
    return visible


@cache
def load_kernels(device: torch.device | str = "cpu") -> None:
    """Compiles the kernels for a device, or reads them from Warp's cache."""
    _start_warp()
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    wp.load_module(kernels, device=wp.device_from_torch(device))


def _rasterise(
    points: Float[Tensor, "copies points 3"],
    triangles: Triangles,
    image: Int[Tensor, "triangles"] | None,
    size: tuple[int, int, int],
    inverse_w: Float[Tensor, "copies points"] | None,
    cutout: Cutout | None,
) -> Fragments:
    """Rasterises checked arguments: copies of the points, one for each image, or one with `image` for each triangle."""
    device = points.device
    keys = torch.full(size, kernels.EMPTY, dtype=torch.int64, device=device)
    fragments = Fragments(
        triangle=torch.empty(size, dtype=torch.int32, device=device),
        barycentric=torch.empty(*size, 3, device=device),
        depth=torch.empty(size, device=device),
    )
    points, triangles = points.detach().float().contiguous(), triangles.int().contiguous()  # once for both kernels
    holes = (cutout.uv, cutout.texture, cutout.alpha) if cutout else (None, None, None)
    arguments = points, triangles, image, inverse_w, *holes, keys
    _launch(kernels.write_keys, len(points) * len(triangles), device, *arguments)
    arguments = (
        keys,
        points,
        triangles,
        inverse_w,
        *size[1:],
        fragments.triangle,
        fragments.barycentric,
        fragments.depth,
    )
    _launch(kernels.resolve, keys.numel(), device, *arguments)
    return fragments


def _launch(kernel: Any, threads: int, device: torch.device, *arguments: Any) -> None:
    """Runs a kernel where its tensors are, on CUDA in torch's current stream.

    It gets a tensor itself if that has the layout and type that the kernel's annotations ask for, else a copy.
    """
    load_kernels(device)
    kinds = kernel.func.__annotations__.values()
    wp.launch(
        kernel,
        dim=threads,
        inputs=[_view(a, kind) if isinstance(a, Tensor) else a for a, kind in zip(arguments, kinds, strict=True)],
        device=wp.device_from_torch(device),
        stream=wp.stream_from_torch(device) if device.type == "cuda" else None,
        record_tape=False,
    )


def _view(tensor: Tensor, kind: Any) -> Any:
    scalar = getattr(kind.dtype, "_wp_scalar_type_", kind.dtype)
    dimensions = kind.ndim + (scalar is not kind.dtype)  # a vector has its own
    tensor = tensor.detach().to(wp.dtype_to_torch(scalar)).contiguous().flatten(0, tensor.ndim - dimensions)
    # Descriptors cost a fraction of Warp's array objects; each keeps its tensor alive.
    return wp.from_torch(tensor, dtype=kind.dtype, requires_grad=False, return_ctype=True)


@cache
def _start_warp() -> None:
    """Initialises Warp; its greeting and its notes on each kernel come only where someone asked for more."""
    if wp.config.log_level == wp.LOG_INFO:  # the default
        wp.config.log_level = wp.LOG_WARNING
    if torch.cuda.is_available():
        wp.init()
        return
    # No setting of Warp keeps its native code from saying in each process, also in a data loader's workers, that there
    # is no CUDA.
    kept, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        wp.init()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(sink)


def _check_size(size: tuple[int, int, int]) -> None:
    if len(size) != 3 or min(size) < 1 or math.prod(size) > LARGEST:
        raise InputError(f"size: expected (batch, height, width), 1 to {LARGEST} pixels in all, found {tuple(size)}")


def _check_poses(vertices: Tensor, triangles: Tensor, height: int, width: int) -> None:
    _check("vertices", vertices, (None, None, 3))
    _check("triangles", triangles, (None, 3), INTEGERS, vertices)
    _check_size((len(vertices), height, width))
    if len(vertices) * len(triangles) > LARGEST:
        raise InputError(f"vertices: a batch of {len(vertices)} is too large for {len(triangles)} triangles")
    _check_indices(("triangles", triangles, 0, vertices.shape[1]))


def _check(
    name: str, tensor: Tensor, shape: Sequence[int | None], integers: Sequence[Any] = (), like: Tensor | None = None
) -> None:
    """Shape (None: any length), kind of numbers (floating-point ones without `integers`) and device (that of `like`):
    the kernels read memory where these say it is."""
    found = tuple(tensor.shape)
    if len(found) != len(shape) or any(want not in (None, have) for want, have in zip(shape, found, strict=True)):
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise InputError(f"{name}: expected shape ({wanted}), found {found}")
    if tensor.dtype not in integers if integers else not tensor.is_floating_point():
        kind = "integers" if integers else "floating-point numbers"
        raise InputError(f"{name}: expected {kind}, found {tensor.dtype}")
    if tensor.device.type not in ("cpu", "cuda") and like is None:
        raise InputError(f"the rasteriser runs on cpu and cuda, not on {tensor.device}")
    if like is not None and tensor.device != like.device:
        raise InputError(f"{name}: expected on {like.device} like the others, found on {tensor.device}")


def _check_indices(*checks: tuple[str, Tensor, int, int]) -> None:
    """Each index tensor must lie in low ... high - 1; one transfer from the device for all of them."""
    checks = tuple(check for check in checks if check[1].numel())
    if not checks:
        return
    extremes = torch.stack([extreme.long() for check in checks for extreme in check[1].aminmax()]).tolist()
    for (name, _, low, high), least, most in zip(checks, extremes[::2], extremes[1::2], strict=True):
        if least < low or most >= high:
            raise InputError(f"{name}: expected indices in {low} ... {high - 1}, found {least} ... {most}")
