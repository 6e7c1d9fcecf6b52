"""Makes docs/figures/portraits.jpg: `python -m bench.portraits DATA CHECKPOINT [FINDER]`.

Of some CC0 portraits in DATA/portraits: the photo, what is read of it, the shape, and with the photo as texture turned
to the side that the photo shows.
"""

import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from jointface import FaceReader
from jointface.geometry import FaceBox, euler_to_rotation
from jointface.inference.crops import cut_crop
from jointface.inference.face import VIEW_MARGIN, Face
from jointface.inference.photo_overlay import overlay_scale, photo_overlay
from jointface.viz.mesh_view import render_surface, view_mesh
from jointface.viz.overlay import add_caption

OUTPUT = Path("docs/figures/portraits.jpg")
PEOPLE = ("041", "097", "081", "092", "047")
LOOKS = (
    "Brown_Hair", "Black_Hair", "Eyeglasses", "Goatee", "High_Cheekbones", "Mouth_Slightly_Open", "Mustache",
    "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Lipstick",
)  # fmt: skip
SIZE = 220
TURN = 35.0  # degrees of yaw


def column(face: Face) -> np.ndarray:
    """The pictures of one person, one below the other, and the likeliest of LOOKS."""
    frame = FaceBox(face.box.x, face.box.y - 0.12 * face.box.size, VIEW_MARGIN * face.box.size)
    photo = cut_crop(face.photo.image, frame, SIZE)[0]
    scale = overlay_scale(*face.photo.image.shape[:2], longest=1600)
    drawn_frame = FaceBox(*(scale * value for value in frame))
    drawn = cut_crop(photo_overlay(face.photo, [face], 1600, text=False), drawn_frame, SIZE)[0]
    name = max(face.attributes.keys() & set(LOOKS), key=lambda name: face.attributes[name])
    lines = [f"{name.replace('_', ' ')} {100 * face.attributes[name]:.0f} %"]
    shown = float(np.copysign(TURN, face.pose.yaw))
    pitch, yaw, roll = (round(angle) for angle in face.pose[1:])
    lines.append(f"yaw {yaw}, pitch {pitch}, roll {roll} deg")
    return add_caption(np.concatenate([photo, drawn, turned(face, -shown, False), turned(face, shown)]), lines)


def turned(face: Face, yaw: float, textured: bool = True) -> np.ndarray:
    """The mesh, turned by so many degrees from looking at the viewer."""
    if not textured:
        return view_mesh(face.vertices, face.triangles, np.array(face.pose[1:]), yaw, size=SIZE)
    y_up = np.array([1.0, -1.0, 1.0])
    angle = torch.tensor([0.0, yaw, 0.0]).deg2rad().double()
    vertices = face.vertices.astype(np.float64)
    points = ((vertices * y_up) @ face.pose.matrix @ euler_to_rotation(angle).numpy().T) * y_up
    low, high = points.min(0), points.max(0)
    points = (points - (low + high) / 2) * 0.94 * SIZE / (high - low)[:2].max() + [(SIZE - 1) / 2, (SIZE - 1) / 2, 0]
    seen, facing, places = render_surface(points, face.triangles, SIZE, SIZE, vertices)
    x, y = places[None, :, :2].astype(np.float32).transpose(2, 0, 1)
    colours = cv2.remap(face.photo.image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[0]
    canvas = np.full((SIZE, SIZE, 3), 255, np.uint8)
    canvas[seen] = colours * (0.75 + 0.25 * np.abs(facing).clip(0, 1))[:, None]
    return canvas


def main() -> None:
    """Writes the picture."""
    data, checkpoint, *finder = sys.argv[1:]
    reader = FaceReader.load(checkpoint, *finder, max_faces=1)
    photos = [Path(data) / "portraits" / "photos" / f"{name}.jpg" for name in PEOPLE]
    columns = [column(face) for (face,) in reader(photos)]
    cv2.imwrite(str(OUTPUT), np.concatenate(columns, axis=1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
