"""Distillation: a network that was trained before teaches another one on the same crops, labelled or not."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.errors import ConfigError
from jointface.geometry.camera import center_depth
from jointface.modules.checkpoint import load_model
from jointface.modules.losses import root_mean_square, shape_loss
from jointface.modules.network import FaceNetwork, Prediction

Images = UInt8[Tensor, "batch 3 size size"]
Loss = Float[Tensor, ""]


class Teacher:
    """A frozen network in evaluation mode, and what its predictions teach a student.

    It is not an nn.Module, so the student's state_dict, checkpoints, averaged weights and optimiser leave it out. It
    moves to the device of the crops.

    Args:
        student: the network that is taught.
        checkpoint: of the teacher, as for `load_model`.
        weight: factor of the loss in the total.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        ConfigError: the faces of both are not of the same mesh, or the teacher predicts nothing of what the student
            does.
    """

    def __init__(self, student: FaceNetwork, checkpoint: str | Path, weight: float = 1.0) -> None:
        self.weight, self.network = weight, load_model(checkpoint).requires_grad_(False)
        where = f"model.teacher.checkpoint={checkpoint}"
        decoders = [of.shape_decoder for of in (self.network, student) if of.shape_decoder is not None]
        self.weights = torch.empty(0)
        if len(decoders) == 2:
            theirs, own = (decoder.morphable_model for decoder in decoders)
            if not theirs.has_mesh_of(own):
                raise ConfigError(
                    f"{where}: predicts the mesh of {theirs.name}, this network that of {own.name}: choose the "
                    "morphable_model of the teacher"
                )
            self.weights = own.region_weights(**decoders[1].region_weights)
        both = [name for name in student.attributes if name in self.network.attributes]
        self.columns = [torch.tensor([of.attributes.index(name) for name in both]) for of in (self.network, student)]
        self.taught = [*(["shape"] if len(decoders) == 2 else []), *(["attributes"] if both else [])]
        if not self.taught:
            raise ConfigError(f"{where}: predicts neither faces nor attributes that this network predicts, too")

    def __deepcopy__(self, memo: dict[int, Any]) -> "Teacher":
        return self  # averaged weights copy the student, and need no second teacher

    @torch.no_grad()
    def predict(self, images: Images) -> Prediction:
        """The teacher's prediction for crops of any size; its vertices are in pixels of these crops."""
        if self.network.mean.device != images.device:
            self.network.to(images.device)
            self.columns = [columns.to(images.device) for columns in self.columns]
            self.weights = self.weights.to(images.device)
        size, own_size = images.shape[-1], self.network.image_size
        if size != own_size:
            resized = F.interpolate(images.float(), (own_size, own_size), mode="bilinear", antialias=True)
            images = resized.round().clamp(0, 255).to(torch.uint8)
        vertices, logits = self.network(images)
        if vertices is not None:
            corner = vertices.new_tensor([0.5, 0.5, 0.0])  # the crop's, half a pixel from its first centre
            vertices = (vertices + corner) * (size / own_size) - corner
        return Prediction(vertices, logits)

    def losses(
        self,
        student: FaceNetwork,
        outputs: Mapping[str, Sequence[Tensor]],
        images: Images,
        samples: Loss | int,
        rms: bool = False,
    ) -> dict[str, Loss]:
        """For each task that is taught, the distance of the student's predictions from the teacher's.

        "shape" is L_shape over all vertices, with the teacher's as the target. "attributes" is the sum of the
        Kullback-Leibler divergences from the teacher's probabilities over the attributes that both know. These are the
        balanced ones (sigmoid of the logits), which do not depend on how frequent an attribute was in the training of
        either.

        Args:
            outputs: what the student says of these images, by task: `ShapeDecoder.outputs`, and the logits.
            samples: the number by which the sum over the images is divided.
            rms: whether the root of each sample's L_shape takes its place.
        """
        vertices, logits = self.predict(images)
        losses: dict[str, Tensor] = {}
        if "shape" in self.taught:
            assert student.shape_decoder is not None
            assert vertices is not None
            decoder = student.shape_decoder
            faces = decoder.vertices(decoder.points(*outputs["shape"])), vertices
            predicted, target = (center_depth(face) / student.image_size for face in faces)
            squared = shape_loss(predicted, target, self.weights)
            losses["shape"] = (root_mean_square(squared) if rms else squared).sum() / samples
        if "attributes" in self.taught:
            assert logits is not None
            theirs, own = logits[:, self.columns[0]], outputs["attributes"][0][:, self.columns[1]]
            cross_entropy, entropy = (
                F.binary_cross_entropy_with_logits(of, theirs.sigmoid(), reduction="none") for of in (own, theirs)
            )
            losses["attributes"] = (cross_entropy - entropy).sum() / samples
        return losses
