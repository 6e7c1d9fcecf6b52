"""MakeHuman's system assets for heads: skins, hair, eyebrows, eyelashes, teeth and irises.

They are CC0 (asset pack `makehuman_system_assets_cc0.zip` of makehumancommunity.org). A proxy such as hair is bound
vertex by vertex to the base mesh hm08, so it follows any head that knows where vertices of hm08 lie on it. The format's
meaning is that of MakeHuman's `shared/proxy.py` and of the wiki page "File formats and extensions".
"""

import logging
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from jointface.errors import DataError
from jointface.synthesis.proxy import Proxy

log = logging.getLogger(__name__)

BASE_MESH, BASE_VERTICES = "hm08", 19158
GET = "unpack MakeHuman's system assets (makehuman_system_assets_cc0.zip of makehumancommunity.org) there"
AGAIN = "unpack MakeHuman's system assets again"
SKIN_FOLDER = re.compile(r"(young|middleage|old)_(african|asian|caucasian)_(female|male)")
SECTIONS = ("verts", "weights", "delete_verts")  # keywords of .mhclo that rows of numbers follow


@dataclass(frozen=True)
class Skin:
    """A skin.

    Attributes:
        name: of the material, e.g. `young_caucasian_male2`
        age: young, middleage or old
        ancestry: african, asian or caucasian
        gender: female or male
        texture: RGB in MakeHuman's UV atlas of the whole body; the first row is at v = 1. Skins of the same image
            share it.
    """

    name: str
    age: str
    ancestry: str
    gender: str
    texture: UInt8[Tensor, "rows columns 3"]


@dataclass(frozen=True)
class MakeHumanAssets:
    """What a head can wear, each kind sorted by name. Eyelashes, teeth and irises may be empty.

    Attributes:
        irises: RGBA texture of an eyeball by the name of its colour; the first row is at v = 1
    """

    skins: tuple[Skin, ...]
    hair: tuple[Proxy, ...]
    eyebrows: tuple[Proxy, ...]
    eyelashes: tuple[Proxy, ...]
    teeth: tuple[Proxy, ...]
    irises: dict[str, UInt8[Tensor, "rows columns 4"]]


@dataclass(frozen=True)
class _Material:
    """What this library reads of an .mhmat: an image, or without one a colour (R, G, B in 0 ... 1)."""

    image: Path | None
    colour: tuple[float, ...]


@dataclass(frozen=True)
class _Binding:
    """An .mhclo as it stands in the file; corners and scale points are vertices of hm08."""

    mesh: Path
    material: Path
    corners: Int[np.ndarray, "vertices 3"]
    weights: Float[np.ndarray, "vertices 3"]
    offsets: Float[np.ndarray, "vertices 3"]
    scale_points: Int[np.ndarray, "3 2"]
    scale_reference: Float[np.ndarray, "3"]


@dataclass(frozen=True)
class _Mesh:
    """An .obj whose points are its pairs of a vertex and a texture coordinate."""

    vertices: int
    vertex_of_point: Int[np.ndarray, "points"]
    uv: Float[np.ndarray, "points 2"]
    triangles: Int[np.ndarray, "triangles 3"]


class _NotOnHeadError(DataError):
    """A sound proxy that needs vertices of hm08 that the head does not carry."""


_Paint = Callable[[_Material], UInt8[Tensor, "rows columns 4"]]


