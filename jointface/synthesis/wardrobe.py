"""What a synthetic head can wear beside MakeHuman's assets, as the same kind of proxies."""

from dataclasses import dataclass
from functools import lru_cache

from jointface.synthesis.earrings import Earrings, earrings
from jointface.synthesis.eyewear import Glasses, glasses
from jointface.synthesis.hair_styles import HairStyle, hair_styles
from jointface.synthesis.hats import Hat, hats
from jointface.synthesis.head import Head
from jointface.synthesis.skull import Skull


@dataclass(frozen=True)
class Wardrobe:
    """Everything, in a fixed order."""

    hair: tuple[HairStyle, ...]
    hats: tuple[Hat, ...]
    glasses: tuple[Glasses, ...]
    earrings: tuple[Earrings, ...]


@lru_cache(maxsize=2)
def load_wardrobe(head: Head) -> Wardrobe:
    """Made on the mean head, the same every time, in a few seconds."""
    skull = Skull(head)
    return Wardrobe(hair_styles(head, skull), hats(head, skull), glasses(head), earrings(head))
