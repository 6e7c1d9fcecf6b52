"""The search space of a study, in Hydra's sweep syntax."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from jointface.errors import ConfigError

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class SearchSpace:
    """The overrides of a study, by key. fixed, ranges: overrides without and with a range, in Hydra's syntax.
    searched: the distributions of the ranges."""

    fixed: dict[str, str]
    ranges: dict[str, str]
    searched: dict[str, Distribution]

    def example(self) -> dict[str, Any]:
        """The first choice or the lowest value of each key."""
        return {
            key: d.choices[0] if isinstance(d, CategoricalDistribution) else d.low for key, d in self.searched.items()
        }

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial with these values."""
        return [*self.fixed.values(), *(f"{key}={value}" for key, value in values.items())]


def read_search_space(overrides: Iterable[Override]) -> SearchSpace:
    """Finds the overrides with a range. If a key is overridden repeatedly, the last override counts.

    | written | searched |
    | --- | --- |
    | `a,b,c` or `choice(a,b,c)` | one of them, unordered |
    | `range(2,8)`, `range(0,1,0.25)` | the numbers of Python's range, without the end |
    | `interval(0.1,10)` | any number between |
    | `int(interval(1,64))` | any whole number between, both ends included |
    | `tag(log, interval(1e-5,1e-2))` | on a logarithmic scale; also for `int(interval(...))` |

    Raises:
        ConfigError: no key has a range, or a range is empty or cannot be logarithmic.
    """
    space = SearchSpace({}, {}, {})
    for key, override in {override.get_key_element(): override for override in overrides}.items():
        text = override.input_line or ""
        if override.is_sweep_override():
            space.ranges[key] = text
            try:
                space.searched[key] = _distribution(override)
            except ValueError as error:
                raise ConfigError(f"cannot search {text}: {error}") from error
        else:
            space.fixed[key] = text if override.is_delete() else f"{key}={override.get_value_element_as_str()}"
    if not space.searched:
        raise ConfigError(
            "nothing to search: give at least one key a range, for instance "
            "'model.optimizer.lr=tag(log, interval(1e-4, 1e-2))'"
        )
    return space


def _distribution(override: Override) -> Distribution:
    value = override.value()
    if not isinstance(value, IntervalSweep | RangeSweep):
        # As strings, so that true, null and [1,2] mean the same in a trial as on the command line.
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    sweep: Any = value
    if unknown := sweep.tags - {"log"}:
        raise ValueError(f"tag {', '.join(sorted(unknown))} is unknown, the only known tag is log")
    log, step = "log" in sweep.tags, abs(sweep.step) if isinstance(value, RangeSweep) else None
    numbers = sorted(sweep.range()) if step else [sweep.start, sweep.end]
    if step and log:
        raise ValueError("a range cannot have a logarithmic scale, use an interval")
    if not numbers:
        raise ValueError("the range is empty")
    low, high = numbers[0], numbers[-1]
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=step or 1)
    return FloatDistribution(low, high, log=log, step=step)
