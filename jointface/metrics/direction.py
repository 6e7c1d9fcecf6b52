"""The direction in which a metric improves, derived from its name."""

from typing import Literal

HIGHER_IS_BETTER = {"accuracy", "balanced_accuracy", "f1", "average_precision"}


def better(name: str) -> Literal["min", "max"] | None:
    """Whether the lowest ("min") or highest ("max") value of a logged metric is best; None if neither is, as for a
    learning rate."""
    parts = name.split("/")
    if HIGHER_IS_BETTER & set(parts):
        return "max"
    lower = any(part.startswith(("loss", "nme", "broken")) or part.endswith("error") for part in parts)
    return "min" if lower else None
