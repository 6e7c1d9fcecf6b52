"""Facial attributes: label sets of published data sets, their union, class weights (alpha), probabilities of logits."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class LabelSet:
    """The attributes that one data set labels, in its own order."""

    name: str
    attributes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.attributes)


CELEBA = LabelSet(
    "celeba",
    (
        "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose",
        "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses",
        "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache",
        "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks",
        "Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick",
        "Wearing_Necklace", "Wearing_Necktie", "Young",
    ),
)  # fmt: skip


# Kumar, Berg, Belhumeur, Nayar, "Attribute and Simile Classifiers for Face Verification", ICCV 2009. LFWA keeps the
# order of their lfw_attributes.txt; `attribute_name` spells the names. All of CelebA's attributes are included except
# Attractive and Young: Youth is an age class between Child and Middle_Aged, so it is not mapped to Young.
LFWA = LabelSet(
    "lfwa",
    (
        "Male", "Asian", "White", "Black", "Baby", "Child", "Youth", "Middle_Aged", "Senior", "Black_Hair",
        "Blond_Hair", "Brown_Hair", "Bald", "No_Eyewear", "Eyeglasses", "Sunglasses", "Mustache", "Smiling", "Frowning",
        "Chubby", "Blurry", "Harsh_Lighting", "Flash", "Soft_Lighting", "Outdoor", "Curly_Hair", "Wavy_Hair",
        "Straight_Hair", "Receding_Hairline", "Bangs", "Sideburns", "Fully_Visible_Forehead",
        "Partially_Visible_Forehead", "Obstructed_Forehead", "Bushy_Eyebrows", "Arched_Eyebrows", "Narrow_Eyes",
        "Eyes_Open", "Big_Nose", "Pointy_Nose", "Big_Lips", "Mouth_Closed", "Mouth_Slightly_Open", "Mouth_Wide_Open",
        "Teeth_Not_Visible", "No_Beard", "Goatee", "Round_Jaw", "Double_Chin", "Wearing_Hat", "Oval_Face",
        "Square_Face", "Round_Face", "Color_Photo", "Posed_Photo", "Attractive_Man", "Attractive_Woman", "Indian",
        "Gray_Hair", "Bags_Under_Eyes", "Heavy_Makeup", "Rosy_Cheeks", "Shiny_Skin", "Pale_Skin", "5_o_Clock_Shadow",
        "Strong_Nose-Mouth_Lines", "Wearing_Lipstick", "Flushed_Face", "High_Cheekbones", "Brown_Eyes",
        "Wearing_Earrings", "Wearing_Necktie", "Wearing_Necklace",
    ),
)  # fmt: skip


def attribute_name(published: str) -> str:
    """Converts a published name to CelebA's spelling: each run of spaces and apostrophes becomes one underscore.

    "5 o' Clock Shadow" and "5 o Clock Shadow" both become 5_o_Clock_Shadow.
    """
    return re.sub(r"[\s_'’]+", "_", published.strip())


class Vocabulary:
    """The union of several label sets. Attributes with the same name share one position and therefore one logit."""

    def __init__(self, label_sets: Iterable[LabelSet]) -> None:
        names = [name for label_set in label_sets for name in label_set.attributes]
        self.attributes = tuple(dict.fromkeys(names))  # in order of first appearance

    def __len__(self) -> int:
        return len(self.attributes)

    def positions(self, label_set: LabelSet) -> Int[Tensor, "attributes"]:
        """Position in the union of each attribute of a label set."""
        return torch.tensor([self.attributes.index(name) for name in label_set.attributes])


def positive_weight(
    labels: Float[Tensor, "samples attributes"], mask: Bool[Tensor, "samples attributes"], limit: float = 50.0
) -> Float[Tensor, "attributes"]:
    """alpha_m = N_neg / N_pos for each attribute m over its labelled samples, clipped to [1 / limit, limit]."""
    positives = (labels * mask).sum(0)
    negatives = mask.sum(0) - positives
    return (negatives / positives.clamp(min=1e-9)).clamp(1 / limit, limit)


def balanced_probability(logits: Float[Tensor, "*batch attributes"]) -> Float[Tensor, "*batch attributes"]:
    """sigmoid(z): the probability if both classes were equally frequent; for balanced accuracy and ranking."""
    return logits.sigmoid()


def calibrated_probability(
    logits: Float[Tensor, "*batch attributes"], alpha: Float[Tensor, "attributes"]
) -> Float[Tensor, "*batch attributes"]:
    """sigmoid(z - log alpha): the probability at the training split's prevalence; for accuracy and for display.

    Weighting positives by alpha shifts the optimal logit from the log-odds to log-odds + log alpha; this undoes it.
    """
    return (logits - alpha.log()).sigmoid()
