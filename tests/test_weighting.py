"""How the tasks' losses become one: each choice against its formula, in float64 and on problems solved by hand."""

import io
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from jointface.errors import ConfigError
from jointface.modules import DynamicWeightAverage, FixedWeights, PCGrad, UncertaintyWeights
from jointface.modules.task_gradients import gradient_statistics
from jointface.modules.weighting import project_conflicting


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def two(shape: float, attributes: float) -> dict[str, Tensor]:
    return {"shape": torch.tensor(shape), "attributes": torch.tensor(attributes)}


def test_fixed_weights_are_the_weighted_sum() -> None:
    losses = two(0.25, 3.0)
    assert FixedWeights(shape=1000.0, attributes=2.0)(losses, losses).item() == 256.0
    assert FixedWeights(shape=1000.0, attributes=2.0)({"shape": losses["shape"]}, losses).item() == 250.0


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights_below_zero_are_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"model.loss.shape=.*: expected a number of at least 0"):
        FixedWeights(shape=weight, attributes=1.0)


# Uncertainty


def test_uncertainty_is_kendalls_formula() -> None:
    weighting = UncertaintyWeights(shape=1000.0, attributes=2.0)
    sigma = torch.tensor([0.7, 1.9])
    weighting.log_variance.data = 2 * sigma.log()
    losses = two(0.002, 3.0)
    expected = 2.0 / (2 * sigma[0] ** 2) + 6.0 / sigma[1] ** 2 + sigma[0].log() + sigma[1].log()
    torch.testing.assert_close(weighting(losses, losses), expected)
    weights = weighting.weights()
    torch.testing.assert_close(weights["shape"], 1000 / (2 * sigma[0] ** 2))
    torch.testing.assert_close(weights["attributes"], 2 / sigma[1] ** 2)


