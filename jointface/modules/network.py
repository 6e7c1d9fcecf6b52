"""The network: one backbone with a shape decoder and an attribute classifier; one of the two heads may be missing."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from hydra.errors import HydraException
from hydra.utils import get_class
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jointface.errors import ConfigError, InputError
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules.backbones import feature_shape
from jointface.modules.landmark_uncertainty import LandmarkUncertainty
from jointface.modules.shape_decoders import ShapeDecoder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Prediction(NamedTuple):
    """The outputs for a batch of faces; None if the network lacks the head."""

    vertices: Float[Tensor, "batch vertices 3"] | None  # dense faces in crop space, in pixels
    logits: Float[Tensor, "batch attributes"] | None  # union vocabulary; `jointface.attributes` calibrates them


class AttributeClassifier(nn.Module):
    """Average pooling, dropout and a linear layer with one logit for each attribute of the union vocabulary.

    feature_shape: (channels, height, width) of the backbone's features.
    """

    def __init__(self, feature_shape: tuple[int, int, int], num_attributes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(feature_shape[0], num_attributes)
        )

    def forward(self, features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch attributes"]:
        return self.layers(features)


class FaceNetwork(nn.Module):
    """Predicts the dense shape and the attribute logits of face crops.

    Args:
        image_size: side of the crops in pixels.
        attributes: the union vocabulary, one name for each logit.
        channels_last: whether images and convolutions use the channels-last layout, which most machines run faster.
        landmark_uncertainty: predicts the standard deviation of each landmark; None: the network does not.
    """

    def __init__(
        self,
        backbone: nn.Module,
        shape_decoder: ShapeDecoder | None,
        attribute_classifier: AttributeClassifier | None,
        image_size: int,
        attributes: Sequence[str],
        channels_last: bool = True,
        landmark_uncertainty: LandmarkUncertainty | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.shape_decoder = shape_decoder
        self.attribute_classifier = attribute_classifier
        self.landmark_uncertainty = landmark_uncertainty
        self.image_size = image_size
        self.attributes = tuple(attributes)
        self.label_sets: dict[str, dict[str, Any]] = {}  # attributes and alpha, by training source
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.mean = nn.Buffer(torch.tensor(IMAGENET_MEAN)[:, None, None] * 255, persistent=False)
        self.std = nn.Buffer(torch.tensor(IMAGENET_STD)[:, None, None] * 255, persistent=False)
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def features(self, images: UInt8[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch channels height width"]:
        """The features of RGB crops; the crops are normalised here, on the device.

        Raises:
            InputError: the images are not uint8 of shape (batch, 3, image_size, image_size).
        """
        expected = (3, self.image_size, self.image_size)
        if images.dtype != torch.uint8 or images.shape[1:] != expected:
            raise InputError(
                f"expected uint8 RGB images of shape (batch, 3, {self.image_size}, {self.image_size}), "
                f"got {images.dtype} of shape {tuple(images.shape)}"
            )
        normalised = (images.float() - self.mean) / self.std
        return self.backbone(normalised.contiguous(memory_format=self.memory_format))

    def forward(self, images: UInt8[Tensor, "batch 3 size size"]) -> Prediction:
        features = self.features(images)
        decoder, classifier = self.shape_decoder, self.attribute_classifier
        return Prediction(
            vertices=None if decoder is None else decoder.vertices(decoder(features)),
            logits=None if classifier is None else classifier(features).float(),
        )


def build_network(
    config: Mapping[str, Any], attributes: Sequence[str], morphable_model: MorphableModel | None
) -> FaceNetwork:
    """Builds a network from a config in plain containers: `image_size`, `channels_last`, and for each of `backbone`,
    `shape_decoder`, `attribute_classifier` and `landmark_uncertainty` its `_target_` and settings, or None to leave out
    a head; older checkpoints lack the last one.

    Raises:
        ConfigError: the parts do not fit together.
    """
    backbone = _build("backbone", config["backbone"])
    image_size = config["image_size"]
    shape = feature_shape(backbone, image_size)
    of_last_stage = (shape[0] - getattr(backbone, "extra_channels", 0), *shape[1:])
    decoder = classifier = uncertainty = None
    if config["shape_decoder"] is not None:
        if morphable_model is None:
            raise ConfigError("model.shape_decoder needs a morphable model: set morphable_model")
        given: dict[str, Any] = {
            "feature_shape": of_last_stage,
            "morphable_model": morphable_model,
            "image_size": image_size,
        }
        decoder = _build("shape_decoder", config["shape_decoder"], **given)
    if config["attribute_classifier"] is not None:
        if not attributes:
            raise ConfigError(
                "model.attribute_classifier needs a source that labels attributes: add one to data.sources"
            )
        given = {"feature_shape": shape, "num_attributes": len(attributes)}
        classifier = _build("attribute_classifier", config["attribute_classifier"], **given)
    if config.get("landmark_uncertainty") is not None:
        if decoder is None:
            raise ConfigError("model.landmark_uncertainty needs model.shape_decoder, which predicts the landmarks")
        uncertainty = _build("landmark_uncertainty", config["landmark_uncertainty"], feature_shape=shape)
    return FaceNetwork(backbone, decoder, classifier, image_size, attributes, config["channels_last"], uncertainty)


def _build(part: str, config: Mapping[str, Any], **given: Any) -> Any:
    settings = {key: value for key, value in config.items() if key != "_target_"}
    try:
        # Hydra's `instantiate` is avoided: it would build any class nested in the config of a checkpoint.
        return get_class(config["_target_"])(**settings, **given)
    except ConfigError:
        raise
    except (HydraException, KeyError, ImportError, TypeError, ValueError) as error:
        raise ConfigError(f"model.{part} cannot be built: {' '.join(str(error).split())}") from error
