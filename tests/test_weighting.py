"""How the tasks' losses are combined: each choice against its formula, in float64 and on problems solved by hand."""

import io
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from jointface.errors import ConfigError
from jointface.modules import DynamicWeightAverage, FixedWeights, PCGrad, TorchJDGradients, UncertaintyWeights
from jointface.modules.task_gradients import gradient_statistics
from jointface.modules.weighting import project_conflicting


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def two(shape: float, attributes: float) -> dict[str, Tensor]:
    return {"shape": torch.tensor(shape), "attributes": torch.tensor(attributes)}


def total(weighting: FixedWeights, losses: dict[str, Tensor]) -> Tensor:
    return weighting(losses, losses, step=0)


def test_fixed_weights_are_the_weighted_sum() -> None:
    weighting, losses = FixedWeights(shape=1000.0, attributes=2.0), two(0.25, 3.0)
    assert total(weighting, losses).item() == 256.0
    assert total(weighting, {"shape": losses["shape"]}).item() == 250.0


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_a_weight_below_zero_is_refused(weight: float) -> None:
    with pytest.raises(ConfigError, match=r"model.loss.shape=.*: expected a number of at least 0"):
        FixedWeights(shape=weight, attributes=1.0)


# Uncertainty


def test_uncertainty_is_kendalls_formula() -> None:
    weighting = UncertaintyWeights(shape=1000.0, attributes=2.0)
    sigma = torch.tensor([0.7, 1.9])
    weighting.log_variance.data = 2 * sigma.log()
    expected = 2.0 / (2 * sigma[0] ** 2) + 6.0 / sigma[1] ** 2 + sigma[0].log() + sigma[1].log()
    torch.testing.assert_close(total(weighting, two(0.002, 3.0)), expected)
    weights = weighting.weights()
    torch.testing.assert_close(weights["shape"], 1000 / (2 * sigma[0] ** 2))
    torch.testing.assert_close(weights["attributes"], 2 / sigma[1] ** 2)


