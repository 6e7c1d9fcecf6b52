"""The network: one backbone, a shape decoder and an attribute classifier, either of which may be left out."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from hydra.errors import HydraException
from hydra.utils import get_class
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from jointface.errors import ConfigError, InputError
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules.attribute_classifier import AttributeClassifier
from jointface.modules.backbones import feature_shape
from jointface.modules.shape_decoders import ShapeDecoder

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Prediction(NamedTuple):
    """What the network reads in a batch of faces; None where it has no such head.

    vertices: (B, V, 3) dense face in crop space, in pixels. logits: (B, U) of the union vocabulary; their balanced and
    calibrated readings are in `jointface.attributes`.
    """

    vertices: Float[Tensor, "batch vertices 3"] | None
    logits: Float[Tensor, "batch attributes"] | None


class FaceNetwork(nn.Module):
    """Face crops to dense shape and attribute logits.

    Args:
        backbone: images to a feature map.
        shape_decoder, attribute_classifier: the heads; None leaves one out.
        image_size: side of the crops it reads.
        attributes: names of the union vocabulary, one a logit.
        channels_last: memory layout of images and convolutions; the faster one on most machines.
    """

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    def __init__(
        self,
        backbone: nn.Module,
        shape_decoder: ShapeDecoder | None,
        attribute_classifier: AttributeClassifier | None,
        image_size: int,
        attributes: Sequence[str],
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.shape_decoder = shape_decoder
        self.attribute_classifier = attribute_classifier
        self.image_size = image_size
        self.attributes = tuple(attributes)
        self.label_sets: dict[str, dict[str, Any]] = {}  # attributes and alpha of each data set it was trained on
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None] * 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None] * 255, persistent=False)
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    def features(self, images: UInt8[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch channels height width"]:
        """Features of uint8 RGB crops; normalisation happens here, on the device.

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
    """The network of a plain config: `image_size`, `channels_last`, and `backbone`, `shape_decoder`,
    `attribute_classifier` with a `_target_` each, the heads None to leave them out.

    Raises:
        ConfigError: the parts do not fit together.
    """
    backbone = _build("backbone", config["backbone"])
    image_size = config["image_size"]
    shape = feature_shape(backbone, image_size)
    decoder = classifier = None
    if config["shape_decoder"] is not None:
        if morphable_model is None:
            raise ConfigError("model.shape_decoder needs a morphable model: set morphable_model")
        decoder = _build(
            "shape_decoder",
            config["shape_decoder"],
            feature_shape=shape,
            morphable_model=morphable_model,
            image_size=image_size,
        )
    if config["attribute_classifier"] is not None:
        if not attributes:
            raise ConfigError(
                "model.attribute_classifier needs a source that labels attributes: add one to data.sources"
            )
        classifier = _build(
            "attribute_classifier", config["attribute_classifier"], feature_shape=shape, num_attributes=len(attributes)
        )
    return FaceNetwork(backbone, decoder, classifier, image_size, attributes, config["channels_last"])


def _build(part: str, config: Mapping[str, Any], **arguments: Any) -> Any:
    settings = {key: value for key, value in config.items() if key != "_target_"}
    try:
        # Called by hand: the config of a checkpoint must not reach Hydra's interpolation and nested instantiation.
        return get_class(config["_target_"])(**settings, **arguments)
    except ConfigError:
        raise
    except (HydraException, KeyError, ImportError, TypeError, ValueError) as error:
        raise ConfigError(f"model.{part} cannot be built: {' '.join(str(error).split())}") from error
