"""The finder's network: it says where faces are at four strides at once, without anchors (as FCOS, Tian et al., ICCV
2019)."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STRIDES = (8, 16, 32, 64)
UNIT = 3.0  # size of a face box, in strides, where the predicted log size is 0


class SeparableBlock(nn.Sequential):
    """Depthwise, then pointwise convolution, each with batch norm; ReLU at the end."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class FinderNetwork(nn.Module):
    """Predicts four numbers for every cell of feature maps with the strides STRIDES: a logit (face or not) and the face
    box in this package's framing, that is centre and size of the 68 landmarks.

    Args:
        width: channels of the stem; the other parts have twice as many.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        wide = 2 * width
        self.width = width
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 4, 4, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            SeparableBlock(width, width),
        )  # fmt: skip
        inputs = (width, wide, wide, wide)
        self.stages = nn.ModuleList(
            nn.Sequential(SeparableBlock(channels, wide, 2), SeparableBlock(wide, wide)) for channels in inputs
        )
        self.merges = nn.ModuleList(SeparableBlock(wide, wide) for _ in STRIDES[:-1])
        self.heads = nn.ModuleList(nn.Conv2d(wide, 4, 1) for _ in STRIDES)
        for head in self.heads:
            nn.init.constant_(head.bias[:1], -4.0)  # type: ignore[index]  # few cells hold a face

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch 4 _ _"]]:
        """Raw maps at each stride: logit, offset of the face's centre from the cell's centre in strides (x, y), log
        size.

        Args:
            images: RGB in -1 ... 1; height and width are multiples of 32.
        """
        features, last = [], self.stem(images)
        for stage in self.stages:
            last = stage(last)
            features.append(last)
        for level in reversed(range(len(self.merges))):
            fine, coarse = features[level], nn.functional.interpolate(features[level + 1], scale_factor=2.0)
            # The coarsest map may reach beyond the picture by half a cell.
            features[level] = self.merges[level](fine + coarse[..., : fine.shape[-2], : fine.shape[-1]])
        return [head(feature) for head, feature in zip(self.heads, features, strict=True)]


def to_input(images: Tensor) -> Tensor:
    """Pixels of 0 ... 255 as the network takes them."""
    return images.to(torch.float32).mul_(1 / 127.5).sub_(1.0)


def fold_batch_norm(network: FinderNetwork) -> FinderNetwork:
    """The network with every batch norm folded into the convolution before it, in evaluation mode: the same outputs in
    half the time. Changes it in place."""
    network.eval()
    for part in network.modules():
        if not isinstance(part, nn.Sequential):
            continue
        for number, (before, layer) in enumerate(pairwise(part)):
            if isinstance(before, nn.Conv2d) and isinstance(layer, nn.BatchNorm2d):
                part[number], part[number + 1] = fuse_conv_bn_eval(before, layer), nn.Identity()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
