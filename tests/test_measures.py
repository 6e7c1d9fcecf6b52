"""Measured attributes follow the geometry and appearance of a face, and are as frequent as in photos."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.synthesis.appearance import Appearance
from jointface.synthesis.faces import FaceFactory, SyntheticFace
from jointface.synthesis.measures import ANCESTRIES, MEASURES, SYNTHETIC, UNLABELLED
from jointface.synthesis.people import Person, identity_coefficients

FACES = 600
# Shares of CelebA's 202,599 photos that have the attribute (list_attr_celeba.txt).
CELEBAS_SHARE = {
    "5_o_Clock_Shadow": 0.111, "Arched_Eyebrows": 0.267, "Bags_Under_Eyes": 0.205, "Bald": 0.022, "Bangs": 0.152,
    "Big_Lips": 0.241, "Big_Nose": 0.235, "Black_Hair": 0.239, "Blond_Hair": 0.148, "Brown_Hair": 0.205,
    "Bushy_Eyebrows": 0.142, "Chubby": 0.058, "Double_Chin": 0.047, "Eyeglasses": 0.065, "Goatee": 0.063,
    "Gray_Hair": 0.042, "Heavy_Makeup": 0.387, "High_Cheekbones": 0.455, "Male": 0.417, "Mouth_Slightly_Open": 0.483,
    "Mustache": 0.042, "Narrow_Eyes": 0.115, "No_Beard": 0.835, "Oval_Face": 0.284, "Pale_Skin": 0.043,
    "Pointy_Nose": 0.278, "Receding_Hairline": 0.080, "Rosy_Cheeks": 0.066, "Sideburns": 0.057, "Smiling": 0.482,
    "Straight_Hair": 0.208, "Wavy_Hair": 0.320, "Wearing_Earrings": 0.189, "Wearing_Hat": 0.049,
    "Wearing_Lipstick": 0.472, "Young": 0.774,
}  # fmt: skip
PLAIN = Person(gender=0.5, age=0.72, muscle=0.5, weight=0.5, ancestry=(0.2, 0.2, 0.6), changes={})


@pytest.fixture(scope="module")
def crowd(factory: FaceFactory) -> list[SyntheticFace]:
    return [factory.face("train", index) for index in range(FACES)]


@pytest.fixture(scope="module")
def look(crowd: list[SyntheticFace]) -> Appearance:
    """A plain look: nothing worn, no make-up, no beard, short brown hair."""
    bare: dict[str, Any] = dict.fromkeys(
        ("stubble", "moustache", "goatee", "beard", "sideburns", "lipstick", "blush", "eye_shadow", "liner", "eye_bags",
         "wrinkles", "freckles"), 0.0)  # fmt: skip
    return replace(
        crowd[0].appearance, **bare, skin=(0.7, 0.5, 0.4), tone=2.0, brow_thickness=3.5, brow_density=0.65,
        brow_arch=1.0, hair=0, hair_kind="brown", bangs=False, wave="straight", hair_length="short", receding=False,
        hat=-1, glasses=-1, earrings=-1,
    )  # fmt: skip


Scales = Callable[..., dict[str, float]]


@pytest.fixture(scope="module")
def scales(factory: FaceFactory, look: Appearance) -> Scales:
    """Scores by attribute of a person with facial actions ("Both" stands for both sides) and changes of the look."""
    head = factory.head

    def scores(person: Person = PLAIN, expression: Any = None, changes: Any = None) -> dict[str, float]:
        actions = torch.zeros(1, head.model.num_expression)
        for action, strength in (expression or {}).items():
            for side in ("Left", "Right") if action.endswith("Both") else ("",):
                actions[0, head.expression_labels.index(action.removesuffix("Both") + side)] = strength
        looks = [replace(look, **(changes or {}))]
        row = factory.meter.scores(identity_coefficients(head, [person]), actions, looks)[0]
        return dict(zip(SYNTHETIC.attributes, row.tolist(), strict=True))

    return scores


def both(change: str, value: float) -> dict[str, float]:
    """A local change on both sides."""
    return {f"l-{change}": value, f"r-{change}": value}


# What is labelled


def test_most_of_celebas_attributes_and_ancestry_are_labelled() -> None:
    celebas = [name for name in SYNTHETIC.attributes if name in CELEBA.attributes]
    assert len(celebas) >= 32
    assert set(SYNTHETIC.attributes) - set(celebas) == set(ANCESTRIES) == {"Asian", "Black", "White"}
    assert not UNLABELLED & set(SYNTHETIC.attributes)
    assert celebas == [name for name in CELEBA.attributes if name in set(celebas)]  # in CelebA's order


def test_every_attribute_has_a_measure() -> None:
    assert set(MEASURES) == set(SYNTHETIC.attributes)
    assert set(CELEBAS_SHARE) <= set(SYNTHETIC.attributes)


def test_scores_decide_attributes_and_do_not_depend_on_the_batch(
    factory: FaceFactory, crowd: list[SyntheticFace]
) -> None:
    together = factory.attributes(crowd[:30])
    assert together.shape == (30, len(SYNTHETIC))
    assert together.dtype == torch.bool
    assert torch.equal(together, torch.cat([factory.attributes([face]) for face in crowd[:30]]))


# Each follows what it is named for


@pytest.mark.parametrize(
    ("attribute", "changes"),
    [
        ("Big_Nose", {"nose-scale-horiz-incr": 0.5}),
        ("Big_Nose", {"nose-scale-vert-incr": 0.5}),
        ("Big_Nose", {"nose-scale-depth-incr": 0.5}),
        ("Big_Nose", {"nose-width3-incr": 0.5}),
        ("Big_Nose", {"nose-flaring-incr": 0.5}),
        ("Pointy_Nose", {"nose-scale-horiz-incr": -0.5}),
        ("Pointy_Nose", {"nose-scale-depth-incr": 0.5}),
        ("Big_Lips", {"mouth-upperlip-volume-incr": 0.6}),
        ("Big_Lips", {"mouth-lowerlip-volume-incr": 0.6}),
        ("Big_Lips", {"mouth-upperlip-height-incr": 0.6}),
        ("Big_Lips", {"mouth-lowerlip-height-incr": 0.6}),
        ("Narrow_Eyes", both("eye-height2-incr", -0.6)),
        ("Double_Chin", {"neck-double-incr": 0.7}),
        ("Chubby", {"head-fat-incr": 0.7}),
        ("Chubby", {"neck-double-incr": 0.7}),
        ("High_Cheekbones", both("cheek-bones-incr", 0.7)),
        ("High_Cheekbones", both("cheek-volume-incr", 0.7)),
        ("Oval_Face", {"head-scale-vert-incr": 0.6}),
        ("Oval_Face", {"head-fat-incr": -0.6}),
        ("Oval_Face", {"head-scale-horiz-incr": -0.6}),
    ],
)
def test_a_local_change_raises_its_attribute(scales: Scales, attribute: str, changes: dict[str, float]) -> None:
    """Monotonically; the opposite change lowers it."""
    less, plain, half, whole = (
        scales(replace(PLAIN, changes={name: factor * value for name, value in changes.items()}))[attribute]
        for factor in (-1, 0, 0.5, 1)
    )
    assert less < plain < half < whole


def test_a_nose_of_more_volume_is_bigger(scales: Scales) -> None:
    """MakeHuman's nose of less volume is not smaller: its tip stands out."""
    plain, more = (scales(replace(PLAIN, changes={"nose-volume-incr": value}))["Big_Nose"] for value in (0.0, 0.8))
    assert plain < more


