"""Smooth functions and reproducible random patterns."""

import numpy as np
from jaxtyping import Float
from scipy.ndimage import map_coordinates

Values = Float[np.ndarray, "*#shape"]  # broadcast against each other


def value_noise(u: Values, v: Values, cells: tuple[int, int], seed: int) -> Float[np.ndarray, "*shape"]:
    """Noise with period 1 in u and v: normal random values on a lattice of `cells`, linearly interpolated."""
    u, v = np.broadcast_arrays(u, v)
    nodes = np.random.default_rng(seed).standard_normal((cells[1], cells[0]))
    return map_coordinates(nodes, [v * cells[1], u * cells[0]], order=1, mode="grid-wrap")


def smoothstep(x: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """0 below 0, 1 above 1, and a smooth step in between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
