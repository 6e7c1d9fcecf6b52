"""Faces drawn over their crops."""

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes

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
    """The visible side of a mesh in crop space, shaded by its normals, over the enlarged crop.

    A vertex is drawn as a dot, near ones over far ones, which is dense enough for a face model at these sizes.
    """
    size = len(crop) * enlargement
    canvas = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)
    if not np.isfinite(vertices).all():
        return canvas  # a diverged network has nothing to show, but its run goes on
    normals = vertex_normals(vertices, triangles)
    # The larger the mesh on the picture, the larger its dots have to be.
    radius = int(np.clip(enlargement * np.ptp(vertices[:, 0]) / np.sqrt(len(vertices)), 1, 5))
    visible = np.flatnonzero(normals[:, 2] > 0)
    visible = visible[np.argsort(vertices[visible, 2])]
    shade = (60 + 180 * np.clip(normals[visible] @ np.array([0.25, -0.35, 0.9]), 0, 1))[:, None] * [0.75, 0.85, 1.0]
    place = ((vertices[visible, :2] + 0.5) * enlargement - 0.5).round().astype(int)
    for right in range(radius + 1):
        for down in range(radius + 1):
            x, y = place[:, 0] + right, place[:, 1] + down
            inside = (x >= 0) & (x < size) & (y >= 0) & (y < size)
            canvas[y[inside], x[inside]] = 0.3 * canvas[y[inside], x[inside]] + 0.7 * shade[inside]
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
