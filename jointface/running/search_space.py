"""What a study searches, in Hydra's sweep syntax."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from jointface.errors import ConfigError

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class SearchSpace:
    """written: every override by key, as Hydra writes it. searched: the distributions of those with a range."""

    written: dict[str, str]
    searched: dict[str, Distribution]

    def example(self) -> dict[str, Any]:
        """The first choice of each key, or its lowest value."""
        return {
            key: d.choices[0] if isinstance(d, CategoricalDistribution) else d.low for key, d in self.searched.items()
        }

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial with these values."""
        fixed = [text for key, text in self.written.items() if key not in self.searched]
        return [*fixed, *(f"{key}={value}" for key, value in values.items())]


def read_search_space(overrides: Iterable[Override]) -> SearchSpace:
    """Finds the overrides with a range; the last override of a key counts.

    | written | searched |
    | --- | --- |
    | `a,b,c` or `choice(a,b,c)` | one of them, without an order |
    | `range(2,8)`, `range(0,1,0.25)` | the numbers of Python's range, without the end |
    | `interval(0.1,10)` | any number between |
    | `int(interval(1,64))` | any whole number between, both ends included |
    | `tag(log, interval(1e-5,1e-2))` | on a logarithmic scale; also of `int(interval(...))` |

    Raises:
        ConfigError: nothing is to be searched, or a range is empty or has no logarithm.
    """
    space = SearchSpace({}, {})
    for override in overrides:
        key = override.get_key_element()
        space.written[key] = _text(override)
        space.searched.pop(key, None)
        if override.is_sweep_override():
            try:
                space.searched[key] = _distribution(override)
            except ValueError as error:
                raise ConfigError(f"cannot search {_text(override)}: {error}") from error
    if not space.searched:
        raise ConfigError(
            "nothing to search: give at least one key a range, for instance "
            "'model.optimizer.lr=tag(log, interval(1e-4, 1e-2))'"
        )
    return space


def _text(override: Override) -> str:
    if override.is_sweep_override() or override.is_delete():
        assert override.input_line is not None  # it was parsed
        return override.input_line
    return f"{override.get_key_element()}={override.get_value_element_as_str()}"


def _distribution(override: Override) -> Distribution:
    sweep = override.value()
    if isinstance(sweep, IntervalSweep):
        assert sweep.start is not None
        assert sweep.end is not None
        log = _logarithmic(sweep.tags)
        if isinstance(sweep.start, int) and isinstance(sweep.end, int):
            return IntDistribution(sweep.start, sweep.end, log=log)
        return FloatDistribution(sweep.start, sweep.end, log=log)
    if isinstance(sweep, RangeSweep):
        if _logarithmic(sweep.tags):
            raise ValueError("a range has no logarithmic scale, an interval has")
        values = sorted(sweep.range())
        if not values:
            raise ValueError("the range is empty")
        step = abs(sweep.step)
        if all(isinstance(value, int) for value in values):
            return IntDistribution(values[0], values[-1], step=step)  # type: ignore[arg-type]
        return FloatDistribution(values[0], values[-1], step=step)
    # As texts, so that true, null and [1,2] mean in a trial what they mean on the command line.
    return CategoricalDistribution(list(override.sweep_string_iterator()))


def _logarithmic(tags: set[str]) -> bool:
    if unknown := tags - {"log"}:
        raise ValueError(f"tag {', '.join(sorted(unknown))} is unknown, known is log")
    return "log" in tags
