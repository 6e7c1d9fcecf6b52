"""Further measurements of the runs of a sweep such as `sweep=claim`, added to the metrics.json of each run.

`python -m bench.claim runs/claim DATA [FACES]` measures, on the test people of DATA/celeba_wild, none of whom is in
the training:

- `test/people/consistency_error`: how much the identity that is predicted for the photos of one person varies, over how
  much people's mean identities vary, with each coefficient in units of the vertices' movement.
- `test/people/nme_2d_68_occluded`, `..._blurred`, `..._dark`: NME of the landmarks in photos that were made harder.
- `test/attribute_probe/average_precision`, `test/shape_probe/error`: what the features tell of attributes, and the
  share of the identity's variance that they do not tell, by linear probes that are fitted to the training people.

On FACES (default 300) synthetic test faces it measures `test/synthetic/identity_error`: the mean distance in mm between
predicted and true neutral face, aligned with scale, without pose and expression; and the mean face's as
`test/synthetic/trivial/identity_error`. What a network lacks is left out, as identity is by PRNet.

From metrics.csv it takes medians over the training: `train/median_gradient_ratio` of the lengths of the second loss's
gradient on the backbone and of L_shape's, and `train/median_gradient_cosine` between the two.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, UInt8
from sklearn.linear_model import RidgeCV
from sklearn.metrics import average_precision_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import conv2d, pad
from torch.utils.data import DataLoader

from jointface.datamodules import CropTransform, FittedCelebA, SyntheticFaces
from jointface.evaluation.feature_space import RIDGE_STRENGTHS, pooled_features
from jointface.files import write_atomically
from jointface.geometry import MorphableModel, load_bfm_3ddfa
from jointface.geometry.correspondence import correspondence
from jointface.metrics.alignment import fit_similarity, move
from jointface.metrics.nme import normalised_mean_error
from jointface.modules import load_model
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder
from jointface.running.finished_runs import FINISHED, find_runs

Images = UInt8[Tensor, "photos 3 size size"]
Labels = dict[str, Tensor]


def occluded(images: Images) -> Images:
    """A grey square of 0.4 of the crop's side over each face, centred anywhere in the inner half of the crop."""
    size = images.shape[-1]
    centres = torch.rand(len(images), 2, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    place = (torch.arange(size) + 0.5) / size
    rows, columns = ((place - centres[:, [axis]]).abs() < 0.2 for axis in (0, 1))
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 128)


