"""What a checkpoint knows of whose face it sees, on synthetic test faces.

`python -m bench.identity CHECKPOINT [FACES]`: the identity error of its prediction, of predictors that know less, and
of a ridge regression from its own features; how the leading identity coefficients go with the truth; and what is left
of its dense error when parts of the prediction are replaced by the truth.
"""

import sys
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.utils.data import DataLoader

from jointface.datamodules import CropTransform, SyntheticFaces
from jointface.evaluation.feature_space import FOLDS, RIDGE_STRENGTHS, SEED
from jointface.evaluation.known_shape import identity_error
from jointface.geometry import MorphableModel, center_depth
from jointface.modules import load_model
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder

LEADING = 5


class Faces(NamedTuple):
    """Features (N, C), and identity (N, Ks), expression (N, Ke) and camera (N, 3, 4) as predicted and as labelled."""

    features: Tensor
    predicted: tuple[Tensor, Tensor, Tensor]
    true: tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def read(network: FaceNetwork, dataset: SyntheticFaces) -> Faces:
    """What a network with a morphable decoder makes of the faces."""
    decoder = network.shape_decoder
    assert isinstance(decoder, MorphableDecoder)
    columns: list[list[Tensor]] = [[] for _ in range(7)]
    for batch in DataLoader(dataset, batch_size=64):
        features = network.features(batch["image"])
        true = (batch[key] for key in ("shape_coefficients", "expression_coefficients", "camera"))
        for column, part in zip(columns, (features.mean((2, 3)), *decoder.outputs(features), *true), strict=True):
            column.append(part)
    features, *parts = (torch.cat(column) for column in columns)
    return Faces(features, tuple(parts[:3]), tuple(parts[3:]))  # type: ignore[arg-type]


def ridge(features: Tensor, truth: Float[Tensor, "faces shape"]) -> Float[Tensor, "faces shape"]:
    """Identity by ridge regression from the features, each face predicted by the folds that it is not in."""
    x, y = features.double().numpy(), truth.double().numpy()
    predicted = np.empty_like(y)
    for train, test in KFold(FOLDS, shuffle=True, random_state=SEED).split(x):
        scaler = StandardScaler().fit(y[train])
        model = make_pipeline(StandardScaler(), RidgeCV(RIDGE_STRENGTHS, alpha_per_target=True))
        predicted[test] = scaler.inverse_transform(model.fit(x[train], scaler.transform(y[train])).predict(x[test]))
    return torch.from_numpy(predicted).float()


def identity_errors(model: MorphableModel, faces: Faces) -> dict[str, tuple[float, float]]:
    """Identity error in mm, with and without size, of several predictors."""
    truth = faces.true[0]
    predictors = {
        "network": faces.predicted[0],
        "mean face": torch.zeros_like(truth),
        "somebody else": truth.roll(1, 0),
        "ridge regression from the network's features": ridge(faces.features, truth),
    }
    return {
        name: tuple(  # type: ignore[misc]
            float(np.mean([identity_error(model, p, t, scaled) for p, t in zip(predicted, truth, strict=True)]))
            for scaled in (False, True)
        )
        for name, predicted in predictors.items()
    }


def dense_error(model: MorphableModel, faces: Faces, true: tuple[bool, bool, bool]) -> float:
    """Dense error in mm where the identity, the expression, the camera that are marked are the true ones."""
    face = model.face_region
    parts = (t if mark else p for p, t, mark in zip(faces.predicted, faces.true, true, strict=True))
    distance = center_depth(model.project(*parts)[:, face]) - center_depth(model.project(*faces.true)[:, face])
    pixels_per_mm = faces.true[2][:, :, :3].norm(dim=2).mean(1)
    return (distance.norm(dim=2).mean(1) / pixels_per_mm).mean().item()


def main(checkpoint: str, count: int) -> None:
    """Prints the three tables."""
    network = load_model(checkpoint)
    assert network.shape_decoder is not None
    model = network.shape_decoder.morphable_model
    faces = read(network, SyntheticFaces("test", CropTransform(network.image_size), count))
    print(f"identity error of {count} faces in mm, with and without size")
    for name, errors in identity_errors(model, faces).items():
        print(f"  {name:45} {errors[0]:.2f}  {errors[1]:.2f}")
    print("leading coefficients: spread in mm of the truth, of the prediction; their correlation; R2")
    millimetres = model.shape_basis[model.face_region].square().sum(1).mean(0).sqrt()
    predicted, truth = (coefficients[0] * millimetres for coefficients in (faces.predicted, faces.true))
    r2 = 1 - (predicted - truth).square().mean(0) / truth.var(0, correction=0)
    for k in range(LEADING):
        correlation = torch.corrcoef(torch.stack([predicted[:, k], truth[:, k]]))[0, 1]
        print(f"  {k}: {truth[:, k].std():.2f}  {predicted[:, k].std():.2f}  {correlation:.2f}  {r2[k]:.2f}")
    share = truth[:, :LEADING].var(0).sum() / truth.var(0).sum()
    print(f"  they hold {100 * share:.0f} % of the variance")
    print("dense error in mm, with the true part in place of the predicted one")
    replaced = {"none": (False,) * 3, "identity": (True, False, False), "expression": (False, True, False),
                "camera": (False, False, True), "camera and expression": (False, True, True)}  # fmt: skip
    for name, true in replaced.items():
        print(f"  {name:22} {dense_error(model, faces, true):.2f}")  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 500)
