"""figures/: what the network sees in validation faces, beside the truth."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import move_data_to_device, rank_zero_only
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from jointface.attributes import calibrated_probability
from jointface.datamodules.drawing import draw
from jointface.datamodules.face_dataset import BROKEN, FaceDataset
from jointface.modules.joint_module import JointFaceModule, true_face
from jointface.viz.overlay import draw_landmarks, draw_mesh


class ValidationFigures(Callback):
    """Draws the same few validation faces of every source after each validation, as PNG files in `figures/`.

    `SPLIT_SOURCE_shape.png`: crop, predicted mesh and landmarks, and the true ones. `SPLIT_SOURCE_attributes.png`: for
    each face the attributes that the network is surest of, right and wrong ones, with calibrated probabilities.

    Args:
        folder: the run's folder; pictures go to `figures/` in it.
        num_faces: faces of each source.
    """

    def __init__(self, folder: str, num_faces: int = 6) -> None:
        self.folder = Path(folder) / "figures"
        self.num_faces = num_faces

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module, "val")

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer, pl_module, "test")

    def _draw(self, trainer: Trainer, module: Any, split: str) -> None:
        assert isinstance(module, JointFaceModule)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, dataset in trainer.datamodule.datasets[split].items():  # type: ignore[attr-defined]
            batch = spread_faces(dataset, self.num_faces, module.device)
            if batch is None:
                continue
            prediction = predict(module, batch["image"])
            if prediction.vertices is not None and "camera" in batch:
                shape_figure(module, batch, prediction.vertices).savefig(self.folder / f"{split}_{name}_shape.png")
            if prediction.logits is not None and name in module.teachers and "attributes" in batch:
                attributes_figure(module, name, batch, prediction.logits).savefig(
                    self.folder / f"{split}_{name}_attributes.png"
                )


def spread_faces(dataset: FaceDataset, count: int, device: torch.device) -> dict[str, Any] | None:
    """A batch of evenly spread samples of the data set on a device, without the broken ones; None if all are broken."""
    spread = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round().astype(int).tolist()
    batch = dataset.batch(spread)
    batch.pop(BROKEN, None)
    if not batch:
        return None
    batch = move_data_to_device(batch, device)
    draw({"": batch}, {"": dataset})
    return batch


@torch.no_grad()
def predict(module: JointFaceModule, images: Tensor) -> Any:
    """The network's prediction in evaluation mode, which is left as it was."""
    training = module.network.training
    prediction = module.network.eval()(images)
    module.network.train(training)
    return prediction


def shape_figure(module: JointFaceModule, batch: dict[str, Tensor], vertices: Tensor) -> Figure:
    """Rows: the crop, the predicted face over it, the true face over it; a column each face."""
    decoder = module.network.shape_decoder
    assert decoder is not None
    model = decoder.morphable_model
    true_landmarks, true_vertices = (part.cpu().numpy() for part in true_face(model, batch))
    predicted = vertices.float().cpu().numpy()
    triangles, landmarks68 = model.triangles.cpu().numpy(), model.landmarks68.cpu().numpy()
    crops = batch["image"].permute(0, 2, 3, 1).cpu().numpy()
    figure = Figure(figsize=(2 * len(crops), 6.2), layout="constrained", dpi=110)
    axes = figure.subplots(3, len(crops), squeeze=False)
    for column, crop in enumerate(crops):
        faces = {
            "crop": None,
            "predicted": (predicted[column], predicted[column][landmarks68]),
            "truth": (true_vertices[column], true_landmarks[column]),
        }
        for axis, (title, face) in zip(axes[:, column], faces.items(), strict=True):
            axis.imshow(crop if face is None else draw_mesh(crop, face[0], triangles), extent=_pixel_extent(crop))
            if face is not None:
                draw_landmarks(axis, face[1])
            if column == 0:
                axis.set_title(title, loc="left", fontsize=9)
            axis.set_axis_off()
    return figure


def attributes_figure(
    module: JointFaceModule, source: str, batch: dict[str, Tensor], logits: Tensor, count: int = 6
) -> Figure:
    """Each face with its surest right attributes in green and its surest wrong ones in red."""
    teacher = module.teachers[source]
    positions, alpha = getattr(module, f"positions_{teacher}"), getattr(module, f"alpha_{teacher}")
    probability = calibrated_probability(logits.float()[:, positions], alpha).cpu().numpy()
    labels, mask = batch["attributes"].cpu().numpy() > 0.5, batch["attribute_mask"].cpu().numpy()
    names = np.array(module.label_sets[teacher].attributes)
    crops = batch["image"].permute(0, 2, 3, 1).cpu().numpy()
    figure = Figure(figsize=(2.3 * len(crops), 4.6), layout="constrained", dpi=110)
    for column, axis in enumerate(figure.subplots(1, len(crops), squeeze=False)[0]):
        axis.imshow(crops[column], extent=_pixel_extent(crops[column]))
        axis.set_axis_off()
        _list_attributes(
            axis, names[mask[column]], probability[column][mask[column]], labels[column][mask[column]], count
        )
    return figure


def _list_attributes(axis: Axes, names: np.ndarray, probability: np.ndarray, labels: np.ndarray, count: int) -> None:
    right = (probability > 0.5) == labels
    sure = np.abs(probability - 0.5)
    # Among the right ones those present say more than the many that are absent.
    order = np.argsort(-(sure + labels))
    chosen = [("tab:green", m) for m in order if right[m]][:count] + [
        ("tab:red", m) for m in np.argsort(-sure) if not right[m]
    ][:count]
    for line, (colour, m) in enumerate(chosen):
        sign = "" if probability[m] > 0.5 else "not "
        chance = max(probability[m], 1 - probability[m])
        axis.text(
            0,
            -0.04 - 0.085 * line,
            f"{sign}{names[m]} {chance:.2f}",
            transform=axis.transAxes,
            color=colour,
            fontsize=7,
            va="top",
        )


def _pixel_extent(crop: np.ndarray) -> tuple[float, float, float, float]:
    """Crop coordinates of the picture's edges, whatever its resolution."""
    return (-0.5, crop.shape[1] - 0.5, crop.shape[0] - 0.5, -0.5)
