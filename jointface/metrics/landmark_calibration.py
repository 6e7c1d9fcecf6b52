"""Calibration of landmarks: whether errors are as large as the predicted standard deviations say."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

Points = Float[Tensor, "batch 68 2"]
WITHIN = "landmarks_within"  # name of the share of landmarks within the distance that is expected for a share


class LandmarkCalibration(Metric):
    """How far the frequencies of landmark errors are from those that the predicted standard deviations say.

    If x and y of a landmark have normal errors of standard deviation sigma, its distance r from the truth has a
    Rayleigh distribution: r <= sigma sqrt(-2 log(1 - q)) with probability q. For q = 0.1, 0.2, ... 0.9, the share of
    landmarks within this distance is compared with q. `landmark_calibration_error` is the mean absolute difference,
    `landmarks_within/q` are the shares, a calibration curve.
    """

    full_state_update = False
    within: Tensor  # number of landmarks, by q
    landmarks: Tensor  # their number in all

    def __init__(self) -> None:
        super().__init__()
        self.add_state("within", default=torch.zeros(9, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("landmarks", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(
        self, predicted: Points, truth: Points, sigma: Float[Tensor, "batch 68"], mask: Bool[Tensor, "batch 68"]
    ) -> None:
        """Adds faces, all in the same unit. mask: the landmarks that are labelled."""
        squared = ((predicted - truth).square().sum(-1) / sigma.square())[mask]
        self.within += (squared[:, None] <= -2 * torch.log1p(-self._shares())).sum(0)
        self.landmarks += mask.sum()

    def update_empty(self) -> None:
        """Updates with no faces. In a distributed run, a process without faces needs this before `compute`."""
        none = torch.zeros(0, 68, 2, device=self.device)
        self.update(none, none, none[..., 0], none[..., 0].bool())

    def _shares(self) -> Float[Tensor, "9"]:
        return torch.arange(1, 10, device=self.device) / 10

    def compute(self) -> dict[str, Tensor]:
        """Error and shares by name; empty if no landmarks were added."""
        if not self.landmarks:
            return {}
        expected, found = self._shares(), self.within / self.landmarks
        curve = {f"{WITHIN}/{share:.1f}": value for share, value in zip(expected.tolist(), found, strict=True)}
        return {"landmark_calibration_error": (found - expected).abs().mean(), **curve}
