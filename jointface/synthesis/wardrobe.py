"""Everything that a synthetic head can wear."""

from dataclasses import dataclass
from functools import lru_cache

from jointface.synthesis.earrings import earrings
from jointface.synthesis.glasses import Glasses, glasses
from jointface.synthesis.hair_styles import HairStyle, hair_styles
from jointface.synthesis.hats import Hat, hats
from jointface.synthesis.head import Head
from jointface.synthesis.proxy import Proxy
from jointface.synthesis.skull import Skull


@dataclass(frozen=True)
class Wardrobe:
    """Hair cuts, hats, glasses and pairs of earrings, each in a fixed order."""

    hair: tuple[HairStyle, ...]
    hats: tuple[Hat, ...]
    glasses: tuple[Glasses, ...]
    earrings: tuple[Proxy, ...]


@lru_cache(maxsize=2)
def load_wardrobe(head: Head) -> Wardrobe:
    """Makes the procedural wardrobe on the mean head, always the same, in a few seconds."""
    skull = Skull(head)
    return Wardrobe(hair_styles(head, skull), hats(head, skull), glasses(head), earrings(head))
