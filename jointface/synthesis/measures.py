"""Measures attributes of synthetic faces on their geometry or appearance instead of reading generator parameters.

docs/attributes.md lists definitions, thresholds and prevalences.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jointface.attributes import CELEBA, LabelSet
from jointface.geometry.morphable_model import linear_faces
from jointface.synthesis.appearance import Appearance
from jointface.synthesis.head import BODY, SKIN, Head
from jointface.synthesis.people import Person, identity_coefficients

UNLABELLED = {"Attractive", "Blurry", "Wearing_Necklace", "Wearing_Necktie"}  # of CelebA's 40
LUMA = (0.2126, 0.7152, 0.0722)  # Rec. 709, of sRGB
ANCESTRIES = ("Asian", "Black", "White")
SYNTHETIC = LabelSet("synthetic", (*(name for name in CELEBA.attributes if name not in UNLABELLED), *ANCESTRIES))


@dataclass(frozen=True)
class Face:
    """Data of B faces that attributes are measured on.

    neutral, posed: (B, 68, 3) landmarks without and with the expression, in model space, mm. wing, throat: further
    points of the neutral face; posed_cheek: a point of the posed face. axes: (B,) positions between average heads by
    geometry alone: female (0) and male (1), young (0) and old (1), without (0) and with (1) each ancestry.
    """

    neutral: Float[Tensor, "batch 68 3"]
    posed: Float[Tensor, "batch 68 3"]
    wing: Float[Tensor, "batch 3"]
    posed_cheek: Float[Tensor, "batch 3"]
    throat: Float[Tensor, "batch points 3"]
    axes: dict[str, Float[Tensor, "batch"]]
    looks: Sequence[Appearance]

    @property
    def width(self) -> Float[Tensor, "batch"]:
        """Width of the face between the ears."""
        return _distance(self.neutral, 0, 16)

    @property
    def height(self) -> Float[Tensor, "batch"]:
        """Height of the face, from the point between the brows to the chin."""
        return (self.neutral[:, [21, 22]].mean(1) - self.neutral[:, 8]).norm(dim=1)

    def appearance(self, value: Callable[[Appearance], float]) -> Float[Tensor, "batch"]:
        """A value of each face's appearance."""
        return torch.tensor([float(value(look)) for look in self.looks])


def _distance(points: Float[Tensor, "batch 68 3"], a: int, b: int) -> Float[Tensor, "batch"]:
    return (points[:, a] - points[:, b]).norm(dim=1)


def big_nose(face: Face) -> Tensor:
    """Width of the nose at its wings over the face's width, plus its length and depth over the face's height."""
    width = 2 * face.wing[:, 0].abs() / face.width
    length = _distance(face.neutral, 27, 33) / face.height
    depth = (face.neutral[:, 30, 2] - face.wing[:, 2]) / face.height
    return width / 0.24 + 0.6 * length / 0.42 + 0.6 * depth / 0.15


def pointy_nose(face: Face) -> Tensor:
    """How far the tip protrudes in front of the wings, over the nose's width."""
    return (face.neutral[:, 30, 2] - face.wing[:, 2]) / (2 * face.wing[:, 0].abs())


def narrow_eyes(face: Face) -> Tensor:
    """Width of the eyes over the height of their opening, with the expression."""
    eyes = face.posed
    opening = sum(_distance(eyes, a, b) for a, b in ((37, 41), (38, 40), (43, 47), (44, 46))) / 4
    return (_distance(eyes, 36, 39) + _distance(eyes, 42, 45)) / 2 / opening


def big_lips(face: Face) -> Tensor:
    """Height of the two vermilions over the height of the face."""
    upper = sum(_distance(face.neutral, a, b) for a, b in ((50, 61), (51, 62), (52, 63))) / 3
    lower = sum(_distance(face.neutral, a, b) for a, b in ((58, 67), (57, 66), (56, 65))) / 3
    return (upper + lower) / face.height


def high_cheekbones(face: Face) -> Tensor:
    """How far the cheek protrudes from the line between the outer corner of the eye and the corner of the mouth at
    rest, over the height of the face. A smile raises the score, because it lifts the cheek, as in CelebA's labels."""
    eye, mouth = face.neutral[:, 45], face.neutral[:, 54]
    middle = (eye + mouth) / 2
    outwards = face.posed_cheek - middle
    return (outwards[:, 2] + 0.7 * outwards[:, 0] + 0.5 * outwards[:, 1]) / face.height


def oval_face(face: Face) -> Tensor:
    """A long outline that narrows evenly towards a small chin."""
    jaw, chin = _distance(face.neutral, 3, 13) / face.width, _distance(face.neutral, 5, 11) / face.width
    evenness = (jaw - (1 + chin) / 2).abs()
    return face.height / face.width - 1.5 * evenness - 0.8 * chin


