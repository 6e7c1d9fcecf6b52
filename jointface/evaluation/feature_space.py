"""The semantic feature space: what a network's features know of attributes and of 3D shape, in numbers and pictures.

A joint network has one feature space, that of its backbone, which both of its heads read; a network trained for one
task has the features of that task. So the question whether shape and attributes are one thing is asked of checkpoints:
what do the features of a shape-only network know of attributes, those of an attributes-only network of shape, those of
a joint one of both? Linear probes answer it (Alain, Bengio, "Understanding intermediate layers using linear classifier
probes", ICLR workshop 2017).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.manifold import TSNE
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.w300lp import original_name
from jointface.errors import ConfigError
from jointface.evaluation.network_outputs import network_outputs
from jointface.evaluation.result import BenchmarkResult, Table
from jointface.modules.network import FaceNetwork

FOLDS = 5
SEED = 0
PER_CLASS = 2 * FOLDS  # people or photos of each class that a probe to an attribute needs, two for each fold
FOR_SHAPE = 40 * FOLDS  # that probes to shape need: with fewer, R2 of features that know nothing is far below 0
INVERSE_STRENGTH = 0.01  # C of the logistic regression on standardised features
RIDGE_STRENGTHS = np.logspace(-1, 5, 13)  # each fold's training part chooses, by leaving one out
LEADING = 5  # shape coefficients that are also judged apart, for the first ones move the face most
EMBEDDED = 2000  # faces of the picture, evenly spread
TRUE_SHAPE, TRUE_ATTRIBUTES = "true shape", "true attributes"  # rows of probes from the labels themselves
# Of these, the ones with the most equal classes colour the picture: traits of the bones, the expression and the person.
COLOURED = ("Male", "Smiling", "High_Cheekbones", "Big_Nose", "Young", "Oval_Face", "Asian", "Eyeglasses")
COLOURED_ATTRIBUTES, COLOURED_COEFFICIENTS = 4, 2

Matrix = Float[np.ndarray, "samples features"]


@dataclass(frozen=True)
class SpaceLabels:
    """What a test set says of its faces; None where it does not.

    groups: faces of one person, or turned copies of one photo, share a number and stay in one fold.
    """

    groups: Int[np.ndarray, "samples"]
    attributes: Bool[np.ndarray, "samples attributes"] | None
    mask: Bool[np.ndarray, "samples attributes"] | None
    names: tuple[str, ...]
    shape: Float[np.ndarray, "samples coefficients"] | None

    @property
    def people(self) -> int:
        """How many people or photos there are."""
        return int(self.groups.max()) + 1


def feature_space(
    networks: Mapping[str, FaceNetwork],
    dataset: FaceDataset,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    name: str = "feature_space",
    max_faces: int = 5000,
) -> BenchmarkResult:
    """Linear probes from the features of each checkpoint to what the test set labels, and the features in 2D.

    Features are those of the backbone, averaged over the picture: what the attribute classifier reads. Every checkpoint
    is probed on the same faces in the same folds. Where a set labels both, probes also lead from the true shape
    coefficients to attributes and back: how much of the one is in the other. Probes for which there are too few faces
    (`PER_CLASS`, `FOR_SHAPE`) are left out, with a note. `num_images` counts the faces.

    Args:
        networks: checkpoints by name, see `jointface.modules.load_model`; with any heads.
        dataset: labels attributes, shape coefficients or both; not used in training.
        batch_size, device: where and how the networks run; neither changes the results.
        name: of the result, to tell data sets apart.
        max_faces: the networks see at most so many, evenly spread.

    Raises:
        ConfigError: the set labels neither, or has too few faces for any probe.
        DataError: a sample cannot be read.
    """
    chosen = _spread(len(dataset), max_faces)
    features, tensors = network_outputs(networks, dataset, pooled_features, batch_size, device, chosen.tolist())
    labels = _labels(dataset, tensors, chosen)
    spaces = {key: values.double().numpy() for key, values in features.items()}
    result = BenchmarkResult(name, {"num_images": len(chosen)}, [], pd.DataFrame(columns=["file", "index", "method"]))
    result.notes.append(
        f"{len(chosen):,} of {len(dataset):,} faces, {FOLDS} folds; faces of one person or photo are in one fold. The "
        "spread over folds is their standard deviation; folds share training faces, so it is no standard error."
    )
    if labels.attributes is not None:
        _probe_attributes(result, spaces, labels)
    if labels.shape is not None:
        _probe_shape(result, spaces, labels)
    if not result.tables:
        raise ConfigError(
            f"{name}: {len(chosen):,} faces of {labels.people:,} people or photos are too few for "
            f"probes, which need {PER_CLASS} of each class of an attribute, or {FOR_SHAPE} for shape; take more"
        )
    result.figures["embedding"] = embedding_figure(spaces, labels)
    result.captions["embedding"] = (
        "The features in 2D by t-SNE, a row for each checkpoint and a point for each face, coloured by attributes (red "
        "where present) and by the leading shape coefficients (by rank). Distances between clusters mean nothing."
    )
    return result


def pooled_features(network: FaceNetwork, features: Float[Tensor, "batch channels height width"]) -> Tensor:
    """Features of the backbone averaged over the picture, (B, C)."""
    return features.mean((2, 3))


def _spread(count: int, limit: int) -> Int[np.ndarray, "chosen"]:
    return np.linspace(0, count - 1, min(count, limit)).round().astype(np.int64)


def _labels(dataset: FaceDataset, tensors: Mapping[str, Tensor], chosen: Int[np.ndarray, "chosen"]) -> SpaceLabels:
    if not {"attributes", "shape_coefficients"} & tensors.keys():
        raise ConfigError("feature_space: the faces have labels neither of attributes nor of shape; choose another set")
    arrays = {key: values.numpy() for key, values in tensors.items()}
    # Turned copies of a photo have the same shape, and the name tells which they are.
    names = [original_name(dataset.path(index).stem) for index in chosen.tolist()]
    groups = np.unique(arrays.get("identity", np.array(names)), return_inverse=True)[1]
    attributes = arrays["attributes"] > 0.5 if "attributes" in arrays else None
    known = dataset.label_set.attributes if dataset.label_set is not None else ()
    shape = arrays["shape_coefficients"].astype(np.float64) if "shape_coefficients" in arrays else None
    return SpaceLabels(groups, attributes, arrays.get("attribute_mask"), known, shape)


def attribute_probe(
    features: Matrix, labels: Bool[np.ndarray, "samples"], groups: Int[np.ndarray, "samples"]
) -> Float[np.ndarray, "folds"]:
    """Balanced accuracy of a logistic regression with balanced classes on standardised features, on each held-out fold;
    NaN on a fold that lacks a class."""
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED)
    # Newton's method ends at the optimum to the last digits, so that the noise of features in float32 stays small.
    classifier = LogisticRegression(C=INVERSE_STRENGTH, class_weight="balanced", solver="newton-cholesky", tol=1e-8)
    scores = []
    for train, test in folds.split(features, labels, groups):
        if len(np.unique(labels[train])) < 2:
            scores.append(np.nan)
            continue
        right = make_pipeline(StandardScaler(), classifier).fit(features[train], labels[train]).predict(
            features[test]
        ) == labels[test]  # fmt: skip
        scores.append(_mean_of_classes(right, labels[test]))
    return np.array(scores)


def _mean_of_classes(right: Bool[np.ndarray, "samples"], labels: Bool[np.ndarray, "samples"]) -> float:
    if labels.all() or not labels.any():
        return float("nan")
    return float((right[labels].mean() + right[~labels].mean()) / 2)


def shape_probe(
    features: Matrix, coefficients: Float[np.ndarray, "samples coefficients"], groups: Int[np.ndarray, "samples"]
) -> Float[np.ndarray, "folds coefficients"]:
    """R2 of each coefficient by ridge regression on standardised features, on each held-out fold: 0 for what their mean
    is worth, 1 for all of it."""
    scores = []
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=SEED).split(features, groups=groups):
        # Targets are standardised too: the strengths mean the same for each, whatever its unit.
        targets = StandardScaler().fit(coefficients[train])
        ridge: Pipeline = make_pipeline(StandardScaler(), RidgeCV(RIDGE_STRENGTHS, alpha_per_target=True))
        ridge.fit(features[train], targets.transform(coefficients[train]))
        predicted = ridge.predict(features[test]).reshape(len(test), -1)
        scores.append(r2_score(targets.transform(coefficients[test]), predicted, multioutput="raw_values"))
    return np.stack(scores)


def _probe_attributes(result: BenchmarkResult, spaces: Mapping[str, Matrix], labels: SpaceLabels) -> None:
    """Adds the probes to attributes: metrics, a table of means, a table of each attribute."""
    assert labels.attributes is not None
    assert labels.mask is not None
    sources = dict(spaces) | ({TRUE_SHAPE: labels.shape} if labels.shape is not None else {})
    judged = [m for m in range(len(labels.names)) if _enough(labels, m)]
    if left_out := [name for m, name in enumerate(labels.names) if m not in judged]:
        result.notes.append(
            f"Probes leave out {len(left_out)} attributes with fewer than {PER_CLASS} people or photos of a class: "
            f"{', '.join(left_out)}."
        )
    if not judged:
        return
    folds = {
        source: {labels.names[m]: _probe_one(values, labels, m) for m in judged} for source, values in sources.items()
    }
    names = [labels.names[m] for m in judged]
    each = pd.DataFrame({key: {name: np.nanmean(found[name]) for name in names} for key, found in folds.items()})
    for source, found in folds.items():
        _add_metrics(result, f"{source}/attribute_probe", np.stack([found[name] for name in names], axis=1), names)
    caption = (
        f"Linear probes from features to attributes: balanced accuracy in per cent, {FOLDS}-fold cross-validated, over "
        f"{len(names)} attributes; 50 is chance. Logistic regression on standardised features, C = {INVERSE_STRENGTH}, "
        f"classes balanced. The row {TRUE_SHAPE}, where it is, is a probe from the labelled shape coefficients."
    )
    table = _means_of_folds(result, list(folds), "attribute_probe", 100)
    reference = (TRUE_SHAPE,) if TRUE_SHAPE in folds else ()
    result.tables.append(Table("Probes to attributes", caption, table, 2, False, reference=reference))
    each = 100 * each
    each.loc["mean"] = each.mean()
    result.tables.append(Table("Probes to each attribute", caption, each, 1, None))


def _enough(labels: SpaceLabels, m: int) -> bool:
    assert labels.attributes is not None
    assert labels.mask is not None
    known, present = labels.mask[:, m], labels.attributes[:, m]
    return all(len(np.unique(labels.groups[known & of_class])) >= PER_CLASS for of_class in (present, ~present))


def _probe_one(values: Matrix, labels: SpaceLabels, m: int) -> Float[np.ndarray, "folds"]:
    assert labels.attributes is not None
    assert labels.mask is not None
    known = labels.mask[:, m]
    return attribute_probe(values[known], labels.attributes[known, m], labels.groups[known])


def _probe_shape(result: BenchmarkResult, spaces: Mapping[str, Matrix], labels: SpaceLabels) -> None:
    """Adds the probes to shape coefficients: metrics and a table of means."""
    assert labels.shape is not None
    if labels.people < FOR_SHAPE:
        result.notes.append(
            f"No probes to shape: {labels.people:,} people or photos are too few, R2 takes {FOR_SHAPE}."
        )
        return
    sources = dict(spaces)
    if labels.attributes is not None and labels.mask is not None and labels.mask.all():
        sources[TRUE_ATTRIBUTES] = labels.attributes.astype(np.float64)
    varying = np.flatnonzero(labels.shape.std(0) > 1e-9 * (1 + np.abs(labels.shape).max()))
    if not len(varying):
        result.notes.append("The shape coefficients are the same for all faces, so there are no probes to them.")
        return
    names = [str(number) for number in varying]
    for source, values in sources.items():
        scores = shape_probe(values, labels.shape[:, varying], labels.groups)
        _add_metrics(result, f"{source}/shape_probe", scores, names)
        _add_metrics(result, f"{source}/shape_probe_leading", scores[:, :LEADING], [])
    caption = (
        f"Linear probes from features to the {len(varying)} identity coefficients of the morphable model: R2 in per "
        f"cent, {FOLDS}-fold cross-validated, mean over coefficients, and over the leading {LEADING}; 0 is what their "
        f"mean tells. Ridge regression on standardised features, its strength chosen in each training part. The row "
        f"{TRUE_ATTRIBUTES}, where it is, is a probe from the labelled attributes."
    )
    table = _means_of_folds(result, list(sources), "shape_probe_leading", 100, f"leading {LEADING}, ")
    table = table.join(_means_of_folds(result, list(sources), "shape_probe", 100))
    reference = (TRUE_ATTRIBUTES,) if TRUE_ATTRIBUTES in sources else ()
    result.tables.append(Table("Probes to shape", caption, table, 2, False, reference=reference))


def _add_metrics(
    result: BenchmarkResult, prefix: str, scores: Float[np.ndarray, "folds targets"], names: Sequence[str]
) -> None:
    """The mean over folds and targets, the standard deviation over folds of the mean over targets, and each target."""
    of_folds = np.nanmean(scores, axis=1)
    result.metrics[prefix] = float(of_folds.mean())
    result.metrics[f"{prefix}_std"] = float(of_folds.std(ddof=1))
    result.metrics |= {f"{prefix}/{name}": float(np.nanmean(scores[:, place])) for place, name in enumerate(names)}


def _means_of_folds(
    result: BenchmarkResult, sources: Sequence[str], probe: str, scale: float, what: str = ""
) -> pd.DataFrame:
    """Columns: mean and spread over folds as text, which does not compete, then the mean."""
    rows = {
        source: {
            f"{what}spread over folds": f"± {scale * result.metrics[f'{source}/{probe}_std']:.2f}",
            f"{what}mean": scale * result.metrics[f"{source}/{probe}"],
        }
        for source in sources
    }
    return pd.DataFrame.from_dict(rows, orient="index")


# The picture


def embed(features: Matrix) -> Float[np.ndarray, "samples 2"]:
    """Features in 2D by t-SNE (van der Maaten, Hinton, JMLR 2008) of the leading 50 principal components of the
    standardised features; seeded."""
    standard = StandardScaler().fit_transform(features)
    components = min(50, *standard.shape)
    reduced = PCA(components, svd_solver="full").fit_transform(standard)
    perplexity = min(30.0, (len(features) - 1) / 3)
    return TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(reduced).astype(np.float64)


def embedding_figure(spaces: Mapping[str, Matrix], labels: SpaceLabels) -> Figure:
    """A row for each checkpoint: its features in 2D, coloured by attributes (red: present) and by the leading shape
    coefficients (by rank)."""
    rows = _spread(len(labels.groups), EMBEDDED)
    colours = _colours(labels)
    figure = Figure(figsize=(2.1 * len(colours) + 0.4, 2.2 * len(spaces) + 0.5), layout="constrained")
    axes = figure.subplots(len(spaces), len(colours), squeeze=False)
    for line, (method, features) in zip(axes, spaces.items(), strict=True):
        points = embed(features[rows])
        for axis, (title, values) in zip(line, colours.items(), strict=True):
            _scatter(axis, points, values[rows], binary=labels.attributes is not None and title in labels.names)
            if axis in axes[0]:
                axis.set_title(title.replace("_", " "), fontsize=9)
        line[0].set_ylabel(method, fontsize=9)
    return figure


def _colours(labels: SpaceLabels) -> dict[str, Float[np.ndarray, "samples"]]:
    """What the picture is coloured by: values of each face by name, NaN where unlabelled."""
    colours: dict[str, Float[np.ndarray, "samples"]] = {}
    if labels.attributes is not None and labels.mask is not None:
        values = np.where(labels.mask, labels.attributes, np.nan)
        share = {name: np.nanmean(values[:, m]) for m, name in enumerate(labels.names) if labels.mask[:, m].any()}
        known = sorted((abs(value - 0.5), name) for name, value in share.items() if name in COLOURED)
        known = known or sorted((abs(value - 0.5), name) for name, value in share.items())
        for _, name in known[:COLOURED_ATTRIBUTES]:
            colours[name] = values[:, labels.names.index(name)]
    if labels.shape is not None:
        for number in range(min(COLOURED_COEFFICIENTS, labels.shape.shape[1])):
            colours[f"shape coefficient {number}"] = labels.shape[:, number]
    return colours


def _scatter(axis: Axes, points: Float[np.ndarray, "samples 2"], values: np.ndarray, binary: bool) -> None:
    known = np.isfinite(values)
    # By rank, so that one extreme face does not leave all others in one colour.
    shown = values[known] if binary else np.argsort(np.argsort(values[known]))
    size = np.clip(4000 / len(points), 2, 16)
    x, y = points[known].T
    axis.scatter(x, y, c=shown, cmap="coolwarm" if binary else "viridis", s=size, linewidths=0, alpha=0.8)
    axis.set_xticks([])
    axis.set_yticks([])
