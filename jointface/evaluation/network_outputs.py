"""Runs several networks over a data set in one pass, and returns their outputs with the labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset
from jointface.errors import ConfigError
from jointface.modules.network import FaceNetwork

LABELS = ("attributes", "attribute_mask", "shape_coefficients", "identity")

Head = Callable[[FaceNetwork, Tensor], Tensor]  # from a network and its features (B, C, H, W) to outputs (B, ...)


class _Crops(Dataset[dict[str, Any]]):
    """Photos read once and cropped for each size of network."""

    def __init__(self, dataset: FaceDataset, indices: Sequence[int], sizes: set[int]) -> None:
        self.dataset, self.indices = dataset, indices
        self.transforms = {size: CropTransform(size) for size in sorted(sizes)}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> dict[str, Any]:
        sample = self.dataset.read(self.indices[place])
        crops = {size: transform(sample.image, sample.box)[0] for size, transform in self.transforms.items()}
        return {"crops": crops, "labels": {key: sample.labels[key] for key in LABELS if key in sample.labels}}


@torch.no_grad()
def network_outputs(
    networks: Mapping[str, FaceNetwork],
    dataset: FaceDataset,
    head: Head,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    indices: Sequence[int] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The head's outputs for each network, and those of `LABELS` that the data set has, both by name and on the CPU.

    Each network gets plain crops of its own size. The batch size hardly changes outputs: the networks are in evaluation
    mode, and TensorFloat-32, whose 10 bits show which algorithm ran, is off. In float64 (`network.double()`) it changes
    nothing that float32 would show.

    Args:
        indices: of the samples, in this order; None takes all.

    Raises:
        DataError: a sample cannot be read. None is left out, or results could not be compared.
        ConfigError: batch_size is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1")
    networks = {name: network.to(device).eval() for name, network in networks.items()}
    sizes = {network.image_size for network in networks.values()}
    crops = _Crops(dataset, range(len(dataset)) if indices is None else indices, sizes)
    outputs: dict[str, list[Tensor]] = {name: [] for name in networks}
    labels: dict[str, list[Tensor]] = {}
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for batch in DataLoader(crops, batch_size):
            for name, network in networks.items():
                features = network.features(batch["crops"][network.image_size].to(device))
                outputs[name].append(head(network, features).float().cpu())
            for key, values in batch["labels"].items():
                labels.setdefault(key, []).append(values)
    joined = [{name: torch.cat(parts) for name, parts in lists.items()} for lists in (outputs, labels)]
    return joined[0], joined[1]


def sample_names(dataset: FaceDataset) -> list[str]:
    """How tables name each sample: `FOLDER/FILE` of a photo, the name of a rendered face."""
    indices = range(len(dataset))
    if dataset.rendered:
        return [dataset.name(index) for index in indices]
    return ["/".join(dataset.path(index).parts[-2:]) for index in indices]