@pytest.mark.parametrize(
    ("attribute", "actions"),
    [
        ("Mouth_Slightly_Open", {"jawOpen": 0.3}),
        ("Mouth_Slightly_Open", {"mouthLowerDownBoth": 0.6, "mouthUpperUpBoth": 0.6}),
        ("Smiling", {"mouthSmileBoth": 0.6}),
        ("High_Cheekbones", {"mouthSmileBoth": 0.8}),
        ("High_Cheekbones", {"cheekSquintBoth": 0.5}),
        ("Narrow_Eyes", {"eyeSquintBoth": 0.6}),
        ("Narrow_Eyes", {"eyeBlinkBoth": 0.3}),
    ],
)
def test_an_expression_raises_its_attribute(scales: Scales, attribute: str, actions: dict[str, float]) -> None:
    plain, half, whole = (
        scales(expression={name: factor * value for name, value in actions.items()})[attribute]
        for factor in (0, 0.5, 1)
    )
    assert plain < half < whole


@pytest.mark.parametrize(
    ("attribute", "actions"),
    [
        ("Smiling", {"mouthFrownBoth": 0.6}),
        ("Narrow_Eyes", {"eyeWideBoth": 0.8}),
        ("Mouth_Slightly_Open", {"mouthPressBoth": 0.8}),
        ("High_Cheekbones", {"jawOpen": 0.5}),
    ],
)
def test_the_opposite_expression_does_not_raise_it(scales: Scales, attribute: str, actions: dict[str, float]) -> None:
    assert scales(expression=actions)[attribute] <= scales()[attribute] + 0.005


