"""Textured meshes of faces, and files of them that every viewer opens upright: .glb, .obj and .ply."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import trimesh
from jaxtyping import Float, Int, UInt8
from PIL import Image
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.ply import export_ply
from trimesh.visual import TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from jointface.errors import ConfigError
from jointface.files import write_atomically

MAX_TEXTURE = 2048  # side in pixels; a larger part of a photo is shrunk
AXES = "x right, y up, z towards the viewer"
FROM_PHOTO = np.array([1.0, -1.0, 1.0])  # photos have y down


def photo_mesh(
    image: UInt8[np.ndarray, "height width 3"],
    vertices: Float[np.ndarray, "vertices 3"],
    triangles: Int[np.ndarray, "triangles 3"],
    scale: float = 1.0,
) -> trimesh.Trimesh:
    """A face in a photo as a mesh, with y up, and the part of the photo that it covers as texture.

    Each vertex takes the pixel at which it lies, so a hidden part shows what is in front of it, and a part outside the
    photo its nearest border. A vertex at (x, y, z) comes to lie at scale * (x, -y, z).

    Args:
        vertices: x, y in pixels of the photo, z towards the viewer.
        triangles: counter-clockwise seen from outside.
        scale: units of the mesh in a pixel.
    """
    height, width = image.shape[:2]
    places = vertices[:, :2].astype(np.float64).clip(0, [width - 1, height - 1])
    left, top = np.floor(places.min(0)).astype(int)
    right, bottom = np.ceil(places.max(0)).astype(int) + 1
    texture = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    texture.thumbnail((MAX_TEXTURE, MAX_TEXTURE), Image.Resampling.BOX)
    uv = (places - [left, top] + 0.5) / [right - left, bottom - top]
    uv[:, 1] = 1 - uv[:, 1]
    material = PBRMaterial(baseColorTexture=texture, metallicFactor=0.0, roughnessFactor=1.0, doubleSided=True)
    return trimesh.Trimesh(
        scale * FROM_PHOTO * vertices, triangles, visual=TextureVisuals(uv, material), process=False,
        metadata={"axes": AXES, "units_per_pixel": scale},
    )  # fmt: skip


def save_mesh(mesh: trimesh.Trimesh, path: str | os.PathLike[str]) -> list[Path]:
    """Writes a mesh of `photo_mesh`, each file whole or not at all.

    .glb holds everything in one file. .obj is written with NAME_texture.mtl and NAME_texture.png beside it. .ply has
    the photo's colours at the vertices, as viewers of that format ignore textures.

    Returns:
        The files, that of `path` last.

    Raises:
        ConfigError: another ending. DataError: a file cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in WRITERS:
        raise ConfigError(f"{path}: a mesh can be written as {', '.join(WRITERS)}")
    files = WRITERS[path.suffix.lower()](mesh, path)
    for file, data in files.items():
        write_atomically(file, data)
    return [*files]


def _glb(mesh: trimesh.Trimesh, path: Path) -> dict[Path, bytes]:
    return {path: export_glb(trimesh.Scene(mesh, metadata=mesh.metadata))}


def _obj(mesh: trimesh.Trimesh, path: Path) -> dict[Path, bytes]:
    name = "_".join(path.stem.split()) + "_texture"  # readers of .obj end a file's name at a blank
    visual = _visual(mesh)
    texture, white, black = visual.material.baseColorTexture, [255] * 4, [0, 0, 0, 255]
    material = SimpleMaterial(texture, diffuse=white, ambient=white, specular=black, name=name)
    plain = trimesh.Trimesh(mesh.vertices, mesh.faces, visual=TextureVisuals(visual.uv, material), process=False)
    text, beside = export_obj(plain, return_texture=True, mtl_name=f"{name}.mtl", header=_header(mesh))
    return {**{path.with_name(file): data for file, data in beside.items()}, path: text.encode()}


def _ply(mesh: trimesh.Trimesh, path: Path) -> dict[Path, bytes]:
    coloured = trimesh.Trimesh(mesh.vertices, mesh.faces, visual=_visual(mesh).to_color(), process=False)
    first, second, rest = export_ply(coloured).split(b"\n", 2)  # magic, format
    return {path: b"\n".join([first, second, f"comment {_header(mesh)}".encode(), rest])}


def _visual(mesh: trimesh.Trimesh) -> TextureVisuals:
    return cast(TextureVisuals, mesh.visual)


def _header(mesh: trimesh.Trimesh) -> str:
    return f"JointFace: {AXES}; a pixel of the photo is {mesh.metadata['units_per_pixel']:g} units long"


WRITERS: dict[str, Callable[[trimesh.Trimesh, Path], dict[Path, bytes]]] = {".glb": _glb, ".obj": _obj, ".ply": _ply}
