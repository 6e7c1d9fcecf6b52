"""torch.compile of the network's layers."""

import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch._functorch.config

from jointface.errors import ConfigError
from jointface.modules.network import FaceNetwork

MODES = ("default", "max-autotune-no-cudagraphs")  # CUDA graphs need a fixed batch size; broken samples change it


def compile_layers(network: FaceNetwork, mode: str = "default", backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles backbone, decoder layers and attribute classifier in place, on first use.

    Geometry is not compiled and stays in float32. The parts are compiled separately, since a batch may have no rows for
    a head. When the number of rows first changes, a part is compiled again for any number of at least two.
    """
    # Gradients are computed task by task from one graph that is kept; donated buffers would allow only a single pass.
    torch._functorch.config.donated_buffer = False
    decoder, classifier = network.shape_decoder, network.attribute_classifier
    for layers in (network.backbone, None if decoder is None else decoder.layers, classifier):
        if layers is not None:
            layers.compile(mode=mode, backend=backend)


def require_compiler(device: torch.device, key: str = "model.compile") -> None:
    """Checks for the compiler that torch.compile needs: a C++ compiler for CPUs, a C compiler for GPUs.

    Raises:
        ConfigError: there is none; the message names the config key `key`.
    """
    if device.type == "cpu":
        compilers = [os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")]
    else:
        compilers = [os.environ["CC"]] if "CC" in os.environ else ["cc", "gcc", "clang"]
    if not any(shutil.which(compiler) for compiler in compilers):
        raise ConfigError(
            f"{key}=true needs a compiler, looked for {', '.join(compilers)}: install it or set {key}=false"
        )