def blurred(images: Images) -> Images:
    """A Gaussian of 3 % of the crop's side."""
    sigma = 0.03 * images.shape[-1]
    reach = int(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    smooth = pad(images.float(), (reach, reach, reach, reach), mode="replicate")
    smooth = conv2d(conv2d(smooth, kernel, groups=3), kernel.mT, groups=3)
    return smooth.round().to(torch.uint8)


def dark(images: Images) -> Images:
    """A quarter of the light, in steps of 8 bits."""
    return images // 4


HARDER: dict[str, Callable[[Images], Images]] = {"occluded": occluded, "blurred": blurred, "dark": dark}


class Measurements:
    """The data that all runs are measured on.

    data: folder of celeba_wild/ and bfm_3ddfa/. faces: number of synthetic faces. image_size: side of the crops.
    """

    def __init__(self, data: Path, faces: int, image_size: int) -> None:
        self.bfm = load_bfm_3ddfa(data / "bfm_3ddfa")
        crop = CropTransform(image_size)
        self.train, self.test = (
            _labels(FittedCelebA(data / "celeba_wild", split, crop, self.bfm)) for split in ("train", "test")
        )
        drawn = SyntheticFaces("test", crop, faces)
        self.anny = drawn.factory.head.model
        self.drawn = _labels(drawn)

    @torch.no_grad()
    def of(self, network: FaceNetwork) -> dict[str, float]:
        """All measurements of a network, by name."""
        result = self._probes(pooled(network, self.train["image"]), pooled(network, self.test["image"]))
        if network.shape_decoder is None:
            return result
        for name, harder in HARDER.items():
            result[f"test/people/nme_2d_68_{name}"] = self._nme(network, harder(self.test["image"]))
        if isinstance(network.shape_decoder, MorphableDecoder):
            model = network.shape_decoder.morphable_model
            result["test/people/consistency_error"] = consistency_error(
                _outputs(network, self.test["image"])[0] * spread(model), self.test["identity"]
            )
            drawn = _outputs(network, self.drawn["image"])[0]
            result["test/synthetic/identity_error"] = self._identity_error(model, drawn)
            result["test/synthetic/trivial/identity_error"] = self._identity_error(model, drawn * 0)
        return result

    def _nme(self, network: FaceNetwork, images: Images) -> float:
        decoder = network.shape_decoder
        assert decoder is not None
        vertices = torch.cat([decoder.vertices(decoder(network.features(part))) for part in images.split(64)])
        labels = (self.test[key] for key in ("shape_coefficients", "expression_coefficients", "camera"))
        truth = self.bfm.project(*labels)[:, self.bfm.landmarks68]
        predicted = vertices[:, decoder.morphable_model.landmarks68, :2]
        return float(normalised_mean_error(predicted, truth[..., :2], truth).mean())

    def _probes(self, train: Tensor, test: Tensor) -> dict[str, float]:
        """Ridge regressions from features to attributes and to identity."""
        known = self.test["attributes"]
        both = (known.sum(0) >= 5) & (known.sum(0) <= len(known) - 5)
        attributes = _ridge(train, self.train["attributes"].float(), test)
        precision = [average_precision_score(known[:, k], attributes[:, k]) for k in both.nonzero()[:, 0].tolist()]
        unit = spread(self.bfm)
        truth = (self.test["shape_coefficients"] * unit).double().numpy()
        shape = _ridge(train, self.train["shape_coefficients"] * unit, test)
        unexplained = ((shape - truth) ** 2).sum() / ((truth - truth.mean(0)) ** 2).sum()
        return {
            "test/attribute_probe/average_precision": float(np.mean(precision)),
            "test/shape_probe/error": float(unexplained),
        }

    def _identity_error(self, model: MorphableModel, identity: Float[Tensor, "faces Ks"]) -> float:
        """In mm: anny's unit is the millimetre, and every predicted face is scaled to the true one."""
        found = correspondence(self.anny, model)
        true, ours = (
            one(coefficients, coefficients.new_zeros(len(coefficients), one.num_expression))
            for one, coefficients in ((self.anny, self.drawn["shape_coefficients"]), (model, identity))
        )
        true, ours = true[:, found.mask], found.carry(ours)[:, found.mask]
        return float((move(fit_similarity(ours, true), ours) - true).norm(dim=2).mean())


def consistency_error(identity: Float[Tensor, "photos numbers"], people: Tensor) -> float:
    """Variance over the photos of a person, over the variance of people's means; people with two photos or more."""
    groups = [identity[people == person].double() for person in people.unique()]
    groups = [group for group in groups if len(group) > 1]
    within = torch.stack([group.var(0).sum() for group in groups]).mean()
    between = torch.stack([group.mean(0) for group in groups]).var(0).sum()
    return float(within / between)


def spread(model: MorphableModel) -> Float[Tensor, " coefficients"]:
    """How far each identity coefficient moves the vertices of the face, in the model's unit."""
    return model.shape_basis[model.face_region].square().sum(1).mean(0).sqrt()


def pooled(network: FaceNetwork, images: Images) -> Tensor:
    """The features of images, averaged over the image plane."""
    return torch.cat([pooled_features(network, network.features(part)) for part in images.split(64)])


def gradients(path: Path) -> dict[str, float]:
    """Medians over a training of how the gradients of two losses compare; empty if it has one loss."""
    names = ("norm_shape", "norm_attributes", "norm_auxiliary", "cosine")
    columns = [f"train/gradient_{name}" for name in names]
    rows = pd.read_csv(path).reindex(columns=columns).drop_duplicates()  # rows repeat the last measurement
    shape, attributes, auxiliary, cosine = (rows[column] for column in columns)
    ratio = attributes.fillna(auxiliary) / shape
    if ratio.isna().all():
        return {}
    return {"train/median_gradient_ratio": ratio.median(), "train/median_gradient_cosine": cosine.median()}


def _ridge(train: Tensor, truth: Tensor, test: Tensor) -> np.ndarray:
    model = make_pipeline(StandardScaler(), RidgeCV(RIDGE_STRENGTHS))
    predicted: np.ndarray = model.fit(train.double().numpy(), truth.double().numpy()).predict(test.double().numpy())
    return predicted


def _outputs(network: FaceNetwork, images: Images) -> list[Tensor]:
    decoder = network.shape_decoder
    assert decoder is not None
    parts = [decoder.outputs(network.features(part)) for part in images.split(64)]
    return [torch.cat(column) for column in zip(*parts, strict=True)]


def _labels(dataset: FittedCelebA | SyntheticFaces) -> Labels:
    batches = list(DataLoader(dataset, batch_size=64))
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


def main(folder: Path, data: Path, faces: int) -> None:
    """Measures every finished run; networks that have been measured are not measured again."""
    by_size: dict[int, Measurements] = {}
    runs = find_runs(folder)
    for run in runs["run"][runs["state"] == FINISHED]:
        path = folder / run / "metrics.json"
        metrics = json.loads(path.read_text())
        found = gradients(path.with_name("metrics.csv"))
        if "test/attribute_probe/average_precision" not in metrics:
            network = load_model(folder / run / "checkpoints" / "best.ckpt")
            size = network.image_size
            if size not in by_size:
                by_size[size] = Measurements(data, faces, size)
            found |= by_size[size].of(network)
        write_atomically(path, (json.dumps(dict(sorted({**metrics, **found}.items())), indent=2) + "\n").encode())
        print(run, " ".join(f"{name.removeprefix('test/')} {value:.4f}" for name, value in found.items()), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 300)
