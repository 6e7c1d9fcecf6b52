"""Position maps straight from coefficients, against rasterising the mesh triangle by triangle in a compiled loop.

`python -m bench.position_map DATA`, one core, 256 x 256, the 40 + 10 basis in DATA/bfm_3ddfa.
"""

import statistics
import sys
import time

import numpy as np
import torch
from numba import njit

from jointface.geometry import MorphableModel, PositionMap, camera_from_pose, center_depth, load_bfm_3ddfa
from jointface.geometry.position_map import uv_to_pixels

SIZE, FACES, REPEATS = 256, 32, 15
REQUIRED_RATIO, REQUIRED_AGREEMENT = 10.0, 1e-3


@njit
def rasterise(grid: np.ndarray, triangles: np.ndarray, vertices: np.ndarray, image: np.ndarray) -> None:
    """What face3d and PRNet do in C++: every pixel of every triangle's bounding box, one after the other."""
    size = image.shape[0]
    for t in range(triangles.shape[0]):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, bx, by, cx, cy = grid[a, 0], grid[a, 1], grid[b, 0], grid[b, 1], grid[c, 0], grid[c, 1]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0.0:
            continue
        left, right = max(int(np.ceil(min(ax, bx, cx))), 0), min(int(np.floor(max(ax, bx, cx))), size - 1)
        top, bottom = max(int(np.ceil(min(ay, by, cy))), 0), min(int(np.floor(max(ay, by, cy))), size - 1)
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                w = 1.0 - u - v
                if u >= 0.0 and v >= 0.0 and w >= 0.0:
                    for channel in range(3):
                        image[y, x, channel] = (
                            u * vertices[a, channel] + v * vertices[b, channel] + w * vertices[c, channel]
                        )


def faces(model: MorphableModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Coefficients and cameras of varied faces."""
    generator = torch.Generator().manual_seed(0)
    coefficients = torch.randn(FACES, model.num_shape + model.num_expression, generator=generator)
    coefficients *= torch.cat([torch.full((model.num_shape,), 3e4), torch.ones(model.num_expression)])
    pose = torch.tensor([0.1, 0.3, 0.1, 128.0, 128.0, -60.0, 1e-3]).repeat(FACES, 1)
    pose[:, :3] += 0.3 * torch.randn(FACES, 3, generator=generator)
    return coefficients, camera_from_pose(pose, SIZE)


def main(data: str) -> None:
    """Prints both times, their ratio and their agreement; fails where a requirement is missed."""
    torch.set_num_threads(1)
    model = load_bfm_3ddfa(f"{data}/bfm_3ddfa")
    position_map = PositionMap(model, SIZE)
    coefficients, cameras = faces(model)
    grid, triangles = uv_to_pixels(model.uv, SIZE).numpy(), model.triangles.numpy()

    def one_by_one() -> np.ndarray:
        shape, expression = coefficients.split([model.num_shape, model.num_expression], dim=1)
        images = np.zeros((FACES, SIZE, SIZE, 3), np.float32)
        vertices = center_depth(model.project(shape, expression, cameras)).contiguous().numpy()
        for face in range(FACES):
            rasterise(grid, triangles, vertices[face], images[face])
        return images

    @torch.inference_mode()
    def batched() -> torch.Tensor:
        return position_map.project(coefficients, cameras)

    loop, points = one_by_one(), batched()  # also compiles the loop
    inside = loop.reshape(FACES, -1, 3)[:, position_map.pixels.numpy()]
    drawn = np.abs(inside).sum(-1) > 0
    assert drawn.mean() > 0.999  # the loop's rounding can miss a pixel on an edge, no more
    agreement = float((np.abs(inside - points.numpy()).max(-1) * drawn).max()) / SIZE
    times: dict[str, list[float]] = {"loop": [], "batched": []}
    for _ in range(REPEATS):  # in turn, since the machine's speed drifts
        for name, function in (("loop", one_by_one), ("batched", batched)):
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) / FACES * 1e3)
    loop_ms, batched_ms = (statistics.median(times[name]) for name in ("loop", "batched"))
    ratio = loop_ms / batched_ms
    print(f"position map {SIZE} x {SIZE}, {FACES} faces, one core, median of {REPEATS}")
    print(f"  triangle loop   {loop_ms:8.3f} ms/face")
    print(f"  matrix product  {batched_ms:8.3f} ms/face   {ratio:.1f} times faster (at least {REQUIRED_RATIO:g})")
    print(f"  largest difference {agreement:.1e} of the crop (at most {REQUIRED_AGREEMENT:g})")
    if ratio < REQUIRED_RATIO or agreement > REQUIRED_AGREEMENT:
        sys.exit("position map: a requirement is missed")


if __name__ == "__main__":
    main(sys.argv[1])
