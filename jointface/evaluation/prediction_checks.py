"""Whether a prediction that was read from a file is in pixels of its photo, as it should be; else the likely cause.

Bounds are wide: a method that is merely bad should pass, one in another coordinate system should not.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jointface.datamodules.face_dataset import FaceSample

NORMALISED = 2.0  # largest coordinate of points in 0..1 or -1..1, with some outside
FAR = 0.75  # between the centres of two boxes of one face, in sizes of the true one
SIZES = (0.2, 5.0)  # times the true face box
DEPTHS = (0.1, 4.0)  # range of z, times the larger side of the face; 0.5 frontal, 1.3 in profile
CHIN, NOSE_BRIDGE = 8, 27


def suspicion(
    landmarks68: Float[Tensor, "68 dims"] | None, vertices: Float[Tensor, "vertices 3"] | None, sample: FaceSample
) -> str | None:
    """What is wrong with a face in a photo, as the end of "the predictions ..."; None where nothing is.

    Args:
        landmarks68, vertices: the prediction, of which landmarks are looked at where there are both.
        sample: the photo with the true face box, and the true landmarks where it has some.
    """
    points = landmarks68 if landmarks68 is not None else vertices
    if points is None:
        return None
    return _wrong_place(points[:, :2], sample) or _upside_down(landmarks68, sample) or _wrong_depth(points)


def _wrong_place(points: Float[Tensor, "points 2"], sample: FaceSample) -> str | None:
    low, high = points.aminmax(dim=0)
    if points.abs().max() <= NORMALISED:
        return "lie all within two pixels of the photo's corner: normalised to 0..1, and not in pixels?"
    x, y = ((low + high) / 2).tolist()
    height, width = sample.image.shape[:2]
    if y < 0 and -height <= y:
        return "lie above the photo: is y counted upwards?"
    if not (0 <= x < width and 0 <= y < height):
        return "lie outside of the photo: in pixels of another size of it?"
    distance = torch.tensor([x - sample.box.x, y - sample.box.y]).norm() / sample.box.size
    size = (high - low).mean() / sample.box.size
    if distance > FAR or not SIZES[0] <= size <= SIZES[1]:
        return "lie far off the face: in pixels of a crop, of another size of the photo, or of another face?"
    return None


def _upside_down(landmarks68: Float[Tensor, "68 dims"] | None, sample: FaceSample) -> str | None:
    if landmarks68 is None or "landmarks68" not in sample.labels:
        return None
    down, true_down = (
        points[CHIN, :2] - points[NOSE_BRIDGE, :2] for points in (landmarks68, sample.labels["landmarks68"])
    )
    return "are upside down: is y counted upwards?" if (down * true_down).sum() < 0 else None


def _wrong_depth(points: Float[Tensor, "points dims"]) -> str | None:
    if points.shape[1] == 2:
        return None
    width, height, depth = (points.amax(0) - points.amin(0)).tolist()
    if depth == 0:
        return "have the same z everywhere: landmarks without depth are (68, 2)."
    if not DEPTHS[0] <= depth / max(width, height) <= DEPTHS[1]:
        return "have z of another scale than x and y: not in pixels of the photo?"
    return None