def read_assets(folder: Path, base_points: Int[Tensor, "19158"], texture_size: int = 256) -> MakeHumanAssets:
    """All assets in a folder, in the layout of MakeHuman's asset packs.

    Looks for `skins/AGE_ANCESTRY_GENDER/*.mhmat` (other folders of skins bear no tags and are left out),
    `hair/**/*.mhclo`, `eyebrows/**/*.mhclo`, and, if there, `eyelashes/**/*.mhclo`, `teeth/**/*.mhclo`,
    `eyes/materials/*.mhmat`. A proxy of which nothing lies on the head is left out with a line in the log.

    Args:
        base_points: row among the head's points of each vertex of hm08, -1 where the head carries none
        texture_size: side of the textures, in pixels

    Raises:
        DataError: the folder, its skins, hair or eyebrows are missing, none of the hair or eyebrows lies on the head,
            or any of the files is broken.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder.absolute()}: looked there for MakeHuman's skins/, hair/, eyebrows/; {GET}")
    paint: _Paint = cache(partial(_paint, size=texture_size))
    return MakeHumanAssets(
        skins=_read_skins(folder / "skins", texture_size),
        hair=_read_proxies(folder / "hair", base_points, paint, required=True),
        eyebrows=_read_proxies(folder / "eyebrows", base_points, paint, required=True),
        eyelashes=_read_proxies(folder / "eyelashes", base_points, paint, required=False),
        teeth=_read_proxies(folder / "teeth", base_points, paint, required=False),
        irises={path.stem: paint(_read_material(path)) for path in _find(folder / "eyes", "materials/*.mhmat")},
    )


def read_proxy(path: Path, base_points: Int[Tensor, "19158"], texture_size: int) -> Proxy:
    """An .mhclo with its mesh and its texture.

    Triangles that need vertices which the head does not carry are left out, and then the points without triangles:
    long hair reaches the shoulders.

    Args:
        base_points: row among the head's points of each vertex of hm08, -1 where the head carries none
        texture_size: side of the texture, in pixels

    Raises:
        DataError: a file is missing, broken or made for another base mesh, or nothing of the proxy lies on the head.
    """
    return _read_proxy(path, base_points, partial(_paint, size=texture_size))


def _read_skins(folder: Path, texture_size: int) -> tuple[Skin, ...]:
    # Skins are opaque; without the alpha they take a quarter less memory.
    paint = cache(lambda material: _paint(material, texture_size)[..., :3].contiguous())
    skins = [
        Skin(path.stem, tags[1], tags[2], tags[3], paint(_read_material(path)))
        for path in _find(folder, "*/*.mhmat")
        if (tags := SKIN_FOLDER.fullmatch(path.parent.name))
    ]
    if not skins:
        raise DataError(f"no skins in {folder.absolute()}: looked there for AGE_ANCESTRY_GENDER/*.mhmat; {GET}")
    return tuple(skins)


def _read_proxies(folder: Path, base_points: Int[Tensor, "19158"], paint: _Paint, required: bool) -> tuple[Proxy, ...]:
    paths, proxies, reason = _find(folder, "**/*.mhclo"), [], ""
    for path in paths:
        try:
            proxies.append(_read_proxy(path, base_points, paint))
        except _NotOnHeadError as error:
            reason = str(error)
            log.info("Left out: %s", reason)
    if required and not paths:
        raise DataError(f"no {folder.name} in {folder.absolute()}: looked there for *.mhclo; {GET}")
    if required and not proxies:
        raise DataError(f"none of the {len(paths)} {folder.name} in {folder.absolute()} is on the head, e.g. {reason}")
    return tuple(proxies)


def _find(folder: Path, pattern: str) -> list[Path]:
    # Archives made on a Mac bring a binary ._NAME beside every file.
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def _read_proxy(path: Path, base_points: Int[Tensor, "19158"], paint: _Paint) -> Proxy:
    binding = _read_binding(path)
    mesh = _read_mesh(binding.mesh)
    if mesh.vertices != len(binding.corners):
        raise DataError(
            f"{path}: binds {len(binding.corners)} vertices, but {binding.mesh.name} has {mesh.vertices}; {AGAIN}"
        )
    rows = base_points.numpy(force=True)
    kept, triangles = np.unique(_triangles_on_head(path, binding, mesh, rows), return_inverse=True)
    vertices = mesh.vertex_of_point[kept]
    scale_points = rows[binding.scale_points]
    return Proxy(
        name=path.stem,
        corners=torch.from_numpy(_corner_rows(binding, rows)[vertices].astype(np.int64)),
        weights=torch.from_numpy(binding.weights[vertices].astype(np.float32)),
        offsets=torch.from_numpy(binding.offsets[vertices].astype(np.float32)),
        scale_points=torch.from_numpy(scale_points.astype(np.int64)),
        scale_reference=torch.from_numpy(binding.scale_reference.astype(np.float32)),
        triangles=torch.from_numpy(triangles.reshape(-1, 3)),
        uv=torch.from_numpy(mesh.uv[kept].astype(np.float32)),
        texture=paint(_read_material(binding.material)),
    )


def _triangles_on_head(
    path: Path, binding: _Binding, mesh: _Mesh, rows: Int[np.ndarray, "19158"]
) -> Int[np.ndarray, "triangles 3"]:
    carried: Bool[np.ndarray, "vertices"] = _corner_rows(binding, rows).min(axis=1) >= 0
    triangles = mesh.triangles[carried[mesh.vertex_of_point[mesh.triangles]].all(axis=1)]
    if not len(triangles) or rows[binding.scale_points].min() < 0:
        what = "its scale points" if len(triangles) else "any of its triangles"
        raise _NotOnHeadError(
            f"{path}: the head carries too few vertices of {BASE_MESH} for {what}; add them to the head or leave this "
            "proxy out"
        )
    return triangles


def _corner_rows(binding: _Binding, rows: Int[np.ndarray, "19158"]) -> Int[np.ndarray, "vertices 3"]:
    # A corner of weight 0 counts for nothing, so the heaviest stands in for it: the head need not carry it.
    heaviest = np.take_along_axis(binding.corners, binding.weights.argmax(axis=1, keepdims=True), axis=1)
    return rows[np.where(binding.weights == 0, heaviest, binding.corners)]


def _read_binding(path: Path) -> _Binding:
    """An .mhclo. Keywords may stand between the rows of vertices; empty lines and those that start with # do not count.
    `delete_verts` (skin under clothes) and `z_depth` (drawing order) are for MakeHuman's own renderer."""
    words: dict[str, list[str]] = {}
    rows, section = [], ""
    for number, line in enumerate(_lines(path), 1):
        key, *values = line.split() or ["#"]
        if key in SECTIONS:
            section = key
        elif key == "basemesh" and values != [BASE_MESH]:
            raise DataError(
                f"{path}: made for base mesh {' '.join(values)}, looked for {BASE_MESH}; leave this proxy out"
            )
        elif key[0].isalpha():
            words[key] = values
        elif key[0] != "#" and section == "verts":
            rows.append(_binding_row(f"{path}, line {number}", [key, *values]))
    if not rows:
        raise DataError(f"{path}: no rows of vertices after `verts`; {AGAIN}")
    table = np.array(rows)
    scales = np.array([_scale_row(path, f"{axis}_scale", words) for axis in "xyz"])
    return _Binding(
        mesh=_named(path, "obj_file", words),
        material=_named(path, "material", words),
        corners=table[:, :3].astype(np.int64),
        weights=table[:, 3:6],
        offsets=table[:, 6:],
        scale_points=scales[:, :2].astype(np.int64),
        scale_reference=scales[:, 2],
    )