def test_uncertainty_settles_where_its_derivative_is_zero() -> None:
    """1/(2 sigma^2) L + log sigma is least at sigma^2 = L, 1/sigma^2 L + log sigma at sigma^2 = 2 L."""
    weighting, losses = UncertaintyWeights(shape=100.0, attributes=1.0), two(0.03, 0.4)
    optimizer = torch.optim.LBFGS(weighting.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = total(weighting, losses)
        loss.backward()
        return loss

    optimizer.step(closure)
    torch.testing.assert_close(weighting.log_variance.exp().detach(), torch.tensor([3.0, 0.8]), rtol=1e-4, atol=0)


def test_a_batch_without_a_task_leaves_its_uncertainty_alone() -> None:
    weighting = UncertaintyWeights(shape=1.0, attributes=1.0)
    total(weighting, two(0.5, 0.0)).backward()
    assert weighting.log_variance.grad is not None
    assert (weighting.log_variance.grad != 0).tolist() == [True, False]


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
        losses = torch.rand(3, 2, generator=generator) + 0.1
        for step, (shape, attributes) in enumerate(losses.tolist()):
            found = weighting(two(1.0, 0.0), two(shape, attributes), 3 * window + step)
            shape_factor, attribute_factor = dwa_factors(history, 0.5) if window >= 2 else [1.0, 1.0]
            assert found.item() == pytest.approx(10 * shape_factor, rel=1e-12)
            assert weighting.weights()["attributes"].item() == pytest.approx(attribute_factor, rel=1e-12)
        history.append((losses[:, 0].mean().item(), losses[:, 1].mean().item()))


@pytest.mark.parametrize(
    ("window", "observed", "means"),
    [
        # the batches of an accumulated optimiser step, and the window that they belong to
        (2, [(0, 1.0, 3.0), (0, 2.0, 3.0), (1, 3.0, 3.0), (2, 9.0, 9.0)], [[2, 3], [0, 0]]),
        # a window without samples of a task
        (1, [(0, 4.0, 2.0), (1, 2.0, 0.0), (2, 1.0, 0.0), (3, 1.0, 1.0)], [[1, 2], [2, 2]]),
        # losses that are not finite
        (2, [(0, 1.0, 1.0), (1, math.nan, 1.0), (2, 3.0, 1.0), (3, math.inf, 1.0), (4, 1.0, 1.0)], [[3, 1], [1, 1]]),
    ],
)
def test_dwa_averages_each_task_over_the_labelled_finite_batches_of_a_window(
    window: int, observed: list[tuple[int, float, float]], means: list[list[float]]
) -> None:
    weighting = DynamicWeightAverage(shape=1.0, attributes=1.0, window=window, temperature=1.0)
    for step, shape, attributes in observed:
        losses = two(shape, attributes)
        weighting(losses, losses, step)
    assert weighting.means.tolist() == means
    ratio = weighting.means[0] / weighting.means[1]
    expected = 2 * torch.softmax(ratio, 0) if ratio.isfinite().all() else torch.ones(2)
    torch.testing.assert_close(weighting.factors, expected)


def test_dwa_of_one_task_alone_weighs_as_fixed_weights_do() -> None:
    weighting = DynamicWeightAverage(shape=5.0, attributes=1.0, window=1)
    for step in range(6):
        loss = {"shape": torch.tensor(1.0 / (step + 1))}
        assert weighting(loss, loss, step).item() == pytest.approx(5.0 / (step + 1))


@pytest.mark.parametrize("options", [{"window": 0}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_dwa_refuses_settings_out_of_range(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1 and above 0"):
        DynamicWeightAverage(shape=1.0, attributes=1.0, **options)  # type: ignore[arg-type]


def test_dwa_resumes_in_the_middle_of_a_window() -> None:
    def observe(weighting: DynamicWeightAverage, steps: range) -> None:
        for step in steps:
            losses = two(1.0 / (step + 1), 1.0 / (step + 1) ** 2)
            weighting(losses, losses, step)

    straight, stopped, resumed = (DynamicWeightAverage(1.0, 1.0, window=3) for _ in range(3))
    observe(straight, range(11))
    observe(stopped, range(7))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    observe(resumed, range(7, 11))
    assert straight.factors[0] != 1
    assert str(straight.state_dict()) == str(resumed.state_dict())


# Aggregated gradients


@pytest.mark.parametrize(
    ("first", "second", "projected"),
    [
        ([1.0, 0.0], [-1.0, 1.0], [0.5, 1.5]),  # the first loses half of the second, the second all of the first
        ([2.0, 0.0], [-1.0, 0.0], [0.0, 0.0]),
        ([1.0, 0.0], [0.0, 2.0], [1.0, 2.0]),
        ([1.0, 0.0], [3.0, 1.0], [4.0, 1.0]),
        ([1.0, 0.0], [0.0, 0.0], [1.0, 0.0]),
    ],
)
def test_conflicting_gradients_lose_the_part_against_each_other(
    first: list[float], second: list[float], projected: list[float]
) -> None:
    torch.testing.assert_close(project_conflicting(torch.tensor([first, second])), torch.tensor(projected))


class Problem:
    """Two tasks on one shared point p, each with a parameter of its own: L_shape = p . (1, 0) a, L_attributes =
    p . (-1, 1) b at p = (3, 5), a = 2, b = 1."""

    def __init__(self) -> None:
        self.p = Parameter(torch.tensor([3.0, 5.0]))
        self.a, self.b = Parameter(torch.tensor(2.0)), Parameter(torch.tensor(1.0))

    def losses(self, shape: bool = True, attributes: bool = True) -> dict[str, Tensor]:
        return {
            "shape": self.p @ torch.tensor([1.0, 0.0]) * self.a if shape else 0 * self.a,
            "attributes": self.p @ torch.tensor([-1.0, 1.0]) * self.b if attributes else 0 * self.b,
        }

    def backward(self, weighting: FixedWeights, scale: float = 1.0, **present: bool) -> list[list[float] | float]:
        """The gradients of p, a and b."""
        losses = self.losses(**present)
        weighting.backward(scale * total(weighting, losses), losses, [self.p], [self.a, self.b])
        return [pytest.approx(parameter.grad.tolist()) for parameter in (self.p, self.a, self.b)]


def test_pcgrad_weighs_the_gradients_then_projects_those_of_shared_parameters() -> None:
    # Weighted by 3 and 4 the gradients of p are (6, 0) and (-4, 4), which become (3, 3) and (0, 4).
    assert Problem().backward(PCGrad(shape=3.0, attributes=4.0)) == [[3, 7], 9, 8]
    # (2, 0) and (-1, 1) become (1, 1) and (0, 1); a gradient scaler multiplies the loss.
    assert Problem().backward(PCGrad(1.0, 1.0), scale=1024.0) == [[1024, 2048], 3072, 2048]


def test_pcgrad_projects_the_sum_of_accumulated_batches() -> None:
    """Batches of one task agree with everything one by one; together they conflict."""
    problem, weighting = Problem(), PCGrad(1.0, 1.0)
    assert problem.backward(weighting, attributes=False)[0] == [2, 0]
    assert problem.backward(weighting, shape=False)[0] == [1, 2]


def test_pcgrad_starts_afresh_with_every_optimiser_step() -> None:
    problem, weighting = Problem(), PCGrad(1.0, 1.0)
    problem.backward(weighting, attributes=False)
    weighting.end_step()
    problem.p.grad = None
    assert problem.backward(weighting, shape=False)[0] == [-1, 1]


def test_pcgrad_passes_on_a_gradient_that_is_not_finite() -> None:
    """So that a gradient scaler finds it and skips the step."""
    problem = Problem()
    problem.backward(PCGrad(1.0, 1.0), scale=math.inf)
    assert problem.p.grad is not None
    assert not problem.p.grad.isfinite().all()


def test_aligned_mtl_makes_the_gradients_equally_long() -> None:
    """Orthogonal gradients g and h become a multiple of g / |g| + h / |h|; a task without samples has no part."""
    aggregate = TorchJDGradients(1.0, 1.0, method="AlignedMTL").aggregate
    joined = aggregate(torch.tensor([[300.0, 0.0, 0.0], [0.0, 4.0, 3.0]]))
    torch.testing.assert_close(joined / joined.norm(), torch.tensor([1, 0.8, 0.6]) / 2**0.5)
    alone = aggregate(torch.tensor([[0.0, 0.0, 0.0], [0.0, 4.0, 3.0]]))
    torch.testing.assert_close(alone / alone.norm(), torch.tensor([0, 0.8, 0.6]))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Nonsense", "is no aggregator of torchjd"),
        ("MeanWeighting", "is no aggregator of torchjd"),  # it gives weights, no gradient
        ("Krum", "cannot be built without settings"),
    ],
)
def test_an_unfit_aggregator_is_refused(method: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"method={method} {message}"):
        TorchJDGradients(1.0, 1.0, method=method)


@pytest.mark.parametrize("choice", [FixedWeights, DynamicWeightAverage])
def test_other_choices_do_not_change_gradients(choice: type[FixedWeights]) -> None:
    assert Problem().backward(choice(1.0, 1.0))[0] == [1, 1]


# What is measured of the gradients


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_norms_and_cosine_are_those_of_the_weighted_gradients(scale: float) -> None:
    """(6, 0) and (-4, 4): lengths 6 and sqrt 32, at 135 degrees, whatever a gradient scaler makes of the loss."""
    problem = Problem()
    losses = problem.losses()
    loss = total(FixedWeights(shape=3.0, attributes=4.0), losses)
    statistics = gradient_statistics(scale * loss, loss, losses, [problem.p])
    assert statistics["gradient_norm_shape"].item() == pytest.approx(6)
    assert statistics["gradient_norm_attributes"].item() == pytest.approx(math.sqrt(32))
    assert statistics["gradient_cosine"].item() == pytest.approx(-math.sqrt(0.5))
    (scale * loss).backward()  # the graph is kept
    assert problem.p.grad is not None


def test_a_task_without_samples_has_norm_zero_and_no_cosine() -> None:
    problem = Problem()
    losses = problem.losses(attributes=False)
    loss = total(FixedWeights(1.0, 1.0), losses)
    statistics = gradient_statistics(loss, loss, losses, [problem.p])
    assert statistics["gradient_norm_attributes"] == 0
    assert statistics["gradient_cosine"].isnan()
