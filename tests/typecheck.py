"""The checker behind the annotations: an int is a float, as type checkers have it."""

import inspect
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
_jaxtyped = jaxtyping.jaxtyped


def jaxtyped(*, typechecker: Any) -> Any:
    """jaxtyping's decorator, for the import hook, with less work in each call: it checks arguments once instead of
    twice, and compares the sizes of axes only where a function names some."""

    def decorate(item: Any) -> Any:
        if not inspect.isfunction(item):
            return _jaxtyped(item, typechecker=typechecker)
        checked = typechecker(item)
        return _jaxtyped(checked, typechecker=None) if "jaxtyping" in repr(item.__annotations__) else checked

    return decorate
