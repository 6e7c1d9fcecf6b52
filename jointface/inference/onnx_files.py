"""Writes networks as ONNX files, in float32 or int8, and compares them with the network in PyTorch."""

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8

from jointface.errors import ConfigError
from jointface.files import write_atomically
from jointface.inference.backends import TorchNetwork
from jointface.inference.network_graph import NetworkGraph, trace
from jointface.inference.network_metadata import INPUT, facts_to_metadata
from jointface.inference.onnx_network import OUTPUTS, OnnxNetwork, require_package
from jointface.modules.network import FaceNetwork

TOLERANCE = 1e-4  # of a file against PyTorch: of coordinates in sizes of the crop, of rotations and probabilities
QUANTISED = ("Conv", "MatMul", "Gemm", "Add", "Concat", "MaxPool", "AveragePool", "Relu")
SCOPES = "pkg.torch.onnx.name_scopes"  # key of a node's place in the network
CHUNK = 8  # crops at once in calibration

Crops = UInt8[np.ndarray, "crops 3 size size"]


class Difference(NamedTuple):
    """The largest and the mean difference of a file's outputs to those of PyTorch; None where there is no such output.

    coordinates: of vertices, in sizes of the crop. rotation: of the entries of the pose. probability: of attributes.
    """

    coordinates: tuple[float, float] | None
    rotation: tuple[float, float] | None
    probability: tuple[float, float] | None

    def __str__(self) -> str:
        parts = {"coordinates / crop": self.coordinates, "rotation": self.rotation, "probability": self.probability}
        texts = [f"{name} {value[0]:.1e} (mean {value[1]:.1e})" for name, value in parts.items() if value is not None]
        return ", ".join(texts)


def write_onnx(network: FaceNetwork, path: Path) -> None:
    """Writes a network in float32: preprocessing, morphable model, pose and calibration inside, batches of any size.

    Inputs and outputs are those of `NetworkGraph`; `facts_to_metadata` is the file's metadata.

    Raises:
        ConfigError: onnx or onnxscript is missing, or the network has an operation that ONNX lacks.
    """
    onnx = require_package("onnx", "format=onnx")
    require_package("onnxscript", "format=onnx")
    try:
        with quiet():
            program = torch.onnx.export(
                trace(network), input_names=[INPUT], output_names=NetworkGraph(network).output_names, dynamo=True
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"format=onnx: this network cannot be exported ({reason})") from error
    assert program is not None
    model = program.model_proto
    _keep_only_scopes(model)
    onnx.helper.set_model_props(model, facts_to_metadata(NetworkGraph(network).facts))
    model.producer_name = "jointface"
    write_atomically(path, model.SerializeToString())


def write_int8(source: Path, path: Path, crops: Crops) -> None:
    """Quantises a float32 file statically: the backbone in int8, heads and morphable model in float32.

    Args:
        source: written by `write_onnx`. crops: on which the ranges of activations are measured.
    """
    onnx = require_package("onnx", "precision=int8")
    quantization = require_package("onnxruntime.quantization", "precision=int8")
    shapes = require_package("onnxruntime.quantization.shape_inference", "precision=int8")
    with tempfile.TemporaryDirectory() as folder, quiet():
        prepared, quantised = Path(folder, "prepared.onnx"), Path(folder, "int8.onnx")
        # onnxruntime's optimisation would lose the nodes' scopes; the exporter has folded constants already.
        shapes.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True, skip_optimization=True)
        quantization.quantize_static(
            str(prepared),
            str(quantised),
            _calibration_reader(quantization, crops),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            nodes_to_quantize=backbone_nodes(onnx.load(str(prepared))),
            op_types_to_quantize=list(QUANTISED),
        )
        model = onnx.load(str(quantised))
    metadata = {entry.key: entry.value for entry in onnx.load(str(source)).metadata_props}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, metadata)
    write_atomically(path, model.SerializeToString())


def backbone_nodes(model: Any) -> list[str]:
    """The nodes before the features, at which the graph parts into its heads."""
    return [
        node.name
        for node in model.graph.node
        if any(entry.key == SCOPES and "backbone" in entry.value for entry in node.metadata_props)
    ]


def _keep_only_scopes(model: Any) -> None:
    """Removes what the exporter notes of each node, such as the paths of source files, but for its place in the
    network."""
    parts = [model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer]
    for part in [*parts, *model.graph.input, *model.graph.output]:
        kept = [entry for entry in part.metadata_props if entry.key == SCOPES]
        del part.metadata_props[:]
        part.metadata_props.extend(kept)


def _calibration_reader(quantization: Any, crops: Crops) -> Any:
    class Reader(quantization.CalibrationDataReader):
        """Hands the crops to onnxruntime in chunks."""

        def __init__(self) -> None:
            self.chunks = iter(np.array_split(crops, max(1, len(crops) // CHUNK)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            chunk = next(self.chunks, None)
            return None if chunk is None else {INPUT: chunk}

    return Reader()


def compare(network: FaceNetwork, path: Path, crops: Crops) -> Difference:
    """How far a file is from its network in PyTorch, on crops. Without a camera of the network its pose is compared
    with that of `NetworkGraph`."""
    graph, plain, runtime = NetworkGraph(network).eval(), TorchNetwork(network), OnnxNetwork(path, device="cpu")
    names = graph.output_names
    errors: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for chunk in np.array_split(crops, max(1, len(crops) // CHUNK)):
        with torch.inference_mode():
            truth = dict(zip(names, (output.numpy() for output in graph(torch.from_numpy(chunk))), strict=True))
        output = plain(chunk)._asdict()
        truth |= {name: output[field] for field, name in OUTPUTS.items() if output[field] is not None}
        found = dict(zip(names, runtime.session.run(names, {INPUT: chunk}), strict=True))
        for name in names:
            errors[name].append(np.abs(found[name] - truth[name]).reshape(len(chunk), -1))
    scales = {"vertices": network.image_size, "pose": 1, "probabilities": 1}
    together = {name: np.concatenate(errors[name]) / scale for name, scale in scales.items() if name in errors}
    return Difference(
        *((float(together[name].max()), float(together[name].mean())) if name in together else None for name in scales)
    )


def require_equal(difference: Difference, path: Path) -> None:
    """Raises a ConfigError if a float32 file differs from PyTorch by more than `TOLERANCE`; NaN does."""
    if not all(value[0] <= TOLERANCE for value in difference if value is not None):
        raise ConfigError(f"{path} differs from the network in PyTorch by more than {TOLERANCE}: {difference}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporter's progress and advice off the terminal; its errors are raised."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
