"""Faces that are labelled by another morphable model than the decoder's, such as BFM fits for a decoder of anny."""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor, nn

from jointface.errors import ConfigError
from jointface.geometry.camera import center_depth
from jointface.geometry.correspondence import carry_model
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules.losses import shape_loss
from jointface.modules.shape_decoders import ShapeDecoder

Extent = Literal["dense", "landmarks"]


class ForeignLabels(nn.Module):
    """L_shape of coefficients of another morphable model: l runs over the decoder's vertices that have a counterpart.

    W_l are those of the decoder, scaled so that their mean over the compared vertices equals their mean over all of the
    decoder's vertices. So such a sample counts as much as one labelled by the decoder's own model. z is relative to the
    mean over the compared vertices.

    Args:
        model: the model of the labels. It does not become part of checkpoints.
        extent: "dense": all vertices of the face with a counterpart; "landmarks": the 68 landmarks alone.

    Raises:
        ConfigError: `extent` is unknown.
    """

    def __init__(self, model: MorphableModel, decoder: ShapeDecoder, extent: Extent = "dense") -> None:
        super().__init__()
        if extent not in get_args(Extent):
            raise ConfigError(f"model.foreign_labels={extent} is unknown; choose from {', '.join(get_args(Extent))}")
        self.model = carry_model(model, decoder.morphable_model)
        for name, buffer in self.model.named_buffers():
            self.model.register_buffer(name, buffer, persistent=False)
        regions = {**decoder.region_weights}
        whole = decoder.morphable_model.region_weights(**regions).mean()
        if extent == "landmarks":
            regions |= {"organs": 0, "face": 0, "neck": 0}
        weights = self.model.region_weights(**regions)
        self.vertices = nn.Buffer(weights.nonzero()[:, 0], persistent=False)
        weights = weights[self.vertices]
        self.weights = nn.Buffer(weights * whole / weights.mean(), persistent=False)

    def forward(
        self, decoder: ShapeDecoder, outputs: tuple[Tensor, ...], true: tuple[Tensor, ...]
    ) -> Float[Tensor, "samples"]:
        """L_shape between faces that the decoder's outputs describe and faces given by coefficients and cameras."""
        faces = decoder.vertices_at(self.vertices, *outputs), self.model.project(*true)[:, self.vertices]
        predicted, target = (center_depth(face) / decoder.image_size for face in faces)
        return shape_loss(predicted, target, self.weights)
