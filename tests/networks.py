"""Small networks and modules for tests, and what they are trained on."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.geometry import MorphableModel, camera_from_pose, crop_camera, similarity
from jointface.modules import FixedWeights, JointFaceModule
from jointface.modules.network import FaceNetwork
from tests.test_morphable_model import random_coefficients

Batch = dict[str, dict[str, Tensor]]

TINY_RESNET = {"layer_type": "basic", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
DECODERS = {
    "position_map": {"_target_": "jointface.modules.PositionMapDecoder", "channels": 16},
    "morphable": {"_target_": "jointface.modules.MorphableDecoder", "hidden": 64},
}


def network_config(decoder: str | None, classifier: bool = True, image_size: int = 64) -> dict[str, Any]:
    return {
        "image_size": image_size,
        "channels_last": True,
        "backbone": {"_target_": "jointface.modules.TransformersBackbone", "model_type": "resnet", **TINY_RESNET},
        "shape_decoder": {**DECODERS[decoder]} if decoder else None,
        "attribute_classifier": {"_target_": "jointface.modules.AttributeClassifier"} if classifier else None,
    }


def make_module(model: MorphableModel, decoder: str | None = "morphable", **options: Any) -> JointFaceModule:
    torch.manual_seed(0)
    label_sets = options.pop("label_sets", {"celeba": CELEBA})
    return JointFaceModule(
        network=options.pop("network", network_config(decoder, classifier=bool(label_sets))),
        loss=options.pop("loss", FixedWeights(shape=1000.0, attributes=1.0)),
        optimizer=options.pop("optimizer", partial(torch.optim.AdamW, lr=3e-3)),
        scheduler=None,
        label_sets=label_sets,
        alpha=options.pop("alpha", {name: torch.full((len(labels),), 2.0) for name, labels in label_sets.items()}),
        morphable_model=model,
        **options,
    )


def network_to_export(model: MorphableModel, decoder: str) -> FaceNetwork:
    """A network every output of which depends on the crop, as after training, and which prefers some attributes."""
    head = {"_target_": "jointface.modules.LandmarkUncertainty"}  # which exported files leave out
    network = make_module(model, network={**network_config(decoder), "landmark_uncertainty": head}).network
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
        torch.nn.init.normal_(network.attribute_classifier.layers[-1].bias)
    names = list(network.attributes)
    network.label_sets = {"celeba": {"label_set": "celeba", "attributes": names, "alpha": [3.0] * len(names)}}
    return network.eval()


def part_of(batch: Batch, faces: int, shapes: int) -> Batch:
    """The first samples of `mixed_batch`: so many with attributes, so many with shape."""
    counts = {"celeba": faces, "w300lp": shapes}
    return {name: {k: v[: counts[name]] for k, v in part.items()} for name, part in batch.items() if counts[name]}


def shape_labels(model: MorphableModel, count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients and cameras of faces, of which every other one is flipped."""
    camera = camera_from_pose(torch.tensor([0.1, 0.4, -0.1, 32.0, 32.0, -20.0, 2.5e-4]), 64)
    flipped = crop_camera(camera, similarity(1, 0, (0, 0), True, 64))
    return *random_coefficients(model, count), torch.stack([camera, flipped] * count)[:count]
