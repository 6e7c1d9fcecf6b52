"""What the engine costs: a step of the embedded default against a bare loop, and with two sources against one.

`python -m bench.engine [OVERRIDE ...]`; overrides change the config, for instance trainer=gpu. Every step gets the same
batch, so the rendering of faces does not count.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from lightning import Callback, Trainer
from lightning.pytorch.utilities import CombinedLoader, move_data_to_device
from omegaconf import DictConfig, OmegaConf

from jointface.command_line import CONF_DIR
from jointface.datamodules import JointDataModule
from jointface.datamodules.loading import TimedLoader
from jointface.train import build_data, build_module, build_trainer, quiet_libraries

WARM_UP, STEPS, REPEATS = 5, 25, 5
FEW = [
    "data.sources.synthetic_shape.dataset.num_faces={train: 72, val: 8}",
    "data.sources.synthetic_attributes.dataset.num_faces={train: 72, val: 8}",
    "data.sources.synthetic.dataset.num_faces=8",
]

Batch = dict[str, dict[str, Any]]


class Repeated:
    """Yields one batch endlessly."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch

    def __iter__(self) -> Iterator[Any]:
        return itertools.repeat(self.batch)


class SameBatch(JointDataModule):
    """A data module of one batch."""

    batch: Batch

    def train_dataloader(self) -> CombinedLoader:
        self.training_loader = TimedLoader({name: Repeated(part) for name, part in self.batch.items()}, "min_size")
        return self.training_loader


class Clock(Callback):
    """Measures the seconds of a step after the warm-up."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == WARM_UP:
            synchronise()
            self.start = time.perf_counter()
        elif trainer.global_step == WARM_UP + STEPS:
            synchronise()
            self.seconds = (time.perf_counter() - self.start) / STEPS


def synchronise() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def composed(folder: str, *overrides: str) -> DictConfig:
    """The embedded default with few faces and without validation."""
    # One step more than is measured, since a run saves a checkpoint with its last step.
    steps = [
        f"trainer.max_steps={WARM_UP + STEPS + 1}",
        "trainer.val_check_interval=100000",
        "+trainer.limit_val_batches=0",
    ]
    return resolved(folder, *FEW, *steps, *overrides)


def resolved(folder: str, *overrides: str) -> DictConfig:
    """The resolved config of the embedded default, without progress bar."""
    quiet = ["~callbacks.progress_bar", "+trainer.enable_progress_bar=false", f"paths.run_dir={folder}", "name=bench"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        config = compose("train", overrides=["experiment=joint_synthetic", *quiet, *overrides])
    OmegaConf.resolve(config)
    return config


def trained(config: DictConfig, batch: Batch) -> float:
    """Seconds of a step in a run of jointface.train."""
    datamodule = opened(config)
    datamodule.batch = batch
    trainer, clock = build_trainer(config), Clock()
    trainer.callbacks.append(clock)  # type: ignore[attr-defined]
    trainer.fit(build_module(config, datamodule), datamodule=datamodule)
    return clock.seconds


def bare(config: DictConfig, batch: Batch) -> float:
    """Seconds of a step in a loop without Lightning."""
    module = build_module(config, opened(config))
    device = build_trainer(config).strategy.root_device
    module.to(device).train()
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = module.make_optimizer([{"params": parameters}])
    schedule = module.make_scheduler(optimizer, total_steps=WARM_UP + STEPS)  # type: ignore[misc]
    precision = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(config.trainer.precision)
    for step in range(WARM_UP + STEPS):
        if step == WARM_UP:
            synchronise()
            start = time.perf_counter()
        with torch.autocast(device.type, precision, enabled=precision is not None):
            losses = module.losses(move_data_to_device(batch, device))
            total = config.model.loss.shape * losses["shape"] + config.model.loss.attributes * losses["attributes"]
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.trainer.gradient_clip_val)
        optimizer.step()
        schedule.step()
    synchronise()
    return (time.perf_counter() - start) / STEPS


def opened(config: DictConfig) -> SameBatch:
    """The config's data module, as a `SameBatch`."""
    config = OmegaConf.merge(config, {"data": {"_target_": f"{__name__}.SameBatch"}})
    datamodule = build_data(config)
    assert isinstance(datamodule, SameBatch)
    datamodule.setup("fit")
    return datamodule


def first_batch(config: DictConfig) -> Batch:
    """The first mini-batch of the config."""
    datamodule = build_data(config)
    datamodule.setup("fit")
    batch, _, _ = next(iter(datamodule.train_dataloader()))
    return batch


def in_turn(ways: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Median time of each way, measured in turn because the machine's speed drifts."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPEATS):
        for name, way in ways.items():
            times[name].append(way())
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def main(overrides: list[str]) -> None:
    """Prints the times of a step and their ratios."""
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        config = composed(folder, *overrides)
        batch = first_batch(config)
        both = [
            "data.sources.synthetic_shape.dataset.labels=both",
            "data.sources.synthetic_attributes.dataset.labels=both",
        ]
        half = sum(config.batch_size.values()) // 2
        two = composed(folder, *both, f"batch_size={{shape: {half}, attributes: {half}}}", *overrides)
        parts = first_batch(two)
        joined = {key: torch.cat([part[key] for part in parts.values()]) for key in parts["synthetic_shape"]}
        one = composed(folder, *both, "~data.sources.synthetic_attributes", f"batch_size.shape={2 * half}", *overrides)
        times = in_turn(
            {
                "bare": lambda: bare(config, batch),
                "engine": lambda: trained(config, batch),
                "two": lambda: trained(two, parts),
                "one": lambda: trained(one, {"synthetic_shape": joined}),
            }
        )
    images = sum(config.batch_size.values())
    print(f"a step of the embedded default, {images} images, median of {REPEATS} runs of {STEPS} steps")
    print(f"  bare torch loop             {1e3 * times['bare']:7.1f} ms")
    print(f"  jointface.train             {1e3 * times['engine']:7.1f} ms   {times['engine'] / times['bare']:.3f}")
    print(f"a step of {2 * half} images with both labels")
    print(f"  of one source               {1e3 * times['one']:7.1f} ms")
    print(f"  of two sources, half each   {1e3 * times['two']:7.1f} ms   {times['two'] / times['one']:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:])
