"""Label sets, their union, and the two readings of a logit."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from jointface.attributes import (
    CELEBA,
    LFWA,
    LabelSet,
    Vocabulary,
    attribute_name,
    balanced_probability,
    calibrated_probability,
    positive_weight,
)
from jointface.synthesis.measures import ANCESTRIES


def test_celeba_has_its_forty_attributes_in_alphabetical_order() -> None:
    assert len(CELEBA) == len(set(CELEBA.attributes)) == 40
    assert list(CELEBA.attributes) == sorted(CELEBA.attributes, key=str.lower)


def test_lfwa_has_its_seventy_three_attributes_and_shares_celebas_names() -> None:
    assert len(LFWA) == len(set(LFWA.attributes)) == 73
    assert LFWA.attributes[:4] == ("Male", "Asian", "White", "Black")
    assert LFWA.attributes[57] == "Indian"
    assert set(CELEBA.attributes) - set(LFWA.attributes) == {"Attractive", "Young"}
    assert len(Vocabulary([CELEBA, LFWA])) == 40 + 73 - 38


def test_ancestries_have_one_name_in_lfwa_and_in_synthetic_faces() -> None:
    assert set(ANCESTRIES) <= set(LFWA.attributes)


@pytest.mark.parametrize(
    ("published", "name"),
    [
        ("5 o' Clock Shadow", "5_o_Clock_Shadow"),
        ("5 o Clock Shadow", "5_o_Clock_Shadow"),
        ("Strong Nose-Mouth Lines", "Strong_Nose-Mouth_Lines"),
        ("Male ", "Male"),
        ("Big_Nose", "Big_Nose"),
    ],
)
def test_published_names_are_spelled_as_celeba_spells(published: str, name: str) -> None:
    assert attribute_name(published) == name


def test_the_union_shares_a_place_between_same_named_attributes() -> None:
    other = LabelSet("other", ("Asian", "Male", "Bald"))
    union = Vocabulary([CELEBA, other])
    assert len(union) == 41
    assert union.positions(CELEBA).tolist() == list(range(40))
    assert union.positions(other).tolist() == [40, CELEBA.attributes.index("Male"), CELEBA.attributes.index("Bald")]


def test_alpha_is_negatives_per_positive_of_the_labelled_samples() -> None:
    labels = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    mask = torch.tensor([[True, True], [True, True], [True, True], [False, True]])
    torch.testing.assert_close(positive_weight(labels, mask), torch.tensor([2.0, 1 / 3]))


def test_alpha_is_clipped_where_a_class_is_rare_or_missing() -> None:
    labels = torch.tensor([[1.0, 0.0]] * 5)
    alpha = positive_weight(labels, torch.ones(5, 2, dtype=torch.bool), limit=20)
    torch.testing.assert_close(alpha, torch.tensor([0.05, 20.0]))


@given(st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_the_two_readings_undo_alpha(prevalence: float, likelihood: float) -> None:
    """The optimal weighted logit is log-odds + log alpha: calibrated it gives the probability back, balanced it is as
    if both classes were equally frequent."""
    alpha = torch.tensor([(1 - prevalence) / prevalence], dtype=torch.float64)
    logit = torch.logit(torch.tensor([likelihood], dtype=torch.float64)) + alpha.log()
    torch.testing.assert_close(calibrated_probability(logit, alpha).item(), likelihood)
    ratio = likelihood / prevalence, (1 - likelihood) / (1 - prevalence)
    torch.testing.assert_close(balanced_probability(logit).item(), ratio[0] / sum(ratio))
