"""torch.compile of the network's layers."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config
from torch import nn

from jointface.errors import ConfigError
from jointface.modules.network import FaceNetwork

MODES = ("default", "max-autotune-no-cudagraphs")


def compile_layers(network: FaceNetwork, mode: str = "default", backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles backbone, decoder layers and attribute classifier in place, at their first use.

    Geometry stays as it is, in float32 and out of the compiled graphs. The parts are compiled one by one, as a batch
    can leave any head without rows. The first change of the number of rows compiles a part once more, for any number
    from two up; later changes do not. Names of parameters, and so checkpoints, stay the same.

    Args:
        mode: one of `MODES`. Those with CUDA graphs are left out: they need batches of one size, and broken samples are
            left out of a batch.
        backend: of torch.compile.

    Raises:
        ConfigError: the mode is unknown.
    """
    require_mode(mode)
    # The tasks' gradients are taken one by one from a graph that is kept; donated buffers allow one pass only.
    torch._functorch.config.donated_buffer = False
    for layers in compiled_parts(network):
        layers.compile(mode=mode, backend=backend)


def require_mode(mode: str) -> None:
    """Refuses a mode that is not one of `MODES`, with a ConfigError."""
    if mode not in MODES:
        raise ConfigError(f"model.compile_mode={mode} is unknown, known are {', '.join(MODES)}")


def compiled_parts(network: FaceNetwork) -> list[nn.Module]:
    """The parts that are compiled."""
    decoder, classifier = network.shape_decoder, network.attribute_classifier
    parts = [network.backbone, None if decoder is None else decoder.layers, classifier]
    return [part for part in parts if part is not None]


def require_compiler(device: torch.device, key: str = "model.compile") -> None:
    """torch.compile writes C++ for the processor, and needs a C compiler for GPUs.

    Raises:
        ConfigError: there is none.
    """
    if device.type == "cpu":
        compilers = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    else:
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["cc", "gcc", "clang"]
    if not any(shutil.which(compiler) for compiler in compilers):
        raise ConfigError(
            f"{key}=true needs a compiler, looked for {', '.join(compilers)}: install it or set {key}=false"
        )
