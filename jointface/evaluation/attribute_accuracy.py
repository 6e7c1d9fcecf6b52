"""Evaluates facial attribute estimation on CelebA, LFWA and synthetic faces."""

from collections.abc import Collection, Mapping, Sequence
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
from jointface.evaluation.attribute_tables import GAP, TRIVIAL, VAL, attribute_tables, common_attributes
from jointface.evaluation.benchmark_result import BenchmarkResult
from jointface.evaluation.group_gaps import accuracy_gaps, add_group_tables, groups_of
from jointface.evaluation.network_outputs import network_outputs
from jointface.metrics.attribute_scores import attribute_scores
from jointface.metrics.calibration import BINS, best_thresholds, expected_calibration_error, reliability
from jointface.metrics.correlation import correlation_difference, expected_correlation
from jointface.modules.network import FaceNetwork
from jointface.viz.attribute_figures import attribute_bars, correlation_figure, reliability_figure

AT_HALF = ("accuracy", "balanced_accuracy", "f1", "average_precision")


@dataclass(frozen=True)
class Predictions:
    """A method's logits for some attributes of a split, the labels (1 for positive), and the mask of known labels."""

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
        """The predictions for some of the attributes."""
        m = [self.attributes.index(name) for name in names]
        return Predictions(tuple(names), self.alpha[m], self.logits[:, m], self.labels[:, m], self.mask[:, m])


def shared_attributes(network: FaceNetwork, label_set: LabelSet) -> pd.DataFrame:
    """The attributes of a data set that a network predicts, by name, in the data set's order.

    Columns: `logit`: the attribute's index among the network's logits. `teacher`: the label set from which the network
    learned the attribute. `alpha`: calibrates the logit. The teacher is the data set's own label set if the network was
    trained on it, else the first one that has the attribute.
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
    groups: pd.DataFrame | None = None,
) -> BenchmarkResult:
    """Measures accuracy, balanced accuracy, F1, average precision and calibration error of networks on the attributes
    of a test set, at the threshold 1/2 and at thresholds chosen on the validation split.

    A network is evaluated on the attributes that it knows by name. Attributes with only one class in the test split are
    left out. The trivial predictor predicts the majority class.

    Args:
        networks: have attribute classifiers; networks that know none of the attributes are left out.
        val: the validation split of the same data set, for thresholds; without it those columns are left out.
        train_alpha: negatives per positive in the data set's training split (`FaceDataset.alpha`), for the trivial
            predictor; None: computed from val if it is given, else from test.
        groups: further groups of the test samples, see `group_gaps.groups_of_files`, beside those that the labels tell.

    Raises:
        ConfigError: the test set labels no attribute, or none that any network knows.
        DataError: a sample cannot be read.
    """
    label_set = test.label_set
    if label_set is None:
        raise ConfigError(f"{type(test).__name__} labels no attributes; choose a shape benchmark")
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
    trivial = on_test[TRIVIAL]
    of_labels = groups_of(trivial.labels, trivial.mask, label_set)
    groups = of_labels if groups is None else groups.combine_first(of_labels)
    scores = {key: _scores(its, on_val.get(key), groups) for key, its in on_test.items()}
    split, val_faces = str(getattr(test, "split", "test")), 0 if val is None else len(val)
    tables = attribute_tables(label_set, scores, split, len(test), val_faces)
    measured = {key: its for key, its in on_test.items() if key != TRIVIAL}
    per_image = _per_image(test, measured, groups)
    result = BenchmarkResult(label_set.name, _metrics(scores), tables, per_image, notes=notes)
    _add_correlations(result, measured)
    _add_figures(result, scores, measured)
    add_group_tables(result, [*groups], {"attribute_error": ("share of attributes that are wrong, %", 100)})
    result.notes += _notes(label_set, shared, scores, trivial.both_classes)
    result.notes.append(f"The trivial predictor predicts the majority class of the {majority_of} split.")
    if val is None:
        result.notes.append("No validation split was given, so there are no scores at its thresholds.")
    return result


def _notes(
    label_set: LabelSet,
    shared: Mapping[str, pd.DataFrame],
    scores: Mapping[str, pd.DataFrame],
    both_classes: Collection[str],
) -> list[str]:
    """What each network was evaluated on, and what could not be measured."""
    notes = [
        f"{key} is evaluated on the {len(its)} of {len(label_set)} attributes of {label_set.name} that it knows, "
        f"calibrated by the prevalence in {', '.join(its['teacher'].unique())}, from which it learned them."
        for key, its in shared.items()
    ]
    if one_class := [name for name in label_set.attributes if name not in both_classes]:
        which = ", ".join(one_class) if len(one_class) < len(label_set) else "all attributes, so nothing is measured"
        notes.append(f"Left out because of only one class in the test split: {which}.")
    notes += [
        f"{key} has no score: each attribute that it knows shows only one class in the test split."
        for key in shared
        if scores[key].empty and not scores[TRIVIAL].empty
    ]
    return notes


def _predict(
    networks: Mapping[str, FaceNetwork],
    shared: Mapping[str, pd.DataFrame],
    dataset: FaceDataset,
    alpha: Float[Tensor, "attributes"] | None,
    batch_size: int,
    device: str | torch.device,
) -> dict[str, Predictions]:
    """The predictions of each network for its shared attributes, and of the trivial predictor for all attributes. The
    trivial logit is 0, so that alpha, by default computed from these labels, decides."""

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


def _scores(test: Predictions, val: Predictions | None, groups: pd.DataFrame) -> pd.DataFrame:
    """A table with a row for each attribute that has both classes and a column for each metric, all in [0, 1]."""
    labels, mask = test.labels, test.mask
    at_half = attribute_scores(test.logits, labels, mask, test.alpha)
    columns = {
        "positives": (labels * mask).sum(0) / mask.sum(0),
        **{metric: at_half[metric] for metric in AT_HALF},
        "calibration_error": expected_calibration_error(test.probability, labels, mask),
    }
    if val is not None:
        # Each goal interprets the logits differently; without tuning, its threshold is 0.
        calibrated = val.logits - val.alpha.log()
        goal: Literal["accuracy", "balanced_accuracy"]
        for goal, reading, chosen in (
            ("accuracy", calibrated, ["f1", "accuracy"]),
            ("balanced_accuracy", val.logits, ["balanced_accuracy"]),
        ):
            # float64 keeps close logits distinct. Subtracting infinite thresholds would lose the order of the logits.
            thresholds = best_thresholds(reading, val.labels, val.mask, goal).nan_to_num(posinf=1e6, neginf=-1e6)
            found = attribute_scores(test.logits - thresholds, labels, mask, test.alpha)
            columns |= {f"{metric}{VAL}": found[metric] for metric in chosen}
    correct = (test.probability > 0.5) == (labels > 0.5)
    gaps = accuracy_gaps(correct, mask, groups)
    columns |= {f"{GAP}{grouping.replace(' ', '_')}": gap for grouping, gap in gaps.items() if not gap.isnan().all()}
    frame = pd.DataFrame({column: values.tolist() for column, values in columns.items()}, index=list(test.attributes))
    return frame.loc[test.both_classes]


def _metrics(scores: Mapping[str, pd.DataFrame]) -> dict[str, float]:
    """The scores of each attribute, and their means over the attributes that a method is evaluated on. The trivial
    predictor has only means, over the attributes that all methods are evaluated on, for comparison."""
    metrics: dict[str, float] = {}
    for method, frame in scores.items():
        compared = frame if method != TRIVIAL else frame.loc[common_attributes(scores) or frame.index]
        metrics[f"{method}/num_attributes"] = len(compared)
        for column in frame.columns.drop("positives"):
            metrics[f"{method}/{column}"] = float(compared[column].mean())
            if method != TRIVIAL:
                metrics |= {f"{method}/{column}/{name}": float(value) for name, value in frame[column].items()}
    return metrics


def _per_image(test: FaceDataset, predictions: Mapping[str, Predictions], groups: pd.DataFrame) -> pd.DataFrame:
    """The fraction of each face's known attributes that each method gets wrong, at the calibrated probability 1/2."""
    files = [test.name(n) if test.rendered else "/".join(test.path(n).parts[-2:]) for n in range(len(test))]
    frames = []
    for method, its in predictions.items():
        wrong = ((its.probability > 0.5) != (its.labels > 0.5)) & its.mask
        errors = (wrong.sum(1) / its.mask.sum(1)).tolist()  # NaN if none is known
        columns = {"file": files, "index": range(len(files)), "method": method, "attribute_error": errors}
        frames.append(pd.concat([pd.DataFrame(columns), groups], axis=1))
    return pd.concat(frames, ignore_index=True)


