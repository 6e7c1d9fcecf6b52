"""Networks in ONNX files, run by onnxruntime."""

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from jointface.errors import CheckpointError, ConfigError
from jointface.inference.backends import NetworkOutput
from jointface.inference.network_metadata import INPUT, facts_from_metadata, output_names

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
OUTPUTS = {"vertices": "vertices", "rotation": "pose", "logits": "logits"}  # by field of NetworkOutput


class OnnxNetwork:
    """A network in an ONNX file that `python -m jointface.export` wrote; nothing else is needed. Threads may share it.

    Args:
        path: of the file.
        device: "auto", "cpu" or "cuda", which needs the package onnxruntime-gpu.
        threads: of the CPU for one call; None takes as many as torch does.

    Raises:
        CheckpointError: the file is missing, damaged, or not one that jointface.export wrote.
        ConfigError: onnxruntime is not installed, or has no such device.
    """

    def __init__(self, path: str | Path, device: str = "auto", threads: int | None = None) -> None:
        runtime = require_package("onnxruntime", "backend=onnx")
        if not Path(path).is_file():
            raise CheckpointError(
                f"no ONNX file at {Path(path).absolute()}; write one with python -m jointface.export "
                "checkpoint=RUN/checkpoints/best.ckpt format=onnx"
            )
        if Path(path).suffix == ".ckpt":
            raise CheckpointError(
                f"{path}: a checkpoint, which backend=onnx does not read; write an ONNX file with "
                f"python -m jointface.export checkpoint={path} format=onnx"
            )
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.log_severity_level = 3  # errors; the rest is about the graph's optimisation
        providers = _providers(runtime, device)
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=providers)
            self.facts = facts_from_metadata(self.session.get_modelmeta().custom_metadata_map)
        except Exception as error:  # onnxruntime raises types of its own
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: not an ONNX file of jointface.export ({reason})") from error
        there = output_names(self.facts)
        self.outputs = {field: name for field, name in OUTPUTS.items() if name in there}

    def __call__(self, crops: UInt8[np.ndarray, "batch 3 size size"]) -> NetworkOutput:
        values = self.session.run(list(self.outputs.values()), {INPUT: crops})
        return NetworkOutput(**dict(zip(self.outputs, values, strict=True)))


def require_package(name: str, setting: str) -> Any:
    """A module of the extra `onnx`.

    Raises:
        ConfigError: it is not installed; the message names the setting that needs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ConfigError(f"{setting} needs the package {package}: pip install 'jointface[onnx]'") from error


def _providers(runtime: Any, device: str) -> list[str]:
    available, kind = runtime.get_available_providers(), device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() and PROVIDERS["cuda"] in available else "cpu"
    if kind not in PROVIDERS or PROVIDERS[kind] not in available:
        raise ConfigError(f"device={device}: this onnxruntime runs on {', '.join(available)}; set auto or cpu")
    return [PROVIDERS[kind], *([PROVIDERS["cpu"]] if kind != "cpu" else [])]
