"""Faces drawn over their crops."""

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes

from jointface.geometry.rasteriser import interpolate, rasterise_meshes

# iBUG's 68 landmarks as lines: jaw, brows, nose bridge, nose, eyes, lips.
OUTLINES = (
    (*range(17),), (*range(17, 22),), (*range(22, 27),), (*range(27, 31),), (*range(31, 36),),
    (*range(36, 42), 36), (*range(42, 48), 42), (*range(48, 60), 48), (*range(60, 68), 60),
)  # fmt: skip


def draw_landmarks(axis: Axes, landmarks: Float[np.ndarray, "68 dims"]) -> None:
    """The 68 landmarks as outlines, in the coordinates of the crop."""
    for outline in OUTLINES:
        axis.plot(*landmarks[list(outline), :2].T, color="gold", linewidth=0.8)
    axis.plot(*landmarks[:, :2].T, ".", color="red", markersize=1.5)


def draw_mesh(
    crop: UInt8[np.ndarray, "size size 3"],
    vertices: Float[np.ndarray, "vertices 3"],
    triangles: Int[np.ndarray, "triangles 3"],
    enlargement: int = 3,
) -> UInt8[np.ndarray, "large large 3"]:
    """The visible side of a mesh in crop space, shaded by its normals, over the enlarged crop."""
    size = len(crop) * enlargement
    canvas = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
    if not np.isfinite(vertices).all():
        return canvas  # a diverged network has nothing to show, but its run goes on
    normals = torch.from_numpy(vertex_normals(vertices, triangles)).float()
    points = torch.from_numpy(vertices).float() * enlargement
    points[:, :2] += (enlargement - 1) / 2  # pixel centres are at integers
    mesh = torch.from_numpy(triangles)
    fragments = rasterise_meshes(points[None], mesh, size, size)
    facing = interpolate(fragments, mesh, normals)[0].numpy()
    seen = (fragments.triangle[0] >= 0).numpy()
    shade = (60 + 180 * np.clip(facing[seen] @ np.array([0.25, -0.35, 0.9]), 0, 1))[:, None] * [0.75, 0.85, 1.0]
    canvas[seen] = 0.3 * canvas[seen] + 0.7 * shade
    return canvas


def vertex_normals(
    vertices: Float[np.ndarray, "vertices 3"], triangles: Int[np.ndarray, "triangles 3"]
) -> Float[np.ndarray, "vertices 3"]:
    """Unit normals that point out of the face, in crop space (y down turns the winding around)."""
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    of_triangle = np.cross(c - a, b - a)
    normals = np.stack(
        [np.bincount(triangles.ravel(), np.repeat(of_triangle[:, axis], 3), len(vertices)) for axis in range(3)], axis=1
    )
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