def test_a_neutral_face_neither_smiles_nor_opens_its_mouth(scales: Scales) -> None:
    plain = scales()
    assert plain["Smiling"] < 0
    assert plain["Mouth_Slightly_Open"] < 0
    assert scales(expression={"mouthSmileBoth": 0.7})["Smiling"] > 0
    assert scales(expression={"jawOpen": 0.3})["Mouth_Slightly_Open"] > 0


@pytest.mark.parametrize(
    "attribute", ["Big_Nose", "Pointy_Nose", "Big_Lips", "Chubby", "Double_Chin", "Oval_Face", "Male", "Young",
                  *ANCESTRIES],
)  # fmt: skip
def test_what_a_person_is_does_not_change_with_the_expression(scales: Scales, attribute: str) -> None:
    laughing = scales(expression={"mouthSmileBoth": 0.9, "jawOpen": 0.5, "eyeSquintBoth": 0.5, "browInnerUp": 0.5})
    assert laughing[attribute] == pytest.approx(scales()[attribute], abs=1e-4)


@pytest.mark.parametrize(
    ("attribute", "less", "more"),
    [
        ("Male", {"gender": 1.0}, {"gender": 0.0}),
        ("Young", {"age": 1.0}, {"age": 2 / 3}),
        ("Asian", {"ancestry": (0.0, 0.0, 1.0)}, {"ancestry": (0.0, 1.0, 0.0)}),
        ("Black", {"ancestry": (0.0, 0.0, 1.0)}, {"ancestry": (1.0, 0.0, 0.0)}),
        ("White", {"ancestry": (0.0, 1.0, 0.0)}, {"ancestry": (0.0, 0.0, 1.0)}),
    ],
)
def test_a_phenotype_raises_its_attribute(
    scales: Scales, attribute: str, less: dict[str, float], more: dict[str, float]
) -> None:
    low, middle, high = (scales(person)[attribute] for person in (
        replace(PLAIN, **less), PLAIN, replace(PLAIN, **more)))  # type: ignore[arg-type]  # fmt: skip
    assert low < middle < high


def test_measured_kinds_agree_with_how_people_were_made(factory: FaceFactory, crowd: list[SyntheticFace]) -> None:
    """Not for everyone: a man with a soft face is not always measured as one."""
    attributes = dict(zip(SYNTHETIC.attributes, factory.attributes(crowd).T, strict=True))
    made = {
        "Male": [face.person.gender < 0.5 for face in crowd],
        "Black": [face.person.ancestry[0] > 0.5 for face in crowd],
        "Asian": [face.person.ancestry[1] > 0.5 for face in crowd],
        "White": [face.person.ancestry[2] > 0.5 for face in crowd],
    }
    for name, truth in made.items():
        agreed = (attributes[name] == torch.tensor(truth)).float().mean()
        assert agreed > (0.85 if name == "Male" else 0.97), name
    ages = torch.tensor([face.person.age for face in crowd])
    assert ages[attributes["Young"]].mean() < ages[~attributes["Young"]].mean() - 0.05


