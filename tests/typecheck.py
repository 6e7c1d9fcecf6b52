"""The checker behind the annotations. It checks the first hundred calls of a function and then every tenth, because
some functions are called ten thousand times by a test. So whether a late call is checked depends on the tests before.
"""

import functools
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

FIRST, EVERY = 100, 10

check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as type checkers have it
_check_every_call = jaxtyping.jaxtyped


def _check_some_calls(function: Any, typechecker: Callable[..., Any]) -> Any:
    checked = _check_every_call(function, typechecker=typechecker)
    if not inspect.isfunction(function):
        return checked
    calls = itertools.count()

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:  # as where torch.compile traces, which the counter would stop
            return function(*args, **kwargs)
        number = next(calls)
        return (checked if number < FIRST or number % EVERY == 0 else function)(*args, **kwargs)

    return call


# What jaxtyping's import hook applies to every function, as `@jaxtyping.jaxtyped(typechecker=...)`.
jaxtyping.jaxtyped = lambda *, typechecker: functools.partial(_check_some_calls, typechecker=typechecker)
