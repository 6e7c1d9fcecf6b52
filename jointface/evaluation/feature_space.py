"""Measures by linear probes what the features of networks contain about attributes and 3D shape.

The backbone features of a joint network serve both heads; a network trained for one task has features for that task.
How much do shape-only features reveal about attributes, attribute-only features about shape, and joint features about
both? Linear probes answer this (Alain, Bengio, "Understanding intermediate layers using linear classifier probes", ICLR
workshop 2017).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from sklearn.compose import TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.manifold import TSNE
from sklearn.metrics import make_scorer, r2_score, recall_score
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from jointface.datamodules.face_dataset import FaceDataset, evenly_spaced
from jointface.datamodules.w300lp import original_name
from jointface.errors import ConfigError
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.network_outputs import network_outputs
from jointface.modules.network import FaceNetwork

FOLDS = 5
SEED = 0
PER_CLASS = 2 * FOLDS  # people or photos of each class needed to probe an attribute, two per fold
FOR_SHAPE = 40 * FOLDS  # people or photos needed to probe shape; with fewer, uninformative features have R2 far below 0
INVERSE_STRENGTH = 0.01  # C of the logistic regression on standardised features
RIDGE_STRENGTHS = np.logspace(-1, 5, 13)  # chosen in each fold's training part by leave-one-out
LEADING = 5  # shape coefficients with a separate mean, because the first ones move the face most
EMBEDDED = 2000  # faces in the figure, evenly spaced
TRUE_SHAPE, TRUE_ATTRIBUTES = "true shape", "true attributes"  # rows of probes from the labels themselves
# Candidates for colouring the figure: traits of bones, expression and person. The most balanced ones are used.
COLOURED = ("Male", "Smiling", "High_Cheekbones", "Big_Nose", "Young", "Oval_Face", "Asian", "Eyeglasses")
COLOURED_ATTRIBUTES, COLOURED_COEFFICIENTS = 4, 2

Matrix = Float[np.ndarray, "samples _"]
Folds = Float[np.ndarray, "folds"]


@dataclass(frozen=True)
class SpaceLabels:
    """The labels of a test set; None for labels that it does not have.

    groups: faces of one person, and turned copies of one photo, share a number and stay in one fold. attributes: a
    column for each attribute with 1, 0, or NaN if unlabelled. shape: a column for each coefficient.
    """

    groups: Int[np.ndarray, "samples"]
    attributes: pd.DataFrame | None
    shape: pd.DataFrame | None

    @property
    def people(self) -> int:  # or photos
        return int(self.groups.max()) + 1


def feature_space(
    networks: Mapping[str, FaceNetwork],
    dataset: FaceDataset,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    max_faces: int = 5000,
) -> BenchmarkResult:
    """Fits linear probes from the features of each checkpoint to the labels of a test set, and plots the features.

    Every checkpoint is probed on the same faces in the same folds. If the data set labels both, the true shape
    coefficients are also probed for attributes and vice versa, which shows how much they have in common. Probes with
    too few faces (`PER_CLASS`, `FOR_SHAPE`) are left out, with a note. `num_images` counts the faces.

    Args:
        dataset: labels attributes, shape coefficients or both; must not have been used in training.
        max_faces: largest number of faces to use, evenly spaced.

    Raises:
        ConfigError: the data set labels neither, or has too few faces for any probe.
        DataError: a sample cannot be read.
    """
    chosen = evenly_spaced(len(dataset), max_faces)
    features, tensors = network_outputs(networks, dataset, pooled_features, batch_size, device, chosen.tolist())
    labels = _labels(dataset, tensors, chosen)
    spaces = {key: values.double().numpy() for key, values in features.items()}
    result = BenchmarkResult(
        "feature_space", {"num_images": len(chosen)}, [], pd.DataFrame(columns=["file", "index", "method"])
    )
    result.notes.append(
        f"{len(chosen):,} of {len(dataset):,} faces, {FOLDS} folds; faces of one person or photo are in one fold. The "
        "spread over folds is the standard deviation; folds share training faces, so it is not a standard error."
    )
    _probe_attributes(result, spaces, labels)
    _probe_shape(result, spaces, labels)
    if not result.tables:
        raise ConfigError(
            f"feature_space: {len(chosen):,} faces of {labels.people:,} people or photos are too few for "
            f"probes, which need {PER_CLASS} of each class of an attribute, or {FOR_SHAPE} for shape; take more"
        )
    result.figures["embedding"] = embedding_figure(spaces, labels)
    result.captions["embedding"] = (
        "The features in 2D by t-SNE, with a row for each checkpoint and a point for each face, coloured by attributes "
        "(red: present) and by the leading shape coefficients (by rank). Distances between clusters mean nothing."
    )
    return result


def pooled_features(network: FaceNetwork, features: Float[Tensor, "batch channels height width"]) -> Tensor:
    """The backbone's features averaged over the image, (B, C), which are the input of the attribute classifier."""
    return features.mean((2, 3))