FACIAL_HAIR = ("moustache", "goatee", "beard", "sideburns")


@pytest.mark.parametrize(
    ("attribute", "without", "having"),
    [
        ("5_o_Clock_Shadow", {"stubble": 0.1}, {"stubble": 0.8}),
        ("5_o_Clock_Shadow", {"stubble": 0.8, "beard": 0.9}, {"stubble": 0.8}),
        ("Arched_Eyebrows", {"brow_arch": -2.0}, {"brow_arch": 5.0}),
        ("Bags_Under_Eyes", {"eye_bags": 0.1}, {"eye_bags": 0.9}),
        ("Bald", {}, {"hair": -1, "wave": "", "hair_length": ""}),
        ("Bald", {"hair": -1, "hat": 0}, {"hair": -1}),
        ("Bangs", {}, {"bangs": True}),
        ("Bangs", {"bangs": True, "hat": 0}, {"bangs": True}),
        ("Black_Hair", {}, {"hair_kind": "black"}),
        ("Blond_Hair", {}, {"hair_kind": "blond"}),
        ("Brown_Hair", {"hair_kind": "black"}, {"hair_kind": "brown"}),
        ("Brown_Hair", {"hair": -1}, {}),
        ("Gray_Hair", {}, {"hair_kind": "gray"}),
        ("Bushy_Eyebrows", {"brow_thickness": 3.0}, {"brow_thickness": 6.0}),
        ("Bushy_Eyebrows", {"brow_thickness": 5.0, "brow_density": 0.3}, {"brow_thickness": 5.0, "brow_density": 0.9}),
        ("Eyeglasses", {}, {"glasses": 0}),
        ("Goatee", {}, {"goatee": 0.8}),
        ("Mustache", {}, {"moustache": 0.8}),
        ("Sideburns", {}, {"sideburns": 0.8}),
        *(("No_Beard", {part: 0.8}, {}) for part in FACIAL_HAIR),
        ("No_Beard", {"stubble": 0.8}, {"stubble": 0.1}),
        ("Heavy_Makeup", {"lipstick": 0.6}, {"lipstick": 0.8, "eye_shadow": 0.8, "liner": 0.8}),
        ("Wearing_Lipstick", {}, {"lipstick": 0.8}),
        ("Rosy_Cheeks", {}, {"blush": 0.9}),
        ("Pale_Skin", {"skin": (0.6, 0.45, 0.4)}, {"skin": (0.97, 0.9, 0.85)}),
        ("Receding_Hairline", {}, {"receding": True}),
        ("Receding_Hairline", {"receding": True, "hat": 0}, {"receding": True}),
        ("Straight_Hair", {"wave": "straight"}, {"wave": "straight", "hair_length": "long"}),
        ("Straight_Hair", {"wave": "wavy", "hair_length": "long"}, {"wave": "straight", "hair_length": "long"}),
        ("Wavy_Hair", {"wave": "straight"}, {"wave": "wavy"}),
        ("Wavy_Hair", {"wave": "straight"}, {"wave": "curly"}),
        ("Wearing_Earrings", {}, {"earrings": 0}),
        ("Wearing_Hat", {}, {"hat": 0}),
        ("Young", {"wrinkles": 1.0}, {"wrinkles": 0.0}),
        ("Black", {"tone": 0.0}, {"tone": 6.0}),
        ("White", {"tone": 6.0}, {"tone": 0.0}),
    ],
)  # fmt: skip
def test_the_appearance_decides_its_attribute(
    scales: Scales, attribute: str, without: dict[str, object], having: dict[str, object]
) -> None:
    low, high = scales(changes=without)[attribute], scales(changes=having)[attribute]
    assert low < high
    if attribute not in ("Young", "Black", "White"):  # which take the geometry into account
        assert low < 0 < high


