"""Metrics against closed forms and independent float64 implementations."""

import numpy as np
import pytest
import torch

from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.correlation import correlation_difference, expected_correlation
from jointface.metrics.nme import FaceNME, normalised_mean_error


def face(width: float, height: float, count: int = 1) -> torch.Tensor:
    """Landmarks in a box of this size."""
    landmarks = torch.rand(count, 68, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [width, height, 10.0]
    )
    landmarks[:, 0, :2], landmarks[:, 1, :2] = torch.zeros(2), torch.tensor([width, height])
    return landmarks


def test_a_known_shift_gives_a_known_error() -> None:
    truth = face(80, 45)
    shift = torch.tensor([3.0, 4.0, 12.0])
    assert normalised_mean_error((truth + shift)[..., :2], truth[..., :2], truth).item() == pytest.approx(5 / 60)
    assert normalised_mean_error(truth + shift, truth, truth).item() == pytest.approx(13 / 60)


def test_nme_counts_every_face_once_however_the_batches_fall() -> None:
    truth = face(60, 60, count=5)
    predicted = truth + torch.randn(5, 68, 3, generator=torch.Generator().manual_seed(1))
    yaw = torch.tensor([-80.0, 10.0, 40.0, -30.0, 31.0])
    whole, parts = FaceNME(), FaceNME()
    whole.update(predicted, truth, predicted, truth, yaw)
    for rows in (slice(0, 1), slice(1, 5)):
        parts.update(predicted[rows], truth[rows], predicted[rows], truth[rows], yaw[rows])
    for name, value in whole.compute().items():
        torch.testing.assert_close(parts.compute()[name], value)
    by_face = (predicted - truth)[..., :2].double().norm(dim=-1).mean(1) / 60
    result = whole.compute()
    assert result["nme_2d_68"].item() == pytest.approx(by_face.mean().item(), rel=1e-5)
    assert result["nme_2d_68_yaw_0_30"].item() == pytest.approx(by_face[[1, 3]].mean().item(), rel=1e-5)
    assert result["nme_2d_68_yaw_30_60"].item() == pytest.approx(by_face[[2, 4]].mean().item(), rel=1e-5)
    assert result["nme_2d_68_yaw_60_90"].item() == pytest.approx(by_face[0].item(), rel=1e-5)


def test_depth_has_no_origin_and_counts_from_the_mean_of_the_points_compared() -> None:
    """In closed form: z of half of the landmarks grows by 8, so that they lie 4 too near and the others 4 too far."""
    truth = face(60, 60)
    landmarks, vertices = truth.clone(), truth + torch.tensor([0.0, 0, 500.0])
    landmarks[:, :34, 2] += 8
    metric = FaceNME()
    metric.update(landmarks, truth + torch.tensor([0.0, 0, -70.0]), vertices, truth, torch.tensor([5.0]))
    result = metric.compute()
    assert result["nme_2d_68"] == 0
    assert result["nme_3d_68"].item() == pytest.approx(4 / 60, rel=1e-5)
    assert result["nme_3d_dense"].item() == pytest.approx(0, abs=1e-6)


