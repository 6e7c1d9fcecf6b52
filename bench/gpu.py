"""Images/s, wait for data, memory and model FLOP utilisation of a training at full size on a GPU.

`python -m bench.gpu [OVERRIDE ...]`: the embedded default with ResNet-50, 256 x 256, position map and bf16. Loaders
sample the faces, and the GPU renders them in every step. Each row also has the same training on one repeated batch,
which waits for nothing.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from lightning.pytorch.utilities import move_data_to_device
from omegaconf import DictConfig

from bench.engine import Batch, opened, resolved
from jointface.datamodules import JointDataModule
from jointface.running.dry_run import part_sizes
from jointface.train import build_data, build_module, build_trainer, quiet_libraries

STEPS = 25  # measured, after as many that are not
FULL_SIZE = [
    "scale=full",
    "trainer=gpu",
    "trainer.accelerator=gpu",
    "trainer.precision=bf16-mixed",
    "trainer.benchmark=true",
    "drawing=device",
    f"trainer.max_steps={2 * STEPS + 1}",  # the last step saves a checkpoint
    f"trainer.log_every_n_steps={STEPS}",
    "trainer.val_check_interval=100000",
    "+trainer.limit_val_batches=0",
]
VARIANTS = {
    "bf16, channels_last": [],
    "without channels_last": ["model.channels_last=false"],
    "compiled": ["model.compile=true"],
    "compiled, without channels_last": ["model.compile=true", "model.channels_last=false"],
    "float32 with TF32": ["trainer.precision=32-true"],
    "faces not rendered ahead": ["~callbacks.draw_ahead"],
}


@dataclass(frozen=True)
class Speed:
    """Speed of a training. wait: share of the time spent waiting for loaders. memory: peak GiB of tensors."""

    images_per_second: float
    wait: float
    memory: float


def measured(config: DictConfig, datamodule: JointDataModule) -> Speed:
    """Speed of a training of the config."""
    if config.model.compile:  # otherwise the renderer would be compiled anew
        torch._dynamo.reset()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    trainer = build_trainer(config)
    trainer.fit(build_module(config, datamodule), datamodule=datamodule)
    logged = trainer.callback_metrics
    return Speed(*(logged[f"train/{key}"].item() for key in ("images_per_second", "loader_wait", "gpu_memory_gib")))


def rendered(datamodule: JointDataModule) -> Batch:
    """One mini-batch on the GPU, its images rendered."""
    batch, _, _ = next(iter(datamodule.train_dataloader()))
    return datamodule.on_after_batch_transfer(move_data_to_device(batch, torch.device("cuda")), 0)


def flops_per_image(config: DictConfig, datamodule: JointDataModule) -> float:
    """FLOPs of a training step per image: three times the forward pass, with each head on its part of the batch."""
    sizes = part_sizes(build_module(config, datamodule).network)
    shape, attributes = config.batch_size.shape, config.batch_size.attributes
    heads = shape * sizes["shape_decoder"].flops + attributes * sizes["attribute_classifier"].flops
    return 3 * (sizes["backbone"].flops + heads / (shape + attributes))


def matrix_product_flops(size: int = 8192, repeats: int = 20) -> float:
    """FLOP/s that this GPU reaches in a large product of bf16 matrices."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(5):
        a @ b
    start.record()
    for _ in range(repeats):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return repeats * 2 * size**3 / (start.elapsed_time(end) / 1e3)


def main(overrides: list[str]) -> None:
    """Prints a row for each variant of VARIANTS."""
    if not torch.cuda.is_available():
        print("bench.gpu: there is no GPU here, so nothing is measured")
        return
    quiet_libraries()
    peak = matrix_product_flops()
    with tempfile.TemporaryDirectory() as folder:
        config = resolved(folder, *FULL_SIZE, *overrides)
        fresh = build_data(config)
        fresh.setup("fit")
        same, flops = opened(config), flops_per_image(config, fresh)
        same.batch = rendered(fresh)
        images = sum(config.batch_size.values())
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {images} images a step")
        print(f"{config.num_workers} loader processes a source, {flops / 1e9:.1f} GFLOP an image trained on")
        print(f"bf16 matrix products of 8192 x 8192: {peak / 1e12:.0f} TFLOP/s, of which the last column is the share")
        print(f"{'':36}{'images/s':>9}{'same batch':>11}{'ratio':>7}{'wait':>7}{'GiB':>7}{'TFLOP/s':>9}{'share':>7}")
        for number, (name, changes) in enumerate(VARIANTS.items()):
            one = resolved(str(Path(folder) / str(number)), *FULL_SIZE, *changes, *overrides)
            again, fed = measured(one, same), measured(one, fresh)
            rate = fed.images_per_second
            print(
                f"{name:36}{rate:9.0f}{again.images_per_second:11.0f}{rate / again.images_per_second:7.3f}"
                f"{fed.wait:7.3f}{fed.memory:7.1f}{rate * flops / 1e12:9.1f}{rate * flops / peak:7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1:])
