"""How a checkpoint trained on synthetic faces does on real photos.

`python -m bench.transfer CHECKPOINT DATA [PHOTO:X,Y,SIZE ...]`: landmarks and pose on DATA/AFLW2000, landmarks on the
held-out photos of DATA/300W_LP, and the attributes that both label on the test split of DATA/celeba. Photos whose face
boxes are given by hand are shown with the faces and attributes that the network sees, in transfer.png.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from jointface.attributes import CELEBA, calibrated_probability
from jointface.datamodules import AFLW2000, W300LP, CelebA, CropTransform
from jointface.datamodules.face_dataset import FaceDataset, read_image
from jointface.geometry import FaceBox, load_bfm_3ddfa, pose_from_camera
from jointface.metrics.attribute_scores import attribute_scores
from jointface.metrics.nme import normalised_mean_error
from jointface.modules import load_model
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder, frontal_face
from jointface.viz.overlay import enlarge, overlay_landmarks, overlay_mesh


@torch.no_grad()
def landmarks_and_pose(network: FaceNetwork, dataset: FaceDataset) -> dict[str, float]:
    """NME of the 68 landmarks in 2D, and mean absolute error of yaw, pitch and roll in degrees, with those of the mean
    face looking straight ahead."""
    decoder = network.shape_decoder
    assert isinstance(decoder, MorphableDecoder)
    model, size = decoder.morphable_model, network.image_size
    mean_face = frontal_face(model, size)[model.landmarks68, :2]
    columns: dict[str, list[torch.Tensor]] = {name: [] for name in ("nme", "nme of mean face", "pose", "pose of mean")}
    bfm_mean, bfm_basis = dataset.reader.mean, dataset.reader.basis  # type: ignore[attr-defined]
    for batch in DataLoader(dataset, batch_size=64):
        truth = batch.get("landmarks68")
        if truth is None:
            coefficients = torch.cat([batch["shape_coefficients"], batch["expression_coefficients"]], dim=1)
            faces = bfm_mean + torch.einsum("cvk,bk->bvc", bfm_basis, coefficients)
            truth = faces @ batch["camera"][..., :3].mT + batch["camera"][:, None, :, 3]
        features = network.features(batch["image"])
        predicted = decoder.vertices(decoder(features))[:, model.landmarks68, :2]
        angles = pose_from_camera(decoder.outputs(features)[2], size)[:, :3].rad2deg()
        true_angles = pose_from_camera(batch["camera"], size)[:, :3].rad2deg()
        columns["nme"].append(normalised_mean_error(predicted, truth[..., :2], truth))
        columns["nme of mean face"].append(normalised_mean_error(mean_face.expand_as(predicted), truth[..., :2], truth))
        columns["pose"].append((angles - true_angles).abs())
        columns["pose of mean"].append(true_angles.abs())
    means = {name: torch.cat(values).mean(0) for name, values in columns.items()}
    report = {"faces": float(len(dataset)), "nme_2d_68": means["nme"], "mean face": means["nme of mean face"]}
    for place, angle in enumerate(("pitch", "yaw", "roll")):
        report[f"{angle} error"], report[f"{angle} straight ahead"] = means["pose"][place], means["pose of mean"][place]
    return {name: float(value) for name, value in report.items()}


@torch.no_grad()
def balanced_accuracies(network: FaceNetwork, dataset: CelebA) -> dict[str, float]:
    """Balanced accuracy of each attribute that the network and CelebA share, by balanced probabilities."""
    shared = [name for name in CELEBA.attributes if name in network.attributes]
    batches = []
    for batch in DataLoader(dataset, batch_size=64):
        logits = network(batch["image"]).logits[:, [network.attributes.index(name) for name in shared]]
        columns = [CELEBA.attributes.index(name) for name in shared]
        batches.append((logits, batch["attributes"][:, columns], batch["attribute_mask"][:, columns]))
    scores = attribute_scores(*map(torch.cat, zip(*batches, strict=True)), torch.ones(len(shared)))
    return dict(zip(shared, scores["balanced_accuracy"].tolist(), strict=True))


@torch.no_grad()
def plot_photos(network: FaceNetwork, photos: list[str], path: Path) -> None:
    """Each crop, and over it the face that the network sees; beneath, the attributes it is surest of."""
    decoder, (labels,) = network.shape_decoder, network.label_sets.values()
    assert decoder is not None
    figure = Figure(figsize=(2.4 * len(photos), 6.2), layout="constrained", dpi=110)
    axes = figure.subplots(2, len(photos), squeeze=False)
    for column, photo in enumerate(photos):
        file, numbers = photo.rsplit(":", 1)
        transform = CropTransform(network.image_size)
        crop, _ = transform(read_image(Path(file)), FaceBox(*map(float, numbers.split(","))))
        prediction = network(crop[None])
        picture, vertices = crop.movedim(0, -1).numpy(), prediction.vertices[0].numpy()
        model = decoder.morphable_model
        axes[0, column].imshow(picture)
        overlay = overlay_mesh(picture, vertices, model.triangles.numpy(), enlargement=3)
        axes[1, column].imshow(overlay_landmarks(overlay, enlarge(vertices[model.landmarks68.numpy()], 3)))
        probability = calibrated_probability(prediction.logits[0], torch.tensor(labels["alpha"])).numpy()
        surest = [n for n in np.argsort(-probability) if probability[n] > 0.5][:9]
        text = "\n".join(f"{network.attributes[n]} {probability[n]:.2f}" for n in surest)
        axes[1, column].set_xlabel(text, fontsize=7)
        for axis in axes[:, column]:
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(path)


def main(checkpoint: str, data: str, photos: list[str]) -> None:
    """Prints the figures and plots the photos."""
    network = load_model(checkpoint)
    transform = CropTransform(network.image_size)
    bfm = load_bfm_3ddfa(f"{data}/bfm_3ddfa")
    for name, dataset in {
        "AFLW2000": AFLW2000(f"{data}/AFLW2000", "test", transform, bfm),
        "300W_LP, held out": W300LP(f"{data}/300W_LP", "val", transform, bfm, val_fraction=0.2),
    }.items():
        figures = landmarks_and_pose(network, dataset)
        print(name, ", ".join(f"{key} {value:.4g}" for key, value in figures.items()))
    accuracies = balanced_accuracies(network, CelebA(f"{data}/celeba", "test", transform))
    print(f"CelebA, mean balanced accuracy of {len(accuracies)} attributes: {np.nanmean([*accuracies.values()]):.4f}")
    for name, value in sorted(accuracies.items(), key=lambda item: -item[1]):
        print(f"  {name:22} {value:.3f}")
    if photos:
        plot_photos(network, photos, Path("transfer.png"))
        print("transfer.png")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
