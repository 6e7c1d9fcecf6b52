"""figures/: predictions for validation faces beside the ground truth."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device, rank_zero_only
from matplotlib.figure import Figure
from torch import Tensor

from jointface.attributes import calibrated_probability
from jointface.datamodules.drawing import draw
from jointface.datamodules.face_dataset import BROKEN, FaceDataset, evenly_spaced
from jointface.geometry.morphable_model import MorphableModel
from jointface.metrics.landmark_calibration import WITHIN
from jointface.modules.joint_module import JointFaceModule
from jointface.modules.source_metrics import true_face
from jointface.viz.error_curves import calibration_curve
from jointface.viz.image_grid import captioned_row, image_grid
from jointface.viz.overlay import enlarge, overlay_landmarks, overlay_mesh

ENLARGEMENT = 3  # of crops under faces


class ValidationFigures(Callback):
    """Plots the same `num_faces` faces of every source in `figures/`, after each validation and after the test.

    `SPLIT/SOURCE/shape.png`: the crop, the crop with the predicted mesh and landmarks, and with the true ones.
    `SPLIT/SOURCE/attributes.png`: for each face the right and the wrong attributes that the network is most certain of,
    with calibrated probabilities. `SPLIT/SOURCE/calibration.png`: of predicted standard deviations of landmarks.
    """

    def __init__(self, num_faces: int = 6) -> None:
        self.num_faces = num_faces

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._write(trainer, pl_module, "val")

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write(trainer, pl_module, "test")

    def _write(self, trainer: Trainer, module: Any, split: str) -> None:
        assert isinstance(module, JointFaceModule)
        for name, dataset in trainer.datamodule.datasets[split].items():  # type: ignore[attr-defined]
            batch = spread_faces(dataset, self.num_faces, module.device)
            if batch is None:
                continue
            folder = Path(trainer.default_root_dir) / "figures" / split / name
            folder.mkdir(parents=True, exist_ok=True)
            curve = f"{split}/{name}/{WITHIN}/"
            known = {key: value for key, value in trainer.callback_metrics.items() if key.startswith(curve)}
            if known:
                shares = {float(key.removeprefix(curve)): value.item() for key, value in sorted(known.items())}
                calibration_curve(shares).savefig(folder / "calibration.png")
            prediction = predict(module, batch["image"])
            if prediction.vertices is not None and "camera" in batch:
                shape_figure(module, name, batch, prediction.vertices).savefig(folder / "shape.png")
            if prediction.logits is not None and name in module.source_metrics.alpha_sources and "attributes" in batch:
                attributes_figure(module, name, batch, prediction.logits).savefig(folder / "attributes.png")


def spread_faces(dataset: FaceDataset, count: int, device: torch.device) -> dict[str, Any] | None:
    """A batch of evenly spaced samples from a data set, on a device; None if all of them are broken."""
    batch = dataset.batch(evenly_spaced(len(dataset), count).tolist())
    batch.pop(BROKEN, None)
    if not batch:
        return None
    batch = move_data_to_device(batch, device)
    draw({"": batch}, {"": dataset})
    return batch


@torch.no_grad()
def predict(module: JointFaceModule, images: Tensor) -> Any:
    """The network's prediction in evaluation mode; restores its mode afterwards."""
    training = module.network.training
    prediction = module.network.eval()(images)
    module.network.train(training)
    return prediction


def shape_figure(module: JointFaceModule, source: str, batch: dict[str, Tensor], vertices: Tensor) -> Figure:
    """A figure with a column for each face: the crop, the predicted face over it, the true face over it."""
    assert module.network.shape_decoder is not None
    model, label_model = module.network.shape_decoder.morphable_model, module.label_model(source)
    crops = _pictures(batch)

    def over(faces: Tensor, landmarks: Tensor, of: MorphableModel) -> list[np.ndarray]:
        triangles = of.triangles.cpu().numpy()
        points = zip(crops, faces.float().cpu().numpy(), landmarks.float().cpu().numpy(), strict=True)
        return [
            overlay_landmarks(overlay_mesh(crop, face, triangles, ENLARGEMENT), enlarge(of_face, ENLARGEMENT))
            for crop, face, of_face in points
        ]

    true_landmarks, true_vertices = true_face(label_model, batch)
    predicted = over(vertices, vertices[:, model.landmarks68], model)
    truth = over(true_vertices, true_landmarks, label_model)
    return image_grid([("crop", crops), ("predicted", predicted), ("truth", truth)], horizontal=True)


def attributes_figure(
    module: JointFaceModule, source: str, batch: dict[str, Tensor], logits: Tensor, count: int = 6
) -> Figure:
    """Each face with the most certain right attributes in green and wrong ones in red, at most `count` of each."""
    alpha_source = module.source_metrics.alpha_sources[source]
    positions, alpha = getattr(module, f"positions_{alpha_source}"), getattr(module, f"alpha_{alpha_source}")
    probability = calibrated_probability(logits.float()[:, positions], alpha).cpu().numpy()
    labels, mask = batch["attributes"].cpu().numpy() > 0.5, batch["attribute_mask"].cpu().numpy()
    captions = []
    for known, chance, true in zip(mask, probability, labels, strict=True):
        columns = {"name": module.label_sets[alpha_source].attributes, "chance": chance, "true": true}
        captions.append(_surest(pd.DataFrame(columns)[known], count))
    return captioned_row(_pictures(batch), captions)


def _surest(attributes: pd.DataFrame, count: int) -> list[tuple[str, str]]:
    """Text and colour of the caption lines for a face, given names, probabilities and labels of attributes."""
    present = attributes["chance"] > 0.5
    sure = (attributes["chance"] - 0.5).abs()
    text = np.where(present, "", "not ") + attributes["name"] + (0.5 + sure).map(" {:.2f}".format)
    right = present == attributes["true"]
    # Among the right attributes, present ones come first: they say more than the many absent ones.
    order = (sure + attributes["true"])[right].nlargest(count).index
    wrong = sure[~right].nlargest(count).index
    return [(line, "tab:green") for line in text[order]] + [(line, "tab:red") for line in text[wrong]]


def _pictures(batch: dict[str, Tensor]) -> list[np.ndarray]:
    return [*batch["image"].permute(0, 2, 3, 1).cpu().numpy()]
