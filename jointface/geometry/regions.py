"""Regions of a face mesh, found from its 68 landmarks; the shape loss weighs them (PRNet's 16 : 4 : 3 : 0)."""

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from scipy.spatial import Delaunay, QhullError
from torch import Tensor

from jointface.errors import DataError

NECK, FACE, ORGANS, LANDMARKS = range(4)

JAW = slice(0, 17)
CHIN = 8
ORGAN_LANDMARKS = {"right eye": range(36, 42), "left eye": range(42, 48), "nose": range(27, 36), "mouth": range(48, 60)}
ORGAN_MARGIN = 1.4  # the hull of an organ's landmarks, enlarged about its centre to hold the lids, wings and lips


def face_regions(vertices: Float[Tensor, "vertices 3"], landmarks68: Int[Tensor, "68"]) -> UInt8[Tensor, "vertices"]:
    """Region of each vertex of a frontal mean face in model space: NECK, FACE, ORGANS or LANDMARKS.

    Organs are the vertices inside the enlarged frontal outline of eyes, nose and mouth; the neck is what lies below
    the jaw line as seen from the side.
    """
    points = vertices.double().cpu().numpy()
    marks = points[landmarks68.cpu().numpy()]
    regions = np.full(len(points), FACE, dtype=np.uint8)
    regions[_below_jaw(points, marks)] = NECK
    for indices in ORGAN_LANDMARKS.values():
        outline = marks[list(indices), :2]
        outline = outline.mean(0) + ORGAN_MARGIN * (outline - outline.mean(0))
        try:
            inside = Delaunay(outline).find_simplex(points[:, :2]) >= 0
        except QhullError as error:
            raise DataError(
                "the 68 landmarks of the morphable model fall together; its landmark indices are wrong"
            ) from error
        regions[inside & (regions == FACE)] = ORGANS
    regions[landmarks68.cpu().numpy()] = LANDMARKS
    return torch.from_numpy(regions)


def _below_jaw(points: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Seen from the side the jaw line runs from below the ear (landmarks 3, 13) to the chin; behind, it is level."""
    jaw = marks[JAW]
    side = (jaw[: CHIN + 1] + jaw[: CHIN - 1 : -1])[3:] / 2
    order = np.argsort(side[:, 2])
    margin = 0.02 * np.ptp(marks[:, 1])
    return points[:, 1] < np.interp(points[:, 2], side[order, 2], side[order, 1]) - margin
