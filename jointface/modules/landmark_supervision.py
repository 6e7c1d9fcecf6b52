"""The loss of photos that label only landmarks: which points of the predicted face each landmark is compared with."""

from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jointface.errors import ConfigError
from jointface.geometry.morphable_model import MorphableModel
from jointface.geometry.outline import nearest_on_outline
from jointface.geometry.regions import contour_region

Contour = Literal["slide", "leave_out", "fixed"]
CONTOUR = 17  # the first landmarks are those of the contour

Mask = Bool[Tensor, "batch 68"]


class LabelledLandmarks(nn.Module):
    """The points of a predicted face that belong to labelled landmarks.

    A contour in 2D marks the visible outline of the face, not fixed places on its skin.

    Args:
        contour: of landmarks in 2D. "slide": each of its points belongs to the nearest vertex on the outline of the
            predicted face; "leave_out": to none; "fixed": to the landmark's own vertex.

    Raises:
        ConfigError: `contour` is unknown.
    """

    def __init__(self, model: MorphableModel, contour: Contour = "slide") -> None:
        super().__init__()
        if contour not in get_args(Contour):
            raise ConfigError(f"model.contour={contour} is unknown; choose from {', '.join(get_args(Contour))}")
        self.contour = contour
        # Only a part of the mesh has to be computed: the landmarks, and what decides where the outline can be.
        region = contour_region(model.mean, model.landmarks68).to(model.mean.device)
        triangles = model.triangles[region[model.triangles].any(1)]
        self.vertices = nn.Buffer(torch.cat([triangles.flatten(), model.landmarks68]).unique(), persistent=False)
        self.triangles = nn.Buffer(torch.searchsorted(self.vertices, triangles), persistent=False)
        self.landmarks68 = nn.Buffer(torch.searchsorted(self.vertices, model.landmarks68), persistent=False)
        self.region = nn.Buffer(region[self.vertices], persistent=False)

    def forward(
        self, vertices: Float[Tensor, "batch some 3"], truth: Float[Tensor, "batch 68 dims"], mask: Mask
    ) -> tuple[Float[Tensor, "batch 68 dims"], Mask]:
        """The points, and which of them count.

        Args:
            vertices: the predicted face at the vertices `self.vertices`.
            truth: in the same space.
            mask: which landmarks are labelled.
        """
        dimensions = truth.shape[-1]
        landmarks = vertices.index_select(1, self.landmarks68)
        if dimensions == 2 and self.contour == "leave_out":
            mask = torch.cat([torch.zeros_like(mask[:, :CONTOUR]), mask[:, CONTOUR:]], dim=1)
        elif dimensions == 2 and self.contour == "slide":
            nearest = nearest_on_outline(truth[:, :CONTOUR], vertices, self.triangles, self.region)
            outline = vertices.take_along_dim(nearest[:, :, None], 1)
            landmarks = torch.cat([outline, landmarks[:, CONTOUR:]], dim=1)
        return landmarks[..., :dimensions], mask
