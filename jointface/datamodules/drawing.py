"""Faces that are drawn on the device: all sources of a mini-batch together, and one mini-batch ahead."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from jointface.synthesis.scenes import Scenes

UNDRAWN = "undrawn"  # key of a batch: what its images are drawn from, on the device

Batch = dict[str, dict[str, Any]]  # by source


class Undrawn:
    """Synthetic faces on their way to the device that draws them; Lightning passes it on as it is.

    Args:
        scenes: what is to be drawn. colours: matrices that change the colours of it.
    """

    def __init__(self, scenes: Scenes, colours: Float[Tensor, "batch 3 4"] | None = None) -> None:
        self.scenes, self.colours = scenes, colours

    def __getitem__(self, index: int) -> "Undrawn":
        return self.part(index, index + 1)

    def __len__(self) -> int:
        return len(self.scenes)

    @classmethod
    def joined(cls, parts: Sequence["Undrawn"]) -> "Undrawn":
        """The parts one after the other; all of them have colours, or none."""
        colours = [part.colours for part in parts if part.colours is not None]
        return cls(Scenes.joined([part.scenes for part in parts]), torch.cat(colours) if colours else None)

    def part(self, first: int, end: int) -> "Undrawn":
        """Pictures `first` to `end` - 1."""
        return Undrawn(self.scenes.part(first, end), None if self.colours is None else self.colours[first:end])

    def pin_memory(self) -> "Undrawn":
        """Called by loaders that pin."""
        return Undrawn(self.scenes.pin_memory(), None if self.colours is None else self.colours.pin_memory())

    def on(self, device: torch.device) -> "Undrawn":
        """The same on a device, see `Scenes.on`."""
        colours = None if self.colours is None else self.colours.to(device, non_blocking=True)
        return Undrawn(self.scenes.on(device), colours)


class DrawnOnDevice(Protocol):
    """What a data set must have whose batches hold `UNDRAWN`.

    drawn_like: data sets for which it is the same may be drawn together.
    """

    @property
    def drawn_like(self) -> tuple[object, ...]: ...

    def draw(self, undrawn: Undrawn, device: torch.device) -> UInt8[Tensor, "batch 3 size size"]: ...


def draw(batch: Batch, datasets: Mapping[str, Any], device: torch.device | None = None) -> list[UInt8[Tensor, "..."]]:
    """Puts the images of a mini-batch in the place of what they are drawn from; what was drawn.

    Args:
        device: where to draw; None: where the rest of the batch is.
    """
    undrawn = {name: part.pop(UNDRAWN) for name, part in batch.items() if part and UNDRAWN in part}
    if not undrawn:
        return []
    device = device or batch[next(iter(undrawn))]["index"].device
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in undrawn:
        groups.setdefault(cast(DrawnOnDevice, datasets[name]).drawn_like, []).append(name)
    drawn = []
    for names in groups.values():
        parts = [undrawn[name].on(device) for name in names]
        images = cast(DrawnOnDevice, datasets[names[0]]).draw(Undrawn.joined(parts), device)
        for name, own in zip(names, images.split([len(part) for part in parts]), strict=True):
            batch[name]["image"] = own
        drawn.append(images)
    return drawn


class Ahead:
    """Draws a mini-batch beside what the GPU is busy with, in a stream of its own.

    It goes first there: it is short, and the host waits for parts of it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device, priority=-1)
        self._drawn: list[Tensor] = []

    def draw(self, batch: Batch, datasets: Mapping[str, Any]) -> None:
        """Begins to draw; `wait` before the images are used."""
        with torch.cuda.stream(self.stream):
            self._drawn += draw(batch, datasets, self.device)

    def wait(self) -> None:
        """Makes the current stream wait for what was drawn."""
        if self._drawn:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for images in self._drawn:
                images.record_stream(current)
            self._drawn = []
