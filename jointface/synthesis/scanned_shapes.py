"""Identities of scanned people for the synthetic head, from ICT-FaceKit's principal components."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.geometry.correspondence import Correspondence, correspondence
from jointface.geometry.ict import load_ict
from jointface.geometry.morphable_model import MorphableModel
from jointface.synthesis.head import Head

PRIOR = 1.0  # mm^2: variance of what the head cannot follow


class ScannedShapes:
    """Samples shapes of scanned faces as identity coefficients of the head.

    A component of the scans displaces the head's vertices by way of the dense correspondence. Its coefficients are
    those of the nearest displacement that the head can make, under a prior of unit variance; so skull and neck follow.
    Sex, age and ancestry stay those of the sampled person, to whom hair, skin and clothes belong.

    Args:
        kept: directions in the space of the coefficients that are those of the person.
    """

    def __init__(
        self, head: Head, folder: str, kept: Sequence[Float[Tensor, "shape"]], cache_dir: str | None = None
    ) -> None:
        scans = load_ict(folder, expression_components=1)
        found = correspondence(head.model, scans, Path(cache_dir) if cache_dir else None)
        components, self.explained = nearest_components(head.model, scans, found)
        kept_axes = torch.linalg.qr(torch.stack([*kept], dim=1))[0]
        self.of_person = kept_axes @ kept_axes.T
        self.components = components - components @ self.of_person

    def sample(self, rng: np.random.Generator, person: Float[Tensor, "shape"]) -> Float[Tensor, "shape"]:
        """Identity coefficients of a scanned face, given those of the person."""
        scan = torch.from_numpy(rng.standard_normal(len(self.components))).float()
        return self.of_person @ person + scan @ self.components


def nearest_components(
    model: MorphableModel, other: MorphableModel, found: Correspondence
) -> tuple[Float[Tensor, "components shape"], float]:
    """Identity components of another model as coefficients of `model`, and the share of their variance on the vertices
    that correspond. Both are in millimetres; heads are centred on their landmarks."""
    ours, theirs = (
        basis - basis[model.landmarks68].mean(0)
        for basis in (model.shape_basis, found.carry(other.basis)[..., : other.num_shape].transpose(0, 1))
    )
    ours, theirs = (basis[found.mask].flatten(0, 1).double() for basis in (ours, theirs))
    precision = ours.T @ ours + PRIOR * torch.eye(model.num_shape)
    components = torch.linalg.solve(precision, ours.T @ theirs)
    explained = 1 - (theirs - ours @ components).square().sum() / theirs.square().sum()
    return components.T.float(), explained.item()
