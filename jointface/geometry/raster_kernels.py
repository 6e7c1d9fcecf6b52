"""Warp kernels of the rasteriser: one source, compiled for the CPU or CUDA on first use.

Arithmetic on screen positions uses float64 without fused multiply-adds. Two triangles with a common edge then compute
the same number with opposite signs for a pixel, so no pixel falls between them, and both devices give the same bits.

Thread indices are one-dimensional: on the CPU, a multi-dimensional index costs more than most threads' work.

Warp reads the source of these functions, so their annotations are Warp types, which must not be postponed
(`from __future__`). `no_type_check` keeps type checkers and jaxtyping's import hook away from them.
"""

from typing import no_type_check

import warp as wp

wp.set_module_options({"enable_backward": False, "fuse_fp": False})

EMPTY = -(2**63 - 1)  # key of a background pixel; every finite depth has a larger key

_EMPTY = wp.constant(wp.int64(EMPTY))
_LAST = wp.constant(0x7FFFFFFF)
_LAST64 = wp.constant(wp.int64(0x7FFFFFFF))
_TWO32 = wp.constant(wp.int64(2**32))
_ZERO = wp.constant(wp.float64(0.0))


@wp.func
@no_type_check
def ordered(bits: wp.int32):
    """Maps the bits of a float32 to an integer with the same order; applied twice, it is the identity."""
    if bits < 0:
        return bits ^ _LAST
    return bits


@wp.func
@no_type_check
def pack(depth: wp.float32, triangle: wp.int32):
    """Key whose maximum is the nearest surface; at equal depth, the triangle with the lowest index."""
    bits = ordered(wp.cast(depth + 0.0, wp.int32))  # + 0.0 turns -0.0 into 0.0
    return wp.int64(bits) * _TWO32 + wp.int64(_LAST - triangle)


@wp.func
@no_type_check
def edge_weights(a: wp.vec3, b: wp.vec3, c: wp.vec3, x: wp.float64, y: wp.float64):
    """Twice the signed area of (x, y) with each edge: the unnormalised weight of the opposite corner."""
    place = wp.vec3d(x, y, _ZERO)
    to_a = wp.vec3d(a) - place
    to_b = wp.vec3d(b) - place
    to_c = wp.vec3d(c) - place
    return wp.vec3d(wp.cross(to_b, to_c)[2], wp.cross(to_c, to_a)[2], wp.cross(to_a, to_b)[2])


@wp.func
@no_type_check
def inside(edges: wp.vec3d):
    """Whether the point is in the triangle or on its edge, for either winding; never in a triangle without area."""
    low = wp.min(edges)
    high = wp.max(edges)
    return (low >= _ZERO and high > _ZERO) or (high <= _ZERO and low < _ZERO)


@wp.func
@no_type_check
def depth_at(edges: wp.vec3d, a: wp.vec3, b: wp.vec3, c: wp.vec3):
    """Depth z, which is linear on screen."""
    return wp.float32(wp.dot(edges, wp.vec3d(wp.vec3(a[2], b[2], c[2]))) / (edges[0] + edges[1] + edges[2]))


@wp.func
@no_type_check
def is_finite(a: wp.vec3, b: wp.vec3, c: wp.vec3):
    """Whether all corners are finite: if one is not, neither is the sum."""
    total = a + b + c
    return wp.isfinite(total[0] + total[1] + total[2])


@wp.func
@no_type_check
def pixel_box(a: wp.vec3, b: wp.vec3, c: wp.vec3, height: wp.int32, width: wp.int32, reach: wp.float32):
    """First and last (column, row) with its centre in the bounding box of the corners, enlarged by `reach` pixels."""
    right = wp.float32(width)
    bottom = wp.float32(height)
    low = wp.min(a, wp.min(b, c))
    high = wp.max(a, wp.max(b, c))
    # Clamp before the cast, because an integer cannot hold every float. Outside the image the box is empty.
    first_column = wp.int32(wp.ceil(wp.clamp(low[0] - reach, 0.0, right)))
    first_row = wp.int32(wp.ceil(wp.clamp(low[1] - reach, 0.0, bottom)))
    last_column = wp.int32(wp.floor(wp.clamp(high[0] + reach, -1.0, right - 1.0)))
    last_row = wp.int32(wp.floor(wp.clamp(high[1] + reach, -1.0, bottom - 1.0)))
    return wp.vec2i(first_column, first_row), wp.vec2i(last_column, last_row)


