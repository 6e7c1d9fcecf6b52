"""Which way a metric improves, by its name."""

from typing import Literal

HIGHER_IS_BETTER = {"accuracy", "balanced_accuracy", "f1", "average_precision"}


def better(name: str) -> Literal["min", "max"] | None:
    """Whether the lowest or the highest value of a logged metric is its best; None where neither is, as of a learning
    rate."""
    parts = name.split("/")
    if HIGHER_IS_BETTER & set(parts):
        return "max"
    lower = any(part.startswith(("loss", "nme", "broken")) or part.endswith("error") for part in parts)
    return "min" if lower else None
