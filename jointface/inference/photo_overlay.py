"""A photo overlaid with what was predicted of its faces."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from jointface.inference.face import Face
from jointface.inference.photos import Photo
from jointface.viz.overlay import (
    overlay_axes,
    overlay_circles,
    overlay_landmarks,
    overlay_mesh,
    overlay_text,
    text_box,
)

SMALLEST = 640  # pixels of the longer side of an overlay; smaller photos are enlarged
SHOWN = 4  # attributes of a face
OPACITY = 0.5  # of the mesh
LEGIBLE = 90  # pixels of a face in the overlay from which on it has dots and its attributes beside it

Picture = UInt8[np.ndarray, "height width 3"]
Rectangle = tuple[float, float, float, float]  # left, top, right and bottom


def photo_overlay(
    photo: Photo, faces: Sequence[Face], longest: int, text: bool = True, numbers: Sequence[int] | None = None
) -> Picture:
    """The photo with mesh, landmarks, axes, number and likeliest attributes of each face.

    Where standard deviations are predicted, each landmark has a circle of that radius.

    Args:
        longest: pixels of the longer side, to which larger photos are reduced.
        text: whether number and attributes are written.
        numbers: of the faces; None counts them from 1.
    """
    height, width = photo.image.shape[:2]
    scale = overlay_scale(height, width, longest)
    size = [max(1, round(scale * side)) for side in (width, height)]
    picture = cv2.resize(photo.image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for face in reversed(faces):  # the first on top
        picture = _add_shape(picture, face, scale)
    taken = [_features(face, scale) for face in faces]
    for number, face in zip(numbers or range(1, len(faces) + 1), faces if text else [], strict=False):
        picture = _add_text(picture, face, scale, str(number), taken)
    return picture


def overlay_scale(height: int, width: int, longest: int) -> float:
    """Side of the overlay of a photo / side of the photo."""
    longer = max(height, width)
    return min(max(longer, min(SMALLEST, longest)), longest) / longer


def likeliest(attributes: dict[str, float], count: int = SHOWN) -> list[str]:
    """The attributes that a face has with the highest probability, above one half."""
    present = sorted((name for name in attributes if attributes[name] > 0.5), key=lambda name: -attributes[name])
    return present[:count]


def _in_overlay(points: Float[np.ndarray, "points 3"], scale: float) -> Float[np.ndarray, "points 3"]:
    corner = np.array([0.5, 0.5, 0])  # from a pixel's centre
    return (points + corner) * scale - corner


def _add_shape(picture: Picture, face: Face, scale: float) -> Picture:
    if face.vertices is None or face.triangles is None or face.landmarks is None or face.pose is None:
        return picture
    vertices, landmarks = (_in_overlay(points, scale) for points in (face.vertices, face.landmarks))
    size = scale * face.box.size
    picture = _add_mesh(picture, vertices, face.triangles)
    picture = overlay_landmarks(picture, landmarks, max(1, round(size / 200)), dots=size >= LEGIBLE)
    if face.landmark_std is not None and size >= LEGIBLE:
        picture = overlay_circles(picture, landmarks, scale * face.landmark_std)
    nose, length, thickness = landmarks[30, :2], 0.5 * size, max(1, round(size / 90))
    return overlay_axes(picture, nose, face.pose.matrix, length, thickness)


def _add_mesh(
    picture: Picture, vertices: Float[np.ndarray, "vertices 3"], triangles: np.ndarray
) -> UInt8[np.ndarray, "height width 3"]:
    """The mesh, rendered only where it is, which saves time in large pictures."""
    limits = np.array(picture.shape[1::-1])
    left, top = np.floor(vertices[:, :2].min(0)).clip(0, limits).astype(int)
    right, bottom = (np.ceil(vertices[:, :2].max(0)) + 1).clip(0, limits).astype(int)
    if left >= right or top >= bottom:
        return picture  # outside
    part = np.ascontiguousarray(picture[top:bottom, left:right])
    moved = (vertices - [left, top, 0]).astype(np.float32)
    picture = picture.copy()
    picture[top:bottom, left:right] = overlay_mesh(part, moved, triangles, 1, OPACITY)
    return picture


def _add_text(picture: Picture, face: Face, scale: float, number: str, taken: list[Rectangle]) -> Picture:
    """Writes beside, above or below the face, where the least of what is taken is covered, and takes that place."""
    x, y, size = ((value + 0.5) * scale for value in face.box)
    lines = [number]
    if size >= LEGIBLE and face.attributes:
        shown = likeliest(face.attributes)
        lines += [f"{name.replace('_', ' ')} {100 * face.attributes[name]:.0f} %" for name in shown]
    font = float(np.clip(size / 600, 0.4, 1))
    left, top, right, bottom = text_box(picture, lines, (0, 0), font)
    width, height = right - left, bottom - top
    places = [(x + 0.75 * size, y - 0.6 * size), (x - 0.75 * size - width, y - 0.6 * size),
              (x - width / 2, y + 0.65 * size), (x - width / 2, y - size - height)]  # fmt: skip
    boxes = [text_box(picture, lines, place, font) for place in places]
    best = min(boxes, key=lambda box: sum(_common_area(box, other) for other in taken))
    taken.append(best)
    return overlay_text(picture, lines, best[:2], font)


def _features(face: Face, scale: float) -> Rectangle:
    """The part of the overlay that the landmarks fill."""
    x, y, size = ((value + 0.5) * scale for value in face.box)
    return x - size / 2, y - size / 2, x + size / 2, y + size / 2


def _common_area(one: Rectangle, other: Rectangle) -> float:
    width, height = (min(one[i + 2], other[i + 2]) - max(one[i], other[i]) for i in (0, 1))
    return max(0.0, width) * max(0.0, height)
