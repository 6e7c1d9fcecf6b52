"""Moments of labelled faces, and a prior by them: what no label determines stays as plausible as these faces."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jointface.modules.shape_decoders import MorphableDecoder


class RunningMoments(nn.Module):
    """Mean and variance of coefficients over the labelled faces that were seen so far. Coefficients of a morphable
    model differ by orders of magnitude, so they are compared in these units."""

    def __init__(self, coefficients: int) -> None:
        super().__init__()
        # Means over all batches. Distributed training exchanges them, see `JointFaceModule.setup`.
        self.running_mean = nn.Buffer(torch.zeros(coefficients))
        self.running_square = nn.Buffer(torch.zeros(coefficients))
        self.num_batches_tracked = nn.Buffer(torch.tensor(0))

    def observe(self, coefficients: Float[Tensor, "samples coefficients"]) -> None:
        """Takes the true coefficients of a training batch into account."""
        if self.training and len(coefficients):
            self.num_batches_tracked.add_(1)
            for running, batch in (
                (self.running_mean, coefficients.mean(0)),
                (self.running_square, coefficients.square().mean(0)),
            ):
                running.add_((batch - running) / self.num_batches_tracked)

    def variance(self) -> Float[Tensor, "coefficients"]:
        """Of each coefficient."""
        return self.running_square - self.running_mean.square()

    def inverse_deviation(self) -> Float[Tensor, "coefficients"]:
        """1 / standard deviation; 0 for a coefficient that varies by no more than rounding."""
        variance = self.variance()
        return torch.where(variance > 1e-5 * self.running_square, variance.rsqrt(), 0)


class CoefficientPrior(RunningMoments):
    """L_prior = (1/N) sum_k ((c_k - mean_k) / std_k)^2 over the N identity and expression coefficients: the negative
    logarithm of a normal density, up to factor and constant (as in 3DMM fitting; Blanz and Vetter, SIGGRAPH 1999). It
    is about 1 for faces like the labelled ones.

    decoder: its morphable model is that of the coefficients.
    """

    def __init__(self, decoder: MorphableDecoder) -> None:
        super().__init__(decoder.morphable_model.num_shape + decoder.morphable_model.num_expression)

    def forward(self, coefficients: Float[Tensor, "samples coefficients"], samples: Tensor | int) -> Float[Tensor, ""]:
        """The sum over the faces, divided by `samples`."""
        standard = (coefficients - self.running_mean) * self.inverse_deviation()
        return standard.square().mean(1).sum() / samples
