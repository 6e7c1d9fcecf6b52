"""L_shape and L_attr against the formulas, written out in float64."""

import pytest
import torch
from torch import nn

from jointface.geometry import MorphableModel
from jointface.geometry.camera import is_mirrored
from jointface.modules import attribute_loss, root_mean_square, shape_loss
from jointface.modules.linear_shape_loss import LinearShapeLoss
from jointface.modules.shape_decoders import MorphableDecoder


def test_shape_loss_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.rand(2, 5, 30, 3, generator=generator, dtype=torch.float64).unbind(0)
    weights = torch.rand(30, generator=generator, dtype=torch.float64)
    expected = torch.zeros(5, dtype=torch.float64)
    for sample in range(5):
        for point in range(30):
            distance = sum((target[sample, point, axis] - predicted[sample, point, axis]) ** 2 for axis in range(3))
            expected[sample] += weights[point] * distance / 30
    torch.testing.assert_close(shape_loss(predicted, target, weights), expected)
    torch.testing.assert_close(shape_loss(predicted.float(), target.float(), weights.float()).double(), expected)


def test_the_gradient_of_the_root_is_as_long_near_the_truth_as_far_from_it_and_zero_at_it() -> None:
    predicted = torch.tensor([0.2, 0.01, 0.0])[:, None, None].repeat(1, 4, 3).requires_grad_()
    roots = root_mean_square(shape_loss(predicted, torch.zeros(3, 4, 3), torch.ones(4)))
    torch.testing.assert_close(roots, 3**0.5 * predicted[:, 0, 0], rtol=0, atol=1e-4)
    (gradient,) = torch.autograd.grad(roots.sum(), predicted)
    far, near, none = gradient.flatten(1).norm(dim=1)
    torch.testing.assert_close(far, near, rtol=1e-3, atol=0)
    assert roots[2] == none == 0


def test_attribute_loss_is_the_formula_over_the_labelled_attributes() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
    logits.requires_grad_()
    labels = (torch.rand(6, 4, generator=generator) > 0.5).double()
    mask = torch.rand(6, 4, generator=generator) > 0.3
    alpha = torch.rand(6, 4, generator=generator, dtype=torch.float64) * 5
    probability = 1 / (1 + torch.exp(-logits))
    expected = 0.0
    for sample in range(6):
        for m in range(4):
            if mask[sample, m]:
                a, p = labels[sample, m], probability[sample, m]
                expected -= (alpha[sample, m] * a * torch.log(p) + (1 - a) * torch.log(1 - p)) / 6
    loss = attribute_loss(logits, labels, mask, alpha, 6)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.equal(gradient != 0, mask)


def test_attribute_loss_and_its_gradient_are_finite_at_any_logit() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    mask = torch.ones(1, 2, dtype=torch.bool)
    loss = attribute_loss(logits, torch.tensor([[0.0, 1.0]]), mask, torch.full((1, 2), 50.0), 1)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("flipped", [False, True])
def test_the_closed_form_of_l_shape_is_the_formula_over_all_vertices(tiny_model: MorphableModel, flipped: bool) -> None:
    decoder = MorphableDecoder((8, 4, 4), tiny_model, image_size=64, hidden=32).eval()
    nn.init.normal_(decoder.regressor.weight, std=0.3)
    predicted, true = decoder.outputs(torch.randn(5, 8, 4, 4)), decoder.outputs(torch.randn(5, 8, 4, 4))
    if flipped:  # x becomes 63 - x
        flip = torch.diag(torch.tensor([-1.0, 1, 1]))
        true = (*true[:2], flip @ true[2] + torch.tensor([63.0, 0, 0])[:, None] * torch.tensor([0.0, 0, 0, 1]))
    assert is_mirrored(true[2]).all() == flipped
    weights = torch.rand(len(tiny_model.mean))
    expected = shape_loss(decoder.points(*predicted).double(), decoder.target(*true).double(), weights.double())
    loss = LinearShapeLoss(tiny_model, weights, image_size=64)
    torch.testing.assert_close(loss(predicted, true).double(), expected, rtol=1e-5, atol=0)
    assert loss(true, true).max() == 0
