"""Times the rasteriser against a compiled triangle loop and against ray casting, and compares their pictures.

`python -m bench.rasteriser [DATA]`, on one core: a sphere, and the mean face of DATA/bfm_3ddfa. trimesh casts rays
where rtree (plain Python) or embreex (Intel's Embree) is installed beside it.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import trimesh
from numba import njit

from jointface.geometry import load_bfm_3ddfa
from jointface.geometry.rasteriser import interpolate, load_kernels, rasterise, rasterise_meshes, visible_vertices

SIZES, BATCH, REPEATS, SLOW = (128, 256), 8, 25, 2.0
REQUIRED_AGREEMENT = 0.999


@njit
def loop(points: np.ndarray, triangles: np.ndarray, seen: np.ndarray, depth: np.ndarray) -> None:
    """The textbook z-buffer: every pixel of every triangle's bounding box, one after the other, in float64."""
    seen[:] = -1
    depth[:] = -np.inf
    height, width = depth.shape
    for t in range(triangles.shape[0]):
        a, b, c = points[triangles[t, 0]], points[triangles[t, 1]], points[triangles[t, 2]]
        ax, ay, bx, by, cx, cy = a[0], a[1], b[0], b[1], c[0], c[1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        left, right = max(int(np.ceil(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), width - 1)
        top, bottom = max(int(np.ceil(min(ay, by, cy))), 0), min(int(np.floor(max(ay, by, cy))), height - 1)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                w = 1.0 - u - v
                if u >= -1e-9 and v >= -1e-9 and w >= -1e-9:
                    z = u * a[2] + v * b[2] + w * c[2]
                    if z > depth[y, x]:
                        depth[y, x] = z
                        seen[y, x] = t


def framed(vertices: torch.Tensor, size: int) -> torch.Tensor:
    """A mesh (y down) that fills most of a square image."""
    low, high = vertices.amin(0), vertices.amax(0)
    scale = 0.9 * size / (high - low)[:2].max()
    return (vertices - (low + high) / 2) * scale + torch.tensor([(size - 1) / 2, (size - 1) / 2, 0.0])


def ray_caster(vertices: torch.Tensor, triangles: torch.Tensor, size: int) -> Callable[[], np.ndarray] | None:
    """A function that gives the first hits of the rays through all pixels; None without a ray engine."""
    mesh = trimesh.Trimesh(vertices.numpy(), triangles.numpy(), process=False)
    y, x = np.mgrid[:size, :size]
    origins = np.stack([x.ravel(), y.ravel(), np.full(size * size, 10.0 * size)], axis=1)
    directions = np.tile([0.0, 0.0, -1.0], (size * size, 1))
    try:
        mesh.ray.intersects_first(origins[:1], directions[:1])
    except ImportError:
        return None
    # The mesh is new to the ray caster, as each face would be, so it builds its tree anew.
    return lambda: (
        trimesh.Trimesh(vertices.numpy(), triangles.numpy(), process=False).ray.intersects_first(origins, directions)
    ).reshape(size, size)


def milliseconds(functions: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median time of each; they take turns, as the machine's speed drifts, and slow ones stop after SLOW seconds."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(REPEATS):
        for name, function in functions.items():
            if sum(times[name]) > SLOW:
                continue
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) * 1e3 for name, values in times.items()}


def bench(name: str, vertices: torch.Tensor, triangles: torch.Tensor, size: int) -> float:
    """Prints the times for one mesh and size; returns the share of pixels in which all see the same triangle."""
    points, rows = framed(vertices, size), triangles.int()
    image = torch.zeros(len(rows), dtype=torch.int32)
    batch = points.repeat(BATCH, 1, 1)
    loop_points, loop_triangles = points.double().numpy(), rows.numpy()
    seen, depth = np.empty((size, size), np.int64), np.empty((size, size))
    fragments = rasterise_meshes(points[None], rows, size, size)
    functions: dict[str, Callable[[], object]] = {
        "warp": lambda: rasterise(points, rows, image, (1, size, size)),
        "warp, batch": lambda: rasterise_meshes(batch, rows, size, size),
        "loop": lambda: loop(loop_points, loop_triangles, seen, depth),
        "interpolate": lambda: interpolate(fragments, rows, points),
        "visible": lambda: visible_vertices(points[None], rows, size, size),
    }
    loop(loop_points, loop_triangles, seen, depth)  # also compiles it
    agreement = float((fragments.triangle[0].numpy() == seen).mean())
    rays = ray_caster(points, rows, size)
    if rays is not None:
        functions["rays"] = rays
        agreement = min(agreement, float((np.abs(rays() - fragments.triangle[0].numpy()) == 0).mean()))
    times = milliseconds(functions)
    times["warp, batch"] /= BATCH
    labels = {
        "warp": "rasterise, one image",
        "warp, batch": f"rasterise_meshes, image of {BATCH}",
        "loop": "compiled loop (numba), no weights",
        "rays": f"rays of trimesh ({'embree' if trimesh.ray.has_embree else 'rtree'})",
    }
    print(f"{name}, {len(rows)} triangles, {size} x {size}, one core")
    for key in (key for key in labels if key in times):
        ratio, rate = times[key] / times["warp"], len(rows) / times[key] / 1e3
        print(
            f"  {labels[key]:34} {times[key]:9.3f} ms {rate:8.2f} M triangles/s {1e3 / times[key]:8.1f} images/s",
            end="",
        )
        print(f"  {ratio:7.2f} times as long")
    print(f"  {'interpolate, 3 channels':34} {times['interpolate']:9.3f} ms")
    print(f"  {'visible_vertices':34} {times['visible']:9.3f} ms")
    print(f"  pixels in which all see the same triangle: {agreement:.5f} (at least {REQUIRED_AGREEMENT})")
    if rays is None:
        print("  trimesh casts no rays here: neither rtree nor embreex is installed")
    return agreement


def main(data: str | None) -> None:
    """Prints the times, their ratios and the agreement; fails where the results differ."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    load_kernels("cpu")
    print(f"kernels loaded in {time.perf_counter() - start:.3f} s (compiled, if this machine had not done so before)")
    sphere = trimesh.creation.uv_sphere(count=(48, 48))
    upright = sphere.vertices[:, [1, 2, 0]]  # edges that meet in the middle of a pixel would be anyone's
    meshes = {"sphere": (torch.from_numpy(upright).float(), torch.from_numpy(sphere.faces.copy()))}
    if data is not None:
        model = load_bfm_3ddfa(f"{data}/bfm_3ddfa")
        meshes["mean face"] = model.mean * torch.tensor([1.0, -1.0, 1.0]), model.triangles
    nothing = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([[0, 1, 2]]).int()
    overhead = milliseconds(
        {"call": lambda: rasterise(*nothing, torch.zeros(1, dtype=torch.int32), (1, 1, 1))},
    )
    print(f"a call with one triangle and one pixel: {overhead['call']:.3f} ms")
    agreements = [bench(name, *mesh, size) for name, mesh in meshes.items() for size in SIZES]
    if min(agreements) < REQUIRED_AGREEMENT:
        sys.exit("rasteriser: the results differ")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else None)
