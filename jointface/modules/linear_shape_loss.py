"""L_shape between two faces of one morphable model, exact, without computing a vertex."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jointface.geometry.camera import is_mirrored
from jointface.geometry.full_precision import full_precision
from jointface.geometry.morphable_model import MorphableModel

Coefficients = Sequence[Tensor]  # identity (B, Ks), expression (B, Ke), camera (B, 3, 4)


class LinearShapeLoss(nn.Module):
    """(1/N) sum_l W_l ||S_l - S^_l||^2 over the N vertices of a linear model, for each pair of faces.

    Let c = (1, a, b), and X_lk the mean and the bases at a vertex. Then S_l = sum_k c_k L X_lk + t is linear in the
    products of camera (L, t) and coefficients: S_l = P f_l. P has the columns c_k L and t, and f_l stacks the X_lk
    and a 1. Two faces differ by D f_l with D = P - P^. So the sum is ||D H||^2 with H H^T = (1/N) sum_l W_l f_l f_l^T,
    and H depends on the model alone. A face takes some 10^5 multiplications instead of the 10^7 of its vertices.

    A mirrored face takes each vertex from the other side, so f_l also holds the mirror vertex's X.

    Args:
        weights: W_l, (V,).
        image_size: side of the crop in pixels, by which S_l is divided.
    """

    def __init__(self, model: MorphableModel, weights: Float[Tensor, "vertices"], image_size: int) -> None:
        super().__init__()
        self.image_size = image_size
        # Coefficients of one face differ by orders of magnitude. In these units each moves the vertices by one unit.
        scale = torch.cat([model.mean.square().mean()[None], model.basis.square().mean((0, 1))]).sqrt()
        self.scale = nn.Buffer(scale, persistent=False)
        linear = torch.cat([model.mean.T[..., None], model.basis], dim=-1) / scale  # X, (3, V, K)
        size = 2 * (3 * len(scale) + 1)
        gram, mean = (linear.new_zeros(*shape, dtype=torch.float64) for shape in ((size, size), (size,)))
        for rows in torch.arange(len(weights), device=weights.device).split(4096):
            sides = [linear[:, which].permute(1, 2, 0).flatten(1).double() for which in (rows, model.mirror[rows])]
            one = torch.ones_like(sides[0][:, :1])
            f = torch.cat([sides[0], one, sides[1], one], dim=1)
            gram += f.T @ (f * weights[rows, None]) / len(weights)
            mean += f.sum(0) / len(weights)
        values, vectors = torch.linalg.eigh(gram)
        self.root = nn.Buffer((vectors * values.clamp(min=0).sqrt()).float(), persistent=False)  # H
        self.mean = nn.Buffer(mean.float(), persistent=False)  # of f_l over the vertices

    def forward(self, predicted: Coefficients, true: Coefficients) -> Float[Tensor, "batch"]:
        """The loss of each pair. Cameras lead to crop space in pixels; z is relative to the mean of the vertices."""
        return self._weighted_square(self._columns(*predicted) - self._columns(*true))

    @full_precision
    def _weighted_square(self, difference: Float[Tensor, "batch 3 columns"]) -> Float[Tensor, "batch"]:
        x, y, z = difference.unbind(1)
        one = len(self.mean) // 2 - 1  # z is relative to its mean
        z = z - nn.functional.pad((z @ self.mean)[:, None], (one, len(self.mean) - one - 1))
        return (torch.stack([x, y, z], dim=1) @ self.root).square().sum((1, 2))

    def _columns(self, shape: Tensor, expression: Tensor, camera: Tensor) -> Float[Tensor, "batch 3 columns"]:
        """P: in the first half of the columns for an unmirrored face, in the second for a mirrored one, 0 elsewhere."""
        camera = camera / self.image_size
        coefficients = torch.cat([torch.ones_like(shape[:, :1]), shape, expression], dim=1) * self.scale
        columns = (coefficients[:, None, :, None] * camera[:, :, None, :3]).flatten(2)
        columns = torch.cat([columns, camera[:, :, 3:]], dim=2)
        mirrored = is_mirrored(camera)[:, None, None]
        return torch.cat([torch.where(mirrored, 0, columns), torch.where(mirrored, columns, 0)], dim=2)