def chubby(face: Face) -> Tensor:
    """Width of the lower face over the height of the face, plus a full throat."""
    jaw = (_distance(face.neutral, 3, 13) + _distance(face.neutral, 4, 12) + _distance(face.neutral, 5, 11)) / 3
    return jaw / face.height + 0.8 * double_chin(face)


def double_chin(face: Face) -> Tensor:
    """How far the underside of the chin hangs below it, over the height of the face."""
    return (face.neutral[:, 8, 1] - face.throat[:, :, 1].mean(1)) / face.height


def mouth_open(face: Face) -> Tensor:
    """Gap between the lips over the height of the face."""
    return sum(_distance(face.posed, a, b) for a, b in ((61, 67), (62, 66), (63, 65))) / 3 / face.height


def smiling(face: Face) -> Tensor:
    """How far the corners of the mouth are pulled up and outwards from rest, over the height of the face."""
    moved = (face.posed - face.neutral)[:, [48, 54]]
    outwards = moved[..., 0] * moved.new_tensor([-1.0, 1.0])
    return (moved[..., 1] + 0.7 * outwards).mean(1) / face.height


def arched_eyebrows(face: Face) -> Tensor:
    """Height of the brow's peak above its ends over its length: of the posed bone plus the brow painted on it."""
    heights = []
    for inner, peak, outer in ((21, 19, 17), (22, 24, 26)):
        base = (face.posed[:, inner, 1] + face.posed[:, outer, 1]) / 2
        heights.append((face.posed[:, peak, 1] - base) / _distance(face.posed, inner, outer))
    return (heights[0] + heights[1]) / 2 + face.appearance(lambda look: look.brow_arch) / 42


def male(face: Face) -> Tensor:
    """Position between the average female (0) and male (1) head, plus half the facial hair, minus half the lipstick."""
    hair = face.appearance(lambda look: max(look.stubble, look.moustache, look.goatee, look.beard))
    return face.axes["male"] + 0.5 * hair - 0.5 * face.appearance(lambda look: look.lipstick)


def _hair(*kinds: str) -> Callable[[Face], Tensor]:
    return lambda face: face.appearance(lambda look: look.hair >= 0 and look.hair_kind in kinds)


def _no_beard(look: Appearance) -> bool:
    return max(look.moustache, look.goatee, look.beard, look.sideburns) < 0.3 and look.stubble < 0.35


class Measure(NamedTuple):
    """An attribute is present where its score exceeds the threshold."""

    score: Callable[[Face], Tensor]
    threshold: float = 0.5


def appearance(value: Callable[[Appearance], float], threshold: float = 0.5) -> Measure:
    """Makes a measure from a value of the appearance."""
    return Measure(lambda face: face.appearance(value), threshold)


MEASURES: dict[str, Measure] = {
    "5_o_Clock_Shadow": appearance(lambda look: look.stubble * (look.beard < 0.3), 0.42),
    "Arched_Eyebrows": Measure(arched_eyebrows, 0.178),
    "Bags_Under_Eyes": appearance(lambda look: look.eye_bags, 0.54),
    "Bald": appearance(lambda look: look.hair < 0 and look.hat < 0),
    "Bangs": appearance(lambda look: look.bangs and look.hat < 0),
    "Big_Lips": Measure(big_lips, 0.138),
    "Big_Nose": Measure(big_nose, 2.422),
    "Black_Hair": Measure(_hair("black")),
    "Blond_Hair": Measure(_hair("blond", "light_blond")),
    "Brown_Hair": Measure(_hair("brown", "light_brown")),
    "Bushy_Eyebrows": appearance(lambda look: look.brow_thickness * look.brow_density, 3.18),
    "Chubby": Measure(chubby, 1.067),
    "Double_Chin": Measure(double_chin, 0.1229),
    "Eyeglasses": appearance(lambda look: look.glasses >= 0),
    "Goatee": appearance(lambda look: look.goatee, 0.3),
    "Gray_Hair": Measure(_hair("gray", "white")),
    "Heavy_Makeup": appearance(lambda look: look.lipstick / 2 + look.eye_shadow + look.liner, 1.2),
    "High_Cheekbones": Measure(high_cheekbones, 0.1015),
    "Male": Measure(male, 0.5),
    "Mouth_Slightly_Open": Measure(mouth_open, 0.0317),
    "Mustache": appearance(lambda look: look.moustache, 0.3),
    "Narrow_Eyes": Measure(narrow_eyes, 5.93),
    "No_Beard": appearance(_no_beard),
    "Oval_Face": Measure(oval_face, 0.3185),
    "Pale_Skin": appearance(lambda look: sum(share * part for share, part in zip(LUMA, look.skin, strict=True)), 0.86),
    "Pointy_Nose": Measure(pointy_nose, 0.767),
    "Receding_Hairline": appearance(lambda look: look.hat < 0 and (look.hair < 0 or look.receding)),
    "Rosy_Cheeks": appearance(lambda look: look.blush, 0.5),
    "Sideburns": appearance(lambda look: look.sideburns, 0.3),
    "Smiling": Measure(smiling, 0.0283),
    "Straight_Hair": appearance(lambda look: look.wave == "straight" and look.hair_length != "short"),
    "Wavy_Hair": appearance(lambda look: look.wave in ("wavy", "curly")),
    "Wearing_Earrings": appearance(lambda look: look.earrings >= 0),
    "Wearing_Hat": appearance(lambda look: look.hat >= 0),
    "Wearing_Lipstick": appearance(lambda look: look.lipstick, 0.3),
    "Young": Measure(lambda face: -face.appearance(lambda look: look.wrinkles) - face.axes["old"], -0.7),
    "Asian": Measure(lambda face: face.axes["asian"], 0.5),
    "Black": Measure(lambda face: face.axes["african"] + face.appearance(lambda look: look.tone) / 6, 0.9),
    "White": Measure(lambda face: face.axes["caucasian"] - face.appearance(lambda look: look.tone) / 6, 0.2),
}


