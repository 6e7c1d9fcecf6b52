"""`dry_run=true`: prints the size of a run's model, its data and mini-batches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jointface.datamodules import JointDataModule
from jointface.datamodules.joint import STAGES
from jointface.modules.network import FaceNetwork


@dataclass(frozen=True)
class PartSize:
    """The size of a part. flops: additions plus multiplications per image, in matrix products and convolutions only."""

    parameters: int
    flops: int


def describe_run(config: DictConfig, datamodule: JointDataModule, network: nn.Module, world_size: int = 1) -> None:
    """Prints tables of the model and the data."""
    console = Console()
    if isinstance(network, FaceNetwork):
        console.print(model_table(network))
    else:
        console.print(f"Model: {sum(parameter.numel() for parameter in network.parameters()):,} parameters")
    console.print(data_table(datamodule, world_size))
    console.print(
        f"{config.trainer.max_steps:,} steps; nothing was trained (dry_run=true); --cfg job prints the config"
    )


@torch.no_grad()
def part_sizes(network: FaceNetwork) -> dict[str, PartSize]:
    """The size of each part of the network."""
    training = network.training
    network.eval()
    image = torch.zeros(1, 3, network.image_size, network.image_size, dtype=torch.uint8, device=network.mean.device)
    decoder, classifier = network.shape_decoder, network.attribute_classifier
    features = network.features(image)
    sizes = {"backbone": _size(network.backbone, lambda: network.features(image))}
    if decoder is not None:
        sizes["shape_decoder"] = _size(decoder, lambda: decoder.vertices(decoder(features)))
    if classifier is not None:
        sizes["attribute_classifier"] = _size(classifier, lambda: classifier(features))
    if (uncertainty := network.landmark_uncertainty) is not None:
        sizes["landmark_uncertainty"] = _size(uncertainty, lambda: uncertainty(features))
    network.train(training)
    return sizes


def _size(part: nn.Module, compute: Callable[[], object]) -> PartSize:
    with FlopCounterMode(display=False) as counter:
        compute()
    return PartSize(sum(parameter.numel() for parameter in part.parameters()), int(counter.get_total_flops()))


def model_table(network: FaceNetwork) -> Table:
    """A table of parameters and operations by part, and in total."""
    table = Table(
        title=f"Model, for images of {network.image_size} x {network.image_size}",
        caption="FLOPs of convolutions and matrix products; additions and multiplications count separately",
    )
    for title in ("part", "parameters", "FLOPs per image"):
        table.add_column(title, justify="left" if title == "part" else "right")
    sizes = part_sizes(network)
    for part, size in sizes.items():
        table.add_row(part, f"{size.parameters:,}", f"{size.flops / 1e6:,.2f} M")
    table.add_section()
    parameters, flops = (sum(getattr(size, of) for size in sizes.values()) for of in ("parameters", "flops"))
    table.add_row("all", f"{parameters:,}", f"{flops / 1e6:,.2f} M")
    return table


def data_table(datamodule: JointDataModule, world_size: int = 1) -> Table:
    """A table with a row for each source: what it labels, its samples by stage, its samples in the mini-batch of all
    processes, and the number of steps in one pass over its training samples."""
    table = Table(title="Data, in samples")
    for title in ("source", "labels", *STAGES, "batch", "steps per pass"):
        table.add_column(title, justify="left" if title in ("source", "labels") else "right")
    rows = []
    for name, source in datamodule.sources.items():
        counts = [datamodule.num_samples(stage, name) for stage in STAGES]
        batch_size = world_size * source.batch_size if datamodule.num_samples("train", name) else 0
        rows.append([*counts, batch_size])
        passes = f"{-(-counts[0] // batch_size):,}" if batch_size else ""
        dataset = next(of[name] for of in datamodule.datasets.values() if name in of)
        labels = [f"{len(dataset.label_set.attributes)} attributes"] if dataset.label_set is not None else []
        labels += ["3D face"] if dataset.has_shape else ["landmarks"] if dataset.has_landmarks else []
        table.add_row(name, ", ".join(labels), *(f"{count:,}" if count else "" for count in rows[-1]), passes)
    table.add_section()
    table.add_row("all", "", *(f"{sum(column):,}" for column in zip(*rows, strict=True)), "")
    return table
