"""Calibration error and thresholds against closed forms and an independent float64 implementation."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

from jointface.metrics.calibration import best_thresholds, expected_calibration_error, reliability


def all_labelled(labels: Tensor) -> Tensor:
    return torch.ones_like(labels, dtype=torch.bool)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)[:, None]


def calibration_error(probability: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """By its definition, bin by bin."""
    edges = np.arange(1, bins) / bins
    place = np.digitize(probability, edges)
    error = 0.0
    for number in range(bins):
        inside = place == number
        if inside.any():
            error += inside.mean() * abs(probability[inside].mean() - labels[inside].mean())
    return error


def test_calibration_error_is_its_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    probability = torch.rand(400, 3, generator=generator) ** 2
    labels = (torch.rand(400, 3, generator=generator) > 0.6).float()
    mask = torch.rand(400, 3, generator=generator) > 0.3
    errors = expected_calibration_error(probability, labels, mask)
    for m in range(3):
        p, y = probability[mask[:, m], m], labels[mask[:, m], m]
        expected = calibration_error(p.double().numpy(), y.double().numpy(), 15)
        assert errors[m].item() == pytest.approx(expected, abs=1e-12)
        assert errors[m].item() == pytest.approx(binary_calibration_error(p, y.long(), n_bins=15).item(), abs=1e-5)


def test_a_constant_probability_is_off_by_its_distance_to_the_share_of_positives() -> None:
    labels = column(1, 1, 1, 0, 0, 0, 0, 0, 0, 0)
    for probability in (0.0, 0.3, 0.5, 1.0):
        error = expected_calibration_error(torch.full((10, 1), probability), labels, all_labelled(labels))
        assert error.item() == pytest.approx(abs(probability - 0.3), abs=1e-6)


def test_certain_and_right_has_no_error_certain_and_wrong_has_one() -> None:
    labels = column(1, 0, 0, 1)
    assert expected_calibration_error(labels, labels, all_labelled(labels)).item() == 0
    assert expected_calibration_error(1 - labels, labels, all_labelled(labels)).item() == 1


def test_unlabelled_samples_are_in_no_bin() -> None:
    labels, mask = column(1, 0, 1), torch.tensor([[True], [True], [False]])
    bins = reliability(column(0.9, 0.1, 0.1), labels, mask, bins=2)
    assert bins.samples.flatten().tolist() == [1, 1]
    assert bins.positives.flatten().tolist() == [0, 1]
    assert bins.probability.flatten().tolist() == pytest.approx([0.1, 0.9])
    assert expected_calibration_error(column(0.9), column(1), ~all_labelled(column(1))).isnan().all()


# Thresholds


def test_a_threshold_divides_what_can_be_divided() -> None:
    scores, labels = column(-3, -2, -1, -0.5), column(0, 0, 1, 1)
    for goal in ("accuracy", "balanced_accuracy"):
        assert best_thresholds(scores, labels, all_labelled(labels), goal).item() == pytest.approx(-1.5)


def test_goals_disagree_where_classes_are_unequal() -> None:
    """Of nine negatives the highest three are above the only positive: none or all four are to be positive."""
    scores = column(9, 8, 7, 6, 5, 4, 3, 2, 1, 0.5)
    labels = column(0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    assert best_thresholds(scores, labels, all_labelled(labels), "accuracy").item() == float("inf")
    assert best_thresholds(scores, labels, all_labelled(labels), "balanced_accuracy").item() == pytest.approx(5.5)


def test_all_may_be_positive() -> None:
    labels = column(1, 1, 0, 1)
    scores = column(-4, -5, -3, -6)
    assert best_thresholds(scores, labels, all_labelled(labels), "accuracy").item() == -float("inf")


def test_the_usual_threshold_stays_where_nothing_speaks_against_it() -> None:
    mask = torch.ones(4, 3, dtype=torch.bool)
    scores = torch.tensor([[2.0, 2, 1], [1, 1, 1], [-1, -1, 1], [-2, -2, 1]])
    labels = torch.tensor([[1.0, 0, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]])  # divided at 0, one class, equal scores
    assert best_thresholds(scores, labels, mask, "balanced_accuracy").tolist() == [0, 0, 0]
    assert best_thresholds(scores, labels, mask, "accuracy").tolist() == [0, 0, 0]


def test_unlabelled_samples_move_no_threshold() -> None:
    scores, labels = column(-3, -2, -1.4, -1, -0.5), column(0, 0, 1, 1, 1)
    mask = torch.tensor([True, True, False, True, True])[:, None]
    assert best_thresholds(scores, labels, mask, "accuracy").item() == pytest.approx(-1.5)


@pytest.mark.parametrize("goal", ["accuracy", "balanced_accuracy"])
def test_no_other_threshold_does_better(goal: str) -> None:
    generator = torch.Generator().manual_seed(1)
    labels = (torch.rand(60, 5, generator=generator) > 0.7).float()
    scores = torch.randn(60, 5, generator=generator) + labels
    mask = torch.rand(60, 5, generator=generator) > 0.2
    thresholds = best_thresholds(scores, labels, mask, goal)

    def value(m: int, threshold: float) -> float:
        z, y = scores[mask[:, m], m].numpy(), labels[mask[:, m], m].numpy() > 0.5
        right = (z > threshold) == y
        return right.mean() if goal == "accuracy" else (right[y].mean() + right[~y].mean()) / 2

    for m in range(5):
        others = [value(m, z) for z in [*scores[:, m].tolist(), -99.0]]
        assert value(m, thresholds[m].item()) == pytest.approx(max(others))
