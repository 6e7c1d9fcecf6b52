"""The attribute head."""

from jaxtyping import Float
from torch import Tensor, nn


class AttributeClassifier(nn.Module):
    """Average pooling, dropout and a linear layer, which gives one logit for each attribute of the union vocabulary.

    Args:
        feature_shape: (channels, height, width) of the backbone's features.
        num_attributes: size of the union vocabulary.
        dropout: share of the pooled features dropped in training.
    """

    def __init__(self, feature_shape: tuple[int, int, int], num_attributes: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout), nn.Linear(feature_shape[0], num_attributes)
        )

    def forward(self, features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch attributes"]:
        return self.layers(features)
