"""Backbones: from normalised images to one feature map."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoBackbone, AutoConfig

from jointface.errors import ConfigError


class TransformersBackbone(nn.Module):
    """Any backbone in transformers.AutoBackbone (ResNet, ConvNeXt V2, HGNet-V2, DINOv2, ...); outputs its last stage.

    Args:
        model_type: the architecture's name in transformers, e.g. "resnet"; its weights are randomly initialised.
        pretrained: a hub id or a folder with weights, used instead of `model_type`.
        **architecture: fields of the architecture's config, e.g. depths=[3, 4, 6, 3].

    Raises:
        ConfigError: transformers cannot build it.
    """

    def __init__(self, model_type: str = "resnet", pretrained: str | None = None, **architecture: Any) -> None:
        super().__init__()
        try:
            if pretrained is None:
                known = AutoConfig.for_model(model_type)
                if unknown := [field for field in architecture if not hasattr(known, field)]:
                    raise ConfigError(f"model.backbone: {model_type} has no setting {', '.join(unknown)}")
                self.model = AutoBackbone.from_config(AutoConfig.for_model(model_type, **architecture))
            else:
                # AutoBackbone.from_pretrained contacts the hub even for a folder, so the config determines the class.
                config = AutoConfig.from_pretrained(pretrained, **architecture)
                kind = type(AutoBackbone.from_config(config))
                self.model = kind.from_pretrained(pretrained, config=config, use_safetensors=True)
        except ConfigError:
            raise
        except Exception as error:  # the hub's client raises many unrelated types
            what = f"pretrained={pretrained}" if pretrained else f"model_type={model_type}"
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(f"model.backbone: transformers cannot build {what}: {reason}") from error
        for name, parameter in self.model.named_parameters():
            if name.endswith("mask_token"):  # only for masked pre-training; DDP requires that all parameters are used
                parameter.requires_grad_(False)

    def plain_config(self) -> dict[str, Any]:
        """A config in plain containers that builds the same architecture without hub or folder."""
        fields = {**self.model.config.to_diff_dict(), "model_type": self.model.config.model_type}
        for key in ("transformers_version", "architectures", "dtype"):
            fields.pop(key, None)
        return {"_target_": "jointface.modules.TransformersBackbone", **fields}

    def forward(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch channels height width"]:
        return self.model(images).feature_maps[-1]


class PRNetEncoder(nn.Module):
    """PRNet's residual encoder (Feng et al., ECCV 2018): ten residual blocks, of which every other halves the side.

    width: number of channels after the first convolution; the features have 32 times as many.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        blocks: list[nn.Module] = [nn.Conv2d(3, width, 4, padding="same", bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        for _ in range(5):
            blocks += [_ResidualBlock(channels, 2 * channels, 2), _ResidualBlock(2 * channels, 2 * channels, 1)]
            channels *= 2
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch channels height width"]:
        return self.blocks(images)


class _ResidualBlock(nn.Module):
    """1 x 1, 4 x 4 and 1 x 1 convolutions with a shortcut, normalised after the sum as in PRNet."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        half = channels_out // 2
        same_shape = stride == 1 and channels_in == channels_out
        self.shortcut = nn.Identity() if same_shape else nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
        self.residual = nn.Sequential(
            nn.Conv2d(channels_in, half, 1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, half, 4, stride, padding=1 if stride == 2 else "same", bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, channels_out, 1, bias=False),
        )
        self.output = nn.Sequential(nn.BatchNorm2d(channels_out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.shortcut(x) + self.residual(x))


def feature_shape(backbone: nn.Module, image_size: int) -> tuple[int, int, int]:
    """The shape (channels, height, width) of the features of a square image."""
    training = backbone.training
    with torch.no_grad():
        channels, height, width = backbone.eval()(torch.zeros(1, 3, image_size, image_size)).shape[1:]
    backbone.train(training)
    return channels, height, width
