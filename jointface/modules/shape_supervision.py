"""L_shape of a mixed batch: each sample teaches the points that it labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from jointface.errors import ConfigError
from jointface.geometry.camera import is_mirrored
from jointface.geometry.morphable_model import MorphableModel
from jointface.modules.foreign_labels import Extent, ForeignLabels
from jointface.modules.landmark_supervision import Contour, LabelledLandmarks
from jointface.modules.linear_shape_loss import LinearShapeLoss
from jointface.modules.losses import Samples, landmark_loss, root_mean_square, shape_loss
from jointface.modules.shape_decoders import MorphableDecoder, ShapeDecoder

PARTS = ("identity", "expression", "pose")  # what the outputs of a morphable decoder describe, in this order
LABELS = ("shape_coefficients", "expression_coefficients", "camera")

Part = dict[str, Tensor]  # the samples of one source, under the keys of the data contract
Outputs = Mapping[str, tuple[Tensor, ...]]  # of a head, by source
Marked = tuple[Tensor, Tensor, Tensor]  # the predicted and the true landmarks of a source, and which of them count


class ShapeSupervision(nn.Module):
    """Computes L_shape over all points of fitted faces, and over the labelled landmarks of other photos.

    Args:
        label_models: morphable model of each source whose coefficients do not refer to the decoder's.
        foreign_labels: what these sources teach, see `ForeignLabels`.
        contour: where the contour of landmarks in 2D belongs, see `LabelledLandmarks`.
        landmark_weight: factor of L_shape for samples that label landmarks alone.
        part_weights: factors of further terms, by the names in `PARTS`. Each term is L_shape of a face that takes this
            part from the prediction and the others from the labels. This gives weight to a part that hardly moves the
            points of the whole face. Mirrored faces have no such terms, because their coefficients describe the face
            before it was mirrored.
        rms: whether the root of each sample's L_shape, and of each further term, takes its place.

    Raises:
        ConfigError: a setting is out of range, or the decoder predicts no such parts.
    """

    def __init__(
        self,
        decoder: ShapeDecoder,
        contour: Contour = "slide",
        landmark_weight: float = 1.0,
        part_weights: Mapping[str, float] | None = None,
        label_models: Mapping[str, MorphableModel] | None = None,
        foreign_labels: Extent = "dense",
        rms: bool = False,
    ) -> None:
        super().__init__()
        foreign = {name: ForeignLabels(model, decoder, foreign_labels) for name, model in (label_models or {}).items()}
        self.foreign_labels = nn.ModuleDict(foreign)
        self.rms = rms
        self.landmark_weight = landmark_weight
        if unknown := [part for part in part_weights or {} if part not in PARTS]:
            raise ConfigError(f"model.part_weights.{unknown[0]} is unknown; choose from {', '.join(PARTS)}")
        self.part_weights = {part: float((part_weights or {}).get(part, 0)) for part in PARTS}
        for key, weight in {"landmark_weight": landmark_weight, **self.part_weights}.items():
            if not weight >= 0:
                raise ConfigError(f"model.{'part_weights.' * (key in PARTS)}{key}={weight}: must be at least 0")
        self.labelled_landmarks = LabelledLandmarks(decoder.morphable_model, contour)
        self.linear_loss = None
        if isinstance(decoder, MorphableDecoder):
            self.linear_loss = LinearShapeLoss(decoder.morphable_model, decoder.weights, decoder.image_size)
        elif any(self.part_weights.values()):
            raise ConfigError("model.part_weights needs model/shape_decoder=morphable, which predicts these parts")

    def forward(
        self,
        decoder: ShapeDecoder,
        outputs: Outputs,
        batch: Mapping[str, Part],
        marked: Mapping[str, Marked],
        samples: Tensor | int,
    ) -> Float[Tensor, ""]:
        """L_shape.

        Args:
            outputs: of the decoder.
            batch: by source; each labels a camera and coefficients, or landmarks.
            marked: the result of `marked` for them.
            samples: the number by which the sum over the samples is divided.
        """
        labelled = {name: part for name, part in batch.items() if "camera" in part}
        weight = decoder.region_weights["landmarks"]
        losses = [
            self.landmark_weight * self._measure(landmark_loss(landmarks, truth, weight, mask))
            for landmarks, truth, mask in marked.values()
        ]
        losses += [
            self._measure(self.foreign_labels[name](decoder, outputs[name], tuple(part[key] for key in LABELS)))
            for name, part in labelled.items()
            if name in self.foreign_labels
        ]
        fitted = {name: part for name, part in labelled.items() if name not in self.foreign_labels}
        if fitted:
            predicted = joined(outputs, fitted)
            true = [torch.cat([part[key] for part in fitted.values()]) for key in LABELS]
            losses.append(self._fitted_loss(decoder, predicted, true))
        return torch.cat(losses).sum() / samples

    def _measure(self, squared: Samples) -> Samples:
        return root_mean_square(squared) if self.rms else squared

    def _fitted_loss(self, decoder: ShapeDecoder, predicted: Sequence[Tensor], true: Sequence[Tensor]) -> Samples:
        """Over all points of faces whose coefficients and cameras are labelled."""
        if self.linear_loss is None:
            return self._measure(shape_loss(decoder.points(*predicted), decoder.target(*true), decoder.weights))
        loss = self._measure(self.linear_loss(predicted, true))
        for part, weight in self.part_weights.items():
            if weight:
                mixed = [
                    ours if name == part else theirs for name, ours, theirs in zip(PARTS, predicted, true, strict=True)
                ]
                of_part = self.linear_loss(mixed, true).where(~is_mirrored(true[2]), 0)
                loss = loss + weight * self._measure(of_part)
        return loss

    def marked(self, decoder: ShapeDecoder, outputs: Outputs, batch: Mapping[str, Part]) -> dict[str, Marked]:
        """The landmarks of each source that labels landmarks alone, in units of the crop."""
        found: dict[str, Marked] = {}
        for name, part in batch.items():
            if "camera" not in part:
                vertices = decoder.vertices_at(self.labelled_landmarks.vertices, *outputs[name]) / decoder.image_size
                truth = part["landmarks68"] / decoder.image_size
                landmarks, mask = self.labelled_landmarks(vertices, truth, part["landmark_mask"])
                found[name] = landmarks, truth, mask
        return found

    def landmarks(
        self, decoder: ShapeDecoder, outputs: Outputs, batch: Mapping[str, Part], marked: Mapping[str, Marked]
    ) -> tuple[Float[Tensor, "batch 68 2"], Float[Tensor, "batch 68 2"], Bool[Tensor, "batch 68"]]:
        """x and y of the predicted and of the true landmarks, in units of the crop, and which of them count.

        All landmarks of a fitted face count. The true ones are the data set's own if it has any, else those of
        coefficients and camera. The arguments are those of `forward`.
        """
        found: list[Marked] = []
        for name, part in batch.items():
            if name in marked:
                found.append(marked[name])
                continue
            model = self.label_model(decoder, name)
            predicted = decoder.vertices_at(model.landmarks68, *outputs[name])
            if (truth := part.get("landmarks68")) is None:
                truth = model.project_landmarks(*(part[key] for key in LABELS))
            everything = torch.ones_like(truth[..., 0], dtype=torch.bool)
            found.append((predicted / decoder.image_size, truth / decoder.image_size, everything))
        faces, true, masks = zip(*found, strict=True)
        predicted, truth = (torch.cat([points[..., :2] for points in part]) for part in (faces, true))
        return predicted, truth, torch.cat(masks)

    def label_model(self, decoder: ShapeDecoder, source: str) -> MorphableModel:
        """The model of a source's coefficients, on the vertices of the decoder's model."""
        foreign: Any = self.foreign_labels
        return foreign[source].model if source in foreign else decoder.morphable_model


def by_source(outputs: Sequence[Tensor], batch: Mapping[str, Part]) -> dict[str, tuple[Tensor, ...]]:
    """The outputs that belong to each source, if those of all sources follow one another."""
    split = [output.split([len(part["image"]) for part in batch.values()]) for output in outputs]
    return dict(zip(batch, zip(*split, strict=True), strict=True))


def joined(outputs: Outputs, sources: Iterable[str]) -> tuple[Tensor, ...]:
    """The outputs of these sources, one source after another."""
    return tuple(torch.cat(parts) for parts in zip(*(outputs[name] for name in sources), strict=True))