def _labels(dataset: FaceDataset, tensors: Mapping[str, Tensor], chosen: Int[np.ndarray, "chosen"]) -> SpaceLabels:
    if not {"attributes", "shape_coefficients"} & tensors.keys():
        raise ConfigError("feature_space: the faces have neither attribute nor shape labels; choose another data set")
    arrays = {key: values.numpy() for key, values in tensors.items()}
    # Turned copies of a photo have the same shape and can be recognised by their names.
    names = [original_name(dataset.path(index).stem) for index in chosen.tolist()]
    groups = np.unique(arrays.get("identity", np.array(names)), return_inverse=True)[1]
    attributes = shape = None
    if "attributes" in arrays and dataset.label_set is not None:
        values = np.where(arrays["attribute_mask"], arrays["attributes"] > 0.5, np.nan)
        attributes = pd.DataFrame(values, columns=dataset.label_set.attributes)
    if "shape_coefficients" in arrays:
        shape = pd.DataFrame(arrays["shape_coefficients"].astype(np.float64))
    return SpaceLabels(groups, attributes, shape)


# Probes


def attribute_probe(features: Matrix, labels: np.ndarray, groups: Int[np.ndarray, "samples"]) -> Folds:
    """The balanced accuracy of a logistic regression with balanced classes on standardised features, in each held-out
    fold; NaN in folds without one of the classes. Faces with a NaN label are left out."""

    def balanced_accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
        return recall_score(truth, predicted, labels=[False, True], average=None, zero_division=np.nan).mean()

    known = ~np.isnan(labels)
    # Newton's method converges to the last digits, so that float32 noise in the features has little effect.
    classifier = LogisticRegression(C=INVERSE_STRENGTH, class_weight="balanced", solver="newton-cholesky", tol=1e-8)
    return cross_val_score(
        make_pipeline(StandardScaler(), classifier), features[known], labels[known] > 0.5, groups=groups[known],
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=SEED), scoring=make_scorer(balanced_accuracy),
    )  # fmt: skip


def shape_probe(
    features: Matrix, coefficients: Matrix, groups: Int[np.ndarray, "samples"]
) -> Float[np.ndarray, "folds coefficients"]:
    """The R2 of each coefficient by ridge regression on standardised features, in each held-out fold; predicting the
    mean gives 0, perfect predictions give 1."""
    ridge = make_pipeline(StandardScaler(), RidgeCV(RIDGE_STRENGTHS, alpha_per_target=True))
    # With standardised targets, a ridge strength means the same for every coefficient, whatever its unit.
    probe = TransformedTargetRegressor(ridge, transformer=StandardScaler())
    scores = []
    for train, test in GroupKFold(FOLDS, shuffle=True, random_state=SEED).split(features, groups=groups):
        predicted = probe.fit(features[train], coefficients[train]).predict(features[test]).reshape(len(test), -1)
        scores.append(r2_score(coefficients[test], predicted, multioutput="raw_values"))
    return np.stack(scores)


