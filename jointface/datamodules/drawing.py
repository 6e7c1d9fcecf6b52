"""Draws synthetic faces on the device: all sources of a mini-batch together, and one mini-batch ahead."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import UInt8
from torch import Tensor

from jointface.datamodules.synthetic import COLOURS, SCENES, SyntheticFaces
from jointface.synthesis.scenes import Scenes

Batch = dict[str, dict[str, Any]]  # by source


def draw(batch: Batch, datasets: Mapping[str, Any], device: torch.device | None = None) -> list[UInt8[Tensor, "..."]]:
    """Replaces the scenes in a mini-batch by their images. Sources with equal settings are drawn together.

    Draws on `device`, or on the batch's own device. Returns the images of each group that was drawn together."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name, part in batch.items():
        if part and SCENES in part:
            groups.setdefault(cast(SyntheticFaces, datasets[name]).drawn_like, []).append(name)
    drawn = []
    for names in groups.values():
        parts = [batch[name] for name in names]
        place = device or parts[0]["index"].device
        scenes = [part.pop(SCENES).to(place) for part in parts]
        colours = [part.pop(COLOURS).to(place, non_blocking=True) for part in parts if COLOURS in part]
        dataset = cast(SyntheticFaces, datasets[names[0]])
        images = dataset.draw(Scenes.joined(scenes), torch.cat(colours) if colours else None, place)
        for part, own in zip(parts, images.split([len(scene) for scene in scenes]), strict=True):
            part["image"] = own
        drawn.append(images)
    return drawn


class AheadRenderer:
    """Draws a mini-batch in a separate CUDA stream while the GPU works on another.

    The stream has high priority because drawing is short and the host waits for parts of it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device, priority=-1)
        self._drawn: list[Tensor] = []

    def draw(self, batch: Batch, datasets: Mapping[str, Any]) -> None:
        """Starts drawing; call `wait` before using the images."""
        with torch.cuda.stream(self.stream):
            self._drawn += draw(batch, datasets, self.device)

    def wait(self) -> None:
        """Makes the current stream wait until the images are drawn."""
        if self._drawn:
            current = torch.cuda.current_stream(self.device)
            current.wait_stream(self.stream)
            for images in self._drawn:
                images.record_stream(current)
            self._drawn = []
