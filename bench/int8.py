"""What int8 costs: landmarks and attributes by PyTorch, an ONNX file in float32 and one in int8, on the same photos.

`python -m bench.int8 DATA CHECKPOINT FLOAT32.onnx INT8.onnx [BFM]`: NME-2D-68 on AFLW2000-3D, and accuracy on the test
split of CelebA over the attributes that the network has. BFM is the folder of the Basel Face Model, DATA/bfm_3ddfa.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from jointface.attributes import CELEBA
from jointface.datamodules import AFLW2000, CelebA, CropTransform
from jointface.datamodules.face_dataset import FaceDataset
from jointface.geometry import load_bfm_3ddfa
from jointface.inference.backends import Network, TorchNetwork
from jointface.inference.onnx_network import OnnxNetwork
from jointface.metrics.nme import normalised_mean_error

BATCH = 32


def batches(dataset: FaceDataset) -> list[dict[str, torch.Tensor]]:
    """The data set in batches."""
    return [dataset.batch(list(range(len(dataset)))[start : start + BATCH]) for start in range(0, len(dataset), BATCH)]


def landmark_error(network: Network, data: list[dict[str, torch.Tensor]]) -> float:
    """NME-2D-68 in percent."""
    assert network.facts.mesh is not None
    errors = []
    for batch in data:
        vertices = torch.from_numpy(network(np.ascontiguousarray(batch["image"].numpy())).vertices)
        truth = batch["landmarks68"][..., :2]
        errors.append(normalised_mean_error(vertices[:, network.facts.mesh.landmarks68, :2], truth, truth))
    return 100 * torch.cat(errors).mean().item()


def accuracy(network: Network, data: list[dict[str, torch.Tensor]]) -> float:
    """Mean accuracy in percent over the attributes that the network shares with CelebA."""
    shared = [name for name in CELEBA.attributes if name in network.facts.attributes]
    ours, theirs = ([names.index(name) for name in shared] for names in (network.facts.attributes, CELEBA.attributes))
    right = []
    for batch in data:
        logits = network(np.ascontiguousarray(batch["image"].numpy())).logits
        assert logits is not None
        calibrated = logits[:, ours] > np.log(network.facts.alpha[ours])
        right.append(calibrated == batch["attributes"][:, theirs].bool().numpy())
    return 100 * float(np.concatenate(right).mean())


def main(data: str, checkpoint: str, float32: str, int8: str, bfm: str | None = None) -> None:
    """Prints a row for each way to run the network."""
    networks: dict[str, Network] = {
        "torch": TorchNetwork.load(checkpoint, "cpu"),
        "onnx float32": OnnxNetwork(float32, "cpu"),
        "onnx int8": OnnxNetwork(int8, "cpu"),
    }
    crop, root = CropTransform(networks["torch"].facts.image_size), Path(data)
    model = load_bfm_3ddfa(bfm or str(root / "bfm_3ddfa"))
    faces = batches(AFLW2000(root / "AFLW2000", "test", crop, model))
    people = batches(CelebA(root / "celeba", "test", crop)) if (root / "celeba").is_dir() else []
    for name, network in networks.items():
        row = f"{name:14s} NME-2D-68 {landmark_error(network, faces):6.3f} %"
        print(row + (f"   accuracy {accuracy(network, people):6.2f} %" if people else ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
