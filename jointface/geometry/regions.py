"""Regions of a face mesh, computed from its 68 landmarks, and their weights W in L_shape."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import Delaunay, QhullError
from torch import Tensor

from jointface.errors import DataError

NECK, FACE, ORGANS, LANDMARKS = range(4)
PRNET_WEIGHTS = {"landmarks": 16, "organs": 4, "face": 3, "neck": 0}  # W, from Feng et al., ECCV 2018

CHIN = 8
ORGAN_LANDMARKS = {"right eye": range(36, 42), "left eye": range(42, 48), "nose": range(27, 36), "mouth": range(48, 60)}
ORGAN_MARGIN = 1.4  # enlarges the hull of an organ's landmarks to include eyelids, nostrils and lips


def face_regions(vertices: Float[Tensor, "vertices 3"], landmarks68: Int[Tensor, "68"]) -> UInt8[Tensor, "vertices"]:
    """Region of each vertex of a frontal mean face in model space: NECK, FACE, ORGANS or LANDMARKS.

    ORGANS lie inside the enlarged frontal outline of eyes, nose or mouth; NECK lies below the jaw line in side view.

    Raises:
        DataError: the landmarks coincide.
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
            raise DataError("the morphable model's landmark indices are wrong: its 68 landmarks coincide") from error
        regions[inside & (regions == FACE)] = ORGANS
    regions[landmarks68.cpu().numpy()] = LANDMARKS
    return torch.from_numpy(regions)


def contour_region(vertices: Float[Tensor, "vertices 3"], landmarks68: Int[Tensor, "68"]) -> Bool[Tensor, "vertices"]:
    """Where the visible outline of the face can carry the landmarks of the contour (0-16) in some view.

    It is the skin below the brows and above the jaw line, around the frontal hull of the other landmarks.

    vertices: of a frontal mean face in model space.
    """
    points = vertices.double().cpu().numpy()
    marks = points[landmarks68.cpu().numpy()]
    inside = Delaunay(marks[17:, :2]).find_simplex(points[:, :2]) >= 0
    region = ~inside & ~_below_jaw(points, marks) & (points[:, 1] < marks[17:27, 1].max())
    return torch.from_numpy(region).index_fill(0, landmarks68[:17].cpu(), True)


def _below_jaw(points: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """Which points lie below the jaw line, which runs in side view from below the ear (landmarks 3, 13) to the chin."""
    jaw = marks[:17]
    side = (jaw[: CHIN + 1] + jaw[: CHIN - 1 : -1])[3:] / 2
    order = np.argsort(side[:, 2])
    margin = 0.02 * np.ptp(marks[:, 1])
    return points[:, 1] < np.interp(points[:, 2], side[order, 2], side[order, 1]) - margin
