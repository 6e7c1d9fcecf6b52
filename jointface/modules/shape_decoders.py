"""Shape decoders: they predict the dense face in crop space from features."""

from abc import ABC, abstractmethod
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jointface.errors import ConfigError
from jointface.geometry.camera import apply_camera, center_depth, rotation_6d_to_matrix
from jointface.geometry.framing import CROP_MARGIN
from jointface.geometry.full_precision import full_precision
from jointface.geometry.morphable_model import Expression, MorphableModel, Shape, linear_faces
from jointface.geometry.position_map import PositionMap, uv_to_pixels
from jointface.geometry.regions import PRNET_WEIGHTS

Features = Float[Tensor, "batch channels height width"]
Points = Float[Tensor, "batch points 3"]
Camera = Float[Tensor, "batch 3 4"]


class ShapeDecoder(nn.Module, ABC):
    """Predicts the points S_l of L_shape, in crop space divided by the crop's size.

    The points depend on the decoder: they are the pixels of a UV position map, or the vertices.

    Args:
        channels: the features' first channels, which it sees.
        image_size: side of the crop in pixels.
        region_weights: W of the regions whose weight differs from `PRNET_WEIGHTS`.
    """

    weights: Float[Tensor, "points"]  # W_l
    layers: nn.Module  # the layers before coordinates; they may be compiled and run in half precision

    def __init__(
        self, channels: int, morphable_model: MorphableModel, image_size: int, region_weights: dict[str, float] | None
    ) -> None:
        super().__init__()
        self.channels = channels
        self.morphable_model = morphable_model
        self.image_size = image_size
        self.region_weights = {**PRNET_WEIGHTS, **(region_weights or {})}

    def forward(self, features: Features) -> Points:
        """The predicted points."""
        return self.points(*self.outputs(features))

    @abstractmethod
    def outputs(self, features: Features) -> tuple[Tensor, ...]:
        """What describes the predicted faces, each with the batch first: their points, or coefficients and a camera."""

    @abstractmethod
    def points(self, *outputs: Tensor) -> Points:
        """The points of faces that `outputs` describes."""

    @abstractmethod
    def vertices_at(self, indices: Int[Tensor, "some"], *outputs: Tensor) -> Float[Tensor, "batch some 3"]:
        """Some vertices of faces that `outputs` describes, in crop space in pixels; z is relative to any depth."""

    @abstractmethod
    def target(self, shape_coefficients: Shape, expression_coefficients: Expression, camera: Camera) -> Points:
        """The true points, computed from the labels."""

    @abstractmethod
    def vertices(self, points: Points) -> Float[Tensor, "batch vertices 3"]:
        """Converts points to vertices in crop space, in pixels."""