def test_each_look_changes_nothing_but_its_attributes(scales: Scales) -> None:
    for change, allowed in (
        ({"glasses": 0}, {"Eyeglasses"}),
        ({"earrings": 0}, {"Wearing_Earrings"}),
        ({"lipstick": 0.8}, {"Wearing_Lipstick", "Heavy_Makeup", "Male"}),
        ({"moustache": 0.8}, {"Mustache", "No_Beard", "Male"}),
        ({"blush": 0.8}, {"Rosy_Cheeks"}),
        ({"hair_kind": "black"}, {"Black_Hair", "Brown_Hair"}),
    ):
        plain, changed = scales(), scales(changes=change)
        assert {name for name in plain if plain[name] != changed[name]} == allowed


# How frequent they are


@pytest.fixture(scope="module")
def shares(factory: FaceFactory, crowd: list[SyntheticFace]) -> dict[str, float]:
    return dict(zip(SYNTHETIC.attributes, factory.attributes(crowd).float().mean(0).tolist(), strict=True))


@pytest.mark.parametrize("attribute", sorted(CELEBAS_SHARE))
def test_an_attribute_is_as_frequent_as_in_celeba(shares: dict[str, float], attribute: str) -> None:
    """Within a factor of 1.35 of its odds, and what chance does to 600 faces (three standard deviations)."""
    theirs, ours = CELEBAS_SHARE[attribute], shares[attribute]
    chance = 3 * (theirs * (1 - theirs) / FACES) ** 0.5
    odds = theirs / (1 - theirs)
    low, high = (odds * factor / (1 + odds * factor) for factor in (1 / 1.35, 1.35))
    assert low - chance < ours < high + chance
    assert ours > 0


def test_ancestries_are_all_frequent_and_mostly_exclusive(
    factory: FaceFactory, crowd: list[SyntheticFace], shares: dict[str, float]
) -> None:
    assert 0.1 < shares["Asian"] < 0.35
    assert 0.1 < shares["Black"] < 0.35
    assert 0.4 < shares["White"] < 0.75
    columns = [SYNTHETIC.attributes.index(name) for name in ANCESTRIES]
    several = factory.attributes(crowd)[:, columns].sum(1)
    assert (several <= 1).float().mean() > 0.9


def test_attributes_go_together_as_in_life(factory: FaceFactory, crowd: list[SyntheticFace]) -> None:
    has = dict(zip(SYNTHETIC.attributes, factory.attributes(crowd).T, strict=True))

    def share(of: Tensor, among: Tensor) -> float:
        return float(of[among].float().mean())

    male = has["Male"]
    assert share(~has["No_Beard"], male) > share(~has["No_Beard"], ~male) + 0.2
    assert share(has["Wearing_Lipstick"], ~male) > share(has["Wearing_Lipstick"], male) + 0.4
    assert share(has["Mustache"], ~male) < 0.05
    assert share(has["Young"], has["Gray_Hair"]) < 0.5 * share(has["Young"], ~has["Gray_Hair"])
    assert share(has["Mouth_Slightly_Open"], has["Smiling"]) > share(has["Mouth_Slightly_Open"], ~has["Smiling"])
    assert share(has["High_Cheekbones"], has["Smiling"]) > share(has["High_Cheekbones"], ~has["Smiling"]) + 0.15
    weight = torch.tensor([face.person.weight for face in crowd])
    assert weight[has["Chubby"]].mean() > weight[~has["Chubby"]].mean() + 0.08
    assert share(has["Chubby"], has["Double_Chin"]) > share(has["Chubby"], ~has["Double_Chin"]) + 0.2
    assert not (has["Bald"] & (has["Bangs"] | has["Wearing_Hat"] | has["Wavy_Hair"])).any()
    assert not (has["Straight_Hair"] & has["Wavy_Hair"]).any()
    assert not (has["Mustache"] & has["No_Beard"]).any()
    kinds = torch.stack([has[f"{kind}_Hair"] for kind in ("Black", "Blond", "Brown", "Gray")]).sum(0)
    assert (kinds <= 1).all()
