"""Normalised mean error (NME) of landmarks and of the dense face."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from jointface.geometry.camera import center_depth

YAW_BINS = ((0, 30), (30, 60), (60, 90))  # degrees; the bins in papers on 300W-LP and AFLW2000-3D


def normalised_mean_error(
    predicted: Float[Tensor, "batch points dims"],
    truth: Float[Tensor, "batch points dims"],
    landmarks: Float[Tensor, "batch 68 dims3"],
) -> Float[Tensor, "batch"]:
    """Mean point distance of each face, in 2D or 3D, divided by the size of its true landmarks' box in the image
    (Zhu et al., CVPR 2016)."""
    return (predicted - truth).norm(dim=-1).mean(-1) / box_size(landmarks)


def box_size(landmarks: Float[Tensor, "*batch 68 dims"]) -> Float[Tensor, "*batch"]:
    """sqrt(width x height) of the landmarks' box in the image."""
    points = landmarks[..., :2]
    return (points.amax(-2) - points.amin(-2)).prod(-1).sqrt()


class FaceNME(Metric):
    """NME of 68 landmarks in 2D and 3D and of the dense face in 3D, over all faces and by absolute yaw.

    In 3D, z is relative to the mean of the compared points, because a photo does not show the distance. The results are
    `nme_2d_68`, `nme_3d_68`, `nme_3d_dense` and, for each yaw bin with faces, `nme_2d_68_yaw_0_30` and so on.
    """

    full_state_update = False
    errors: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("errors", default=[], dist_reduce_fx="cat")

    def update(
        self,
        landmarks: Float[Tensor, "batch 68 3"],
        true_landmarks: Float[Tensor, "batch 68 3"],
        vertices: Float[Tensor, "batch vertices 3"],
        true_vertices: Float[Tensor, "batch vertices 3"],
        yaw: Float[Tensor, "batch"],
    ) -> None:
        """Adds faces. Landmarks and vertices are in pixels of the same space, z has any origin, yaw is in degrees."""
        pairs = (
            (landmarks[..., :2], true_landmarks[..., :2]),
            (center_depth(landmarks), center_depth(true_landmarks)),
            (center_depth(vertices), center_depth(true_vertices)),
        )
        errors = [normalised_mean_error(predicted, truth, true_landmarks) for predicted, truth in pairs]
        self.errors.append(torch.stack([*errors, yaw.abs()], dim=1))

    def update_empty(self) -> None:
        """Updates with no faces. In a distributed run, a process without faces needs this before `compute`."""
        none = torch.zeros(0, 68, 3, device=self.device)
        self.update(none, none, none, none, none[:, 0, 0])

    def compute(self) -> dict[str, Tensor]:
        """Errors by name; empty if no faces were added."""
        errors = dim_zero_cat(self.errors)
        if not len(errors):
            return {}
        nme_2d, nme_3d, dense, yaw = errors.unbind(1)
        result = {"nme_2d_68": nme_2d.mean(), "nme_3d_68": nme_3d.mean(), "nme_3d_dense": dense.mean()}
        for low, high in YAW_BINS:
            inside = (yaw <= high) & ((yaw > low) | (low == 0))
            if inside.any():
                result[f"nme_2d_68_yaw_{low}_{high}"] = nme_2d[inside].mean()
        return result


EYE_CORNERS = (36, 45)  # the outer ones


class InnerNME(Metric):
    """NME of hand-marked photos: the mean distance in 2D of the labelled ones of the 51 inner landmarks (17 to 67),
    divided by the distance of the outer eye corners (Sagonas et al., 2016). The result is `nme_inner_51`.

    The contour is left out, since marks on the visible outline have no fixed place on the skin.
    """

    full_state_update = False
    errors: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("errors", default=[], dist_reduce_fx="cat")

    def update(
        self,
        landmarks: Float[Tensor, "batch 68 dims"],
        true_landmarks: Float[Tensor, "batch 68 dims"],
        mask: Bool[Tensor, "batch 68"],
    ) -> None:
        """Adds faces. Landmarks are in pixels of the same space; faces without both eye corners are left out."""
        right, left = (true_landmarks[:, corner, :2] for corner in EYE_CORNERS)
        distance = (landmarks - true_landmarks)[:, 17:, :2].norm(dim=-1)
        inner = mask[:, 17:]
        errors = (distance * inner).sum(1) / inner.sum(1) / (left - right).norm(dim=-1)
        self.errors.append(errors[mask[:, list(EYE_CORNERS)].all(1)])

    def update_empty(self) -> None:
        """Updates with no faces. In a distributed run, a process without faces needs this before `compute`."""
        none = torch.zeros(0, 68, 2, device=self.device)
        self.update(none, none, none[:, :, 0].bool())

    def compute(self) -> dict[str, Tensor]:
        """The error by name; empty if no faces were added."""
        errors = dim_zero_cat(self.errors)
        return {"nme_inner_51": errors.mean()} if len(errors) else {}
