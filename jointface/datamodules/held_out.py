"""Which photos a split holds out where a data set has no official one: a hash of their name says so on any machine."""

import hashlib

# Ranges of the hash: 80 % for training, 10 % each for validation and test.
RANGES = {"train": (0.2, 1.0), "val": (0.1, 0.2), "test": (0.0, 0.1)}


def held_out_fraction(name: str) -> float:
    """A hash of a name in [0, 1). Photos that belong together need one name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64


def is_in_split(name: str, split: str) -> bool:
    """Whether a photo of this name belongs to a split of RANGES."""
    low, high = RANGES[split]
    return low <= held_out_fraction(name) < high
