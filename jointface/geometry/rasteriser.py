"""A batched z-buffer: finds which triangle each pixel shows, the position on it, and its depth.

Image space follows docs/conventions.md: x right, y down, pixel centres at integers, z towards the viewer, so that
larger z hides smaller z. The kernels are written for Warp (github.com/NVIDIA/warp) and run on the device of the
tensors, CPU or CUDA, with the same results. Nothing here is differentiable.

Warp compiles the kernels on first use on a device and caches them in the user's cache folder (set WARP_CACHE_PATH to
move it). `load_kernels` compiles them ahead of time, for instance before a data loader forks its workers.
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
    """What each pixel shows."""

    triangle: Int32[Tensor, "batch height width"]  # row of `triangles`, -1 in the background
    barycentric: Float32[Tensor, "batch height width 3"]  # corner weights, perspective-correct; 0 in the background
    depth: Float32[Tensor, "batch height width"]  # z of the surface, -inf in the background


@dataclass
class Cutout:
    """Textures whose alpha cuts holes into triangles: hair cards, brows, lashes.

    A pixel shows a triangle if the nearest texel has an alpha of at least 128. UV coordinates are clamped to [0, 1].
    """

    uv: Float32[Tensor, "points 2"]  # of each point in [0, 1], v upwards: the first row of a plane is v = 1
    texture: Int32[Tensor, "triangles"]  # index of each triangle's alpha plane, -1 if opaque
    alpha: UInt8[Tensor, "textures rows columns"]  # the alpha planes


def rasterise(
    points: Float[Tensor, "points 3"],
    triangles: Triangles,
    image: Int[Tensor, "triangles"],
    size: tuple[int, int, int],
    inverse_w: Float[Tensor, "points"] | None = None,
    cutout: Cutout | None = None,
) -> Fragments:
    """Finds the nearest surface in each pixel of a batch of images, each with its own meshes.

    A triangle of either winding covers the pixels whose centres lie in it or on its edge. At equal depth, the first
    triangle in `triangles` wins. Triangles with a non-finite corner, or that extend behind a perspective camera, are
    skipped.

    Args:
        points: (x, y, z) in pixels of their image; for a perspective camera x, y and z are already divided by w.
        image: index of the image that each triangle belongs to.
        size: (batch, height, width) of the images, in pixels.
        inverse_w: 1 / w of each point for a perspective camera, positive in front of it; None for an affine camera.

    Raises:
        InputError: shapes, types, devices or indices do not match.
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
    """Like `rasterise`, for one mesh in a different pose in each image, under an affine camera."""
    _check_poses(vertices, triangles, height, width)
    return _rasterise(vertices, triangles, None, (len(vertices), height, width), None, None)


def interpolate(
    fragments: Fragments,
    triangles: Triangles,
    values: Float[Tensor, "points channels"] | Float[Tensor, "batch points channels"],
) -> Float32[Tensor, "batch height width channels"]:
    """Interpolates per-point values in each pixel; 0 in the background.

    Args:
        values: one row per point; after `rasterise_meshes` either one table for all images or one for each.

    Raises:
        InputError: shapes, types, devices or indices do not match.
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
    """Which vertices lie in the image and are not hidden by a triangle.

    Vertices are tested at their exact positions, not at pixel centres; the image size only bounds them. A vertex at
    most `tolerance` behind a surface, in the unit of z, still counts as visible.
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
    start_warp()
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
    """Rasterises checked arguments: one copy of the points per image, or one copy and the `image` of each triangle."""
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
    """Runs a kernel on the device of its tensors, on CUDA in torch's current stream.

    A tensor with the layout and type of the kernel's annotation is passed without a copy.
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
    dimensions = kind.ndim + (scalar is not kind.dtype)  # a vector type adds one
    tensor = tensor.detach().to(wp.dtype_to_torch(scalar)).contiguous().flatten(0, tensor.ndim - dimensions)
    # Descriptors are much cheaper than Warp's array objects; each keeps its tensor alive.
    return wp.from_torch(tensor, dtype=kind.dtype, requires_grad=False, return_ctype=True)


@cache
def start_warp() -> None:
    """Initialises Warp without its greeting and compile messages, unless the user has changed its log level."""
    if wp.config.log_level == wp.LOG_INFO:  # the default
        wp.config.log_level = wp.LOG_WARNING
    if torch.cuda.is_available():
        wp.init()
        return
    # Warp's native code reports in each process, including loader workers, that there is no CUDA. No setting stops it.
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
    """Checks shape (None: any length), type (floating point unless `integers` are given) and device (that of `like`).

    The kernels would read outside of tensors that do not match."""
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
    """Checks that each index tensor lies in low ... high - 1, with one transfer from the device for all of them."""
    checks = tuple(check for check in checks if check[1].numel())
    if not checks:
        return
    extremes = torch.stack([extreme.long() for check in checks for extreme in check[1].aminmax()]).tolist()
    for (name, _, low, high), least, most in zip(checks, extremes[::2], extremes[1::2], strict=True):
        if least < low or most >= high:
            raise InputError(f"{name}: expected indices in {low} ... {high - 1}, found {least} ... {most}")
