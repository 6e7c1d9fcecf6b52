"""Shape decoders: features in, the dense face in crop space out.

A decoder works on its own set of points, pixels of a UV position map or vertices, all in crop space divided by the
crop's size. It says which points the labels ask for (`target`), how the loss weighs them (`weights`) and which
vertices they stand for (`vertices`).
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jointface.errors import ConfigError
from jointface.geometry.camera import apply_camera, center_depth, rotation_6d_to_matrix
from jointface.geometry.framing import CROP_MARGIN
from jointface.geometry.full_precision import full_precision
from jointface.geometry.morphable_model import MorphableModel
from jointface.geometry.position_map import PositionMap, uv_to_pixels


class ShapeDecoder(nn.Module, ABC):
    """The interface of the shape decoders. `weights` holds W of L_shape for each point; `layers` is what `forward` runs
    before it comes to coordinates."""

    weights: Float[Tensor, "points"]
    layers: nn.Module

    def __init__(self, morphable_model: MorphableModel, image_size: int) -> None:
        super().__init__()
        self.morphable_model = morphable_model
        self.image_size = image_size

    @abstractmethod
    def forward(self, features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch points 3"]:
        """Predicted points."""

    @abstractmethod
    def target(
        self,
        shape_coefficients: Float[Tensor, "batch shape"],
        expression_coefficients: Float[Tensor, "batch expression"],
        camera: Float[Tensor, "batch 3 4"],
    ) -> Float[Tensor, "batch points 3"]:
        """The points that labels ask for, made on their device."""

    @abstractmethod
    def vertices(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch vertices 3"]:
        """The vertices that points stand for, in crop space, in pixels."""


class Layers(nn.Sequential):
    """A sequence with a forward of its own: torch.compile passes over that of torch."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class PositionMapDecoder(ShapeDecoder):
    """PRNet's decoder (Feng et al., ECCV 2018): transposed convolutions up to a UV position map.

    Each doubling of the side is followed by further layers of the same width (two at the low resolutions, one at the
    high ones); the last layers predict the offset of each point from the mean face in the middle of the crop.

    Args:
        feature_shape: (channels, height, width) of the backbone's features.
        morphable_model: model whose UV layout the map has.
        image_size: side of the crop in pixels.
        map_size: side of the map, a power of two times that of the features; None takes the crop's.
        channels: width of the first layer (512 in PRNet); halved with every doubling, not below `min_channels`.
        region_weights: W by region; see `MorphableModel.region_weights`.
    """

    mean_points: Float[Tensor, "points 3"]

    def __init__(
        self,
        feature_shape: tuple[int, int, int],
        morphable_model: MorphableModel,
        image_size: int,
        map_size: int | None = None,
        channels: int = 512,
        min_channels: int = 16,
        region_weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(morphable_model, image_size)
        map_size = map_size or image_size
        doublings = (map_size // feature_shape[1]).bit_length() - 1
        if feature_shape[1] != feature_shape[2] or feature_shape[1] << doublings != map_size:
            raise ConfigError(
                f"model.shape_decoder: a map of side {map_size} is no power of two times the {feature_shape[1]} x "
                f"{feature_shape[2]} features of the backbone; change map_size or image_size"
            )
        self.position_map = PositionMap(morphable_model, map_size)
        layers, width = _upsampling_layers(feature_shape[0], channels, min_channels, doublings)
        self.layers = Layers(*layers)
        self.offsets = nn.Conv2d(width, 3, 4, padding="same")
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)
        mean_face = frontal_face(morphable_model, image_size) / image_size
        self.register_buffer("mean_points", self.position_map.sample(mean_face[None])[0], persistent=False)
        self.register_buffer("weights", self._weights(region_weights or {}), persistent=False)

    def _weights(self, region_weights: dict[str, float]) -> Float[Tensor, "points"]:
        model, size = self.morphable_model, self.position_map.size
        surface = model.region_weights(**{**region_weights, "landmarks": region_weights.get("organs", 4)})
        weights = self.position_map.sample(surface[None, :, None])[0, :, 0]
        # A landmark is a point: it weighs in the one pixel nearest to it, as in PRNet's mask.
        column, row = uv_to_pixels(model.uv[model.landmarks68], size).round().long().T
        at_landmark = torch.isin(self.position_map.pixels, row * size + column)
        return torch.where(at_landmark, model.region_weights(**region_weights)[model.landmarks68[0]], weights)

    def forward(self, features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch points 3"]:
        return self._points(self.layers(features))

    @full_precision
    def _points(self, hidden: Float[Tensor, "batch channels size size"]) -> Float[Tensor, "batch points 3"]:
        return self.mean_points + self.position_map.from_map(self.offsets(hidden))

    def target(self, shape_coefficients: Tensor, expression_coefficients: Tensor, camera: Tensor) -> Tensor:
        coefficients = torch.cat([shape_coefficients, expression_coefficients], dim=-1)
        return self.position_map.project(coefficients, camera) / self.image_size

    def vertices(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch vertices 3"]:
        return self.position_map.to_vertices(points) * self.image_size


def _upsampling_layers(
    channels_in: int, channels: int, min_channels: int, doublings: int
) -> tuple[list[nn.Module], int]:
    layers = _convolution(channels_in, channels)
    for doubling in range(doublings):
        narrower = max(channels // 2, min_channels)
        layers += [
            nn.ConvTranspose2d(channels, narrower, 4, 2, padding=1, bias=False),
            nn.BatchNorm2d(narrower),
            nn.ReLU(),
        ]
        for _ in range(2 if doubling < 3 else 1):
            layers += _convolution(narrower, narrower)
        channels = narrower
    return [*layers, *_convolution(channels, channels)], channels


def _convolution(channels_in: int, channels_out: int) -> list[nn.Module]:
    # A transposed convolution of stride 1 is a convolution.
    return [
        nn.Conv2d(channels_in, channels_out, 4, padding="same", bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


class MorphableDecoder(ShapeDecoder):
    """Regresses camera, identity and expression of the morphable model; the points are its vertices.

    The camera is a rotation (six numbers, Zhou et al., CVPR 2019), a scale and a shift. All outputs are offsets from
    the mean face in the middle of the crop. A coefficient's unit moves the vertices by 1 % of the face's size in the
    root mean square, so that all outputs have comparable effect.

    Args:
        feature_shape: (channels, height, width) of the backbone's features.
        morphable_model: the model.
        image_size: side of the crop in pixels.
        hidden: width of the hidden layer.
        region_weights: W by region; see `MorphableModel.region_weights`.
    """

    unit: Float[Tensor, "coefficients"]
    upright: Float[Tensor, "6"]
    frontal_camera: Float[Tensor, "3 4"]

    def __init__(
        self,
        feature_shape: tuple[int, int, int],
        morphable_model: MorphableModel,
        image_size: int,
        hidden: int = 512,
        region_weights: dict[str, float] | None = None,
    ) -> None:
        super().__init__(morphable_model, image_size)
        model = morphable_model
        channels, height, width = feature_shape
        squeezed = max(1, hidden // (height * width))
        self.layers = Layers(
            nn.Conv2d(channels, squeezed, 1), nn.BatchNorm2d(squeezed), nn.ReLU(), nn.Flatten(),
            nn.Linear(squeezed * height * width, hidden), nn.ReLU(),
        )  # fmt: skip
        self.regressor = nn.Linear(hidden, 9 + model.num_shape + model.num_expression)
        nn.init.zeros_(self.regressor.weight)
        nn.init.zeros_(self.regressor.bias)
        displacement = model.basis.square().sum(0).mean(0).sqrt()
        face_size = (model.mean[model.landmarks68].amax(0) - model.mean[model.landmarks68].amin(0))[:2].mean()
        self.register_buffer("upright", torch.tensor([1.0, 0, 0, 0, 1, 0]), persistent=False)
        self.register_buffer("unit", 0.01 * face_size / displacement, persistent=False)
        self.register_buffer("frontal_camera", frontal_camera(model, image_size), persistent=False)
        self.register_buffer("weights", model.region_weights(**(region_weights or {})), persistent=False)

    def forward(self, features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch points 3"]:
        return self._points(*self.coefficients(features))

    def coefficients(self, features: Float[Tensor, "batch channels height width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Identity (batch, Ks), expression (batch, Ke) and camera (batch, 3, 4) in crop space."""
        return self._coefficients(self.layers(features))

    @full_precision
    def _coefficients(self, hidden: Float[Tensor, "batch hidden"]) -> tuple[Tensor, Tensor, Tensor]:
        output = self.regressor(hidden)
        rotation = rotation_6d_to_matrix(output[:, :6] + self.upright)
        linear = output[:, 6].exp()[:, None, None] * (self.frontal_camera[:, :3] @ rotation)
        shift = self.image_size * nn.functional.pad(output[:, 7:9], (0, 1))
        camera = torch.cat([linear, (self.frontal_camera[:, 3] + shift)[..., None]], dim=-1)
        shape, expression = (output[:, 9:] * self.unit).split(
            [self.morphable_model.num_shape, self.morphable_model.num_expression], -1
        )
        return shape, expression, camera

    def _points(self, shape: Tensor, expression: Tensor, camera: Tensor) -> Float[Tensor, "batch points 3"]:
        return center_depth(self.morphable_model.project(shape, expression, camera)) / self.image_size

    def target(self, shape_coefficients: Tensor, expression_coefficients: Tensor, camera: Tensor) -> Tensor:
        return self._points(shape_coefficients, expression_coefficients, camera)

    def vertices(self, points: Float[Tensor, "batch points 3"]) -> Float[Tensor, "batch vertices 3"]:
        return points * self.image_size


def frontal_camera(model: MorphableModel, image_size: int) -> Float[Tensor, "3 4"]:
    """Camera that puts the mean face upright and frontal into the crop, framed as every crop is."""
    landmarks = model.mean[model.landmarks68]
    low, high = landmarks.amin(0), landmarks.amax(0)
    scale = image_size / (CROP_MARGIN * (high - low)[:2].mean())
    y_down = scale * low.new_tensor([1.0, -1.0, 1.0])
    crop_centre = low.new_tensor([(image_size - 1) / 2, (image_size - 1) / 2, 0.0])
    return torch.cat([torch.diag(y_down), (crop_centre - y_down * (low + high) / 2)[:, None]], dim=1)


def frontal_face(model: MorphableModel, image_size: int) -> Float[Tensor, "vertices 3"]:
    """The mean face in the middle of the crop, in crop space: the trivial prediction that a decoder starts from."""
    return center_depth(apply_camera(frontal_camera(model, image_size)[None], model.mean[None]))[0]