@wp.func
@no_type_check
def perspective(edges: wp.vec3d, inverse_w: wp.array2d(dtype=wp.float32), copy: wp.int32, corners: wp.vec3i):
    """Barycentric weights on the surface: screen weights, multiplied by each corner's 1/w for a perspective camera."""
    weights = edges
    if inverse_w:
        w = wp.vec3(inverse_w[copy, corners[0]], inverse_w[copy, corners[1]], inverse_w[copy, corners[2]])
        weights = wp.cw_mul(edges, wp.vec3d(w))
    return weights * (wp.float64(1.0) / (weights[0] + weights[1] + weights[2]))


@wp.func
@no_type_check
def opaque(
    weights: wp.vec3d,
    corners: wp.vec3i,
    plane: wp.int32,
    uv: wp.array(dtype=wp.vec2),
    alpha: wp.array3d(dtype=wp.uint8),
):
    """Whether the texel of `alpha` nearest to a point of a triangle is at least half opaque."""
    a = uv[corners[0]]
    b = uv[corners[1]]
    c = uv[corners[2]]
    u = wp.dot(weights, wp.vec3d(wp.vec3(a[0], b[0], c[0])))
    v = wp.dot(weights, wp.vec3d(wp.vec3(a[1], b[1], c[1])))
    rows = alpha.shape[1]
    columns = alpha.shape[2]
    one = wp.float64(1.0)
    # Clamp before the cast, because an integer can hold neither NaN nor every float.
    x = wp.min(wp.max(u, _ZERO), one) * wp.float64(columns)
    y = (one - wp.min(wp.max(v, _ZERO), one)) * wp.float64(rows)
    column = wp.min(wp.max(wp.int32(x), 0), columns - 1)
    row = wp.min(wp.max(wp.int32(y), 0), rows - 1)
    return wp.int32(alpha[plane, row, column]) >= 128


@wp.kernel
@no_type_check
def write_keys(
    points: wp.array2d(dtype=wp.vec3),
    triangles: wp.array(dtype=wp.vec3i),
    image: wp.array(dtype=wp.int32),
    inverse_w: wp.array2d(dtype=wp.float32),
    uv: wp.array(dtype=wp.vec2),
    texture: wp.array(dtype=wp.int32),
    alpha: wp.array3d(dtype=wp.uint8),
    keys: wp.array3d(dtype=wp.int64),
):
    """Each triangle writes its key to the pixels where it is nearest so far. One thread per copy and triangle."""
    thread = wp.tid()
    copy = thread // triangles.shape[0]
    triangle = thread - copy * triangles.shape[0]
    corners = triangles[triangle]
    a = points[copy, corners[0]]
    b = points[copy, corners[1]]
    c = points[copy, corners[2]]
    if not is_finite(a, b, c):
        return
    low, high = pixel_box(a, b, c, keys.shape[1], keys.shape[2], 0.0)
    if low[0] > high[0] or low[1] > high[1]:
        return
    if inverse_w:
        w = wp.vec3(inverse_w[copy, corners[0]], inverse_w[copy, corners[1]], inverse_w[copy, corners[2]])
        if not wp.isfinite(w) or wp.min(w) <= 0.0:  # behind the camera
            return
    target = copy
    if image:
        target = image[triangle]
    plane = -1
    if texture:
        plane = texture[triangle]
    for row in range(low[1], high[1] + 1):
        for column in range(low[0], high[0] + 1):
            edges = edge_weights(a, b, c, wp.float64(column), wp.float64(row))
            if inside(edges) and (
                plane < 0 or opaque(perspective(edges, inverse_w, copy, corners), corners, plane, uv, alpha)
            ):
                wp.atomic_max(keys, target, row, column, pack(depth_at(edges, a, b, c), triangle))