def _probe_attributes(result: BenchmarkResult, spaces: Mapping[str, Matrix], labels: SpaceLabels) -> None:
    """Adds the probes for attributes: metrics, a table of means, and a table of each attribute."""
    if labels.attributes is None:
        return
    enough = labels.attributes.loc[:, [_enough(values, labels.groups) for _, values in labels.attributes.items()]]
    if left_out := [name for name in labels.attributes if name not in enough]:
        result.notes.append(
            f"Probes leave out {len(left_out)} attributes with fewer than {PER_CLASS} people or photos of a class: "
            f"{', '.join(left_out)}."
        )
    if enough.empty:
        return
    sources = {**spaces, **({} if labels.shape is None else {TRUE_SHAPE: labels.shape.to_numpy()})}
    scores = {
        source: pd.DataFrame({
            name: attribute_probe(features, values.to_numpy(), labels.groups) for name, values in enough.items()
        })
        for source, features in sources.items()
    }  # fmt: skip
    table = _summarise(result, "attribute_probe", scores)
    caption = (
        f"Linear probes from features to attributes: balanced accuracy in per cent, {FOLDS}-fold cross-validated, over "
        f"{enough.shape[1]} attributes; 50 is chance. Logistic regression on standardised features, "
        f"C = {INVERSE_STRENGTH}, classes balanced. The row {TRUE_SHAPE}, if present, is a probe from the labelled "
        "shape coefficients."
    )
    reference = tuple({TRUE_SHAPE} & scores.keys())
    result.tables.append(Table("Probes to attributes", caption, table, 2, False, reference=reference))
    each = pd.DataFrame({source: 100 * values.mean() for source, values in scores.items()})
    each.loc["mean"] = each.mean()
    result.tables.append(Table("Probes to each attribute", caption, each, 1, None))


def _enough(attribute: pd.Series, groups: Int[np.ndarray, "samples"]) -> bool:
    return all(len(np.unique(groups[attribute == of_class])) >= PER_CLASS for of_class in (0, 1))


def _probe_shape(result: BenchmarkResult, spaces: Mapping[str, Matrix], labels: SpaceLabels) -> None:
    """Adds the probes for shape coefficients: metrics and a table of means."""
    if labels.shape is None:
        return
    if labels.people < FOR_SHAPE:
        result.notes.append(
            f"No probes to shape: {labels.people:,} people or photos are too few, R2 needs {FOR_SHAPE}."
        )
        return
    shape = labels.shape.loc[:, labels.shape.std(ddof=0) > 1e-9 * (1 + labels.shape.abs().max(axis=None))]
    if shape.empty:
        result.notes.append("The shape coefficients are the same for all faces, so there are no probes to them.")
        return
    sources = dict(spaces)
    if labels.attributes is not None and labels.attributes.notna().all(axis=None):
        sources[TRUE_ATTRIBUTES] = labels.attributes.to_numpy()
    scores = {
        source: pd.DataFrame(shape_probe(features, shape.to_numpy(), labels.groups), columns=shape.columns)
        for source, features in sources.items()
    }
    leading = {source: values.iloc[:, :LEADING] for source, values in scores.items()}
    table = _summarise(result, "shape_probe_leading", leading, f"leading {LEADING}, ", each=False)
    table = table.join(_summarise(result, "shape_probe", scores))
    caption = (
        f"Linear probes from features to the {shape.shape[1]} identity coefficients of the morphable model: R2 in per "
        f"cent, {FOLDS}-fold cross-validated, mean over coefficients, and over the leading {LEADING}; predicting the "
        f"mean gives 0. Ridge regression on standardised features, strength chosen in each training part. The row "
        f"{TRUE_ATTRIBUTES}, if present, is a probe from the labelled attributes."
    )
    reference = tuple({TRUE_ATTRIBUTES} & scores.keys())
    result.tables.append(Table("Probes to shape", caption, table, 2, False, reference=reference))