def _add_correlations(result: BenchmarkResult, predictions: Mapping[str, Predictions]) -> None:
    """Compares the correlations between attributes in the predictions and in the labels, for attributes with both
    classes."""
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
                f"Correlations between attributes, in the labels and in labels sampled from the probabilities that "
                f"{method} predicts. Attributes are ordered by clustering the correlations of the labels."
            )


def _add_figures(
    result: BenchmarkResult, scores: Mapping[str, pd.DataFrame], predictions: Mapping[str, Predictions]
) -> None:
    if all(scores[key].empty for key in predictions):
        return
    result.figures["attributes"] = attribute_bars({key: scores[key] for key in predictions}, scores[TRIVIAL])
    result.captions["attributes"] = (
        "Accuracy and balanced accuracy of each attribute, ordered by mean balanced accuracy; black lines show the "
        "trivial predictor."
    )
    if common := common_attributes(scores):
        result.figures["reliability"] = reliability_figure(
            {key: _reliability(predicted.only(common)) for key, predicted in predictions.items()},
            {key: float(scores[key].loc[common, "calibration_error"].mean()) for key in predictions},
        )
        result.captions["reliability"] = (
            f"Reliability: the fraction of positives by calibrated probability, in {BINS} bins of equal width, over "
            f"{len(common)} attributes; the dashed line is perfect calibration. Below: the fraction of labels per bin."
        )


def _reliability(its: Predictions) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of samples, sums of probabilities and numbers of positives in each bin, summed over the attributes."""
    count, probability, positives = reliability(its.probability, its.labels, its.mask)
    return count.sum(1).numpy(), probability.sum(1).numpy(), positives.sum(1).numpy()
