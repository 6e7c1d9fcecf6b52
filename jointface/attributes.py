"""Facial attributes: the label sets of the published data sets, their union, and the balance of positives."""

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


class Vocabulary:
    """The union of label sets: same-named attributes share one place, and so one logit."""

    def __init__(self, attributes: Iterable[str]) -> None:
        self.attributes = tuple(dict.fromkeys(attributes))

    @classmethod
    def union(cls, label_sets: Iterable[LabelSet]) -> "Vocabulary":
        """Vocabulary of several label sets, in order of first appearance."""
        return cls(name for label_set in label_sets for name in label_set.attributes)

    def __len__(self) -> int:
        return len(self.attributes)

    def positions(self, label_set: LabelSet) -> Int[Tensor, "attributes"]:
        """Where each attribute of the label set stands in the union."""
        place = {name: position for position, name in enumerate(self.attributes)}
        return torch.tensor([place[name] for name in label_set.attributes])


def positive_weight(
    labels: Float[Tensor, "samples attributes"], mask: Bool[Tensor, "samples attributes"], limit: float = 50.0
) -> Float[Tensor, "attributes"]:
    """alpha_m = N_neg / N_pos of each attribute over the labelled samples, clipped to [1 / limit, limit]."""
    positives = (labels * mask).sum(0)
    negatives = mask.sum(0) - positives
    return (negatives / positives.clamp(min=1e-9)).clamp(1 / limit, limit)


def balanced_probability(logits: Float[Tensor, "*batch attributes"]) -> Float[Tensor, "*batch attributes"]:
    """sigmoid(z): as if positives and negatives were equally frequent; for balanced accuracy and ranking."""
    return logits.sigmoid()


def calibrated_probability(
    logits: Float[Tensor, "*batch attributes"], alpha: Float[Tensor, "attributes"]
) -> Float[Tensor, "*batch attributes"]:
    """sigmoid(z - log alpha): at the prevalence of the training split; for accuracy and for people.

    Weighting positives by alpha moves the optimal logit from the log-odds to log-odds + log alpha; this takes it back.
    """
    return (logits - alpha.log()).sigmoid()
