"""Predicted and true faces over the images that they are seen in. Points are in pixels of the image."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from jointface.viz.mesh_view import Triangles, Vertices, render_surface

Image = UInt8[np.ndarray, "height width 3"]  # RGB

# iBUG's 68 landmarks as lines: jaw, brows, nose bridge, nose, eyes, lips.
OUTLINES = (
    (*range(17),), (*range(17, 22),), (*range(22, 27),), (*range(27, 31),), (*range(31, 36),),
    (*range(36, 42), 36), (*range(42, 48), 42), (*range(48, 60), 48), (*range(60, 68), 60),
)  # fmt: skip


def overlay_landmarks(image: Image, landmarks: Float[np.ndarray, "68 dims"]) -> Image:
    """The landmarks as outlines over the image."""
    canvas, points = image.copy(), landmarks[:, :2].round().astype(np.int32)
    outlines = [points[list(outline)].reshape(-1, 1, 2) for outline in OUTLINES]
    cv2.polylines(canvas, outlines, isClosed=False, color=(255, 215, 0), thickness=1, lineType=cv2.LINE_AA)
    for point in points.tolist():
        cv2.circle(canvas, point, 1, (255, 0, 0), -1)
    return canvas


def add_caption(image: Image, lines: Sequence[str]) -> UInt8[np.ndarray, "taller width 3"]:
    """Lines of text on a white strip beneath the image."""
    line_height = 14
    strip = np.full((line_height * len(lines) + 4, image.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        cv2.putText(strip, line, (3, line_height * number), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def overlay_mesh(
    image: Image, vertices: Vertices, triangles: Triangles, enlargement: int = 3
) -> UInt8[np.ndarray, "large_height large_width 3"]:
    """The visible side of a mesh, shaded, over the enlarged image; the plain image where a vertex is not finite."""
    canvas = cv2.resize(image, None, fx=enlargement, fy=enlargement, interpolation=cv2.INTER_LINEAR)
    if not np.isfinite(vertices).all():
        return canvas  # a diverged network has nothing to show, but its run goes on
    seen, facing, _ = render_surface(enlarge(vertices, enlargement), triangles, *canvas.shape[:2])
    shade = (60 + 180 * facing.clip(0, 1))[:, None] * [0.75, 0.85, 1.0]
    canvas[seen] = 0.3 * canvas[seen] + 0.7 * shade
    return canvas


def enlarge(points: Float[np.ndarray, "points dims"], factor: float) -> Float[np.ndarray, "points dims"]:
    """Points of an image in the pixels of the enlarged image, whose pixel centres are at integers too."""
    return points * factor + np.array([(factor - 1) / 2, (factor - 1) / 2, 0], points.dtype)[: points.shape[1]]
