"""Training of the finder: `python -m jointface.train experiment=finder`."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from jointface.detection.boxes import decode, overlaps, suppress, target_maps
from jointface.detection.finder_network import STRIDES, UNIT, FinderNetwork, to_input
from jointface.modules import checkpoint as checkpoints
from jointface.modules import optimizer_state
from jointface.modules.schedule import optimizer_and_schedule

Batch = dict[str, dict[str, Tensor]]  # by source: `image` (B, 3, S, S) uint8, `boxes` (B, faces, 3), size 0 for none
FOUND = 0.5  # intersection over union from which a box finds a face
THRESHOLD = 0.5  # score from which a box counts


class FinderModule(LightningModule):
    """Trains a `FinderNetwork` with L = focal loss of the scores (Lin et al., ICCV 2017) + w x distance of the boxes,
    both a sum over cells, divided by the number of faces.

    Logs recall and precision at FOUND and THRESHOLD; `val/error`, which selects the best checkpoint, is 1 - F1.

    Args:
        optimizer: makes the optimiser from parameter groups.
        scheduler: makes a step-wise schedule from the optimiser and the number of steps; None: a constant rate.
        width: of the network.
        box_weight: w.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        scheduler: Callable[..., Any] | None = None,
        width: int = 32,
        box_weight: float = 4.0,
    ) -> None:
        super().__init__()
        self.network = FinderNetwork(width)
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.make_optimizer, self.make_scheduler, self.box_weight = optimizer, scheduler, box_weight
        self.description = {"format": checkpoints.FORMAT, "network": {"finder": {"width": width}}, "attributes": [],
                            "label_sets": {}, "morphable_model": None}  # fmt: skip
        # Faces that are found, faces that are missed, boxes without a face.
        self.counts: Tensor = nn.Buffer(torch.zeros(3), persistent=False)

    def losses(self, images: Tensor, boxes: Float[Tensor, "batch faces 3"]) -> dict[str, Float[Tensor, ""]]:
        """The focal loss of the scores and the distance of the boxes."""
        centre, sides = boxes[..., :2], boxes.new_tensor(images.shape[:-3:-1])  # width, height
        inside = (centre > -0.5).all(-1) & (centre < sides - 0.5).all(-1)
        boxes = boxes * inside[..., None]  # coarse maps reach beyond the picture
        faces = (boxes[..., 2] > 0).sum().clamp(min=1)
        score = distance = torch.zeros((), device=images.device)
        for stride, maps in zip(STRIDES, self.network(to_input(images)), strict=True):
            rows, columns = maps.shape[-2:]
            targets = torch.stack([target_maps(own, rows, columns, stride) for own in boxes])
            score = score + _focal_loss(maps[:, 0].float(), targets[:, 0], targets[:, 4])
            distance = distance + _box_distance(maps[:, 1:].float(), targets[:, 1:4], targets[:, 4])
        return {"score": score / faces, "box": distance / faces}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if not batch:
            return None
        (part,) = batch.values()
        losses = self.losses(part["image"], part["boxes"])
        total = losses["score"] + self.box_weight * losses["box"]
        self.log_dict({f"train/loss_{name}": value for name, value in losses.items()}, prog_bar=True, batch_size=1)
        self.log("train/loss", total, batch_size=1)
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for part in batch.values():
            found = decode(self.network(to_input(part["image"])))
            for own, boxes in zip(found, part["boxes"], strict=True):
                self.counts += count_found(suppress(own, THRESHOLD), boxes[boxes[:, 2] > 0])

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        recall, precision, f1 = self._scores()
        self.log_dict({"val/mosaics/recall": recall, "val/mosaics/precision": precision})
        self.log("val/error", 1 - f1, prog_bar=True)

    def on_test_epoch_end(self) -> None:
        recall, precision, f1 = self._scores()
        self.log_dict({"test/mosaics/recall": recall, "test/mosaics/precision": precision, "test/mosaics/f1": f1})

    def _scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Recall, precision and F1 over all processes; starts to count anew."""
        counts = self.all_gather(self.counts)
        assert isinstance(counts, Tensor)
        found, missed, false = counts.reshape(-1, 3).sum(0)
        self.counts.zero_()
        f1 = 2 * found / (2 * found + missed + false).clamp(min=1)
        return found / (found + missed).clamp(min=1), found / (found + false).clamp(min=1), f1

    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.parameters(), self.make_optimizer, self.make_scheduler, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[checkpoints.KEY] = self.description
        checkpoint[optimizer_state.KEY] = optimizer_state.describe(self.make_optimizer)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks that the checkpoint is of this model, and gives its optimiser the settings of the config.

        Raises:
            CheckpointError: it is of another model or optimiser.
        """
        checkpoints.require_same_model(checkpoint, self.description)
        if "optimizer_states" in checkpoint:
            optimizer_state.adopt_settings(checkpoint, self.make_optimizer, self.make_scheduler is not None)


def _focal_loss(logits: Tensor, face: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Sum over the cells; every face counts alike, and all other cells by half."""
    probability = logits.sigmoid()
    wrong = torch.where(face > 0, 1 - probability, probability)
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, face, reduction="none")
    return (torch.where(face > 0, weight, 0.5) * wrong.square() * entropy).sum()


def _box_distance(maps: Tensor, targets: Tensor, weight: Tensor) -> Float[Tensor, ""]:
    """Sum over the cells of smooth L1; offsets count in sizes of the face, not in strides."""
    size = (UNIT * targets[:, 2].exp()).clamp(min=0.3)
    unit = torch.stack([size, size, torch.ones_like(size)], dim=1)
    distance = nn.functional.smooth_l1_loss(maps / unit, targets / unit, reduction="none", beta=0.05)
    return (weight * distance.mean(dim=1)).sum()


def count_found(found: Float[Tensor, "boxes _"], faces: Float[Tensor, "faces 3"]) -> Float[Tensor, "3"]:
    """Faces that a box finds, faces that none finds, and boxes that find no face."""
    hits = overlaps(found, faces) > FOUND
    right = hits.any(0).sum() if len(found) else faces.new_zeros(())
    false = (~hits.any(1)).sum() if len(faces) else faces.new_tensor(len(found))
    return torch.stack([right, len(faces) - right, false]).to(faces.dtype)