class Layers(nn.Sequential):
    """nn.Sequential with its own forward, because torch.compile skips the one of torch."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(x)
        return x


class PositionMapDecoder(ShapeDecoder):
    """PRNet's decoder (Feng et al., ECCV 2018): transposed convolutions up to a UV position map.

    Each of the first three doublings of the side is followed by two convolutions, later ones by a single convolution.
    The output is the offset of each point from the mean face in the middle of the crop.

    Args:
        feature_shape: (channels, height, width) of the backbone's features.
        map_size: side of the map, a power of two times the side of the features; None takes `image_size`.
        channels: width of the first layer (512 in PRNet). Each doubling halves it, down to `min_channels`.

    Raises:
        ConfigError: the features cannot be doubled to `map_size`.
    """

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
        super().__init__(feature_shape[0], morphable_model, image_size, region_weights)
        map_size = map_size or image_size
        doublings = (map_size // feature_shape[1]).bit_length() - 1
        if feature_shape[1] != feature_shape[2] or feature_shape[1] << doublings != map_size:
            raise ConfigError(
                f"model.shape_decoder: map side {map_size} is not a power of two times the {feature_shape[1]} x "
                f"{feature_shape[2]} features of the backbone; change map_size or image_size"
            )
        self.position_map = PositionMap(morphable_model, map_size)
        layers, width = _upsampling_layers(feature_shape[0], channels, min_channels, doublings)
        self.layers = Layers(*layers)
        self.offsets = nn.Conv2d(width, 3, 4, padding="same")
        for parameter in self.offsets.parameters():
            nn.init.zeros_(parameter)
        mean_face = frontal_face(morphable_model, image_size) / image_size
        self.mean_points = nn.Buffer(self.position_map.sample(mean_face[None])[0], persistent=False)
        self.weights = nn.Buffer(self._weights(), persistent=False)

    def _weights(self) -> Float[Tensor, "points"]:
        model, size = self.morphable_model, self.position_map.size
        surface = model.region_weights(**{**self.region_weights, "landmarks": self.region_weights["organs"]})
        weights = self.position_map.sample(surface[None, :, None])[0, :, 0]
        # A landmark is a single point, so only the nearest pixel gets its weight, as in PRNet's mask.
        column, row = uv_to_pixels(model.uv[model.landmarks68], size).round().long().T
        at_landmark = torch.isin(self.position_map.pixels, row * size + column)
        return torch.where(at_landmark, self.region_weights["landmarks"], weights)

    def outputs(self, features: Features) -> tuple[Points]:
        return (self._points(self.layers(features[:, : self.channels])),)

    def points(self, *outputs: Tensor) -> Points:
        return outputs[0]

    def vertices_at(self, indices: Int[Tensor, "some"], *outputs: Tensor) -> Float[Tensor, "batch some 3"]:
        return self.vertices(outputs[0]).index_select(1, indices)

    @full_precision
    def _points(self, hidden: Float[Tensor, "batch channels size size"]) -> Points:
        return self.mean_points + self.position_map.from_map(self.offsets(hidden))

    def target(self, shape_coefficients: Shape, expression_coefficients: Expression, camera: Camera) -> Points:
        coefficients = torch.cat([shape_coefficients, expression_coefficients], dim=-1)
        return self.position_map.project(coefficients, camera) / self.image_size

    def vertices(self, points: Points) -> Float[Tensor, "batch vertices 3"]:
        return self.position_map.to_vertices(points) * self.image_size


def _upsampling_layers(
    channels_in: int, channels: int, min_channels: int, doublings: int
) -> tuple[list[nn.Module], int]:
    """The layers up to the map, and the number of channels of the last one."""
    same_size = partial(nn.Conv2d, kernel_size=4, padding="same", bias=False)  # in PRNet, transposed with stride 1
    layers = _normalised(same_size(channels_in, channels))
    for doubling in range(doublings):
        narrower = max(channels // 2, min_channels)
        layers += _normalised(nn.ConvTranspose2d(channels, narrower, 4, 2, padding=1, bias=False))
        for _ in range(2 if doubling < 3 else 1):
            layers += _normalised(same_size(narrower, narrower))
        channels = narrower
    return [*layers, *_normalised(same_size(channels, channels))], channels


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU()]


class MorphableDecoder(ShapeDecoder):
    """Regresses camera, identity and expression coefficients of the morphable model; the points are its vertices.

    The camera is a rotation (six numbers, Zhou et al., CVPR 2019), a scale and a shift. All outputs are relative to the
    mean face in the middle of the crop. For each coefficient, an output of 1 moves the vertices by 1 % of the face's
    size (root mean square).

    Args:
        feature_shape: (channels, height, width) of the backbone's features.
        hidden: width of the hidden layer.
        pooled: whether the outputs also see the mean of each feature. The hidden layer squeezes the channels to keep
            their places.
    """

    def __init__(
        self,
        feature_shape: tuple[int, int, int],
        morphable_model: MorphableModel,
        image_size: int,
        hidden: int = 512,
        region_weights: dict[str, float] | None = None,
        pooled: bool = False,
    ) -> None:
        super().__init__(feature_shape[0], morphable_model, image_size, region_weights)
        model = morphable_model
        channels, height, width = feature_shape
        squeezed = max(1, hidden // (height * width))
        self.layers = Layers(
            nn.Conv2d(channels, squeezed, 1), nn.BatchNorm2d(squeezed), nn.ReLU(), nn.Flatten(),
            nn.Linear(squeezed * height * width, hidden), nn.ReLU(),
        )  # fmt: skip
        self.pooled = pooled
        self.regressor = nn.Linear(hidden + channels * pooled, 9 + model.num_shape + model.num_expression)
        nn.init.zeros_(self.regressor.weight)
        nn.init.zeros_(self.regressor.bias)
        displacement = model.basis.square().sum(0).mean(0).sqrt()
        face_size = (model.mean[model.landmarks68].amax(0) - model.mean[model.landmarks68].amin(0))[:2].mean()
        self.upright = nn.Buffer(torch.tensor([1.0, 0, 0, 0, 1, 0]), persistent=False)
        self.unit = nn.Buffer(0.01 * face_size / displacement, persistent=False)
        self.frontal_camera = nn.Buffer(frontal_camera(model, image_size), persistent=False)
        self.weights = nn.Buffer(model.region_weights(**self.region_weights), persistent=False)

    def outputs(self, features: Features) -> tuple[Shape, Expression, Camera]:
        """Identity and expression coefficients, and the camera to crop space."""
        features = features[:, : self.channels]
        hidden = self.layers(features)
        if self.pooled:
            hidden = torch.cat([hidden, features.mean((2, 3)).to(hidden.dtype)], dim=1)
        return self._coefficients(hidden)

    @full_precision
    def _coefficients(self, hidden: Float[Tensor, "batch hidden"]) -> tuple[Shape, Expression, Camera]:
        output = self.regressor(hidden)
        rotation = rotation_6d_to_matrix(output[:, :6] + self.upright)
        linear = output[:, 6].exp()[:, None, None] * (self.frontal_camera[:, :3] @ rotation)
        shift = self.image_size * nn.functional.pad(output[:, 7:9], (0, 1))
        camera = torch.cat([linear, (self.frontal_camera[:, 3] + shift)[..., None]], dim=-1)
        shape, expression = (output[:, 9:] * self.unit).tensor_split([self.morphable_model.num_shape], dim=-1)
        return shape, expression, camera

    def points(self, *outputs: Tensor) -> Points:
        return self.target(*outputs)

    def target(self, shape_coefficients: Shape, expression_coefficients: Expression, camera: Camera) -> Points:
        vertices = self.morphable_model.project(shape_coefficients, expression_coefficients, camera)
        return center_depth(vertices) / self.image_size

    @full_precision
    def vertices_at(self, indices: Int[Tensor, "some"], *outputs: Tensor) -> Float[Tensor, "batch some 3"]:
        shape, expression, camera = outputs
        mean, basis = self.morphable_model.mean[indices], self.morphable_model.basis[:, indices]
        return apply_camera(camera, linear_faces(mean, basis, torch.cat([shape, expression], dim=1)))

    def vertices(self, points: Points) -> Float[Tensor, "batch vertices 3"]:
        return points * self.image_size


def frontal_camera(model: MorphableModel, image_size: int) -> Float[Tensor, "3 4"]:
    """The camera that shows the mean face upright and frontal, framed like every crop."""
    landmarks = model.mean[model.landmarks68]
    low, high = landmarks.amin(0), landmarks.amax(0)
    scale = image_size / (CROP_MARGIN * (high - low)[:2].mean())
    y_down = scale * low.new_tensor([1.0, -1.0, 1.0])
    crop_centre = low.new_tensor([(image_size - 1) / 2, (image_size - 1) / 2, 0.0])
    return torch.cat([torch.diag(y_down), (crop_centre - y_down * (low + high) / 2)[:, None]], dim=1)


def frontal_face(model: MorphableModel, image_size: int) -> Float[Tensor, "vertices 3"]:
    """The mean face in the middle of the crop, in pixels, which is what an untrained decoder predicts."""
    return center_depth(apply_camera(frontal_camera(model, image_size)[None], model.mean[None]))[0]
