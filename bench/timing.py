"""Fair timing: the machine's speed drifts, so tasks are repeated in turn, and medians are compared."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def medians(tasks: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """The median of what each task returns, all of them run in turn."""
    results: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats):
        for name, task in tasks.items():
            results[name].append(task())
    return {name: statistics.median(values) for name, values in results.items()}


def seconds(task: Callable[[], Any]) -> Callable[[], float]:
    """A task that returns how long another takes."""

    def timed() -> float:
        start = time.perf_counter()
        task()
        return time.perf_counter() - start

    return timed
