"""Settings as users type them: checks and conversions that all parts share."""

from collections.abc import Sequence
from typing import Any

from jointface.errors import ConfigError

LARGEST_SEED = 2**32 - 1  # of NumPy's legacy generator, which Lightning seeds too


def require_whole_number(key: str, value: object, least: int, most: int | None = None) -> None:
    """Raises a ConfigError if a setting is not a whole number from `least` to `most` (None: any)."""
    if type(value) is not int or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ConfigError(f"{key}={value}: expected a whole number {limits}")


def as_list(setting: Any) -> list[Any]:
    """A setting that takes several values, as a list: one value alone is a list of one, null is empty."""
    if setting is None:
        return []
    return list(setting) if isinstance(setting, Sequence) and not isinstance(setting, str) else [setting]
