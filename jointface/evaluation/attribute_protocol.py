"""Facial attribute estimation on CelebA, LFWA and the synthetic stream: each attribute, and means over them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from jointface.attributes import LabelSet, calibrated_probability, positive_weight
from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import ConfigError
from jointface.evaluation.attribute_figures import (
    attribute_bars,
    correlation_difference,
    correlation_figure,
    expected_correlation,
    reliability_figure,
)
from jointface.evaluation.attribute_tables import TRIVIAL, VAL, attribute_tables, common_attributes
from jointface.evaluation.network_outputs import network_outputs, sample_names
from jointface.evaluation.result import BenchmarkResult
from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.calibration import BINS, Reliability, best_thresholds, expected_calibration_error, reliability
from jointface.modules.network import FaceNetwork

AT_HALF = ("accuracy", "balanced_accuracy", "f1", "average_precision")


@dataclass(frozen=True)
class Judged:
    """The attributes that a network and a data set share.

    attributes: names, in the data set's order. columns: their places among the data set's. logits: among the network's.
    alpha: of the label set that the network learned each from. teachers: those label sets.
    """

    attributes: tuple[str, ...]
    columns: list[int]
    logits: list[int]
    alpha: Float[Tensor, "attributes"]
    teachers: tuple[str, ...]


@dataclass(frozen=True)
class Labels:
    """Labels of a split: (N, M), 1 for positive, and which are known."""

    values: Float[Tensor, "samples attributes"]
    mask: Bool[Tensor, "samples attributes"]

    def of(self, columns: Sequence[int]) -> "Labels":
        return Labels(self.values[:, columns], self.mask[:, columns])

    def both_classes(self) -> Bool[Tensor, "attributes"]:
        positive = self.values > 0.5
        return (positive & self.mask).any(0) & (~positive & self.mask).any(0)


@dataclass(frozen=True)
class Predictions:
    """Logits of a method for the attributes that it is judged by, with the labels; in float64, which thresholds between
    neighbouring logits ask for."""

    attributes: tuple[str, ...]
    alpha: Float[Tensor, "attributes"]
    logits: Float[Tensor, "samples attributes"]
    labels: Labels

    @property
    def probability(self) -> Float[Tensor, "samples attributes"]:
        return calibrated_probability(self.logits, self.alpha)


def judged_attributes(network: FaceNetwork, label_set: LabelSet) -> Judged:
    """What a network can be asked on a data set: the attributes of the same name.

    alpha, which turns a logit into a probability, is that of the label set that the network learned the attribute from:
    of the data set's own one where the network saw it, else of the first that has the attribute.

    Raises:
        ConfigError: they share none.
    """
    known = sorted(network.label_sets.values(), key=lambda labels: labels["label_set"] != label_set.name)
    teachers: dict[str, tuple[str, float]] = {}
    for labels in known:
        for name, alpha in zip(labels["attributes"], labels["alpha"], strict=True):
            teachers.setdefault(name, (labels["label_set"], alpha))
    shared = [name for name in label_set.attributes if name in teachers]
    if network.attribute_classifier is None or not shared:
        raise ConfigError(
            f"the checkpoint and {label_set.name} share no attribute: it was trained on "
            f"{', '.join(labels['label_set'] for labels in known) or 'none'}; choose another benchmark"
        )
    return Judged(
        attributes=tuple(shared),
        columns=[label_set.attributes.index(name) for name in shared],
        logits=[network.attributes.index(name) for name in shared],
        alpha=torch.tensor([teachers[name][1] for name in shared]),
        teachers=tuple(dict.fromkeys(teachers[name][0] for name in shared)),
    )


def attributes(
    networks: Mapping[str, FaceNetwork],
    test: FaceDataset,
    val: FaceDataset | None = None,
    train_alpha: Float[Tensor, "attributes"] | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    name: str | None = None,
) -> BenchmarkResult:
    """How well networks tell the attributes of a test set: accuracy, balanced accuracy, F1, average precision and
    calibration error, at the threshold 1/2 and at thresholds of the validation split.

    A network that was trained on other attributes is judged by those of the same name. Attributes that have one class
    only in the test split are left out. The trivial predictor gives the majority class.

    Args:
        networks: see `jointface.modules.load_model`; those without an attribute classifier are left out.
        test: labels attributes. Crops are of each network's own size, whatever that of its transform.
        val: the same data set's validation split, for thresholds; None leaves those columns out.
        train_alpha: negatives per positive in the data set's training split (`FaceDataset.alpha`), for the trivial
            predictor; None takes those of val, else of test.
        batch_size, device: where and how the networks run; neither changes the results.
        name: of the benchmark; None takes that of the label set.

    Raises:
        ConfigError: the test set labels no attributes, or none that a network knows.
        DataError: a sample cannot be read.
    """
    label_set = test.label_set
    if label_set is None:
        raise ConfigError(f"{type(test).__name__} labels no attributes; choose a benchmark of shape")
    capable = {key: network for key, network in networks.items() if network.attribute_classifier is not None}
    if not capable:
        raise ConfigError("no checkpoint predicts attributes, only shape; choose a benchmark of shape")
    judged = {key: judged_attributes(network, label_set) for key, network in capable.items()}
    test_logits, test_labels = _run(capable, test, batch_size, device)
    val_logits, val_labels = _run(capable, val, batch_size, device) if val is not None else ({}, None)
    one_class = _one_class(label_set, test_labels)
    prevalence = _prevalence(train_alpha, val_labels, test_labels)
    on_test = _predictions(judged, test_logits, test_labels, label_set, prevalence[0])
    on_val = _predictions(judged, val_logits, val_labels, label_set, prevalence[0]) if val_labels else {}
    scores = {key: _scores(on_test[key], on_val.get(key)) for key in on_test}
    result = BenchmarkResult(
        name or label_set.name,
        _metrics(scores, on_test),
        attribute_tables(
            label_set, scores, str(getattr(test, "split", "test")), len(test), 0 if val is None else len(val)
        ),
        _per_image(test, on_test),
    )
    _add_figures(result, scores, on_test)
    result.notes += [f"{key} predicts no attributes and is left out." for key in networks if key not in capable]
    result.notes += [_judged_note(key, shared, label_set) for key, shared in judged.items()]
    result.notes.append(f"The trivial predictor gives the majority class of the {prevalence[1]} split.")
    if one_class:
        result.notes.append(f"Left out, with one class only in the test split: {', '.join(one_class)}.")
    if val is None:
        result.notes.append("No validation split was given, so there are no thresholds of it.")
    return result


def _run(
    networks: Mapping[str, FaceNetwork], dataset: FaceDataset, batch_size: int, device: str | torch.device
) -> tuple[dict[str, Tensor], Labels]:
    def logits(network: FaceNetwork, features: Tensor) -> Tensor:
        assert network.attribute_classifier is not None
        return network.attribute_classifier(features)

    outputs, labels = network_outputs(networks, dataset, logits, batch_size, device)
    return outputs, Labels(labels["attributes"], labels["attribute_mask"])


def _one_class(label_set: LabelSet, labels: Labels) -> list[str]:
    return [name for name, both in zip(label_set.attributes, labels.both_classes().tolist(), strict=True) if not both]


def _prevalence(train_alpha: Tensor | None, val: Labels | None, test: Labels) -> tuple[Tensor, str]:
    """alpha that the trivial predictor goes by, and whose it is."""
    if train_alpha is not None:
        return train_alpha.float().cpu(), "training"
    split, labels = ("validation", val) if val is not None else ("test", test)
    return positive_weight(labels.values, labels.mask), split


def _predictions(
    judged: Mapping[str, Judged],
    logits: Mapping[str, Tensor],
    labels: Labels,
    label_set: LabelSet,
    trivial_alpha: Tensor,
) -> dict[str, Predictions]:
    """Of every network, and of the trivial predictor: calibrated, the logit 0 is the share of positives."""
    found = {
        key: Predictions(shared.attributes, shared.alpha, logits[key][:, shared.logits], labels.of(shared.columns))
        for key, shared in judged.items()
    }
    return found | {TRIVIAL: Predictions(label_set.attributes, trivial_alpha, torch.zeros_like(labels.values), labels)}


def _scores(test: Predictions, val: Predictions | None) -> pd.DataFrame:
    """A row for each attribute that has both classes, a column for each metric, all in [0, 1]."""
    labels, mask = test.labels.values, test.labels.mask
    columns = {
        "positives": ((labels * mask).sum(0) / mask.sum(0)).tolist(),
        **_measured(test, test.logits, AT_HALF),
        "calibration_error": expected_calibration_error(test.probability, labels, mask).tolist(),
    }
    if val is not None:
        usual = val.logits - val.alpha.log()
        thresholds = best_thresholds(usual, val.labels.values, val.labels.mask, "accuracy")
        columns |= _measured(test, _shifted(test.logits, thresholds), ("f1", "accuracy"), VAL)
        thresholds = best_thresholds(val.logits, val.labels.values, val.labels.mask, "balanced_accuracy")
        columns |= _measured(test, _shifted(test.logits, thresholds), ("balanced_accuracy",), VAL)
    return pd.DataFrame(columns, index=list(test.attributes))[test.labels.both_classes().tolist()]


def _measured(
    predictions: Predictions, logits: Tensor, metrics: Iterable[str], suffix: str = ""
) -> dict[str, list[float]]:
    """Metrics of each attribute, NaN where undefined."""
    metric = AttributeMetrics(predictions.attributes, predictions.alpha)
    metric.update(logits, predictions.labels.values, predictions.labels.mask)
    values = {key: float(value) for key, value in metric.compute().items()}
    return {
        f"{name}{suffix}": [values.get(f"{name}/{attribute}", float("nan")) for attribute in predictions.attributes]
        for name in metrics
    }


def _shifted(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Logits whose usual threshold is the given one; an infinite one becomes large, for infinities have no order."""
    return logits - thresholds.nan_to_num(posinf=1e6, neginf=-1e6)


