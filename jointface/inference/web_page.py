"""A page of static files that runs the network in its visitors' browsers, from the sources in jointface/web.

FOLDER/
    index.html  style.css  *.js    the page
    facts.json                     of the network, and the constants of finding and cropping
    network.onnx  finder.onnx
    vendor/                        onnxruntime-web and three.js, which npm downloads
    examples/0.jpg, ...            drawn people
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim

from jointface.detection import finders
from jointface.detection.boxes import decode
from jointface.detection.finder_network import FinderNetwork, to_input
from jointface.detection.finder_weights import load_finder
from jointface.errors import ConfigError, DataError
from jointface.files import write_atomically
from jointface.geometry.framing import CROP_MARGIN
from jointface.inference.backends import NetworkFacts
from jointface.inference.onnx_files import quiet
from jointface.inference.reader import MAX_CHANGE
from jointface.synthesis.portraits import example_photos

SOURCES = Path(__file__).parents[1] / "web"
ONNXRUNTIME = "onnxruntime-web/dist"
# What the page needs of its npm packages.
VENDOR = (
    f"{ONNXRUNTIME}/ort.wasm.min.mjs",
    f"{ONNXRUNTIME}/ort-wasm-simd-threaded.mjs",
    f"{ONNXRUNTIME}/ort-wasm-simd-threaded.wasm",
    "three/build/three.core.js",
    "three/build/three.module.js",
    "three/examples/jsm/controls/OrbitControls.js",
    "three/examples/jsm/exporters/GLTFExporter.js",
)


class FinderGraph(nn.Module):
    """The finder from the pixels of a canvas (R, G, B and opacity) to the face of every cell: x, y and size in pixels,
    and score."""

    def __init__(self, network: FinderNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: UInt8[Tensor, "height width 4"]) -> Float[Tensor, "cells 4"]:
        images = pixels[None, :, :, :3].permute(0, 3, 1, 2)
        return decode(self.network(to_input(images)))[0]


def write_page(folder: Path, network: Path, facts: NetworkFacts) -> None:
    """Writes the page.

    Args:
        network: its file, which `write_onnx` wrote. facts: of it.

    Raises:
        ConfigError: npm is missing, or the network lacks shape or attributes. DataError: npm cannot download the
            packages, or there is no room for the files.
    """
    if facts.mesh is None or not facts.attributes:
        raise ConfigError("format=web shows shape and attributes: use a checkpoint of a network that predicts both")
    for name, content in _vendor():
        write_atomically(folder / "vendor" / name, content)
    for number, photo in enumerate(example_photos()):
        path = folder / "examples" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(path, quality=90)
    write_atomically(folder / "network.onnx", network.read_bytes())
    write_atomically(folder / "finder.onnx", _finder())
    write_atomically(folder / "facts.json", json.dumps(page_facts(facts)).encode())
    for source in sorted(SOURCES.glob("*.*"), key=lambda path: path.suffix == ".html"):  # index.html last
        if source.suffix != ".json":
            write_atomically(folder / source.name, source.read_bytes())


def page_facts(facts: NetworkFacts) -> dict[str, Any]:
    """What the page has to know. Its constants are those of `FaceReader` and `OwnFinder`."""
    assert facts.mesh is not None
    return {
        "imageSize": facts.image_size,
        "attributes": list(facts.attributes),
        "triangles": facts.mesh.triangles.flatten().tolist(),
        "cropMargin": CROP_MARGIN,
        "maxChange": MAX_CHANGE,
        "finder": {
            "threshold": finders.THRESHOLD,
            "small": finders.SMALL,
            "smallDoubt": finders.SMALL_DOUBT,
            "lesserDoubt": finders.LESSER_DOUBT,
            "area": finders.AREA,
            "finer": finders.FINER,
            "largest": finders.LARGEST,
            "largeFaces": finders.LARGE_FACES,
            "smallPhoto": finders.SMALL_PHOTO,
            "grey": finders.GREY,
        },
    }


def _finder() -> bytes:
    pixels = torch.zeros(64, 96, 4, dtype=torch.uint8)
    sides = {0: 32 * Dim("rows"), 1: 32 * Dim("columns")}
    with torch.no_grad(), quiet():
        traced = torch.export.export(FinderGraph(load_finder()).eval(), (pixels,), dynamic_shapes=(sides,))
        program = torch.onnx.export(traced, input_names=["pixels"], output_names=["faces"], dynamo=True)
    assert program is not None
    return program.model_proto.SerializeToString()


def _vendor() -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of npm's packages, in the versions of package-lock.json."""
    npm = shutil.which("npm")
    if npm is None:
        raise ConfigError("format=web needs npm: apt-get install npm, or install Node.js")
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SOURCES / name, scratch)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = " ".join(done.stderr.split())[:200]
            raise DataError(f"npm cannot download the page's packages ({reason}); is there a network?")
        for name in VENDOR:
            content = Path(scratch, "node_modules", name).read_bytes()
            yield Path(name).name, content.replace(b"from 'three'", b"from './three.module.js'")