def _summarise(
    result: BenchmarkResult, probe: str, scores: Mapping[str, pd.DataFrame], heading: str = "", each: bool = True
) -> pd.DataFrame:
    """Adds metrics for scores (folds x targets) of each source: their mean `SOURCE/PROBE`, the standard deviation over
    folds of the mean over targets `SOURCE/PROBE_std`, and the mean `SOURCE/PROBE/NAME` of each target.

    Returns:
        A row for each source: the spread over folds, as text so that it is not ranked, and the mean, in per cent.
    """
    rows = {}
    for source, values in scores.items():
        of_folds = values.mean(axis=1)
        mean, spread = float(of_folds.mean()), float(of_folds.std())
        result.metrics |= {f"{source}/{probe}": mean, f"{source}/{probe}_std": spread}
        if each:
            result.metrics |= {f"{source}/{probe}/{name}": float(value) for name, value in values.mean().items()}
        rows[source] = {f"{heading}spread over folds": f"± {100 * spread:.2f}", f"{heading}mean": 100 * mean}
    return pd.DataFrame.from_dict(rows, orient="index")


# The figure


def embed(features: Matrix) -> Float[np.ndarray, "samples 2"]:
    """Maps features to 2D by t-SNE (van der Maaten, Hinton, JMLR 2008), applied to the leading 50 principal components
    of the standardised features; seeded."""
    reduce = make_pipeline(StandardScaler(), PCA(min(50, *features.shape), svd_solver="full"))
    embedding = TSNE(perplexity=min(30.0, (len(features) - 1) / 3), init="pca", random_state=SEED)
    return embedding.fit_transform(reduce.fit_transform(features)).astype(np.float64)


def embedding_figure(spaces: Mapping[str, Matrix], labels: SpaceLabels) -> Figure:
    """A figure with a row for each checkpoint: its features in 2D, coloured by attributes (red: present) and by the
    leading shape coefficients (by rank)."""
    faces = evenly_spaced(len(labels.groups), EMBEDDED)
    attributes, shape = _colouring_attributes(labels).iloc[faces], pd.DataFrame(index=faces)
    if labels.shape is not None:
        # By rank, so that a single extreme face does not give all others the same colour.
        shape = labels.shape.iloc[faces, :COLOURED_COEFFICIENTS].rank().add_prefix("shape coefficient ")
    colours = [(name, values, "coolwarm") for name, values in attributes.items()]
    colours += [(name, values, "viridis") for name, values in shape.items()]
    figure = Figure(figsize=(2.1 * len(colours) + 0.4, 2.2 * len(spaces) + 0.5), layout="constrained")
    axes = figure.subplots(len(spaces), len(colours), squeeze=False)
    size = np.clip(4000 / len(faces), 2, 16)
    for line, (method, features) in zip(axes, spaces.items(), strict=True):
        points = embed(features[faces])
        for axis, (_, values, cmap) in zip(line, colours, strict=True):
            x, y = points[values.notna()].T
            axis.scatter(x, y, c=values.dropna(), cmap=cmap, s=size, linewidths=0, alpha=0.8)
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(method, fontsize=9)
    for axis, (title, _, _) in zip(axes[0], colours, strict=True):
        axis.set_title(title.replace("_", " "), fontsize=9)
    return figure


def _colouring_attributes(labels: SpaceLabels) -> pd.DataFrame:
    """The attributes that colour the figure, for each face."""
    if labels.attributes is None:
        return pd.DataFrame(index=range(len(labels.groups)))
    labelled = labels.attributes.dropna(axis=1, how="all")
    imbalance = (labelled.mean() - 0.5).abs().sort_index().sort_values(kind="stable")
    known = [name for name in imbalance.index if name in COLOURED] or list(imbalance.index)
    return labelled[known[:COLOURED_ATTRIBUTES]]
