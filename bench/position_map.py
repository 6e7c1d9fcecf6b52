"""Position maps computed from coefficients, against rasterising the mesh triangle by triangle in a compiled loop.

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
REQUIRED_RATIO, LARGEST_DIFFERENCE = 10.0, 1e-3


@njit
def rasterise(grid: np.ndarray, triangles: np.ndarray, vertices: np.ndarray, image: np.ndarray) -> None:
    """The loop of face3d and PRNet, in C++ there: every pixel of every triangle's bounding box."""
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
                if u >= -1e-9 and v >= -1e-9 and w >= -1e-9:
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
    """Prints the times, their ratios and the agreement; fails if the two disagree."""
    torch.set_num_threads(1)
    model = load_bfm_3ddfa(f"{data}/bfm_3ddfa")
    position_map = PositionMap(model, SIZE)
    coefficients, cameras = faces(model)
    shape, expression = coefficients.split([model.num_shape, model.num_expression], dim=1)
    grid, triangles = uv_to_pixels(model.uv, SIZE).numpy(), model.triangles.numpy()
    images = np.zeros((FACES, SIZE, SIZE, 3), np.float32)

    def vertices_of(face: int) -> np.ndarray:
        one = slice(face, face + 1)
        return center_depth(model.project(shape[one], expression[one], cameras[one]))[0].contiguous().numpy()

    vertices = [vertices_of(face) for face in range(FACES)]

    def loop_alone() -> None:
        for face in range(FACES):
            rasterise(grid, triangles, vertices[face], images[face])

    def loop_from_coefficients() -> None:
        """One face after the other, as data loaders would."""
        for face in range(FACES):
            rasterise(grid, triangles, vertices_of(face), images[face])

    @torch.inference_mode()
    def batched() -> torch.Tensor:
        return position_map.project(coefficients, cameras)

    points = batched().numpy()
    loop_alone()  # also compiles the loop
    inside = images.reshape(FACES, -1, 3)[:, position_map.pixels.numpy()]
    covered = np.abs(inside).sum(-1) > 0
    assert covered.mean() > 0.998  # the loop's rounding misses some pixels on the very border of the map
    difference = float((np.abs(inside - points).max(-1) * covered).max()) / SIZE
    functions = {"loop alone": loop_alone, "loop": loop_from_coefficients, "batched": batched}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(REPEATS):  # in turn, because the machine's speed drifts
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append((time.perf_counter() - start) / FACES * 1e3)
    alone, loop, product = (statistics.median(times[name]) for name in functions)
    print(f"position map {SIZE} x {SIZE}, {FACES} faces, one core, median of {REPEATS}")
    print(f"  batched, coefficients to map              {product:7.3f} ms/face")
    print(f"  triangle loop, coefficients to map        {loop:7.3f} ms/face  {loop / product:5.1f} times as long")
    print(f"  triangle loop alone, vertices at hand     {alone:7.3f} ms/face  {alone / product:5.1f} times as long")
    print(f"  largest difference {difference:.1e} of the crop (at most {LARGEST_DIFFERENCE:g})")
    if difference > LARGEST_DIFFERENCE:
        sys.exit("position map: the two differ")
    if loop / product < REQUIRED_RATIO:
        print(f"  below the aim of {REQUIRED_RATIO:g} times")


if __name__ == "__main__":
    main(sys.argv[1])
