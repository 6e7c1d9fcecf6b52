"""Networks as plain functions from crops to faces, whatever runs them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from jointface.modules.checkpoint import load_model
from jointface.modules.devices import open_device
from jointface.modules.network import FaceNetwork
from jointface.modules.shape_decoders import MorphableDecoder


class NetworkOutput(NamedTuple):
    """What a network says of crops; None where it does not say it.

    vertices: in pixels of the crop, see docs/conventions.md. rotation: of the head, from model space to crop space with
    y up. logits: of `NetworkFacts.attributes`. landmark_std: standard deviation of x and of y of each landmark, in
    pixels of the crop; exported files have none.
    """

    vertices: Float[np.ndarray, "batch vertices 3"] | None = None
    rotation: Float[np.ndarray, "batch 3 3"] | None = None
    logits: Float[np.ndarray, "batch attributes"] | None = None
    landmark_std: Float[np.ndarray, "batch 68"] | None = None


@dataclass(frozen=True)
class MeshFacts:
    """What the vertices of a network are: the topology of its morphable model.

    triangles: counter-clockwise seen from outside. uv: from 0 to 1, v upwards. landmarks68: vertices of iBUG's
    landmarks. mean: the mean face in model space. face_region: the vertices without the neck. name: of the model.
    """

    triangles: Int[np.ndarray, "triangles 3"]
    uv: Float[np.ndarray, "vertices 2"]
    landmarks68: Int[np.ndarray, "68"]
    mean: Float[np.ndarray, "vertices 3"]
    face_region: Bool[np.ndarray, "vertices"]
    name: str = ""


@dataclass(frozen=True)
class NetworkFacts:
    """What has to be known of a network to use it.

    image_size: side of the crops in pixels. attributes: names of the logits. alpha: of each, which calibrates it. mesh:
    None for a network without shape.
    """

    image_size: int
    attributes: tuple[str, ...]
    alpha: Float[np.ndarray, "attributes"]
    mesh: MeshFacts | None


@runtime_checkable
class Network(Protocol):
    """A function from uint8 RGB crops to what they show. Several threads may call it."""

    facts: NetworkFacts

    def __call__(self, crops: UInt8[np.ndarray, "batch 3 size size"]) -> NetworkOutput: ...


class TorchNetwork:
    """A network in PyTorch.

    Args:
        network: in evaluation mode.
    """

    def __init__(self, network: FaceNetwork) -> None:
        self.network, self.facts = network.eval(), network_facts(network)
        self.device = network.mean.device
        self._lock = Lock()

    @classmethod
    def load(cls, checkpoint: str | Path, device: str = "auto") -> "TorchNetwork":
        """Raises a CheckpointError or a ConfigError where the file or the device is not usable."""
        return cls(load_model(checkpoint, open_device(device)))

    def __call__(self, crops: UInt8[np.ndarray, "batch 3 size size"]) -> NetworkOutput:
        images = torch.from_numpy(crops).to(self.device)
        if not images.is_cuda:
            return self._run(images)
        # The flags are the process's, so one thread at a time; a GPU gains nothing from more.
        with self._lock, torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return self._run(images)

    @torch.inference_mode()
    def _run(self, images: UInt8[torch.Tensor, "batch 3 size size"]) -> NetworkOutput:
        network, vertices, rotation, logits, std = self.network, None, None, None, None
        features = network.features(images)
        decoder, classifier = network.shape_decoder, network.attribute_classifier
        if isinstance(decoder, MorphableDecoder):
            coefficients = decoder.outputs(features)
            vertices = decoder.vertices(decoder.target(*coefficients))
            rotation = camera_rotation(coefficients[2])
        elif decoder is not None:
            vertices = decoder.vertices(decoder(features))
        if classifier is not None:
            logits = classifier(features).float()
        if network.landmark_uncertainty is not None:
            std = network.image_size * network.landmark_uncertainty(features)
        parts = (vertices, rotation, logits, std)
        return NetworkOutput(*(None if part is None else part.cpu().numpy() for part in parts))


def camera_rotation(camera: Float[torch.Tensor, "batch 3 4"]) -> Float[torch.Tensor, "batch 3 3"]:
    """The rotation in cameras of uniform scale that do not mirror; x = scale diag(1, -1, 1) R v + shift."""
    scaled = camera[..., :3] * camera.new_tensor([1.0, -1.0, 1.0])[:, None]
    return scaled / torch.linalg.det(scaled).abs().pow(1 / 3)[..., None, None]


def network_facts(network: FaceNetwork) -> NetworkFacts:
    """The facts of a network in PyTorch."""
    mesh = None
    if network.shape_decoder is not None:
        model = network.shape_decoder.morphable_model
        mesh = MeshFacts(
            triangles=model.triangles.numpy(force=True).copy(),
            uv=model.uv.numpy(force=True).copy(),
            landmarks68=model.landmarks68.numpy(force=True).copy(),
            mean=model.mean.numpy(force=True).copy(),
            face_region=model.face_region.numpy(force=True).copy(),
            name=model.name,
        )
    attributes = network.attributes if network.attribute_classifier is not None else ()
    return NetworkFacts(network.image_size, attributes, union_alpha(attributes, network.label_sets), mesh)


def union_alpha(
    attributes: tuple[str, ...], label_sets: Mapping[str, Mapping[str, Any]]
) -> Float[np.ndarray, "attributes"]:
    """alpha of each attribute: that of the first label set which has it, in the order of the training's sources."""
    alpha: dict[str, float] = {}
    for labels in label_sets.values():
        for name, value in zip(labels["attributes"], labels["alpha"], strict=True):
            alpha.setdefault(name, value)
    return np.array([alpha[name] for name in attributes], np.float32)