def test_uncertainty_settles_where_its_derivative_is_zero() -> None:
    """1/(2 sigma^2) L + log sigma is least at sigma^2 = L, 1/sigma^2 L + log sigma at sigma^2 = 2 L."""
    weighting, losses = UncertaintyWeights(shape=100.0, attributes=1.0), two(0.03, 0.4)
    optimizer = torch.optim.LBFGS(weighting.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = weighting(losses, losses)
        total.backward()
        return total

    optimizer.step(closure)
    torch.testing.assert_close(weighting.log_variance.exp().detach(), torch.tensor([3.0, 0.8]), rtol=1e-4, atol=0)


def test_a_batch_without_a_task_says_nothing_of_its_uncertainty() -> None:
    weighting, losses = UncertaintyWeights(shape=1.0, attributes=1.0), two(0.5, 0.0)
    weighting(losses, losses).backward()
    assert weighting.log_variance.grad is not None
    assert weighting.log_variance.grad[0] != 0
    assert weighting.log_variance.grad[1] == 0


# Dynamic weight average


def dwa_factors(windows: list[tuple[float, float]], temperature: float) -> list[float]:
    """Equation of Liu et al. for the window after the given ones."""
    (before, last), tasks = windows[-2:], range(2)
    share = [math.exp(last[k] / before[k] / temperature) for k in tasks]
    return [2 * s / sum(share) for s in share]


def test_dwa_is_liu_et_als_formula_over_windows_of_steps() -> None:
    weighting = DynamicWeightAverage(shape=10.0, attributes=1.0, window=3, temperature=0.5)
    generator = torch.Generator().manual_seed(0)
    history: list[tuple[float, float]] = []
    for window in range(5):
        batch_losses = torch.rand(3, 2, generator=generator) + 0.1
        for step, (shape, attributes) in enumerate(batch_losses.tolist()):
            weighting.observe(two(shape, attributes), 3 * window + step)
            shape_factor, attribute_factor = dwa_factors(history, 0.5) if window >= 2 else [1.0, 1.0]
            weights = weighting.weights()
            assert weights["shape"].item() == pytest.approx(10 * shape_factor, rel=1e-12)
            assert weights["attributes"].item() == pytest.approx(attribute_factor, rel=1e-12)
        history.append((batch_losses[:, 0].mean().item(), batch_losses[:, 1].mean().item()))


def test_dwa_counts_optimiser_steps_and_not_the_batches_of_a_step() -> None:
    weighting = DynamicWeightAverage(shape=1.0, attributes=1.0, window=2)
    for step in (0, 0, 0, 1, 1, 1):
        weighting.observe(two(1.0, 1.0), step)
    assert weighting.batches.tolist() == [6, 6]
    weighting.observe(two(1.0, 1.0), 2)
    weighting.observe(two(1.0, 1.0), 2)
    assert weighting.batches.tolist() == [2, 2]


def test_dwa_without_samples_of_a_task_keeps_its_last_mean() -> None:
    weighting = DynamicWeightAverage(shape=1.0, attributes=1.0, window=1, temperature=1.0)
    for step, losses in enumerate([(4.0, 2.0), (2.0, 0.0), (1.0, 0.0), (1.0, 1.0)]):
        weighting.observe(two(*losses), step)
    ratios = torch.tensor([1.0 / 2.0, 1.0])  # of shape, and of attributes that nothing was seen of
    torch.testing.assert_close(weighting.factors, 2 * torch.softmax(ratios, 0))


def test_dwa_passes_over_a_loss_that_is_not_finite() -> None:
    weighting = DynamicWeightAverage(shape=1.0, attributes=1.0, window=2)
    for step, shape in enumerate([1.0, math.nan, 3.0, math.inf]):
        weighting.observe(two(shape, 1.0), step)
    weighting.observe(two(1.0, 1.0), 4)
    assert weighting.means.tolist() == [[3, 1], [1, 1]]


def test_dwa_of_one_task_alone_weighs_as_fixed_weights_do() -> None:
    weighting = DynamicWeightAverage(shape=5.0, attributes=1.0, window=1)
    for step in range(6):
        weighting.observe({"shape": torch.tensor(1.0 / (step + 1))}, step)
    assert weighting({"shape": torch.tensor(2.0)}, {}).item() == pytest.approx(10.0)


@pytest.mark.parametrize("options", [{"window": 0}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_dwa_refuses_numbers_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1 and above 0"):
        DynamicWeightAverage(shape=1.0, attributes=1.0, **options)  # type: ignore[arg-type]


def test_dwa_goes_on_from_a_checkpoint_in_the_middle_of_a_window() -> None:
    def observe(weighting: DynamicWeightAverage, steps: range) -> None:
        for step in steps:
            weighting.observe(two(1.0 / (step + 1), 1.0 / (step + 1) ** 2), step)

    straight, stopped, resumed = (DynamicWeightAverage(1.0, 1.0, window=3) for _ in range(3))
    observe(straight, range(11))
    observe(stopped, range(7))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    observe(resumed, range(7, 11))
    assert straight.factors[0] != 1
    for name, buffer in straight.named_buffers():
        assert torch.equal(buffer, resumed.get_buffer(name)), name
    assert resumed.number == straight.number


# PCGrad


def test_conflicting_gradients_lose_the_part_against_each_other() -> None:
    """(1, 0) and (-1, 1): the first loses half of the second, the second all of the first."""
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 1.0])
    projected = torch.tensor([0.5, 0.5]) + torch.tensor([0.0, 1.0])
    torch.testing.assert_close(project_conflicting(torch.stack([first, second])), projected)


@pytest.mark.parametrize("second", [[0.0, 2.0], [3.0, 1.0], [0.0, 0.0]])
def test_gradients_that_agree_stay_as_they_are(second: list[float]) -> None:
    gradients = torch.tensor([[1.0, 0.0], second])
    torch.testing.assert_close(project_conflicting(gradients), gradients.sum(0))


def test_opposed_gradients_cancel() -> None:
    assert project_conflicting(torch.tensor([[2.0, 0.0], [-1.0, 0.0]])).tolist() == [0, 0]


class Problem:
    """Two tasks on one shared point p, each with a parameter of its own: L_shape = p . (1, 0) a, L_attributes =
    p . (-1, 1) b at p = (3, 5), a = 2, b = 1."""

    def __init__(self) -> None:
        self.p = Parameter(torch.tensor([3.0, 5.0]))
        self.a, self.b = Parameter(torch.tensor(2.0)), Parameter(torch.tensor(1.0))
        self.unused = Parameter(torch.ones(1))
        self.own = [self.a, self.b, self.unused]

    def losses(self, shape: bool = True, attributes: bool = True) -> dict[str, Tensor]:
        return {
            "shape": self.p @ torch.tensor([1.0, 0.0]) * self.a if shape else 0 * self.a,
            "attributes": self.p @ torch.tensor([-1.0, 1.0]) * self.b if attributes else 0 * self.b,
        }

    def backward(self, weighting: FixedWeights, scale: float = 1.0, **present: bool) -> None:
        losses = self.losses(**present)
        weighting.backward(scale * weighting(losses, losses), losses, [self.p], self.own)


def test_pcgrad_projects_on_shared_parameters_alone() -> None:
    """The weighted gradients of p are (2, 0) and (-1, 1), which become (1, 1) and (0, 1)."""
    problem = Problem()
    problem.backward(PCGrad(shape=1.0, attributes=1.0))
    assert problem.p.grad is not None
    torch.testing.assert_close(problem.p.grad, torch.tensor([1.0, 2.0]))
    assert (problem.a.grad, problem.b.grad) == (3, 2)  # as ever: p_1 and p_2 - p_1
    assert problem.unused.grad == 0


def test_pcgrad_weighs_first() -> None:
    """With weights 3 and 4 the gradients of p are (6, 0) and (-4, 4), which become (3, 3) and (0, 4)."""
    problem = Problem()
    problem.backward(PCGrad(shape=3.0, attributes=4.0))
    assert problem.p.grad is not None
    torch.testing.assert_close(problem.p.grad, torch.tensor([3.0, 7.0]))
    assert (problem.a.grad, problem.b.grad) == (9, 8)


def test_pcgrad_keeps_the_scale_of_the_loss_that_it_is_given() -> None:
    """A gradient scaler multiplies the loss, and divides the gradients later."""
    plain, scaled = Problem(), Problem()
    plain.backward(PCGrad(1.0, 1.0))
    scaled.backward(PCGrad(1.0, 1.0), scale=65536.0)
    for one, other in zip([plain.p, plain.a, plain.b], [scaled.p, scaled.a, scaled.b], strict=True):
        torch.testing.assert_close(65536 * one.grad, other.grad)


def test_pcgrad_over_accumulated_batches_projects_their_sum() -> None:
    """Batches of one task alone agree with everything one by one; together they conflict."""
    problem, weighting = Problem(), PCGrad(1.0, 1.0)
    problem.backward(weighting, attributes=False)
    assert problem.p.grad is not None
    torch.testing.assert_close(problem.p.grad, torch.tensor([2.0, 0.0]))
    problem.backward(weighting, shape=False)
    torch.testing.assert_close(problem.p.grad, torch.tensor([1.0, 2.0]))


def test_pcgrad_starts_anew_with_every_optimiser_step() -> None:
    problem, weighting = Problem(), PCGrad(1.0, 1.0)
    problem.backward(weighting, attributes=False)
    weighting.end_step()
    problem.p.grad = None
    problem.backward(weighting, shape=False)
    assert problem.p.grad is not None
    torch.testing.assert_close(problem.p.grad, torch.tensor([-1.0, 1.0]))


def test_pcgrad_lets_a_gradient_that_is_not_finite_show() -> None:
    """So that a gradient scaler finds it and leaves the step out."""
    problem = Problem()
    problem.backward(PCGrad(1.0, 1.0), scale=math.inf)
    assert problem.p.grad is not None
    assert not problem.p.grad.isfinite().all()


def test_all_other_choices_leave_gradients_as_they_are() -> None:
    for weighting in (FixedWeights(1.0, 1.0), DynamicWeightAverage(1.0, 1.0)):
        problem = Problem()
        problem.backward(weighting)
        assert problem.p.grad is not None
        torch.testing.assert_close(problem.p.grad, torch.tensor([1.0, 1.0]))


# What is measured of the gradients


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_norms_and_cosine_are_those_of_the_weighted_gradients(scale: float) -> None:
    """(6, 0) and (-4, 4): lengths 6 and sqrt 32, at 135 degrees, whatever a gradient scaler makes of the loss."""
    problem = Problem()
    losses = problem.losses()
    total = FixedWeights(shape=3.0, attributes=4.0)(losses, losses)
    statistics = gradient_statistics(scale * total, total, losses, [problem.p])
    assert statistics["gradient_norm_shape"].item() == pytest.approx(6)
    assert statistics["gradient_norm_attributes"].item() == pytest.approx(math.sqrt(32))
    assert statistics["gradient_cosine"].item() == pytest.approx(-math.sqrt(0.5))
    (scale * total).backward()  # the graph is kept
    assert problem.p.grad is not None


def test_a_task_without_samples_has_norm_zero_and_no_cosine() -> None:
    problem = Problem()
    losses = problem.losses(attributes=False)
    total = FixedWeights(1.0, 1.0)(losses, losses)
    statistics = gradient_statistics(total, total, losses, [problem.p])
    assert statistics["gradient_norm_attributes"] == 0
    assert statistics["gradient_cosine"].isnan()
