"""The prior of coefficients: a normal density with the moments of the labelled faces."""

import pytest
import torch

from jointface.errors import ConfigError
from jointface.geometry import MorphableModel
from jointface.modules import FixedWeights, MorphableDecoder
from jointface.modules.coefficient_prior import RunningMoments
from tests.networks import Batch, make_module

WEIGHT = 0.3


def test_the_prior_is_the_mean_square_in_units_of_the_labelled_faces(
    tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    module = make_module(tiny_model, prior_weight=WEIGHT, loss=FixedWeights(30.0, 2.0)).train()
    decoder = module.network.shape_decoder
    assert isinstance(decoder, MorphableDecoder)
    torch.nn.init.normal_(decoder.regressor.bias[9:].data)  # the untrained weights are 0: every face is the bias
    labels = mixed_batch["w300lp"]
    true = torch.cat([labels["shape_coefficients"], labels["expression_coefficients"]], dim=1).double()
    losses = module.losses(mixed_batch)
    predicted = decoder.outputs(module.network.features(labels["image"]))
    varies = true.var(0, unbiased=False) > 0
    standard = (torch.cat(predicted[:2], dim=1) - true.mean(0)) / true.std(0, unbiased=False)
    expected = torch.where(varies, standard, 0).square().mean(1).mean()
    assert losses["prior"].item() == pytest.approx(expected.item(), rel=1e-4)
    total = module.weighting(losses, losses, 0)
    expected_total = 30 * losses["shape"] + 2 * losses["attributes"] + WEIGHT * losses["prior"]
    torch.testing.assert_close(total, expected_total)


def test_without_labelled_shapes_there_is_no_prior_to_pay(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    module = make_module(tiny_model, prior_weight=WEIGHT)
    loss = module.losses({"celeba": mixed_batch["celeba"]})["prior"]
    assert loss == 0
    assert loss.requires_grad  # or gradients of the tasks could not be measured
    assert "prior" not in make_module(tiny_model).losses(mixed_batch)


@pytest.mark.parametrize(
    ("decoder", "weight", "message"),
    [
        ("position_map", WEIGHT, "model.prior_weight needs model/shape_decoder=morphable"),
        ("morphable", -1.0, "model.prior_weight=-1.0: expected a number of at least 0"),
    ],
)
def test_a_prior_that_makes_no_sense_is_refused(
    tiny_model: MorphableModel, decoder: str, weight: float, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_module(tiny_model, decoder, prior_weight=weight)


def test_a_coefficient_that_does_not_vary_has_no_prior() -> None:
    moments = RunningMoments(2)
    for _ in range(50):
        moments.observe(torch.cat([torch.full((7, 1), 0.3), torch.randn(7, 1)], dim=1))
    assert (moments.inverse_deviation() > 0).tolist() == [False, True]
