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
    torch.testing.assert_close(shape_loss(predicted, target, weights), expected)
    torch.testing.assert_close(shape_loss(predicted.float(), target.float(), weights.float()).double(), expected)


def test_attribute_loss_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(6, 4, generator=generator, dtype=torch.float64)
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
    torch.testing.assert_close(attribute_loss(logits, labels, mask, alpha), expected)


def test_attribute_loss_is_finite_at_any_logit() -> None:
    logits = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = attribute_loss(
        logits, torch.tensor([[0.0, 1.0]]), torch.ones(1, 2, dtype=torch.bool), torch.full((1, 2), 50.0)
    )
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_an_unlabelled_attribute_teaches_nothing() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    mask = torch.tensor([[True, False]]).expand(3, 2)
    attribute_loss(logits, torch.ones(3, 2), mask, torch.ones(3, 2)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0] != 0).all()
    assert (logits.grad[:, 1] == 0).all()


def test_no_samples_give_zero_and_finite_gradients() -> None:
    points, logits = torch.zeros(0, 10, 3, requires_grad=True), torch.zeros(0, 4, requires_grad=True)
    shape = shape_loss(points, torch.zeros(0, 10, 3), torch.ones(10))
    attributes = attribute_loss(logits, torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool), torch.ones(0, 4))
    (shape + attributes).backward()
    assert shape.item() == attributes.item() == 0


def test_losses_do_not_depend_on_how_many_samples_there_are() -> None:
    predicted, target = torch.rand(2, 1, 8, 3).unbind(0)
    logits, labels = torch.randn(1, 4), torch.ones(1, 4)
    mask, alpha = torch.ones(1, 4, dtype=torch.bool), torch.rand(1, 4)
    torch.testing.assert_close(
        shape_loss(predicted, target, torch.ones(8)),
        shape_loss(predicted.repeat(7, 1, 1), target.repeat(7, 1, 1), torch.ones(8)),
    )
    repeated = attribute_loss(logits.repeat(7, 1), labels.repeat(7, 1), mask.repeat(7, 1), alpha.repeat(7, 1))
    torch.testing.assert_close(attribute_loss(logits, labels, mask, alpha), repeated)