def _binding_row(where: str, words: list[str]) -> list[float]:
    """Three vertices, three weights, three offsets; the file may leave out the offsets, or all but one vertex."""
    if len(words) == 1:
        words = [*(words * 3), "1", "0", "0"]
    if len(words) == 6:
        words = [*words, "0", "0", "0"]
    if len(words) != 9:
        raise DataError(f"{where}: expected 1, 6 or 9 numbers, found {len(words)}; {AGAIN}")
    vertices, numbers = _base_vertices(where, words[:3]), _numbers(where, words[3:])
    if abs(sum(numbers[:3]) - 1) > 0.01:
        raise DataError(f"{where}: expected weights that sum to 1, found {' '.join(words[3:6])}; {AGAIN}")
    return [*vertices, *numbers]


def _scale_row(path: Path, key: str, words: dict[str, list[str]]) -> list[float]:
    """Two vertices and the reference. Without it MakeHuman would take offsets as decimetres, which a head in another
    unit cannot; the alternative, `shear_x` and so on, occurs in no published asset."""
    where, values = f"{path}: {key}", words.get(key, [])
    if len(values) != 3:
        raise DataError(f"{where}: expected two vertices and a length, found {len(values)} values; {AGAIN}")
    points, (reference,) = _base_vertices(where, values[:2]), _numbers(where, values[2:])
    if reference <= 0:
        raise DataError(f"{where}: expected a length above 0, found {reference:g}; {AGAIN}")
    return [*points, reference]


