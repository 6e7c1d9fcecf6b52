"""`dry_run=true`: the config of a run, the size of its model, its data and mini-batches."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from jointface.datamodules import JointDataModule
from jointface.datamodules.joint import STAGES
from jointface.modules.network import FaceNetwork


@dataclass(frozen=True)
class PartSize:
    """Size of a part of the network. flops: additions plus multiplications for one image, in matrix products and
    convolutions alone, as torch counts them."""

    parameters: int
    flops: int


def describe_run(config: DictConfig, datamodule: JointDataModule, network: FaceNetwork, world_size: int = 1) -> None:
    """Prints the resolved config and tables of the model and the data."""
    console = Console()
    print(OmegaConf.to_yaml(config))
    console.print(model_table(network))
    console.print(data_table(datamodule, world_size))
    console.print(f"{config.trainer.max_steps:,} steps; nothing was trained (dry_run=true)")


@torch.no_grad()
def part_sizes(network: FaceNetwork) -> dict[str, PartSize]:
    """Size of each part that the network has."""
    training = network.training
    network.eval()
    image = torch.zeros(1, 3, network.image_size, network.image_size, dtype=torch.uint8, device=network.mean.device)
    decoder, classifier = network.shape_decoder, network.attribute_classifier
    features = network.features(image)
    sizes = {"backbone": PartSize(_parameters(network.backbone), _flops(lambda: network.features(image)))}
    if decoder is not None:
        flops = _flops(lambda: decoder.vertices(decoder(features)))
        sizes["shape_decoder"] = PartSize(_parameters(decoder), flops)
    if classifier is not None:
        flops = _flops(lambda: classifier(features))
        sizes["attribute_classifier"] = PartSize(_parameters(classifier), flops)
    network.train(training)
    return sizes


def model_table(network: FaceNetwork) -> Table:
    """Parameters and operations by part, and in total."""
    table = Table(
        title=f"Model, for images of {network.image_size} x {network.image_size}",
        caption="of convolutions and matrix products, addition and multiplication counted apart",
    )
    for title in ("part", "parameters", "FLOPs an image"):
        table.add_column(title, justify="left" if title == "part" else "right")
    sizes = part_sizes(network)
    total = PartSize(sum(size.parameters for size in sizes.values()), sum(size.flops for size in sizes.values()))
    for part, size in {**sizes, "all": total}.items():
        table.add_row(part, f"{size.parameters:,}", f"{size.flops / 1e6:,.2f} M", end_section=part == list(sizes)[-1])
    return table


def data_table(datamodule: JointDataModule, world_size: int = 1) -> Table:
    """A row for each source: what it labels, its samples by stage, its share of the mini-batch of all processes, and
    the steps that one pass over its training samples takes."""
    table = Table(title="Data, in samples")
    for title in ("source", "labels", *STAGES, "batch", "steps a pass"):
        table.add_column(title, justify="left" if title in ("source", "labels") else "right")
    totals, in_all = dict.fromkeys(STAGES, 0), 0
    for name in datamodule.sources:
        counts = {stage: datamodule.num_samples(stage, name) for stage in STAGES}
        batch_size = world_size * datamodule.sources[name].batch_size if counts["train"] else 0
        totals = {stage: totals[stage] + counts[stage] for stage in STAGES}
        in_all += batch_size
        table.add_row(
            name,
            _labels(datamodule, name),
            *(f"{count:,}" if count else "" for count in counts.values()),
            str(batch_size or ""),
            f"{-(-counts['train'] // batch_size):,}" if batch_size else "",
        )
    table.add_section()
    table.add_row("all", "", *(f"{total:,}" for total in totals.values()), str(in_all), "")
    return table


def _labels(datamodule: JointDataModule, source: str) -> str:
    dataset = next(datamodule.datasets[stage][source] for stage in STAGES if source in datamodule.datasets[stage])
    attributes = [] if dataset.label_set is None else [f"{len(dataset.label_set.attributes)} attributes"]
    return ", ".join([*attributes, *(["3D face"] if dataset.has_shape else [])])


def _parameters(part: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _flops(compute: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        compute()
    return int(counter.get_total_flops())
