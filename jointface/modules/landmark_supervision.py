"""What photos that label landmarks alone ask of a predicted face, above all where their contour belongs on it."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jointface.errors import ConfigError
from jointface.geometry.morphable_model import MorphableModel
from jointface.geometry.outline import nearest_on_outline
from jointface.geometry.regions import FACE

Contour = Literal["slide", "leave_out", "fixed"]
CONTOUR = 17  # the first landmarks are those of the contour

Vertices = Float[Tensor, "batch vertices 3"]
Mask = Bool[Tensor, "batch 68"]


def require_contour(contour: str) -> None:
    """Raises a ConfigError for an unknown choice."""
    if contour not in get_args(Contour):
        raise ConfigError(f"model.contour={contour} is unknown; choose from {', '.join(get_args(Contour))}")


def labelled_landmarks(
    model: MorphableModel, vertices: Vertices, truth: Float[Tensor, "batch 68 dims"], mask: Mask, contour: Contour
) -> tuple[Float[Tensor, "batch 68 dims"], Mask]:
    """The predicted points that belong to labelled landmarks, and which of them count.

    A contour in 2D marks the visible outline of the face, not fixed places on its skin.

    Args:
        vertices, truth: in the same space.
        contour: of landmarks in 2D. "slide": each of its points belongs to the nearest vertex on the outline of the
            predicted face; "leave_out": to none; "fixed": to the landmark's own vertex.
    """
    dimensions = truth.shape[-1]
    landmarks = vertices.index_select(1, model.landmarks68)
    if dimensions == 2 and contour == "leave_out":
        mask = torch.cat([torch.zeros_like(mask[:, :CONTOUR]), mask[:, CONTOUR:]], dim=1)
    elif dimensions == 2 and contour == "slide":
        region = (model.regions == FACE).index_fill(0, model.landmarks68[:CONTOUR], True)
        nearest = nearest_on_outline(truth[:, :CONTOUR], vertices, model.triangles, region)
        outline = vertices.take_along_dim(nearest[:, :, None], 1)
        landmarks = torch.cat([outline, landmarks[:, CONTOUR:]], dim=1)
    return landmarks[..., :dimensions], mask
