"""How exact landmarks are: the likelihood that teaches it, its calibration, and what a reader says of it."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from lightning import Trainer

from jointface.callbacks import figures
from jointface.detection.finders import GivenBoxes
from jointface.errors import ConfigError
from jointface.geometry import FaceBox, MorphableModel
from jointface.inference.backends import TorchNetwork
from jointface.inference.face_tables import face_entry, face_table
from jointface.inference.photo_overlay import photo_overlay
from jointface.inference.reader import FaceReader
from jointface.metrics.landmark_calibration import LandmarkCalibration
from jointface.modules import JointFaceModule, LandmarkUncertainty, build_network
from jointface.modules.checkpoint import KEY, describe, load_model
from jointface.modules.losses import landmark_likelihood_loss
from jointface.viz.error_curves import calibration_curve
from tests.networks import Batch, make_module, network_config
from tests.test_landmark_supervision import marked

SIGMA = 0.03


@pytest.fixture
def make(tiny_model: MorphableModel) -> Callable[..., JointFaceModule]:
    """Builds modules that predict the uncertainty of landmarks, with these settings."""

    def module(**settings: Any) -> JointFaceModule:
        head = {"_target_": "jointface.modules.LandmarkUncertainty", "initial": SIGMA}
        network = {**network_config("morphable"), "landmark_uncertainty": head}
        return make_module(tiny_model, network=network, **settings).eval()

    return module


def test_the_loss_is_the_likelihood_of_the_labelled_landmarks() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, truth = torch.rand(2, 3, 68, 2, generator=generator, dtype=torch.float64).unbind()
    sigma = 0.01 + torch.rand(3, 68, generator=generator, dtype=torch.float64)
    mask = torch.rand(3, 68, generator=generator) > 0.4
    expected = 0.0
    for face, landmark in mask.nonzero().tolist():
        s = sigma[face, landmark].item()
        for axis in range(2):  # a normal density for x and for y, without their constants
            error = (predicted - truth)[face, landmark, axis].item()
            expected += error**2 / (2 * s**2) + math.log(s)
    found = landmark_likelihood_loss(predicted, truth, sigma, mask, 3)
    assert found.item() == pytest.approx(expected / 3, rel=1e-12)


def test_fitted_faces_and_marked_photos_teach_it_and_the_rest_does_not(
    make: Callable[..., JointFaceModule], mixed_batch: Batch
) -> None:
    module, batch = make(), {**mixed_batch, "marked": marked(4, 3)}
    decoder, fitted = module.network.shape_decoder, mixed_batch["w300lp"]
    model, expected = decoder.morphable_model, 0.0
    for part in (fitted, batch["marked"]):
        found = module.network(part["image"]).vertices[:, model.landmarks68, :2] / 64
        true, mask = part.get("landmarks68"), part.get("landmark_mask", torch.ones(8, 68, dtype=torch.bool))
        if "camera" in part:
            labels = (part[key] for key in ("shape_coefficients", "expression_coefficients", "camera"))
            true = model.project(*labels)[:, model.landmarks68]
        squared = (found - true[..., :2] / 64).square().sum(-1)
        expected += ((squared / (2 * SIGMA**2) + 2 * math.log(SIGMA)) * mask).sum().item()
    assert module.losses(batch)["landmark_uncertainty"].item() == pytest.approx(expected / 12, rel=1e-4)
    assert module.losses({"celeba": mixed_batch["celeba"]})["landmark_uncertainty"] == 0


@pytest.mark.parametrize("contour", ["slide", "leave_out"])
def test_contours_in_2d_are_those_of_the_shape_loss(contour: str, make: Callable[..., JointFaceModule]) -> None:
    module, part = make(contour=contour), marked(4, 2)
    found = module.network(part["image"]).vertices / 64
    labelled, truth = module.shape_supervision.labelled_landmarks, part["landmarks68"] / 64
    points, mask = labelled(found[:, labelled.vertices], truth, part["landmark_mask"])
    sigma = torch.full((4, 68), SIGMA)
    expected = landmark_likelihood_loss(points, truth, sigma, mask, 4)
    torch.testing.assert_close(module.losses({"marked": part})["landmark_uncertainty"], expected, rtol=1e-4, atol=0)
    assert mask[:, :17].any() == (contour == "slide")


def test_landmarks_that_a_data_set_gives_beside_a_camera_are_the_truth(
    make: Callable[..., JointFaceModule], mixed_batch: Batch
) -> None:
    module, part = make(), mixed_batch["w300lp"]
    projected = module.losses({"w300lp": part})["landmark_uncertainty"]
    model = module.network.shape_decoder.morphable_model
    labels = (part[key] for key in ("shape_coefficients", "expression_coefficients", "camera"))
    own = model.project(*labels)[:, model.landmarks68]
    same, moved = (
        module.losses({"w300lp": {**part, "landmarks68": points}})["landmark_uncertainty"] for points in (own, own + 5)
    )
    torch.testing.assert_close(same, projected, rtol=1e-4, atol=0)
    assert moved > projected


@pytest.mark.parametrize("present", [(), ("photos",)])
def test_without_labels_every_trained_parameter_has_a_gradient(
    present: tuple[str, ...], make: Callable[..., JointFaceModule]
) -> None:
    """Distributed training requires it."""
    module = make()
    losses = module.losses({name: {"image": marked(2, 2)["image"]} for name in present})
    assert all(loss == 0 for loss in losses.values())
    torch.stack([*losses.values()]).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("detached", [True, False])
def test_the_loss_moves_points_only_where_it_is_told(
    detached: bool, make: Callable[..., JointFaceModule], mixed_batch: Batch
) -> None:
    module = make(detach_points=detached)
    module.losses(mixed_batch)["landmark_uncertainty"].backward()
    assert (module.network.shape_decoder.regressor.bias.grad is None) == detached
    assert module.network.landmark_uncertainty.layers[2].bias.grad.abs().min() > 0


def test_errors_as_large_as_predicted_are_calibrated() -> None:
    torch.manual_seed(0)
    sigma, truth = 0.5 + torch.rand(800, 68), torch.rand(800, 68, 2)
    predicted = truth + sigma[..., None] * torch.randn(800, 68, 2)
    mask = torch.rand(800, 68) > 0.2
    predicted[~mask] = 1000.0
    metric = LandmarkCalibration()
    metric.update_empty()
    assert metric.compute() == {}
    for factor, low, high in ((1.0, 0.0, 0.005), (0.1, 0.4, 0.5), (100.0, 0.499, 0.501)):
        metric.reset()
        metric.update(predicted, truth, factor * sigma, mask)
        values = metric.compute()
        assert low <= values["landmark_calibration_error"] <= high
        # The distances have a Rayleigh distribution.
        expected = [1 - (1 - q) ** factor**2 for q in np.arange(1, 10) / 10]
        curve = [values[f"landmarks_within/{q:.1f}"].item() for q in np.arange(1, 10) / 10]
        assert curve == pytest.approx(expected, abs=0.01)


def test_a_run_draws_the_shares_as_a_curve(
    make: Callable[..., JointFaceModule], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = {q: torch.tensor(q**2) for q in (0.9, 0.1, 0.5)}
    trainer = Mock(
        Trainer,
        datamodule=SimpleNamespace(datasets={"test": {"photos": None}}),
        default_root_dir=str(tmp_path),
        callback_metrics={f"test/photos/landmarks_within/{q}": share for q, share in shares.items()},
    )
    monkeypatch.setattr(figures, "spread_faces", lambda *_: {"image": torch.zeros(1, 3, 64, 64, dtype=torch.uint8)})
    drawn: list[Any] = []
    monkeypatch.setattr(figures, "calibration_curve", lambda of: drawn.append(calibration_curve(of)) or drawn[0])
    figures.ValidationFigures().on_test_end(trainer, make())
    assert (tmp_path / "figures" / "test" / "photos" / "calibration.png").is_file()
    _, observed = drawn[0].axes[0].lines
    np.testing.assert_allclose(
        observed.get_xydata(), [(0, 0), (0.1, 0.01), (0.5, 0.25), (0.9, 0.81), (1, 1)], atol=1e-6
    )


def test_checkpoints_keep_the_head_and_older_ones_have_none(
    make: Callable[..., JointFaceModule], tiny_model: MorphableModel, tmp_path: Path
) -> None:
    module = make()
    with torch.no_grad():
        module.network.landmark_uncertainty.layers[2].bias.fill_(math.log(2 * SIGMA))
    torch.save({KEY: module.description, "state_dict": module.state_dict()}, tmp_path / "new.ckpt")
    images = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    loaded = load_model(tmp_path / "new.ckpt")
    assert loaded.landmark_uncertainty(loaded.features(images))[0].tolist() == pytest.approx([2 * SIGMA] * 68)
    before = make_module(tiny_model)
    description = describe(before.network, network_config("morphable"))
    assert "landmark_uncertainty" not in description["network"]
    torch.save({KEY: description, "state_dict": before.state_dict()}, tmp_path / "old.ckpt")
    assert load_model(tmp_path / "old.ckpt").landmark_uncertainty is None


def test_it_needs_a_face(tiny_model: MorphableModel) -> None:
    config = {**network_config(None), "landmark_uncertainty": {"_target_": "jointface.modules.LandmarkUncertainty"}}
    with pytest.raises(ConfigError, match=r"model\.landmark_uncertainty needs model\.shape_decoder"):
        build_network(config, ("Bald",), tiny_model)


@pytest.mark.parametrize("initial", [0.0, math.inf, math.nan])
def test_a_standard_deviation_is_a_number_above_0(initial: float) -> None:
    with pytest.raises(ConfigError, match=r"initial=.*: must be above 0 and finite"):
        LandmarkUncertainty((8, 2, 2), initial)


def test_a_reader_gives_it_in_pixels_of_the_photo(make: Callable[..., JointFaceModule]) -> None:
    network, box = make().network, FaceBox(150.0, 140.0, 100.0)
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    (face,) = FaceReader(TorchNetwork(network), GivenBoxes([box]), two_passes=False)(photo)
    np.testing.assert_allclose(face.landmark_std, np.full(68, SIGMA * 1.58 * box.size), rtol=1e-5)
    entry = face_entry(face, 1)
    assert entry["landmark_std"] == [4.74] * 68
    row = face_table([{"photo": "a", "width": 400, "height": 300} | entry]).iloc[0]
    assert row["landmark_67_std_px"] == 4.74
    shown = photo_overlay(face.photo, [face], 640)
    network.landmark_uncertainty = None
    (plain,) = FaceReader(TorchNetwork(network), GivenBoxes([box]), two_passes=False)(photo)
    assert plain.landmark_std is None
    assert face_entry(plain, 1)["landmark_std"] is None
    changed = (shown != photo_overlay(plain.photo, [plain], 640)).any(-1)
    assert 0 < changed.mean() < 0.05
