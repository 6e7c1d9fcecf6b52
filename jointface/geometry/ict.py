"""Loads ICT-FaceKit's morphable model: 100 principal components of scanned faces, and 53 facial actions.

Vertices are in millimetres here, in centimetres in the files. Licence: MIT. Cite: Li, Bladin, Zhao et al., "Learning
Formation of Physically-Based Face Attributes", CVPR 2020.
"""

import json
from functools import lru_cache
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int

from jointface.errors import ConfigError, DataError
from jointface.geometry.array_files import checked_numbers, require_file
from jointface.geometry.morphable_model import MorphableModel, mirror_from_uv

FROM_ICT = "point morphable_model.folder at the folder FaceXModel of github.com/ICT-VGL/ICT-FaceKit"
MATERIAL = "M_Face"  # of the polygons that are read: the face up to ears, neck and scalp
IDENTITIES = 100
MILLIMETRES = 10.0  # in a centimetre, the unit of the files


@lru_cache(maxsize=2)
def load_ict(
    folder: str, shape_components: int = IDENTITIES, expression_components: int | None = None
) -> MorphableModel:
    """Loads the face of the model that ICT-FaceKit publishes in its folder `FaceXModel`, as the model named "ict".

    Folder: `generic_neutral_mesh.obj`, the mean, with polygons and texture coordinates by material; meshes with the
    same vertices `identity000.obj` ... `identity099.obj`, each the mean plus one component, and `browDown_L.obj`, ...,
    each the mean with one facial action; `vertex_indices.json` with idx_to_landmark_verts, 68 indices of vertices, and
    expressions, names of the facial actions. Vertices are in centimetres.

    Teeth, eyeballs and the back of the head are left out; the texture of the rest has no seams. Identity coefficients
    have unit variance over people; expression coefficients are in 0 ... 1.

    Args:
        shape_components: number of identity components, at most 100. expression_components: of facial actions, in the
            order of the list; None takes all.

    Raises:
        ConfigError: a number of components is out of range.
        DataError: a file is missing, cut short or of another mesh.
    """
    root = Path(folder)
    landmarks, actions = _read_indices(root / "vertex_indices.json")
    count = len(actions) if expression_components is None else expression_components
    for name, value, most in (("shape", shape_components, IDENTITIES), ("expression", count, len(actions))):
        if not 1 <= value <= most:
            raise ConfigError(f"morphable_model.{name}_components={value}: expected 1 ... {most}")
    neutral = root / "generic_neutral_mesh.obj"
    uv, corners = _read_face(neutral)
    vertex, first, triangles = np.unique(corners[..., 0], return_index=True, return_inverse=True)
    if not np.isin(landmarks, vertex).all():
        raise DataError(f"{root / 'vertex_indices.json'}: landmarks outside {MATERIAL} of {neutral.name}; {FROM_ICT}")

    def read(name: str) -> Float[np.ndarray, "points 3"]:
        return _read_vertices(root / f"{name}.obj", int(vertex.max()) + 1)[vertex]

    mean = read(neutral.stem)
    shape_basis, expression_basis = (
        torch.from_numpy(np.stack([read(name) - mean for name in names], axis=-1))
        for names in ([f"identity{number:03d}" for number in range(shape_components)], actions[:count])
    )
    coordinates = torch.from_numpy(uv[corners[..., 1].ravel()[first]]).float()
    landmarks68 = torch.from_numpy(np.searchsorted(vertex, landmarks))
    return MorphableModel(
        name="ict",
        mean=torch.from_numpy(mean),
        shape_basis=shape_basis,
        expression_basis=expression_basis,
        triangles=torch.from_numpy(triangles.reshape(-1, 3)),
        uv=coordinates,
        landmarks68=landmarks68,
        mirror=mirror_from_uv(coordinates, landmarks68),
    )


def _read_indices(path: Path) -> tuple[Int[np.ndarray, "68"], list[str]]:
    """The vertices of the landmarks and the names of the facial actions."""
    require_file(path, FROM_ICT)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        landmarks, actions = np.array(content["idx_to_landmark_verts"], dtype=np.int64), content["expressions"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged or of another model ({type(error).__name__} {error}); {FROM_ICT}") from error
    return checked_numbers(f"{path}: idx_to_landmark_verts", landmarks, (68,)), [str(action) for action in actions]


def _read_face(path: Path) -> tuple[Float[np.ndarray, "coordinates 2"], Int[np.ndarray, "triangles 3 2"]]:
    """All texture coordinates, and the face's triangles as (vertex, texture coordinate) from 0; quads are split."""
    require_file(path, FROM_ICT)
    lines = iter(path.read_text(encoding="utf-8", errors="replace").splitlines())
    uv: list[list[str]] = []
    triangles: list[list[str]] = []
    try:
        for line in lines:
            kind, *fields = line.split() or [""]
            if kind == "vt":
                uv.append(fields[:2])
            elif kind == "usemtl" and fields == [MATERIAL]:
                break
        for line in lines:
            kind, *fields = line.split() or [""]
            if kind == "usemtl":
                corners = np.array([[corner.split("/") for corner in triangle] for triangle in triangles])
                coordinates, corners = np.array(uv, dtype=np.float64), corners.astype(np.int64) - 1
                if corners.shape[1:] == (3, 2) and 0 <= corners[..., 1].min() <= corners[..., 1].max() < len(uv):
                    return coordinates, corners
                break
            if kind == "f":
                triangles += [[fields[0], *pair] for pair in pairwise(fields[1:])]
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); {FROM_ICT}") from error
    raise DataError(f"{path}: no whole polygons of {MATERIAL}: cut short or another mesh; {FROM_ICT}")


def _read_vertices(path: Path, count: int) -> Float[np.ndarray, "vertices 3"]:
    """The first vertices, in millimetres."""
    require_file(path, FROM_ICT)
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            rows = islice((line[2:] for line in lines if line.startswith("v ")), count)
            vertices = np.loadtxt(rows, ndmin=2) * MILLIMETRES
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); {FROM_ICT}") from error
    if vertices.shape != (count, 3):
        raise DataError(f"{path}: {len(vertices)} vertices of at least {count}: cut short or another mesh; {FROM_ICT}")
    return checked_numbers(path, vertices)
