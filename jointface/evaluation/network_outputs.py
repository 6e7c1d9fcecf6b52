"""Runs several networks over a data set in one pass, and returns their outputs with the labels."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import FaceDataset
from jointface.modules.network import FaceNetwork

LABELS = {"attributes", "attribute_mask", "shape_coefficients", "identity"}
# TensorFloat-32 keeps only 10 bits, and cuDNN would choose its algorithm by the batch size.
REPRODUCIBLE = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)

Head = Callable[[FaceNetwork, Tensor], Tensor]  # from a network and its features (B, C, H, W) to outputs (B, ...)


@REPRODUCIBLE
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

    Each network runs in evaluation mode on plain crops of its own size. In float64 (`network.double()`), the batch size
    makes no difference at float32 precision.

    Args:
        indices: the samples to use, in this order; None takes all.

    Raises:
        DataError: a sample cannot be read. No sample is left out, so that results stay comparable.
    """
    indices = range(len(dataset)) if indices is None else indices
    networks = {name: network.to(device).eval() for name, network in networks.items()}
    transforms = {network.image_size: CropTransform(network.image_size) for network in networks.values()}
    outputs: dict[str, list[Tensor]] = defaultdict(list)
    labels: dict[str, list[Tensor]] = defaultdict(list)
    for start in range(0, len(indices), batch_size):
        samples = [dataset.read(index) for index in indices[start : start + batch_size]]
        crops = {
            size: torch.stack([transform(sample.image, sample.box)[0] for sample in samples]).to(device)
            for size, transform in transforms.items()
        }
        for name, network in networks.items():
            outputs[name].append(head(network, network.features(crops[network.image_size])).float().cpu())
        for key in LABELS & samples[0].labels.keys():
            labels[key].append(torch.stack([sample.labels[key] for sample in samples]))
    joined = [{name: torch.cat(parts) for name, parts in lists.items()} for lists in (outputs, labels)]
    return joined[0], joined[1]