def test_a_bin_without_faces_is_left_out() -> None:
    metric = FaceNME()
    metric.update(face(60, 60), face(60, 60), face(60, 60), face(60, 60), torch.tensor([5.0]))
    assert set(metric.compute()) == {"nme_2d_68", "nme_3d_68", "nme_3d_dense", "nme_2d_68_yaw_0_30"}


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean of the precision at each positive, best score first."""
    ranked = labels[np.argsort(-scores)]
    precision = np.cumsum(ranked) / (1 + np.arange(len(ranked)))
    return float(precision[ranked > 0].mean())


def test_attribute_metrics_are_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 2, generator=generator), (torch.rand(50, 2, generator=generator) > 0.7).float()
    mask = torch.rand(50, 2, generator=generator) > 0.2
    alpha = torch.tensor([4.0, 0.5])
    metric = AttributeMetrics(["Bald", "Young"], alpha)
    metric.update(logits[:20], labels[:20], mask[:20])
    metric.update(logits[20:], labels[20:], mask[20:])
    result = metric.compute()
    means: dict[str, list[float]] = {}
    for m, name in enumerate(("Bald", "Young")):
        z = logits[mask[:, m], m].double().numpy()
        y = labels[mask[:, m], m].numpy() > 0.5
        calibrated = 1 / (1 + np.exp(-(z - np.log(alpha[m].item())))) > 0.5
        balanced = z > 0
        true_positives = (calibrated & y).sum()
        expected = {
            "accuracy": (calibrated == y).mean(),
            "balanced_accuracy": (balanced[y].mean() + (~balanced)[~y].mean()) / 2,
            "f1": 2 * true_positives / (calibrated.sum() + y.sum()),
            "average_precision": average_precision(z, y.astype(float)),
        }
        for metric_name, value in expected.items():
            assert result[f"{metric_name}/{name}"].item() == pytest.approx(value, abs=1e-6), metric_name
            means.setdefault(metric_name, []).append(value)
    for metric_name, values in means.items():
        assert result[metric_name].item() == pytest.approx(np.mean(values), abs=1e-6)


def test_undefined_scores_are_left_out_of_the_mean() -> None:
    metric = AttributeMetrics(["Bald", "Young"], torch.ones(2))
    metric.update(
        torch.tensor([[1.0, 1.0], [-1.0, -1.0]]),
        torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        torch.ones(2, 2, dtype=torch.bool),
    )
    result = metric.compute()
    assert "balanced_accuracy/Bald" not in result
    assert "average_precision/Bald" not in result
    assert result["balanced_accuracy"].item() == result["average_precision"].item() == 1
    assert result["accuracy"].item() == pytest.approx(0.75)


def test_zero_logits_are_the_majority_class() -> None:
    """The trivial predictor of the results table."""
    labels = torch.tensor([[1.0, 1.0]] * 3 + [[0.0, 1.0]] * 7)
    mask = torch.ones(10, 2, dtype=torch.bool)
    metric = AttributeMetrics(["Bald", "Young"], torch.tensor([7 / 3, 0.02]))
    metric.update(torch.zeros(10, 2), labels, mask)
    result = metric.compute()
    assert result["accuracy/Bald"].item() == pytest.approx(0.7)
    assert result["accuracy/Young"].item() == 1
    assert result["balanced_accuracy"].item() == pytest.approx(0.5)


# Correlation


def test_correlation_of_labels_is_pearsons() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((300, 4)) > [0.2, 0.5, 0.7, 0.9]).astype(float)
    labels[:, 1] = np.where(random.random(300) < 0.7, labels[:, 0], labels[:, 1])
    found = expected_correlation(labels, np.ones((300, 4), dtype=bool))
    np.testing.assert_allclose(found, np.corrcoef(labels.T), atol=1e-12)


def test_correlation_is_over_samples_where_both_are_labelled() -> None:
    random = np.random.default_rng(1)
    labels, mask = (random.random((300, 3)) > 0.4).astype(float), random.random((300, 3)) > 0.3
    found = expected_correlation(labels, mask)
    both = mask[:, 0] & mask[:, 2]
    expected = np.corrcoef(labels[both][:, [0, 2]].T)[0, 1]
    assert found[0, 2] == found[2, 0] == pytest.approx(expected)


def test_correlation_of_probabilities_is_that_of_labels_sampled_from_them() -> None:
    random = np.random.default_rng(2)
    latent = random.random((100_000, 1))
    probability = np.hstack([latent, 0.1 + 0.5 * latent, 1 - latent])
    mask = np.ones(probability.shape, dtype=bool)
    sampled = np.corrcoef((random.random(probability.shape) < probability).T)
    np.testing.assert_allclose(expected_correlation(probability, mask), sampled, atol=0.01)


def test_constant_predictions_have_no_correlation() -> None:
    found = expected_correlation(np.full((10, 2), [0.3, 0.6]), np.ones((10, 2), dtype=bool))
    np.testing.assert_allclose(found, np.eye(2), atol=1e-12)


def test_the_difference_is_over_pairs() -> None:
    labels = np.array([[1, 0.5, 0], [0.5, 1, np.nan], [0, np.nan, 1]])
    predicted = np.array([[1, 0.1, 0.3], [0.1, 1, 0], [0.3, 0, 1]])
    assert correlation_difference(predicted, labels) == pytest.approx(np.sqrt((0.4**2 + 0.3**2) / 2))
    assert correlation_difference(labels, labels) == 0
    assert np.isnan(correlation_difference(np.eye(1), np.eye(1)))