class AttributeMeter:
    """Measures the attributes of faces of one head."""

    def __init__(self, head: Head) -> None:
        model = head.model
        marks = model.mean[model.landmarks68]
        skin = head.triangles[(head.material == SKIN) | (head.material == BODY)].unique()
        rows = torch.cat([model.landmarks68, _further_points(head.mean, skin, marks)])
        self.mean, self.basis = head.mean[rows], head.basis[:, rows].contiguous()
        self.num_shape = model.num_shape
        self.axes = _axes(head)

    def scores(
        self,
        shape: Float[Tensor, "batch shape"],
        expression: Float[Tensor, "batch expression"],
        looks: Sequence[Appearance],
    ) -> Float[Tensor, "batch attributes"]:
        """Score minus threshold of each attribute, in the order of SYNTHETIC. An attribute is present above 0."""
        posed = linear_faces(self.mean, self.basis, torch.cat([shape, expression], dim=1))
        neutral = linear_faces(self.mean, self.basis[..., : self.num_shape], shape)
        axes = {name: shape @ direction + offset for name, (direction, offset) in self.axes.items()}
        face = Face(neutral[:, :68], posed[:, :68], neutral[:, 68], posed[:, 69], neutral[:, 70:], axes, looks)
        measures = [MEASURES[name] for name in SYNTHETIC.attributes]
        return torch.stack([measure.score(face) - measure.threshold for measure in measures], dim=1)


def _further_points(mean: Tensor, skin: Int[Tensor, "skin"], marks: Tensor) -> Int[Tensor, "points"]:
    """Points of the head: the outermost point of the left wing of the nose; the middle of the left cheekbone, below the
    eye's outer corner and slightly above the tip of the nose; and the underside of the chin near the middle."""
    (x, y, z), chin = mean[skin].T, marks[8]
    near_nose = (y > marks[33, 1]) & (y < marks[30, 1]) & (z > marks[35, 2] - 4) & (x > 0) & (x < marks[42, 0] + 2)
    wing = skin[near_nose][x[near_nose].argmax()]
    cheekbone = torch.stack([marks[45, 0] + 4, 0.45 * marks[45, 1] + 0.55 * marks[30, 1]])
    front = skin[z > marks[45, 2] - 30]
    cheek = front[(mean[front, :2] - cheekbone).norm(dim=1).argmin()]
    below = (x.abs() < 16) & (y < chin[1] + 8) & (y > chin[1] - 30) & (z < chin[2] - 18) & (z > chin[2] - 55)
    return torch.cat([wing[None], cheek[None], skin[below]])


def _axes(head: Head) -> dict[str, tuple[Float[Tensor, "shape"], float]]:
    """(direction, offset) of linear measures that are 0 for one average face and 1 for another.

    The direction is Fisher's discriminant. It is the difference of the two means, because identity coefficients are
    uncorrelated with unit variance over people.
    """

    def average(gender: float = 0.5, age: float = 0.72, ancestry: tuple[int, int, int] = (1, 1, 1)) -> Tensor:
        african, asian, caucasian = (share / sum(ancestry) for share in ancestry)
        return identity_coefficients(head, [Person(gender, age, 0.5, 0.5, (african, asian, caucasian), {})])[0]

    ends = {
        "male": (average(gender=1), average(gender=0)),
        "old": (average(age=2 / 3), average(age=1)),
        "african": (average(ancestry=(0, 1, 1)), average(ancestry=(1, 0, 0))),
        "asian": (average(ancestry=(1, 0, 1)), average(ancestry=(0, 1, 0))),
        "caucasian": (average(ancestry=(1, 1, 0)), average(ancestry=(0, 0, 1))),
    }
    directions = {name: (high - low) / (high - low).square().sum() for name, (low, high) in ends.items()}
    return {name: (direction, float(-(ends[name][0] @ direction))) for name, direction in directions.items()}