def _metrics(scores: Mapping[str, pd.DataFrame], predictions: Mapping[str, Predictions]) -> dict[str, float]:
    """Means over the attributes that a method is judged by, and each; of the trivial predictor means over those that
    all methods are judged by, so that they stand beside each other."""
    metrics: dict[str, float] = {}
    for method, frame in scores.items():
        judged = frame if method != TRIVIAL else frame.loc[common_attributes(scores) or frame.index]
        metrics[f"{method}/num_attributes"] = len(judged)
        for column in frame.columns.drop("positives"):
            metrics[f"{method}/{column}"] = float(judged[column].mean())
            if method != TRIVIAL:
                metrics |= {f"{method}/{column}/{name}": float(value) for name, value in frame[column].items()}
        if method != TRIVIAL:
            metrics[f"{method}/correlation_difference"] = correlation_difference(*_correlations(predictions[method]))
    return metrics


def _correlations(predictions: Predictions) -> tuple[Any, Any]:
    """Of the predictions and of the labels, for attributes that have both classes."""
    both = predictions.labels.both_classes()
    mask = predictions.labels.mask[:, both].numpy()
    predicted = expected_correlation(predictions.probability[:, both].double().numpy(), mask)
    return predicted, expected_correlation(predictions.labels.values[:, both].double().numpy(), mask)


