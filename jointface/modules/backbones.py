"""Backbones: from normalised images to one feature map."""

import math
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
        norm: "batch": as the architecture has it; "group": group norm (Wu and He, ECCV 2018) with at most eight
            channels a group instead of batch norm, so that the sources of a mini-batch share no statistics.
        **architecture: fields of the architecture's config, e.g. depths=[3, 4, 6, 3]. If `out_indices` names further
            stages, e.g. [1, 2, 3, 4], their means over the map follow as further channels, constant over the map.
            The shape decoder does not see them.

    Raises:
        ConfigError: transformers cannot build it.
    """

    def __init__(
        self,
        model_type: str = "resnet",
        pretrained: str | None = None,
        norm: str = "batch",
        **architecture: Any,
    ) -> None:
        super().__init__()
        if norm not in ("batch", "group"):
            raise ConfigError(f"model.backbone.norm={norm} is unknown; choose from batch, group")
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
        self.norm = norm
        if norm == "group" and (pretrained is not None or not _replace_batch_norm(self.model)):
            raise ConfigError(
                "model.backbone.norm=group replaces batch norms of random weights; this backbone has none"
            )
        self.extra_channels = 0  # how many of the features' channels, the last ones, are means over other stages
        if len(self.model.out_features) > 1:  # its own `channels` are wrong for HGNet-V2 of other widths
            with torch.no_grad():
                *others, _ = self.model.eval()(torch.zeros(1, 3, 64, 64)).feature_maps
            self.extra_channels = sum(stage.shape[1] for stage in others)
            self.train()

    def plain_config(self) -> dict[str, Any]:
        """A config in plain containers that builds the same architecture without hub or folder."""
        fields = {**self.model.config.to_diff_dict(), "model_type": self.model.config.model_type}
        for key in ("transformers_version", "architectures", "dtype"):
            fields.pop(key, None)
        norm = {} if self.norm == "batch" else {"norm": self.norm}
        return {"_target_": "jointface.modules.TransformersBackbone", **norm, **fields}

    def forward(self, images: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch channels height width"]:
        *others, last = self.model(images).feature_maps
        if not others:
            return last
        means = torch.cat([stage.mean((2, 3), keepdim=True) for stage in others], dim=1)
        return torch.cat([last, means.expand(-1, -1, *last.shape[2:])], dim=1)


def _replace_batch_norm(module: nn.Module) -> int:
    """Puts group norms in the place of batch norms. Returns their number."""
    batch_norms = {name: part for name, part in module.named_modules() if isinstance(part, nn.BatchNorm2d)}
    for name, part in batch_norms.items():
        groups = part.num_features // math.gcd(8, part.num_features)
        module.set_submodule(name, nn.GroupNorm(groups, part.num_features))
    return len(batch_norms)


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
