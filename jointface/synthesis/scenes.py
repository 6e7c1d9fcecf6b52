"""Scenes to render: single ones, and batches of few tensors, which are cheap to send from a loader to a device."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, chain

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from jointface.geometry.camera import is_mirrored
from jointface.synthesis.appearance import Appearance, Colour, Lights
from jointface.synthesis.materials import to_bytes

# Materials of worn pieces; those of the head are in `synthesis.head`.
HAIR, CLOTH, FRAME, LENS, METAL, PROXY_LASHES, PROXY_TEETH = range(6, 13)


@dataclass(frozen=True)
class Scene:
    """One picture to render.

    shape, expression: (Ks,), (Ke,) coefficients of the head. camera: (3, 4) from model space to the picture.
    background: (3, size, size) sRGB in 0 ... 1. seed: of the noise on the skin.
    """

    shape: Float[Tensor, "shape"]
    expression: Float[Tensor, "expression"]
    camera: Float[Tensor, "3 4"]
    appearance: Appearance
    lights: Lights
    background: Float[Tensor, "3 size size"]
    seed: float


# Columns of `Scenes.looks`, the numbers that colours depend on: fields of `Appearance` and values derived from it.
_PAINT = tuple(field.name for field in fields(Appearance) if field.type in ("float", float, Colour))
_COLOURS = {field.name for field in fields(Appearance) if field.type is Colour}
_DERIVED = ("seed", "has_hair", "drawn_brows", "brow_painted", "asset_brows", "skin_painted", "asset_skin")
WIDTHS = {name: 3 if name in _COLOURS else 1 for name in (*_PAINT, *_DERIVED)}

ON_DEVICE = ("shape", "expression", "cameras", "backgrounds", "looks", "lights")  # fields of `Scenes`


@dataclass(frozen=True)
class Scenes:
    """A batch of pictures to render.

    shape, expression, cameras: as in `Scene`. backgrounds: sRGB in 0 ... 255. looks: appearances as numbers, in the
    columns named by `WIDTHS`. lights: RGB of sky and ground, then direction and RGB of each light.

    These stay on the CPU, where the host reads them. worn: a row for each worn piece, sorted by picture: (picture,
    material, row of the wardrobe, row of the hat above it or -1). mirrored: whether the camera mirrors. present: names
    of at least all columns of `looks` with a nonzero value.
    """

    shape: Float[Tensor, "batch shape"]
    expression: Float[Tensor, "batch expression"]
    cameras: Float[Tensor, "batch 3 4"]
    backgrounds: UInt8[Tensor, "batch 3 size size"]
    looks: Float[Tensor, "batch numbers"]
    lights: Float[Tensor, "batch lights 3"]
    worn: Int[Tensor, "pieces 4"]
    mirrored: Bool[Tensor, "batch"]
    present: frozenset[str]

    @classmethod
    def of(cls, scenes: Sequence[Scene]) -> "Scenes":
        """Makes a batch of scenes."""
        worn = [(number, *piece) for number, scene in enumerate(scenes) for piece in _worn(scene.appearance)]
        looks = torch.tensor([_numbers(scene.appearance, scene.seed) for scene in scenes], dtype=torch.float32)
        columns = zip(WIDTHS, looks.split(list(WIDTHS.values()), dim=1), strict=True)
        cameras = torch.stack([scene.camera for scene in scenes])
        return cls(
            shape=torch.stack([scene.shape for scene in scenes]),
            expression=torch.stack([scene.expression for scene in scenes]),
            cameras=cameras,
            backgrounds=torch.stack([to_bytes(scene.background) for scene in scenes]),
            looks=looks,
            lights=torch.tensor(
                [
                    [light.sky, light.ground, *chain(*zip(light.directions, light.colours, strict=True))]
                    for light in (scene.lights for scene in scenes)
                ]
            ),
            worn=torch.tensor(worn, dtype=torch.int64).view(-1, 4),
            mirrored=is_mirrored(cameras),
            present=frozenset(name for name, column in columns if column.any()),
        )

    def __len__(self) -> int:
        return len(self.cameras)

    @classmethod
    def joined(cls, batches: Sequence["Scenes"]) -> "Scenes":
        """Concatenates batches, on their device."""
        if len(batches) == 1:
            return batches[0]
        firsts = accumulate(map(len, batches[:-1]), initial=0)
        worn = [b.worn + torch.tensor([first, 0, 0, 0]) for b, first in zip(batches, firsts, strict=True)]
        return cls(
            **{name: torch.cat([getattr(batch, name) for batch in batches]) for name in (*ON_DEVICE, "mirrored")},
            worn=torch.cat(worn),
            present=frozenset().union(*(batch.present for batch in batches)),
        )

    def part(self, first: int, end: int) -> "Scenes":
        """The batch of pictures `first` ... `end` - 1."""
        worn = self.worn[(self.worn[:, 0] >= first) & (self.worn[:, 0] < end)]
        cut = {name: getattr(self, name)[first:end] for name in (*ON_DEVICE, "mirrored")}
        return replace(self, **cut, worn=worn - worn.new_tensor([first, 0, 0, 0]))

    def to(self, device: torch.device) -> "Scenes":
        """Moves the ON_DEVICE fields to a device without waiting for copies from pinned memory. Lightning calls it."""
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in ON_DEVICE})

    def pin_memory(self) -> "Scenes":
        """Pins the memory of the ON_DEVICE fields. Called by PyTorch's DataLoader."""
        return replace(self, **{name: getattr(self, name).pin_memory() for name in ON_DEVICE})

    def look_table(self) -> dict[str, Float[Tensor, "*channels batch"]]:
        """`looks` by name, with pictures as the last dimension: (B,), or (3, B) for colours."""
        rows = self.looks.T.contiguous().split(list(WIDTHS.values()))
        return {name: row if width == 3 else row[0] for (name, width), row in zip(WIDTHS.items(), rows, strict=True)}


def _numbers(look: Appearance, seed: float) -> list[float]:
    values = [getattr(look, name) for name in _PAINT]
    flat = [number for value in values for number in (value if isinstance(value, tuple) else (value,))]
    brows, skin = look.asset_brows, look.asset_skin
    return [*flat, seed, look.hair >= 0, brows < 0, brows >= 0, brows, skin >= 0, skin]


def _worn(look: Appearance) -> list[tuple[int, int, int]]:
    """(material, row of the wardrobe, row of the hat above it or -1) of each worn piece."""
    pieces = [
        (HAIR, look.hair, look.hat),
        (CLOTH, look.hat, -1),
        (FRAME, look.glasses, -1),
        (LENS, look.glasses if look.sunglasses else -1, -1),
        (METAL, look.earrings, -1),
        (PROXY_LASHES, look.asset_lashes, -1),
        (PROXY_TEETH, look.asset_teeth, -1),
    ]
    return [piece for piece in pieces if piece[1] >= 0]