def _base_vertices(where: str, words: list[str]) -> list[int]:
    try:
        vertices = [int(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: expected indices of vertices, found {' '.join(words)}; {AGAIN}") from error
    if not 0 <= min(vertices) <= max(vertices) < BASE_VERTICES:
        raise DataError(f"{where}: {BASE_MESH} has vertices 0 ... {BASE_VERTICES - 1}, found {vertices}; {AGAIN}")
    return vertices


def _numbers(where: str, words: list[str]) -> list[float]:
    try:
        numbers = [float(word) for word in words]
    except ValueError as error:
        raise DataError(f"{where}: expected numbers, found {' '.join(words)}; {AGAIN}") from error
    if not all(map(math.isfinite, numbers)):
        raise DataError(f"{where}: holds NaN or infinite values; {AGAIN}")
    return numbers


def _named(path: Path, key: str, words: dict[str, list[str]]) -> Path:
    """The file that an entry names, relative to the file that it stands in."""
    if not words.get(key):
        raise DataError(f"{path}: names no {key}; {AGAIN}")
    return (path.parent / " ".join(words[key])).resolve()


def _read_mesh(path: Path) -> _Mesh:
    """An .obj of triangles and quads with texture coordinates. Where the vertices lie does not matter: the binding
    says it."""
    vertices, uv, corners = 0, [], []
    for number, line in enumerate(_lines(path), 1):
        key, *words = line.split() or [""]
        if key == "v":
            vertices += 1
        elif key == "vt":
            uv.append(_numbers(f"{path}, line {number}", [*words, "nan", "nan"][:2]))
        elif key == "f":
            corners += _fan(_face(f"{path}, line {number}", words))
    if not corners:
        raise DataError(f"{path}: no faces in it; {AGAIN}")
    table = np.array(corners) - 1  # the file counts from 1
    if table.min() < 0 or (table.max(axis=0) >= [vertices, len(uv)]).any():
        raise DataError(f"{path}: a face names a vertex or texture coordinate that is not there; {AGAIN}")
    pairs, triangles = np.unique(table[:, 0] * len(uv) + table[:, 1], return_inverse=True)
    triangles, vertex_of_point = triangles.reshape(-1, 3), pairs // len(uv)
    # MakeHuman may write a triangle as a quad that repeats a vertex.
    a, b, c = vertex_of_point[triangles].T
    whole = (a != b) & (b != c) & (c != a)
    return _Mesh(vertices, vertex_of_point, np.array(uv)[pairs % len(uv)], triangles[whole])


def _face(where: str, words: list[str]) -> list[tuple[int, int]]:
    try:
        corners = [(int(vertex), int(uv)) for vertex, uv, *_ in (word.split("/") for word in words)]
    except ValueError as error:
        raise DataError(f"{where}: expected corners as VERTEX/UV, found {' '.join(words)}; {AGAIN}") from error
    if len(corners) not in (3, 4):
        raise DataError(f"{where}: expected a triangle or a quad, found {len(corners)} corners; {AGAIN}")
    return corners


def _fan(corners: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [corner for i in range(1, len(corners) - 1) for corner in (corners[0], corners[i], corners[i + 1])]


def _read_material(path: Path) -> _Material:
    """An .mhmat. Beside an image the colour counts for nothing, as in the shader that MakeHuman draws skin, hair and
    eyes with: half of its skins bear an arbitrary grey there."""
    words: dict[str, list[str]] = {}
    for line in _lines(path):
        key, *values = line.split() or [""]
        words[key] = values
    if words.get("diffuseTexture"):
        return _Material(_named(path, "diffuseTexture", words), ())
    colour = _numbers(f"{path}: diffuseColor", words.get("diffuseColor", []))
    if len(colour) != 3 or not 0 <= min(colour) <= max(colour) <= 1:
        raise DataError(f"{path}: names neither a diffuseTexture nor a diffuseColor of three shares; {AGAIN}")
    return _Material(None, tuple(colour))


def _paint(material: _Material, size: int) -> UInt8[Tensor, "rows columns 4"]:
    if material.image is None:
        flat = np.rint(np.array([*material.colour, 1.0]) * 255).astype(np.uint8)
        return torch.from_numpy(flat).expand(size, size, 4).contiguous()
    return torch.from_numpy(_shrink(_read_image(material.image), size))


def _read_image(path: Path) -> UInt8[np.ndarray, "height width 4"]:
    """An image file as RGBA."""
    data = np.frombuffer(_content(path), dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None or image.dtype != np.uint8:
        raise DataError(f"{path}: not a whole 8-bit image ({len(data)} bytes); {AGAIN}")
    channels = 1 if image.ndim == 2 else image.shape[2]
    conversion = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}
    return cv2.cvtColor(image, conversion[channels])


def _shrink(image: UInt8[np.ndarray, "height width 4"], size: int) -> UInt8[np.ndarray, "size size 4"]:
    """The image at another size. Colours are averaged by their alpha: the clear part of the hair's images is black and
    would darken its edges."""
    colour, alpha = image[..., :3].astype(np.float32), image[..., 3].astype(np.float32)
    resize = partial(cv2.resize, dsize=(size, size), interpolation=cv2.INTER_AREA)
    weight, plain = resize(alpha)[..., None], resize(colour)
    blend = resize(colour * alpha[..., None]) / np.maximum(weight, 1e-6)
    rgba = np.concatenate([np.where(weight > 0, blend, plain), weight], axis=-1)
    return np.rint(rgba).clip(0, 255).astype(np.uint8)


def _lines(path: Path) -> list[str]:
    # Names and licences in comments come in any encoding; what matters is ASCII.
    return _content(path).decode("utf-8-sig", errors="replace").splitlines()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read this file of MakeHuman's assets ({error.strerror}); {AGAIN}") from error
