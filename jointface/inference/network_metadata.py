"""What has to be known of an exported network to use it: its input and outputs, and facts that travel in its file."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from jointface.inference.backends import MeshFacts, NetworkFacts

INPUT = "image"  # uint8 RGB crops (B, 3, S, S)
FORMAT = "1"  # of the metadata; to be raised when older code can no longer read new files
MESH = {"triangles": "<i4", "uv": "<f4", "landmarks68": "<i4", "mean": "<f4", "face_region": "|u1"}  # little-endian


def output_names(facts: NetworkFacts) -> list[str]:
    """The outputs of a network's graph."""
    shape = ["vertices", "landmarks68", "pose"] if facts.mesh is not None else []
    return shape + (["logits", "probabilities"] if facts.attributes else [])


def facts_to_metadata(facts: NetworkFacts) -> dict[str, str]:
    """The facts by key, each as JSON.

    jointface_format; image_size; attributes, a list of names; alpha, a list of numbers; mesh, null or an object with
    the name of the morphable model and its arrays {dtype, shape, base64}.
    """
    mesh = None
    if facts.mesh is not None:
        arrays = {name: _pack(getattr(facts.mesh, name), dtype) for name, dtype in MESH.items()}
        mesh = {"name": facts.mesh.name, **arrays}
    values = {
        "image_size": facts.image_size,
        "attributes": list(facts.attributes),
        "alpha": facts.alpha.tolist(),
        "mesh": mesh,
    }
    return {"jointface_format": FORMAT, **{key: json.dumps(value) for key, value in values.items()}}


def facts_from_metadata(metadata: Mapping[str, str]) -> NetworkFacts:
    """Raises a KeyError, a TypeError or a ValueError if it is not what `facts_to_metadata` gives."""
    if metadata["jointface_format"] != FORMAT:
        raise ValueError(f"format {metadata['jointface_format']}, this jointface reads {FORMAT}")
    image_size, attributes, alpha, mesh = (
        json.loads(metadata[key]) for key in ("image_size", "attributes", "alpha", "mesh")
    )
    facts = None
    if mesh is not None:
        arrays = {name: _unpack(mesh[name]) for name in MESH}
        arrays["face_region"] = arrays["face_region"].astype(bool)
        facts = MeshFacts(name=mesh["name"], **{name: _widen(array) for name, array in arrays.items()})
    return NetworkFacts(int(image_size), tuple(attributes), np.array(alpha, np.float32), facts)


def _pack(array: np.ndarray, dtype: str) -> dict[str, Any]:
    return {
        "dtype": dtype,
        "shape": list(array.shape),
        "base64": base64.b64encode(array.astype(dtype).tobytes()).decode("ascii"),
    }


def _unpack(packed: Mapping[str, Any]) -> np.ndarray:
    if packed["dtype"] not in MESH.values():
        raise ValueError(f"unknown dtype {packed['dtype']}")
    array = np.frombuffer(base64.b64decode(packed["base64"], validate=True), packed["dtype"])
    return array.reshape(packed["shape"]).copy()


def _widen(array: np.ndarray) -> np.ndarray:
    """Whole numbers as int64, as torch has them."""
    return array.astype(np.int64) if array.dtype == np.int32 else array