@wp.kernel
@no_type_check
def resolve(
    keys: wp.array(dtype=wp.int64),
    points: wp.array2d(dtype=wp.vec3),
    triangles: wp.array(dtype=wp.vec3i),
    inverse_w: wp.array2d(dtype=wp.float32),
    height: wp.int32,
    width: wp.int32,
    triangle: wp.array(dtype=wp.int32),
    barycentric: wp.array(dtype=wp.vec3),
    depth: wp.array(dtype=wp.float32),
):
    """Decodes each pixel's key. One thread per pixel of all images."""
    pixel = wp.tid()
    key = keys[pixel]
    if key == _EMPTY:
        triangle[pixel] = -1
        barycentric[pixel] = wp.vec3(0.0, 0.0, 0.0)
        depth[pixel] = -wp.inf
        return
    line = pixel // width
    column = pixel - line * width
    image = line // height
    row = line - image * height
    seen = _LAST - wp.int32(key & _LAST64)
    corners = triangles[seen]
    copy = wp.min(image, points.shape[0] - 1)
    a = points[copy, corners[0]]
    b = points[copy, corners[1]]
    c = points[copy, corners[2]]
    edges = edge_weights(a, b, c, wp.float64(column), wp.float64(row))
    weights = perspective(edges, inverse_w, copy, corners)
    triangle[pixel] = seen
    barycentric[pixel] = wp.vec3(weights)
    depth[pixel] = wp.cast(ordered(wp.int32(key >> wp.int64(32))), wp.float32)


@wp.kernel
@no_type_check
def blend(
    triangle: wp.array(dtype=wp.int32),
    barycentric: wp.array(dtype=wp.vec3),
    triangles: wp.array(dtype=wp.vec3i),
    values: wp.array3d(dtype=wp.float32),
    pixels: wp.int32,
    output: wp.array2d(dtype=wp.float32),
):
    """Interpolates the corner values in each pixel. One thread per pixel of all images, which have `pixels` each."""
    pixel = wp.tid()
    seen = triangle[pixel]
    if seen < 0:
        for channel in range(values.shape[2]):
            output[pixel, channel] = 0.0
        return
    corners = triangles[seen]
    weights = barycentric[pixel]
    copy = wp.min(pixel // pixels, values.shape[0] - 1)
    for channel in range(values.shape[2]):
        output[pixel, channel] = (
            weights[0] * values[copy, corners[0], channel]
            + weights[1] * values[copy, corners[1], channel]
            + weights[2] * values[copy, corners[2], channel]
        )


@wp.kernel
@no_type_check
def hide(
    points: wp.array2d(dtype=wp.vec3),
    triangles: wp.array(dtype=wp.vec3i),
    binned: wp.array2d(dtype=wp.int32),
    start: wp.array3d(dtype=wp.int32),
    end: wp.array3d(dtype=wp.int32),
    tolerance: wp.float32,
    visible: wp.array2d(dtype=wp.bool),
):
    """Clears `visible` for points that lie behind a triangle. One thread per image and triangle.

    `binned` lists points by their nearest pixel; the points of a pixel are entries `start` ... `end` - 1.
    """
    thread = wp.tid()
    image = thread // triangles.shape[0]
    corners = triangles[thread - image * triangles.shape[0]]
    a = points[image, corners[0]]
    b = points[image, corners[1]]
    c = points[image, corners[2]]
    if not is_finite(a, b, c):
        return
    nearest = wp.max(a[2], wp.max(b[2], c[2])) - tolerance
    # Slightly more than half a pixel: rounding may assign a point just inside the triangle to the next pixel.
    low, high = pixel_box(a, b, c, start.shape[1], start.shape[2], 0.51)
    for row in range(low[1], high[1] + 1):
        for column in range(low[0], high[0] + 1):
            for place in range(start[image, row, column], end[image, row, column]):
                point = points[image, binned[image, place]]
                if nearest > point[2]:
                    edges = edge_weights(a, b, c, wp.float64(point[0]), wp.float64(point[1]))
                    if inside(edges) and depth_at(edges, a, b, c) - tolerance > point[2]:
                        visible[image, binned[image, place]] = False
