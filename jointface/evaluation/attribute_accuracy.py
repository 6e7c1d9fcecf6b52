"""How well facial attributes are estimated on CelebA, LFWA and synthetic faces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jointface.attributes import LabelSet, calibrated_probability, positive_weight
from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import ConfigError
from jointface.evaluation.attribute_tables import TRIVIAL, VAL, attribute_tables, common_attributes
from jointface.evaluation.network_outputs import network_outputs
from jointface.evaluation.result import BenchmarkResult
from jointface.metrics.attribute_scores import attribute_scores
from jointface.metrics.calibration import BINS, best_thresholds, expected_calibration_error, reliability
from jointface.metrics.correlation import correlation_difference, expected_correlation
from jointface.modules.network import FaceNetwork
from jointface.viz.attribute_figures import attribute_bars, correlation_figure, reliability_figure

AT_HALF = ("accuracy", "balanced_accuracy", "f1", "average_precision")


@dataclass(frozen=True)
class Predictions:
    """Logits of a method for some attributes of a split, with the labels, 1 for positive, and which are known."""

    attributes: tuple[str, ...]
    alpha: Float[Tensor, "attributes"]
    logits: Float[Tensor, "samples attributes"]
    labels: Float[Tensor, "samples attributes"]
    mask: Bool[Tensor, "samples attributes"]

    @property
    def probability(self) -> Float[Tensor, "samples attributes"]:
        return calibrated_probability(self.logits, self.alpha)

    @property
    def both_classes(self) -> list[str]:
        """Attributes with a labelled positive and a labelled negative."""
        positive = self.labels > 0.5
        both = (positive & self.mask).any(0) & (~positive & self.mask).any(0)
        return [name for name, is_both in zip(self.attributes, both, strict=True) if is_both]

    def only(self, names: Sequence[str]) -> "Predictions":
        """For some of the attributes."""
        m = [self.attributes.index(name) for name in names]
        return Predictions(tuple(names), self.alpha[m], self.logits[:, m], self.labels[:, m], self.mask[:, m])


def shared_attributes(network: FaceNetwork, label_set: LabelSet) -> pd.DataFrame:
    """The attributes of a data set that a network predicts, by name, in the data set's order.

    Columns are `logit`, its place among the network's, `teacher`, the label set that taught the network the attribute,
    and its `alpha`, which turns a logit into a probability. The teacher is the data set's own label set where the
    network saw it, else the first that has the attribute.
    """
    known = sorted(network.label_sets.values(), key=lambda labels: labels["label_set"] != label_set.name)
    taught = {
        name: {"logit": network.attributes.index(name), "teacher": labels["label_set"], "alpha": alpha}
        for labels in reversed(known)  # the first one counts
        for name, alpha in zip(labels["attributes"], labels["alpha"], strict=True)
    }
    return pd.DataFrame.from_dict({name: taught[name] for name in label_set.attributes if name in taught}, "index")


def attribute_accuracy(
    networks: Mapping[str, FaceNetwork],
    test: FaceDataset,
    val: FaceDataset | None = None,
    train_alpha: Float[Tensor, "attributes"] | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> BenchmarkResult:
    """Accuracy, balanced accuracy, F1, average precision and calibration error of networks on the attributes of a test
    set, at the threshold 1/2 and at thresholds chosen on the validation split.

    A network is evaluated on the attributes that it knows by name. Attributes that have one class only in the test
    split are left out. The trivial predictor gives the majority class.

    Args:
        networks: with attribute classifiers; those that know none of the attributes are left out.
        val: the same data set's validation split, for thresholds; None leaves those columns out.
        train_alpha: negatives per positive in the data set's training split (`FaceDataset.alpha`), for the trivial
            predictor; None takes those of val, else of test.

    Raises:
        ConfigError: the test set labels no attributes, or none that a network knows.
        DataError: a sample cannot be read.
    """
    label_set = test.label_set
    if label_set is None:
        raise ConfigError(f"{type(test).__name__} labels no attributes; choose a benchmark of shape")
    shared = {key: shared_attributes(network, label_set) for key, network in networks.items()}
    notes = [f"{key} is left out: it knows none of these attributes." for key, its in shared.items() if its.empty]
    shared = {key: its for key, its in shared.items() if len(its)}
    if not shared:
        taught = {labels["label_set"] for network in networks.values() for labels in network.label_sets.values()}
        raise ConfigError(
            f"the checkpoint and {label_set.name} share no attribute: it was trained on "
            f"{', '.join(sorted(taught)) or 'none'}; choose another benchmark"
        )

    networks = {key: networks[key] for key in shared}
    majority_of = "training" if train_alpha is not None else "test" if val is None else "validation"
    on_val = {} if val is None else _predict(networks, shared, val, train_alpha, batch_size, device)
    alpha = on_val[TRIVIAL].alpha if on_val else train_alpha
    on_test = _predict(networks, shared, test, alpha, batch_size, device)
    scores = {key: _scores(its, on_val.get(key)) for key, its in on_test.items()}
    split, val_faces = str(getattr(test, "split", "test")), 0 if val is None else len(val)
    tables = attribute_tables(label_set, scores, split, len(test), val_faces)
    measured = {key: its for key, its in on_test.items() if key != TRIVIAL}
    result = BenchmarkResult(label_set.name, _metrics(scores), tables, _per_image(test, measured), notes=notes)
    _add_correlations(result, measured)
    _add_figures(result, scores, measured)
    result.notes += [
        f"{key} is evaluated on the {len(its)} of {len(label_set)} attributes of {label_set.name} that it knows, "
        f"calibrated by the prevalence in {', '.join(its['teacher'].unique())}, which it learned them from."
        for key, its in shared.items()
    ]
    result.notes.append(f"The trivial predictor gives the majority class of the {majority_of} split.")
    if one_class := [name for name in label_set.attributes if name not in on_test[TRIVIAL].both_classes]:
        result.notes.append(f"Left out, with one class only in the test split: {', '.join(one_class)}.")
    if val is None:
        result.notes.append("No validation split was given, so there are no thresholds of it.")
    return result


def _predict(
    networks: Mapping[str, FaceNetwork],
    shared: Mapping[str, pd.DataFrame],
    dataset: FaceDataset,
    alpha: Float[Tensor, "attributes"] | None,
    batch_size: int,
    device: str | torch.device,
) -> dict[str, Predictions]:
    """Of each network for the attributes that it shares, and of the trivial predictor for all: its logit is 0, and
    alpha, by default that of these labels, decides."""

    def classify(network: FaceNetwork, features: Tensor) -> Tensor:
        assert network.attribute_classifier is not None
        return network.attribute_classifier(features)

    outputs, tensors = network_outputs(networks, dataset, classify, batch_size, device)
    labels, mask = tensors["attributes"], tensors["attribute_mask"]
    assert dataset.label_set is not None
    alpha = positive_weight(labels, mask) if alpha is None else alpha.float().cpu()
    trivial = Predictions(dataset.label_set.attributes, alpha, torch.zeros_like(labels), labels, mask)
    predictions = {}
    for key, its in shared.items():
        alphas, logits = torch.tensor(its["alpha"].tolist()), outputs[key][:, its["logit"].tolist()]
        predictions[key] = replace(trivial.only([*its.index]), alpha=alphas, logits=logits)
    return {**predictions, TRIVIAL: trivial}


def _scores(test: Predictions, val: Predictions | None) -> pd.DataFrame:
    """A row for each attribute that has both classes, a column for each metric, all in [0, 1]."""
    labels, mask = test.labels, test.mask
    at_half = attribute_scores(test.logits, labels, mask, test.alpha)
    columns = {
        "positives": (labels * mask).sum(0) / mask.sum(0),
        **{metric: at_half[metric] for metric in AT_HALF},
        "calibration_error": expected_calibration_error(test.probability, labels, mask),
    }
    if val is not None:
        # Each goal has its reading of the logits, whose usual threshold is 0.
        calibrated = val.logits - val.alpha.log()
        goal: Literal["accuracy", "balanced_accuracy"]
        for goal, reading, chosen in (
            ("accuracy", calibrated, ["f1", "accuracy"]),
            ("balanced_accuracy", val.logits, ["balanced_accuracy"]),
        ):
            # In float64, which tells neighbouring logits apart. Infinite ones would have no order.
            thresholds = best_thresholds(reading, val.labels, val.mask, goal).nan_to_num(posinf=1e6, neginf=-1e6)
            found = attribute_scores(test.logits - thresholds, labels, mask, test.alpha)
            columns |= {f"{metric}{VAL}": found[metric] for metric in chosen}
    frame = pd.DataFrame({column: values.tolist() for column, values in columns.items()}, index=list(test.attributes))
    return frame.loc[test.both_classes]


def _metrics(scores: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """Each attribute and the means over the attributes that a method is evaluated on. The trivial predictor has means
    only, over the attributes that all methods are evaluated on, so that they can be compared."""
    metrics: dict[str, float] = {}
    for method, frame in scores.items():
        compared = frame if method != TRIVIAL else frame.loc[common_attributes(scores) or frame.index]
        metrics[f"{method}/num_attributes"] = len(compared)
        for column in frame.columns.drop("positives"):
            metrics[f"{method}/{column}"] = float(compared[column].mean())
            if method != TRIVIAL:
                metrics |= {f"{method}/{column}/{name}": float(value) for name, value in frame[column].items()}
    return metrics


def _per_image(test: FaceDataset, predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    """The share of a face's known attributes that each method gets wrong, at calibrated 1/2."""
    files = [test.name(n) if test.rendered else "/".join(test.path(n).parts[-2:]) for n in range(len(test))]
    frames = []
    for method, its in predictions.items():
        wrong = ((its.probability > 0.5) != (its.labels > 0.5)) & its.mask
        errors = (wrong.sum(1) / its.mask.sum(1)).tolist()  # NaN where none is known
        columns = {"file": files, "index": range(len(files)), "method": method, "attribute_error": errors}
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True)


