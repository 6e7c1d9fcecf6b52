"""Pictures of drawn people with hair and shoulders, the example photos of the web pages."""

import numpy as np
import torch
from jaxtyping import UInt8

from jointface.geometry.camera import crop_camera
from jointface.geometry.framing import similarity
from jointface.synthesis.faces import shared_factory

EXAMPLES = ((1,), (10,), (15,), (6, 22))  # people of each example: faces of the test split
SIZE = 480  # pixels of a person's picture
ZOOM, DOWN = 0.6, 0.05  # against the common crop: smaller, and lower by so many sizes of the picture
MAX_YAW = 30.0  # degrees


def example_photos() -> list[UInt8[np.ndarray, "height width 3"]]:
    """Photos of drawn people whom no network was trained on; in the last one there are two."""
    factory = shared_factory(max_yaw=MAX_YAW, supersampling=2)
    faces = [factory.face("test", number) for people in EXAMPLES for number in people]
    wider = similarity(ZOOM, 0.0, (0.0, DOWN), False, SIZE)
    cameras = torch.stack([crop_camera(factory.crop_camera(face, SIZE), wider) for face in faces])
    portraits = iter(factory.render(faces, cameras, SIZE).permute(0, 2, 3, 1).numpy())
    return [np.concatenate([next(portraits) for _ in people], axis=1) for people in EXAMPLES]
