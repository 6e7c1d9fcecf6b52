"""Draws predicted and true faces over their images. Points are in pixels of the image."""

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


FONT = cv2.FONT_HERSHEY_SIMPLEX
SUBPIXEL = 4  # bits of the fraction of a coordinate in OpenCV
# RGB of a head's axes: x towards its left ear (on the viewer's right), y towards the crown, z forwards.
AXIS_COLOURS = ((230, 50, 50), (40, 190, 60), (60, 110, 255))


def overlay_landmarks(
    image: Image, landmarks: Float[np.ndarray, "68 dims"], thickness: int = 1, dots: bool = True
) -> Image:
    """Draws the landmarks as outlines, with lines `thickness` pixels wide, and with a dot at each."""
    canvas, points = image.copy(), landmarks[:, :2].round().astype(np.int32)
    outlines = [points[list(outline)].reshape(-1, 1, 2) for outline in OUTLINES]
    cv2.polylines(canvas, outlines, isClosed=False, color=(255, 215, 0), thickness=thickness, lineType=cv2.LINE_AA)
    for point in points.tolist() if dots else []:
        cv2.circle(canvas, point, thickness, (255, 0, 0), -1)
    return canvas


def overlay_circles(
    image: Image, landmarks: Float[np.ndarray, "points dims"], radii: Float[np.ndarray, "points"]
) -> Image:
    """Draws a thin circle around each landmark. Radii are in pixels, to fractions of one; larger ones than the image
    are cut to its size."""
    canvas, one, largest = image.copy(), 1 << SUBPIXEL, max(image.shape[:2])
    for point, radius in zip((one * landmarks[:, :2]).round().astype(int).tolist(), radii.tolist(), strict=True):
        cv2.circle(canvas, point, round(one * min(largest, radius)), (0, 255, 255), 1, cv2.LINE_AA, SUBPIXEL)
    return canvas


def overlay_axes(
    image: Image, origin: Float[np.ndarray, "2"], rotation: Float[np.ndarray, "3 3"], length: float, thickness: int = 2
) -> Image:
    """Draws the axes of a head as arrows: x red, y green, z blue. The axis nearest to the viewer is on top.

    Args:
        origin: start of the arrows, in pixels.
        rotation: from model space to the picture, both with y up.
        length: of an arrow in the image plane, in pixels.
    """
    canvas, start = image.copy(), origin.round().astype(int).tolist()
    for axis in np.argsort(rotation[2]).tolist():
        end = (origin + length * rotation[:2, axis] * [1, -1]).round().astype(int).tolist()
        cv2.arrowedLine(canvas, start, end, AXIS_COLOURS[axis], thickness, cv2.LINE_AA, tipLength=0.15)
    return canvas


def overlay_text(image: Image, lines: Sequence[str], place: tuple[float, float], scale: float = 0.5) -> Image:
    """Draws lines of white text on a dark box.

    Args:
        place: upper left corner in pixels; moved if necessary to keep the box inside the image.
        scale: font scale; at 1, capitals are about 22 pixels high.
    """
    weight, step, gap = _text_style(scale)
    canvas, (left, top, right, bottom) = image.copy(), text_box(image, lines, place, scale)
    box = canvas[top:bottom, left:right]
    box[:] = (0.35 * box).astype(np.uint8)
    for number, line in enumerate(lines, start=1):
        start = (left + gap, top + step * number - gap // 2)
        cv2.putText(canvas, line, start, FONT, scale, (255, 255, 255), weight, cv2.LINE_AA)
    return canvas


def text_box(
    image: Image, lines: Sequence[str], place: tuple[float, float], scale: float = 0.5
) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the box that `overlay_text` draws."""
    weight, step, gap = _text_style(scale)
    width = max(cv2.getTextSize(line, FONT, scale, weight)[0][0] for line in lines) + 2 * gap
    size = (width, step * len(lines) + gap)
    left, top = (
        max(0, min(round(at), room - need)) for at, need, room in zip(place, size, image.shape[1::-1], strict=True)
    )
    return left, top, left + size[0], top + size[1]


def _text_style(scale: float) -> tuple[int, int, int]:
    """Weight of the font, distance of lines, and gap to the border, in pixels."""
    return max(1, round(1.5 * scale)), round(34 * scale), round(8 * scale)


def add_caption(image: Image, lines: Sequence[str]) -> UInt8[np.ndarray, "taller width 3"]:
    """Adds lines of text on a white strip below the image."""
    line_height = 14
    strip = np.full((line_height * len(lines) + 4, image.shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        cv2.putText(strip, line, (3, line_height * number), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([image, strip])


def overlay_mesh(
    image: Image, vertices: Vertices, triangles: Triangles, enlargement: int = 3, opacity: float = 0.7
) -> UInt8[np.ndarray, "large_height large_width 3"]:
    """Draws the visible side of a shaded mesh over the enlarged image; only the image if a vertex is not finite."""
    canvas = cv2.resize(image, None, fx=enlargement, fy=enlargement, interpolation=cv2.INTER_LINEAR)
    if not np.isfinite(vertices).all():
        return canvas  # the prediction of a diverged network, which must not end its run
    seen, facing, _ = render_surface(enlarge(vertices, enlargement), triangles, *canvas.shape[:2])
    shade = (60 + 180 * facing.clip(0, 1))[:, None] * [0.75, 0.85, 1.0]
    canvas[seen] = (1 - opacity) * canvas[seen] + opacity * shade
    return canvas


def enlarge(points: Float[np.ndarray, "points dims"], factor: float) -> Float[np.ndarray, "points dims"]:
    """Converts points to pixels of the enlarged image. Pixel centres are at integers in both images."""
    return points * factor + np.array([(factor - 1) / 2, (factor - 1) / 2, 0], points.dtype)[: points.shape[1]]
