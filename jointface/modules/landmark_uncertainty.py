"""How exact a predicted landmark is: a head that predicts its standard deviation, taught by the errors it makes."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jointface.errors import ConfigError

LANDMARKS = 68


class LandmarkUncertainty(nn.Module):
    """Predicts sigma_l for each landmark: average pooling and a linear layer, whose outputs are log sigma_l.

    sigma_l is the standard deviation of x and of y, as a fraction of the crop's side. `landmark_likelihood_loss`
    teaches it (Wood et al., "3D face reconstruction with dense landmarks", ECCV 2022).

    Args:
        feature_shape: (channels, height, width) of the backbone's features.
        initial: sigma_l of all landmarks before training.

    Raises:
        ConfigError: `initial` is not above 0, or not finite.
    """

    def __init__(self, feature_shape: tuple[int, int, int], initial: float = 0.02) -> None:
        super().__init__()
        if not 0 < initial < math.inf:
            raise ConfigError(f"model.landmark_uncertainty.initial={initial}: must be above 0 and finite")
        linear = nn.Linear(feature_shape[0], LANDMARKS)
        nn.init.zeros_(linear.weight)
        nn.init.constant_(linear.bias, math.log(initial))
        self.layers = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)

    def forward(self, features: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch 68"]:
        """sigma_l, above 0."""
        return torch.exp(self.layers(features).float())
