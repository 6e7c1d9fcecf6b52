"""L_shape of each sample and the mean of L_attr, of Weng et al., ICPR 2020 (docs/method.md).

`samples` is the number of samples by which a sum over them is divided, see `samples_per_process`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

Loss = Float[Tensor, ""]
Points = Float[Tensor, "samples points 3"]
Values = Float[Tensor, "samples attributes"]
Samples = Float[Tensor, "samples"]
SMOOTHED = 1e-4  # in units of the crop: roots below it lose their slope, which is infinite at 0


def shape_loss(predicted: Points, target: Points, weights: Float[Tensor, "points"]) -> Samples:
    """L_shape = (1/N) sum_l W_l ||S_l - S^_l||^2 over the N points of the face, in crop space divided by crop size."""
    return ((predicted - target).square().sum(-1) * weights).mean(1)


def root_mean_square(squared: Samples) -> Samples:
    """The root of each sample's L_shape.

    The gradient of L_shape is proportional to the error, so a mini-batch is ruled by its worst faces, and later by the
    other task. The gradient of the root does not depend on the size of the error.
    """
    return squared / ((squared + SMOOTHED**2).sqrt() + SMOOTHED)  # = sqrt(squared + SMOOTHED^2) - SMOOTHED


def landmark_loss(
    predicted: Float[Tensor, "samples 68 dims"],
    target: Float[Tensor, "samples 68 dims"],
    weight: float,
    mask: Bool[Tensor, "samples 68"],
) -> Samples:
    """L_shape where l runs over the labelled landmarks of each sample and N is their number; W_l is the landmarks'
    `weight`.

    With three dimensions, z is relative to the mean over the labelled landmarks.
    """
    share = mask / mask.sum(1, keepdim=True).clamp(min=1)
    offset = predicted - target
    if offset.shape[-1] == 3:
        offset = offset - F.pad((share[..., None] * offset[..., 2:]).sum(1, keepdim=True), (2, 0))
    squared_distance = torch.where(mask, offset.square().sum(-1), 0.0)
    return weight * (squared_distance * share).sum(1)


def landmark_likelihood_loss(
    predicted: Float[Tensor, "samples 68 2"],
    target: Float[Tensor, "samples 68 2"],
    sigma: Float[Tensor, "samples 68"],
    mask: Bool[Tensor, "samples 68"],
    samples: Loss | int,
) -> Loss:
    """sum_l ( ||x_l - x^_l||^2 / (2 sigma_l^2) + 2 log sigma_l ) over the labelled landmarks of each sample: the
    negative logarithm of their likelihood up to a constant, if x and y have normal errors of standard deviation
    sigma_l."""
    squared_distance = torch.where(mask, (predicted - target).square().sum(-1), 0.0)
    likelihood = squared_distance / (2 * sigma.square()) + 2 * sigma.log()
    return (likelihood * mask).sum() / samples


def attribute_loss(
    logits: Values, labels: Values, mask: Bool[Tensor, "samples attributes"], alpha: Values, samples: Loss | int
) -> Loss:
    """L_attr = -sum_m [alpha_m A_m log A^_m + (1 - A_m) log(1 - A^_m)] over the labelled attributes of each sample,
    with A^ = sigmoid(logit) and the alpha of the sample's own label set."""
    # -log sigmoid(z) = softplus(-z) and -log(1 - sigmoid(z)) = softplus(z) stay finite at any logit.
    cross_entropy = alpha * labels * F.softplus(-logits) + (1 - labels) * F.softplus(logits)
    return (cross_entropy * mask).sum() / samples
