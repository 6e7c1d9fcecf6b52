"""Face boxes of CelebA: one box for all aligned images, and matching boxes for the original photos."""

import numpy as np
from jaxtyping import Bool, Float, Int

from jointface.geometry.framing import FaceBox

# Average landmark box of the aligned 178 x 218 images. It is used for every image, scaled to the image's size.
ALIGNED_SIZE = (178, 218)  # width and height
ALIGNED_BOX = FaceBox(x=88.9, y=139.8, size=86.2)
# How the boxes of `landmark_boxes` relate to the published bounding boxes: medians over images 000001 to 000005, for
# which all three files were available. There, sizes are 0.67 to 0.87 widths, and centres lie 0.03 to 0.05 heights
# lower. Depending on the head's yaw, centres also lie -0.15 to 0.06 widths to the side, which is ignored.
BBOX_SIZE, BBOX_DOWN = 0.807, 0.037


def landmark_boxes(
    aligned: Int[np.ndarray, "images 10"], original: Int[np.ndarray, "images 10"]
) -> Float[np.ndarray, "images 3"]:
    """Transfers the face box of the aligned images to the original photos, as (x, y, size), by means of the landmarks.

    An aligned image is its original photo under a similarity. The inverse is fitted to the five points by least squares
    (Umeyama 1991, without reflection) and applied to centre and size; the crop stays upright. The size is 0 if all
    landmarks coincide.

    Args:
        aligned, original: x and y of the five points in the aligned and in the original image.
    """
    # In complex numbers a similarity is z -> turn z + shift, and fitting it is a linear regression.
    source, target = (points[:, 0::2] + 1j * points[:, 1::2] for points in (aligned, original))
    source_mean, target_mean = source.mean(axis=1), target.mean(axis=1)
    offsets = source - source_mean[:, None]
    spread = (np.abs(offsets) ** 2).sum(axis=1)
    turn = (offsets.conj() * (target - target_mean[:, None])).sum(axis=1) / np.maximum(spread, 1e-9)
    centre = target_mean + turn * (ALIGNED_BOX.x + 1j * ALIGNED_BOX.y - source_mean)
    return np.stack([centre.real, centre.imag, ALIGNED_BOX.size * np.abs(turn)], axis=1)


def bbox_boxes(bboxes: Int[np.ndarray, "images 4"]) -> Float[np.ndarray, "images 3"]:
    """Face boxes (x, y, size) from the published bounding boxes; the size is 0 if a bounding box is empty."""
    x, y, width, height = bboxes.T
    size = BBOX_SIZE * np.where(height > 0, width, 0).clip(min=0)
    return np.stack([x + width / 2, y + (0.5 + BBOX_DOWN) * height, size], axis=1)


def outside_bbox(
    boxes: Float[np.ndarray, "images 3"], bboxes: Int[np.ndarray, "images 4"]
) -> Bool[np.ndarray, "images"]:
    """Whether each face box lies entirely outside its published bounding box; False if that is empty."""
    low, size = bboxes[:, :2], bboxes[:, 2:]
    distance = np.abs(boxes[:, :2] - (low + size / 2))
    return (distance > (boxes[:, 2:] + size) / 2).any(axis=1) & (size > 0).all(axis=1)
