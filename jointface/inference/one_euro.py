"""The one-euro filter: calm where a signal rests, prompt where it moves (Casiez, Roussel and Vogel, CHI 2012)."""

import math

import numpy as np
from jaxtyping import Float


class OneEuroFilter:
    """Smooths a signal that is sampled at any times.

    A low-pass filter of each value whose cutoff rises with the value's own speed: min_cutoff + beta |speed|. The
    defaults are chosen for faces in docs/video.md.

    Args:
        min_cutoff: of a signal at rest, in Hz. Less makes it calmer.
        beta: Hz for each unit a second. More makes it follow sooner.
        speed_cutoff: of the speed, in Hz.
    """

    def __init__(self, min_cutoff: float = 0.3, beta: float = 8.0, speed_cutoff: float = 0.5) -> None:
        self.min_cutoff, self.beta, self.speed_cutoff = min_cutoff, beta, speed_cutoff
        self._time = -math.inf
        self._value: np.ndarray | None = None

    def __call__(
        self, value: Float[np.ndarray, "*shape"], time: float, unit: float = 1.0
    ) -> Float[np.ndarray, "*shape"]:
        """The smoothed signal at a time in seconds. A time that is not later than the last one changes nothing.

        Args:
            unit: how much of the signal counts as one unit of `beta`, such as the size of a face in pixels.
        """
        if self._value is None:
            self._value, self._speed = value.astype(np.float64), np.zeros(value.shape)
        elif time > self._time:
            step = time - self._time
            speed = (value - self._value) / (unit * step)
            self._speed += _share(self.speed_cutoff, step) * (speed - self._speed)
            share = _share(self.min_cutoff + self.beta * np.abs(self._speed), step)
            self._value = self._value + share * (value - self._value)
        self._time = max(time, self._time)
        return self._value.astype(value.dtype)


def _share(cutoff: float | Float[np.ndarray, "*shape"], step: float) -> float | Float[np.ndarray, "*shape"]:
    """The weight of a new sample, `step` seconds after the last, in a low-pass filter with a cutoff in Hz."""
    return 1 / (1 + 1 / (2 * math.pi * cutoff * step))
