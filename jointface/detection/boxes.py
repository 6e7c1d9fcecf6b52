"""Square face boxes of the finder: which cells answer for a face, from maps back to boxes, and overlap."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jointface.detection.finder_network import STRIDES, UNIT

# Sizes of the faces, in strides, that a stride answers for. Neighbours share some, so that no size is between them.
RANGES = {8: (0.0, 5.5), 16: (2.0, 5.5), 32: (2.0, 5.5), 64: (2.0, float("inf"))}
Side = Any  # an int; a torch.SymInt while the network is exported
REACH = 0.18  # cells whose centre is this near to a face's centre, in sizes of its box, answer for it


def target_maps(
    boxes: Float[Tensor, "faces 3"], rows: int, columns: int, stride: int
) -> Float[Tensor, "5 rows columns"]:
    """What the maps of a stride should say of a picture: face or not, offset (x, y) in strides, log size, and the
    weight of the box's terms, by which every face counts alike, however many cells answer for it.

    Args:
        boxes: x, y and size in pixels of the picture, whose pixel centres are at integers. Boxes of size 0 are none.
    """
    maps = boxes.new_zeros(5, rows, columns)
    low, high = (limit * stride for limit in RANGES[stride])
    x, y = _centres(rows, columns, stride, boxes.device)
    width, height = stride * columns, stride * rows
    inside = (boxes[:, :2] > -0.5).all(1) & (boxes[:, 0] < width - 0.5) & (boxes[:, 1] < height - 0.5)
    boxes = boxes[inside & (boxes[:, 2] > 0) & (boxes[:, 2] >= low) & (boxes[:, 2] < high)]
    if not len(boxes):
        return maps
    dx, dy = boxes[:, 0, None, None] - x, boxes[:, 1, None, None] - y
    distance = torch.maximum(dx.abs(), dy.abs())
    reach = (REACH * boxes[:, 2]).clamp(min=0.5 * stride)  # so that the nearest cell always answers
    relative = torch.where(distance <= reach[:, None, None], distance / boxes[:, 2, None, None], torch.inf)
    nearest, owner = relative.min(dim=0)
    row, column = nearest.isfinite().nonzero(as_tuple=True)
    face = owner[row, column]
    cells = torch.bincount(face, minlength=len(boxes)).clamp(min=1)
    maps[0, row, column] = 1.0
    maps[1, row, column] = dx[face, row, column] / stride
    maps[2, row, column] = dy[face, row, column] / stride
    maps[3, row, column] = (boxes[face, 2] / (UNIT * stride)).log()
    maps[4, row, column] = 1.0 / cells[face]
    return maps


def decode(maps: list[Float[Tensor, "batch 4 _ _"]]) -> Float[Tensor, "batch cells 4"]:
    """The face of every cell: x, y, size in pixels of the picture, and score in 0 ... 1."""
    values = torch.cat([part.float().flatten(2) for part in maps], dim=2)
    cells = []
    for stride, part in zip(STRIDES, maps, strict=True):
        rows, columns = part.shape[-2:]
        x, y = _centres(rows, columns, stride, part.device)
        cells.append(torch.stack([x, y, torch.full_like(x, stride)]).flatten(1))
    return _faces(*values.unbind(1), *torch.cat(cells, dim=1))


def decode_likely(maps: list[Float[Tensor, "1 4 _ _"]], lowest: float) -> Float[Tensor, "faces 4"]:
    """What `decode` gives of a picture, only for cells whose score is at least `lowest`. In NumPy, since PyTorch takes
    ten times as long for so few numbers."""
    least, cells = np.log(lowest) - np.log1p(-lowest) if lowest < 1 else np.inf, []
    for stride, part in zip(STRIDES, maps, strict=True):
        values = part[0].numpy()
        row, column = np.nonzero(values[0] >= least)
        x, y = stride * (column + 0.5) - 0.5, stride * (row + 0.5) - 0.5
        cells.append(np.stack([*values[:, row, column], x, y, np.full(len(row), stride)]))
    return _faces(*torch.from_numpy(np.concatenate(cells, axis=1, dtype=np.float32)))


def _faces(logit: Tensor, dx: Tensor, dy: Tensor, size: Tensor, x: Tensor, y: Tensor, stride: Any) -> Tensor:
    """Faces from what the maps say at cells with these centres."""
    side = UNIT * stride * size.clamp(-4, 4).exp()
    return torch.stack([x + stride * dx, y + stride * dy, side, logit.sigmoid()], dim=-1)


def _centres(rows: Side, columns: Side, stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Centres of the cells in pixels: x and y, both (rows, columns)."""
    x = stride * (torch.arange(columns, device=device) + 0.5) - 0.5
    y = stride * (torch.arange(rows, device=device) + 0.5) - 0.5
    return x.expand(rows, columns), y[:, None].expand(rows, columns)


def overlaps(first: Float[Tensor, "n _"], second: Float[Tensor, "m _"]) -> Float[Tensor, "n m"]:
    """Intersection over union of square boxes: x, y, size."""
    common = _intersections(first, second)
    return common / (first[:, None, 2] ** 2 + second[None, :, 2] ** 2 - common)


def _intersections(first: Float[Tensor, "n _"], second: Float[Tensor, "m _"]) -> Float[Tensor, "n m"]:
    low = torch.maximum((first[:, :2] - first[:, 2:3] / 2)[:, None], (second[:, :2] - second[:, 2:3] / 2)[None])
    high = torch.minimum((first[:, :2] + first[:, 2:3] / 2)[:, None], (second[:, :2] + second[:, 2:3] / 2)[None])
    return (high - low).clamp(min=0).prod(dim=-1)


def suppress(found: Float[Tensor, "cells 4"], threshold: float) -> Float[Tensor, "faces 4"]:
    """The best of each group of overlapping boxes (non-maximum suppression) whose score reaches the threshold, best
    first."""
    found = found[found[:, 3] >= threshold]
    found = found[found[:, 3].argsort(descending=True, stable=True)][:1000]
    return found[distinct(found)]


def distinct(boxes: Float[Tensor, "n _"]) -> list[int]:
    """The rows of boxes of different faces; of several boxes of one face, the first.

    Two boxes are of one face if their intersection over union is above 0.4, or if four fifths of one lie in the other.
    """
    smaller = torch.minimum(boxes[:, None, 2], boxes[None, :, 2]) ** 2
    same = ((overlaps(boxes, boxes) > 0.4) | (_intersections(boxes, boxes) > 0.8 * smaller)).cpu().numpy()
    kept: list[int] = []
    for row in range(len(boxes)):
        if not same[row, kept].any():
            kept.append(row)
    return kept
