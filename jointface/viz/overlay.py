"""Faces drawn over their crops."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes

from jointface.geometry.mesh import vertex_normals
from jointface.geometry.rasteriser import interpolate, rasterise_meshes

# iBUG's 68 landmarks as lines: jaw, brows, nose bridge, nose, eyes, lips.
OUTLINES = (
    (*range(17),), (*range(17, 22),), (*range(22, 27),), (*range(27, 31),), (*range(31, 36),),
    (*range(36, 42), 36), (*range(42, 48), 42), (*range(48, 60), 48), (*range(60, 68), 60),
)  # fmt: skip


def overlay_landmarks(
    image: UInt8[np.ndarray, "height width 3"], landmarks: Float[np.ndarray, "68 dims"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The 68 landmarks as outlines over the RGB image."""
    canvas, points = image.copy(), landmarks[:, :2].round().astype(np.int32)
    outlines = [points[list(outline)].reshape(-1, 1, 2) for outline in OUTLINES]
    cv2.polylines(canvas, outlines, isClosed=False, color=(255, 215, 0), thickness=1, lineType=cv2.LINE_AA)
    for point in points.tolist():
        cv2.circle(canvas, point, 1, (255, 0, 0), -1)
    return canvas


def add_caption(
    image: UInt8[np.ndarray, "height width 3"], lines: Sequence[str]
) -> UInt8[np.ndarray, "taller width 3"]:
    """Lines of text on a white strip beneath the RGB image."""
    line_height = 14
    strip = np.full((line_height * len(lines) + 4, image.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        cv2.putText(strip, line, (3, line_height * number), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


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
    points = torch.from_numpy(vertices).float() * enlargement
    points[:, :2] += (enlargement - 1) / 2  # pixel centres are at integers
    mesh = torch.from_numpy(triangles)
    normals = -vertex_normals(torch.from_numpy(vertices).double(), mesh).float()  # y down turns the winding around
    fragments = rasterise_meshes(points[None], mesh, size, size)
    facing = interpolate(fragments, mesh, normals)[0].numpy()
    seen = (fragments.triangle[0] >= 0).numpy()
    shade = (60 + 180 * np.clip(facing[seen] @ np.array([0.25, -0.35, 0.9]), 0, 1))[:, None] * [0.75, 0.85, 1.0]
    canvas[seen] = 0.3 * canvas[seen] + 0.7 * shade
    return canvas