def _per_image(test: FaceDataset, predictions: Mapping[str, Predictions]) -> pd.DataFrame:
    """The share of a face's known attributes that each method gets wrong, at calibrated 1/2."""
    files = sample_names(test)
    rows = []
    for method, predicted in predictions.items():
        if method == TRIVIAL:
            continue
        wrong = ((predicted.probability > 0.5) != (predicted.labels.values > 0.5)) & predicted.labels.mask
        errors = wrong.sum(1) / predicted.labels.mask.sum(1)  # NaN where none is known
        columns = {"file": files, "index": range(len(files)), "method": method, "attribute_error": errors.tolist()}
        rows.append(pd.DataFrame(columns))
    return pd.concat(rows, ignore_index=True)


def _add_figures(
    result: BenchmarkResult, scores: Mapping[str, pd.DataFrame], predictions: Mapping[str, Predictions]
) -> None:
    measured = [key for key in scores if key != TRIVIAL]
    result.figures["attributes"] = attribute_bars({key: scores[key] for key in measured}, scores[TRIVIAL])
    result.captions["attributes"] = (
        "Accuracy and balanced accuracy of each attribute, in the order of the mean balanced accuracy; the black lines "
        "are the trivial predictor."
    )
    if common := common_attributes(scores):
        result.figures["reliability"] = reliability_figure(
            {key: _reliability(predictions[key], common) for key in measured},
            {key: float(scores[key].loc[common, "calibration_error"].mean()) for key in measured},
        )
        result.captions["reliability"] = (
            f"Reliability: the share of positives by calibrated probability, in {BINS} bins of equal width, over "
            f"{len(common)} attributes; the dashed line is perfect calibration. Below, the share of labels in each bin."
        )
    for key in measured:
        if len(scores[key]) > 1:
            correlations = _correlations(predictions[key])
            result.figures[f"correlation_{key}"] = correlation_figure(key, list(scores[key].index), *correlations)
            result.captions[f"correlation_{key}"] = (
                f"Correlation of attributes with each other: of the labels, and of what {key} predicts, as that of "
                "labels drawn from its probabilities. Attributes are in the order of a clustering of the labels'."
            )


def _reliability(predictions: Predictions, attributes: Sequence[str]) -> Reliability:
    columns = [predictions.attributes.index(name) for name in attributes]
    labels = predictions.labels.of(columns)
    return reliability(predictions.probability[:, columns], labels.values, labels.mask)


def _judged_note(method: str, shared: Judged, label_set: LabelSet) -> str:
    return (
        f"{method} is judged by the {len(shared.attributes)} of {len(label_set)} attributes of {label_set.name} that "
        f"it knows, calibrated by the prevalence in {', '.join(shared.teachers)}, which it learned them from."
    )
