"""Turns training photos out of plane on the device, for data sets with few large poses."""

import math

import torch
from torch import Tensor, nn

from jointface.geometry.camera import euler_to_rotation
from jointface.geometry.face_profiling import turn_faces
from jointface.geometry.morphable_model import MorphableModel


class FaceTurning(nn.Module):
    """Turns some of the faces that have a fitted mesh by random pitch and yaw, see `geometry.face_profiling`.

    Args:
        morphable_model: the model that the fits refer to.
        yaw, pitch: largest turn in either direction, in degrees.
        probability: fraction of the faces that are turned.
    """

    def __init__(
        self, morphable_model: MorphableModel, yaw: float = 30.0, pitch: float = 30.0, probability: float = 0.5
    ) -> None:
        super().__init__()
        self.morphable_model = morphable_model
        self.largest = [math.radians(pitch), math.radians(yaw), 0.0]
        self.probability = probability

    @torch.no_grad()
    def forward(self, batch: dict[str, Tensor], morphable_model: MorphableModel | None = None) -> dict[str, Tensor]:
        """The batch with some images and cameras turned; drops `landmarks68`, which would no longer match.

        morphable_model: of these fits, if it is another one.
        """
        camera = batch["camera"]
        chosen = (torch.rand(len(camera), device=camera.device) < self.probability).nonzero().flatten()
        if not len(chosen):
            return batch
        model = (morphable_model or self.morphable_model).to(camera.device)
        vertices = model.project(
            batch["shape_coefficients"][chosen], batch["expression_coefficients"][chosen], camera[chosen]
        )
        angles = (2 * torch.rand(len(chosen), 3, device=camera.device) - 1) * camera.new_tensor(self.largest)
        images, turned = turn_faces(
            batch["image"][chosen].float(), camera[chosen], vertices, model.landmarks68, euler_to_rotation(angles)
        )
        return {
            **{key: value for key, value in batch.items() if key != "landmarks68"},
            "image": batch["image"].index_copy(0, chosen, images.round().clamp(0, 255).to(torch.uint8)),
            "camera": camera.index_copy(0, chosen, turned),
        }