def _add_correlations(result: BenchmarkResult, predictions: Mapping[str, Predictions]) -> None:
    """How attributes that have both classes correlate in the predictions and in the labels."""
    for method, predicted in predictions.items():
        names = predicted.both_classes
        its = predicted.only(names)
        found, labels = (
            expected_correlation(values.double().numpy(), its.mask.numpy()) for values in (its.probability, its.labels)
        )
        difference = result.metrics[f"{method}/correlation_difference"] = correlation_difference(found, labels)
        if len(names) > 1:
            figure = correlation_figure(method, names, found, labels, difference)
            result.figures[f"correlation_{method}"] = figure
            result.captions[f"correlation_{method}"] = (
                f"Correlation of attributes with each other: of the labels, and of what {method} predicts, as that of "
                "labels sampled from its probabilities. Attributes are in the order of a clustering of the labels'."
            )


def _add_figures(
    result: BenchmarkResult, scores: Mapping[str, pd.DataFrame], predictions: Mapping[str, Predictions]
) -> None:
    result.figures["attributes"] = attribute_bars({key: scores[key] for key in predictions}, scores[TRIVIAL])
    result.captions["attributes"] = (
        "Accuracy and balanced accuracy of each attribute, in the order of the mean balanced accuracy; the black lines "
        "are the trivial predictor."
    )
    if common := common_attributes(scores):
        result.figures["reliability"] = reliability_figure(
            {key: _reliability(predicted.only(common)) for key, predicted in predictions.items()},
            {key: float(scores[key].loc[common, "calibration_error"].mean()) for key in predictions},
        )
        result.captions["reliability"] = (
            f"Reliability: the share of positives by calibrated probability, in {BINS} bins of equal width, over "
            f"{len(common)} attributes; the dashed line is perfect calibration. Below, the share of labels in each bin."
        )


def _reliability(its: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, probability and positives of each bin, added up over the attributes."""
    count, probability, positives = reliability(its.probability, its.labels, its.mask)
    return count.sum(1).numpy(), probability.sum(1).numpy(), positives.sum(1).numpy()
