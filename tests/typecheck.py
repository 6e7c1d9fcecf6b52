"""The checker behind the annotations: an int is a float, as type checkers have it."""

import inspect
from functools import wraps
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Any) -> Any:
    """jaxtyping's decorator, for its import hook. It would check arguments a second time to compare the sizes of axes,
    which most functions do not name."""

    def decorate(item: Any) -> Any:
        if not inspect.isfunction(item) or "jaxtyping" in repr(item.__annotations__):
            return _jaxtyped(item, typechecker=typechecker)
        checked = typechecker(item)

        @wraps(item)
        def call(*arguments: Any, **named: Any) -> Any:
            return (item if jaxtyping.config.jaxtyping_disable else checked)(*arguments, **named)

        return call

    return decorate
