"""Makes the pictures of the documentation: `python -m bench.pictures docs/figures [CHECKPOINT]`.

With a checkpoint of the embedded default also predictions.jpg.
"""

import math
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from jointface.attributes import calibrated_probability
from jointface.geometry import MorphableModel, apply_camera, crop_camera, crop_transform, euler_to_rotation, face_box
from jointface.geometry.rasteriser import visible_vertices
from jointface.modules import load_model
from jointface.synthesis.faces import FaceFactory
from jointface.viz.overlay import add_caption, enlarge, overlay_landmarks, overlay_mesh

SIZE = 176
ANCESTRY = ("Asian", "Black", "White")


def faces(factory: FaceFactory, rows: int = 3, columns: int = 8) -> np.ndarray:
    """The first faces of the test split, without choosing."""
    people = [factory.face("test", index) for index in range(rows * columns)]
    images = factory.render(people, torch.stack([factory.crop_camera(face, SIZE) for face in people]), SIZE)
    return torch.cat([torch.cat(list(row), dim=2) for row in images.split(columns)], dim=1).movedim(0, -1).numpy()


def head(model: MorphableModel, size: int = 420) -> np.ndarray:
    """The mean head with its 68 landmarks from the front and both sides; those in sight are filled."""
    pictures = []
    for yaw in (math.radians(75), 0.0, math.radians(-75)):
        rotation = euler_to_rotation(torch.tensor([0.0, yaw, 0.0]))
        camera = torch.cat([torch.tensor([[1.0], [-1.0], [1.0]]) * rotation, torch.zeros(3, 1)], dim=1)
        box = face_box(apply_camera(camera[None], model.mean[None, model.landmarks68])[0])
        camera = crop_camera(camera, crop_transform(box._replace(size=130.0), size))
        vertices = apply_camera(camera[None], model.mean[None])
        picture = overlay_mesh(np.full((size, size, 3), 255, np.uint8), vertices[0].numpy(), model.triangles.numpy(), 1)
        seen = visible_vertices(vertices, model.triangles, size, size, tolerance=3.0)[0, model.landmarks68]
        for (x, y), visible in zip(vertices[0, model.landmarks68, :2].tolist(), seen.tolist(), strict=True):
            cv2.circle(picture, (round(x), round(y)), 3, (220, 30, 30), -1 if visible else 1, cv2.LINE_AA)
        pictures.append(picture)
    return np.concatenate(pictures, axis=1)


@torch.no_grad()
def predictions(factory: FaceFactory, checkpoint: str, count: int = 8, enlargement: int = 2) -> np.ndarray:
    """The first faces of the test split, without choosing; the predicted mesh, landmarks and surest attributes; the
    true mesh and landmarks."""
    network = load_model(checkpoint)
    size, model = network.image_size, factory.head.model
    people = [factory.face("test", index) for index in range(count)]
    cameras = [torch.stack([factory.crop_camera(face, side) for face in people]) for side in (size, size * enlargement)]
    prediction = network(factory.render(people, cameras[0], size))
    (labels,) = network.label_sets.values()
    probability = calibrated_probability(prediction.logits, torch.tensor(labels["alpha"]))
    # Those that it takes to be present; the rare ones among them, whose balanced reading is high, say most.
    telling = torch.where(probability > 0.5, prediction.logits, -torch.inf)
    telling[:, [network.attributes.index(name) for name in ANCESTRY]] = -torch.inf  # see docs/attributes.md
    shapes, expressions = (torch.stack([getattr(face, name) for face in people]) for name in ("shape", "expression"))
    truth = model.project(shapes, expressions, cameras[1]).numpy()
    images = factory.render(people, cameras[1], size * enlargement).movedim(1, -1).numpy()

    def over(image: np.ndarray, vertices: np.ndarray) -> np.ndarray:
        return overlay_landmarks(overlay_mesh(image, vertices, model.triangles.numpy(), 1), vertices[model.landmarks68])

    columns = []
    for face, image in enumerate(images):
        seen = over(image, enlarge(prediction.vertices[face].numpy(), enlargement))
        best = telling[face].argsort(descending=True)[:4]
        caption = [f"{network.attributes[m]} {probability[face, m]:.2f}" for m in best if telling[face, m].isfinite()]
        columns.append(np.concatenate([image, add_caption(seen, [*caption, "", "", ""][:4]), over(image, truth[face])]))
    return np.concatenate(columns, axis=1)


def main(folder: str, checkpoint: str | None = None) -> None:
    """Writes faces.jpg, shadows.jpg and head.jpg, and with a checkpoint predictions.jpg."""
    factory, with_shadows = FaceFactory(supersampling=2), FaceFactory(supersampling=2, shadows=True)
    pictures = {
        "faces.jpg": faces(factory),
        "shadows.jpg": np.concatenate([faces(of, rows=1) for of in (factory, with_shadows)]),
        "head.jpg": head(factory.head.model),
    }
    if checkpoint is not None:
        pictures["predictions.jpg"] = predictions(factory, checkpoint)
    for name, picture in pictures.items():
        cv2.imwrite(str(Path(folder) / name), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
        print(Path(folder) / name)


if __name__ == "__main__":
    main(*sys.argv[1:])
