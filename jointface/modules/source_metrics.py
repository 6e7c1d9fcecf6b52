"""What validation and tests measure of each source, for the network and for trivial predictors."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jointface.attributes import LabelSet, Vocabulary
from jointface.geometry.camera import pose_from_camera
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.landmark_calibration import LandmarkCalibration
from jointface.metrics.nme import FaceNME, InnerNME
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import frontal_face
from jointface.modules.shape_supervision import Part, ShapeSupervision


class SourceMetrics(nn.Module):
    """The metrics of a network, by split/source[/trivial]/task. The trivial predictors are the mean face and, for each
    attribute, the majority; only tests measure them.

    Args:
        label_sets, alpha: label set and negatives per positive of each training source that labels attributes.
        vocabulary: the attributes of the network's logits.
    """

    def __init__(
        self,
        label_sets: Mapping[str, LabelSet],
        alpha: Mapping[str, Float[Tensor, "attributes"]],
        vocabulary: Vocabulary,
    ) -> None:
        super().__init__()
        self.label_sets, self.alpha, self.vocabulary = dict(label_sets), dict(alpha), vocabulary
        self.metrics: Any = nn.ModuleDict()
        self.alpha_sources: dict[str, str] = {}  # by evaluated source: the training source whose alpha calibrates it

    def configure(self, split: str, data: Any, network: FaceNetwork) -> None:
        """Makes the metrics of a split ("val" or "test") of a `JointDataModule`."""
        for name, labels in data.label_sets(split).items():
            same = [source for source, known in self.label_sets.items() if source == name or known == labels]
            if same:
                self.alpha_sources[name] = name if name in same else same[0]
        for name in data.datasets[split]:
            for prefix in [f"{split}/{name}"] + [f"{split}/{name}/trivial"] * (split == "test"):
                if network.shape_decoder is not None and name in data.shape_sources(split):
                    self.metrics[f"{prefix}/shape"] = FaceNME()
                elif network.shape_decoder is not None and name in data.landmark_sources(split):
                    self.metrics[f"{prefix}/shape"] = InnerNME()
                if network.attribute_classifier is not None and name in self.alpha_sources:
                    source = self.alpha_sources[name]
                    attributes, alpha = self.label_sets[source].attributes, self.alpha[source]
                    self.metrics[f"{prefix}/attributes"] = AttributeMetrics(attributes, alpha.float().cpu())
            if network.landmark_uncertainty is not None and f"{split}/{name}/shape" in self.metrics:
                self.metrics[f"{split}/{name}/landmarks"] = LandmarkCalibration()

    def update(
        self,
        prefix: str,
        features: Tensor,
        part: Part,
        network: FaceNetwork,
        supervision: ShapeSupervision | None,
    ) -> None:
        """Takes some samples of a source into account.

        Args:
            prefix: split/source.
            features: of the samples. part: their labels.
            supervision: of the network's faces, if it predicts any.
        """
        if f"{prefix}/shape" in self.metrics:
            assert supervision is not None
            self._measure_shape(prefix, features, part, network, supervision)
        if f"{prefix}/attributes" in self.metrics:
            self._measure_attributes(prefix, features, part, network)

    def _measure_shape(
        self, prefix: str, features: Tensor, part: Part, network: FaceNetwork, supervision: ShapeSupervision
    ) -> None:
        decoder, size, source = network.shape_decoder, network.image_size, prefix.partition("/")[2]
        assert decoder is not None
        outputs = decoder.outputs(features)
        predictions = {"shape": decoder.vertices(decoder.points(*outputs))}
        if (uncertainty := network.landmark_uncertainty) is not None:
            faces, batch = {source: outputs}, {source: part}
            marked = supervision.marked(decoder, faces, batch)
            predicted, truth, mask = supervision.landmarks(decoder, faces, batch, marked)
            self.metrics[f"{prefix}/landmarks"].update(predicted, truth, uncertainty(features), mask)
        if f"{prefix}/trivial/shape" in self.metrics:
            mean_face = frontal_face(decoder.morphable_model, size)
            predictions["trivial/shape"] = mean_face.expand_as(predictions["shape"])
        model = supervision.label_model(decoder, source)
        for key, predicted in predictions.items():
            metric, marks = self.metrics[f"{prefix}/{key}"], predicted[:, model.landmarks68]
            if "camera" not in part:
                truth = part["landmarks68"]
                metric.update(marks[..., : truth.shape[-1]], truth, part["landmark_mask"])
                continue
            landmarks, vertices = true_face(model, part)
            yaw = pose_from_camera(part["camera"], size)[:, 1].rad2deg()
            metric.update(marks, landmarks, predicted[:, model.face_region], vertices[:, model.face_region], yaw)

    def _measure_attributes(self, prefix: str, features: Tensor, part: Part, network: FaceNetwork) -> None:
        assert network.attribute_classifier is not None
        labels = self.label_sets[self.alpha_sources[prefix.partition("/")[2]]]
        logits = network.attribute_classifier(features).float()[:, self.vocabulary.positions(labels)]
        predictions = {"attributes": logits, "trivial/attributes": torch.zeros_like(logits)}  # predicts the majority
        for key, predicted in predictions.items():
            if (name := f"{prefix}/{key}") in self.metrics:
                self.metrics[name].update(predicted, part["attributes"], part["attribute_mask"])

    def compute(self, split: str) -> dict[str, dict[str, Tensor]]:
        """The values of a split's metrics, which start anew. Of trivial predictors only the means over attributes."""
        results = {}
        for key, metric in self.metrics.items():
            if not key.startswith(f"{split}/"):
                continue
            metric.update_empty()  # a process without samples must also take part in the synchronisation
            values = metric.compute()
            metric.reset()
            if "/trivial/" in key:
                values = {name: value for name, value in values.items() if "/" not in name}
            results[key] = values
        return results


def true_face(model: MorphableModel, part: Part) -> tuple[Tensor, Tensor]:
    """Ground-truth landmarks (B, 68, 3) and vertices (B, V, 3) in crop space, with z relative to the mean of the
    vertices. Landmarks are the data set's own if it has any."""
    vertices = model.project(part["shape_coefficients"], part["expression_coefficients"], part["camera"])
    landmarks = part.get("landmarks68", vertices[:, model.landmarks68])
    depth = nn.functional.pad(vertices[..., 2:].mean(1, keepdim=True), (2, 0))
    return landmarks - depth, vertices - depth
