"""One pass over a data set: what several networks make of its faces, beside their labels."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.synthetic import SyntheticFaces
from jointface.errors import ConfigError
from jointface.evaluation.known_shape import face_name
from jointface.modules.network import FaceNetwork

LABELS = ("attributes", "attribute_mask", "shape_coefficients", "identity")

Head = Callable[[FaceNetwork, Tensor], Tensor]  # a network and features (B, C, H, W) of its backbone, to rows (B, ...)


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
    """For each network by name the head's rows of the samples, and the data set's `LABELS` that it has, on the CPU.

    Each network gets plain crops of its own size. Batches change little: the networks are in evaluation mode, and
    TensorFloat-32, whose 10 bits make algorithms differ, is off. In float64 (`network.double()`) they change nothing
    that float32 would show.

    Args:
        indices: of the samples, in the order of the rows; None takes all.

    Raises:
        DataError: a sample cannot be read; none is left out, or results would not compare.
        ConfigError: batch_size is not positive.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size={batch_size} must be at least 1")
    networks = {name: network.to(device).eval() for name, network in networks.items()}
    chosen = range(len(dataset)) if indices is None else indices
    crops = _Crops(dataset, chosen, {network.image_size for network in networks.values()})
    outputs: dict[str, list[Tensor]] = {name: [] for name in networks}
    labels: dict[str, list[Tensor]] = {}
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for batch in DataLoader(crops, batch_size):
            for name, network in networks.items():
                features = network.features(batch["crops"][network.image_size].to(device))
                outputs[name].append(head(network, features).float().cpu())
            for key, values in batch["labels"].items():
                labels.setdefault(key, []).append(values)
    return _joined(outputs), _joined(labels)


def _joined(parts: Mapping[str, list[Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat(rows) for name, rows in parts.items()}


def sample_names(dataset: FaceDataset) -> list[str]:
    """`FOLDER/FILE` of each sample, which tables name it by; of synthetic faces, which have no file, their name."""
    if isinstance(dataset, SyntheticFaces):
        return [face_name(dataset, index) for index in range(len(dataset))]
    paths = [dataset.path(index) for index in range(len(dataset))]
    return [f"{path.parent.name}/{path.name}" for path in paths]
