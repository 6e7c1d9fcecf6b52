"""L_shape and L_attr against the formulas, written out in float64."""

import torch

from jointface.modules import attribute_loss, shape_loss


def test_shape_loss_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, target = torch.rand(2, 5, 30, 3, generator=generator, dtype=torch.float64).unbind(0)
    weights = torch.rand(30, generator=generator, dtype=torch.float64)
    expected = 0.0
    for sample in range(5):
        for point in range(30):
            distance = sum((target[sample, point, axis] - predicted[sample, point, axis]) ** 2 for axis in range(3))
            expected += weights[point] * distance / 30 / 5
    torch.testing.assert_close(shape_loss(predicted, target, weights, 5), expected)
    torch.testing.assert_close(shape_loss(predicted.float(), target.float(), weights.float(), 5).double(), expected)


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
