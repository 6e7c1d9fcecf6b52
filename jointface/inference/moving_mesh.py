"""A person's face through a video as one .glb: a textured mesh, animated by morph targets and the motion of the head.

glTF 2.0, section 3.7.2.2 (morph targets) and 3.11 (animations). A mesh of every picture would be large, so the shape
is kept as a mean and the TARGETS directions in which it changes most (principal components).
"""

import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import trimesh
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from trimesh.exchange.gltf import export_glb

from jointface.inference.face import Face
from jointface.inference.mesh_files import FROM_PHOTO

TARGETS = 8  # that every viewer has to support
MAX_PICTURES = 3000  # of a person that are kept in memory
FLOAT = 5126  # glTF's name of float32


class MovingMesh:
    """Collects a person's faces, of which it keeps the first MAX_PICTURES."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._front: Face | None = None  # gives the texture
        self._turned = math.inf
        self._vertices: list[Float[np.ndarray, "vertices 3"]] = []
        self._rotations: list[Float[np.ndarray, "3 3"]] = []

    def add(self, face: Face, time: float) -> None:
        """Adds the face at a time in seconds, later than the last. One without shape changes nothing."""
        if face.vertices is None or face.pose is None or len(self.times) >= MAX_PICTURES:
            return
        if abs(face.pose.yaw) < self._turned:
            self._front, self._turned = face, abs(face.pose.yaw)
        self.times.append(time)
        self._vertices.append(face.vertices)
        self._rotations.append(face.pose.matrix)

    def glb(self, scale: float = 1.0) -> bytes:
        """The file. At each time the vertices lie where those of `Face.mesh` do, but for what the targets leave out.

        Args:
            scale: units of the mesh in a pixel of the video.
        """
        assert self._front is not None
        points = scale * FROM_PHOTO * np.stack(self._vertices).astype(np.float64)
        rotations, centres = np.stack(self._rotations).astype(np.float64), points.mean(1)
        heads = (points - centres[:, None]) @ rotations  # turned back to the front
        sizes = np.sqrt((heads**2).sum(2).mean(1))
        heads *= (sizes.mean() / sizes)[:, None, None]
        mean = heads.mean(0)
        targets, weights = _principal((heads - mean).reshape(len(heads), -1))
        mesh = self._front.mesh(scale)
        mesh.vertices = mean
        motion = {
            "translation": centres,
            "rotation": _quaternions(rotations),
            "scale": np.repeat(sizes[:, None] / sizes.mean(), 3, axis=1),
            "weights": weights,
        }

        def animate(buffers: MutableMapping[Any, bytes], tree: dict[str, Any]) -> None:
            _animate(buffers, tree, targets.reshape(len(targets), -1, 3), np.array(self.times), motion)

        return export_glb(trimesh.Scene(mesh, metadata=mesh.metadata), buffer_postprocessor=animate)


def _principal(
    rows: Float[np.ndarray, "pictures values"],
) -> tuple[Float[np.ndarray, "targets values"], Float[np.ndarray, "pictures targets"]]:
    """The directions in which the rows differ most, each as far as it goes, and how far each row goes along it."""
    left, lengths, right = np.linalg.svd(rows, full_matrices=False)
    weights = (left * lengths)[:, :TARGETS]
    reach = np.abs(weights).max(0).clip(min=1e-9)
    return right[:TARGETS] * reach[:, None], weights / reach


def _quaternions(rotations: Float[np.ndarray, "pictures 3 3"]) -> Float[np.ndarray, "pictures 4"]:
    """x, y, z, w of each rotation, on the side of the one before, so that the way between them is short."""
    quaternions = Rotation.from_matrix(rotations).as_quat()
    turned = (quaternions[1:] * quaternions[:-1]).sum(1) < 0
    return quaternions * np.where(np.cumsum([0, *turned]) % 2, -1.0, 1.0)[:, None]


def _animate(
    buffers: MutableMapping[Any, bytes],
    tree: dict[str, Any],
    targets: Float[np.ndarray, "targets vertices 3"],
    times: Float[np.ndarray, "pictures"],
    motion: Mapping[str, Float[np.ndarray, "pictures values"]],
) -> None:
    """Adds the targets to the tree's only mesh, and an animation to the node that shows it."""

    def accessor(values: np.ndarray, kind: str) -> int:
        data = np.ascontiguousarray(values, np.float32)
        buffers[f"moving {len(buffers)}"] = data.tobytes()
        limits = data.reshape(len(data), -1)
        entry = {"bufferView": len(buffers) - 1, "componentType": FLOAT, "count": len(data), "type": kind}
        entry |= {"min": limits.min(0).tolist(), "max": limits.max(0).tolist()}
        tree["accessors"][f"moving {len(buffers)}"] = entry
        return len(tree["accessors"]) - 1

    (mesh,) = tree["meshes"]
    mesh["primitives"][0]["targets"] = [{"POSITION": accessor(target, "VEC3")} for target in targets]
    mesh["weights"] = motion["weights"][0].tolist()
    node = next(number for number, node in enumerate(tree["nodes"]) if "mesh" in node)
    shown_at = accessor(times - times[0], "SCALAR")
    kinds = {"translation": "VEC3", "rotation": "VEC4", "scale": "VEC3", "weights": "SCALAR"}
    tree["animations"] = [{"samplers": [], "channels": []}]
    for number, (path, values) in enumerate(motion.items()):
        values = values.reshape(-1, 1) if path == "weights" else values
        sampler = {"input": shown_at, "output": accessor(values, kinds[path]), "interpolation": "LINEAR"}
        tree["animations"][0]["samplers"].append(sampler)
        tree["animations"][0]["channels"].append({"sampler": number, "target": {"node": node, "path": path}})
