"""Reads MakeHuman's system assets for heads: skins, hair, eyebrows, eyelashes, teeth and irises.

They are CC0 (asset pack `makehuman_system_assets_cc0.zip` of makehumancommunity.org). A proxy such as hair is bound
vertex by vertex to the base mesh hm08, so it can follow any head with known positions of hm08's vertices. The formats
are documented by MakeHuman's `shared/proxy.py` and the wiki page "File formats and extensions".
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from jointface.errors import DataError
from jointface.synthesis.proxy import Proxy

log = logging.getLogger(__name__)

BASE_MESH, BASE_VERTICES = "hm08", 19158
GET = "unpack MakeHuman's system assets (makehuman_system_assets_cc0.zip of makehumancommunity.org) there"
AGAIN = "unpack MakeHuman's system assets again"
SKIN_FOLDER = re.compile(r"(young|middleage|old)_(african|asian|caucasian)_(female|male)")
CORNER = re.compile(r"-?\d+/-?\d+(/|$)")  # corner of a face in an .obj: VERTEX/UV or VERTEX/UV/NORMAL
SECTIONS = ("verts", "weights", "delete_verts")  # .mhclo keywords that are followed by rows of numbers


@dataclass(frozen=True)
class Skin:
    """A skin; age is young, middleage or old, ancestry african, asian or caucasian, gender female or male.

    texture: RGBA in MakeHuman's UV atlas of the whole body, first row at v = 1. Skins with the same image share it.
    """

    name: str
    age: str
    ancestry: str
    gender: str
    texture: UInt8[Tensor, "rows columns 4"]


@dataclass(frozen=True)
class MakeHumanAssets:
    """MakeHuman's assets for heads, each kind sorted by name. Eyelashes, teeth and irises may be empty.

    irises: RGBA eyeball textures by the name of their colour, first row at v = 1.
    """

    skins: tuple[Skin, ...]
    hair: tuple[Proxy, ...]
    eyebrows: tuple[Proxy, ...]
    eyelashes: tuple[Proxy, ...]
    teeth: tuple[Proxy, ...]
    irises: dict[str, UInt8[Tensor, "rows columns 4"]]


class _NotOnHeadError(DataError):
    """A valid proxy needs vertices of hm08 that the head does not have."""


def read_assets(folder: Path, base_points: Int[Tensor, "19158"], texture_size: int = 256) -> MakeHumanAssets:
    """Reads all assets in a folder with the layout of MakeHuman's asset packs.

    Reads `skins/AGE_ANCESTRY_GENDER/*.mhmat` (skins in folders with other names are skipped), `hair/**/*.mhclo`,
    `eyebrows/**/*.mhclo` and, if present, `eyelashes/**/*.mhclo`, `teeth/**/*.mhclo` and `eyes/materials/*.mhmat`.
    A proxy with no part on the head is skipped and logged.

    Args:
        base_points: for each vertex of hm08, its row among the head's points, -1 if the head does not have it.
        texture_size: side of the textures, in pixels.

    Raises:
        DataError: the folder, its skins, hair or eyebrows are missing, no hair or no eyebrows lie on the head, or a
            file is broken.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder.absolute()}: looked there for MakeHuman's skins/, hair/, eyebrows/; {GET}")
    textures = Textures(texture_size)
    skins = [
        Skin(path.stem, tags[1], tags[2], tags[3], textures.read(path))
        for path in _find(folder / "skins", "*/*.mhmat")
        if (tags := SKIN_FOLDER.fullmatch(path.parent.name))
    ]
    if not skins:
        raise DataError(
            f"no skins in {(folder / 'skins').absolute()}: looked there for AGE_ANCESTRY_GENDER/*.mhmat; {GET}"
        )
    hair, eyebrows, eyelashes, teeth = (
        _read_proxies(folder / kind, base_points, textures, required=kind in ("hair", "eyebrows"))
        for kind in ("hair", "eyebrows", "eyelashes", "teeth")
    )
    irises = {path.stem: textures.read(path) for path in _find(folder / "eyes", "materials/*.mhmat")}
    return MakeHumanAssets(tuple(skins), hair, eyebrows, eyelashes, teeth, irises)


def _read_proxies(
    folder: Path, base_points: Int[Tensor, "19158"], textures: "Textures", required: bool
) -> tuple[Proxy, ...]:
    proxies, missing = [], f"no {folder.name} in {folder.absolute()}: looked there for *.mhclo; {GET}"
    for path in _find(folder, "**/*.mhclo"):
        try:
            proxies.append(read_proxy(path, base_points, textures))
        except _NotOnHeadError as error:
            missing = f"none of the {folder.name} in {folder.absolute()} is on the head, e.g. {error}"
            log.info("Left out: %s", error)
    if required and not proxies:
        raise DataError(missing)
    return tuple(proxies)


def _find(folder: Path, pattern: str) -> list[Path]:
    # Archives made on a Mac contain a binary ._NAME beside every file.
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def read_proxy(path: Path, base_points: Int[Tensor, "19158"], textures: "Textures") -> Proxy:
    """Reads an .mhclo with its mesh and texture; see `read_assets` for `base_points`.

    Triangles that need vertices the head does not have are dropped, such as those of long hair on the shoulders, and
    then points without triangles.

    Raises:
        DataError: a file is missing, broken or made for another base mesh, or no part of the proxy lies on the head.
    """
    mesh_path, material, bound, scales = _read_binding(path)
    count, vertex_of_point, uv, triangles = _read_mesh(mesh_path)
    if count != len(bound):
        raise DataError(f"{path}: binds {len(bound)} vertices, but {mesh_path.name} has {count}; {AGAIN}")
    corners, weights, offsets = bound[:, :3].astype(np.int64), bound[:, 3:6], bound[:, 6:]
    # The head need not have corners of weight 0, so replace them with the heaviest corner.
    heaviest = np.take_along_axis(corners, weights.argmax(axis=1, keepdims=True), axis=1)
    rows = base_points.numpy(force=True).astype(np.int64)
    corners, scale_points = rows[np.where(weights == 0, heaviest, corners)], rows[scales[:, :2].astype(np.int64)]
    triangles = triangles[(corners[vertex_of_point[triangles]] >= 0).all(axis=(1, 2))]
    if not len(triangles) or scale_points.min() < 0:
        what = "its scale points" if len(triangles) else "any of its triangles"
        raise _NotOnHeadError(
            f"{path}: the head carries too few vertices of {BASE_MESH} for {what}; add them to the head or leave this "
            "proxy out"
        )
    kept, triangles = np.unique(triangles, return_inverse=True)
    vertices = vertex_of_point[kept]
    return Proxy(
        name=path.stem,
        corners=torch.from_numpy(corners[vertices]),
        weights=torch.from_numpy(weights[vertices].astype(np.float32)),
        offsets=torch.from_numpy(offsets[vertices].astype(np.float32)),
        scale_points=torch.from_numpy(scale_points),
        scale_reference=torch.from_numpy(scales[:, 2].astype(np.float32)),
        triangles=torch.from_numpy(triangles.reshape(-1, 3)),
        uv=torch.from_numpy(uv[kept].astype(np.float32)),
        texture=textures.read(material),
    )


def _read_binding(path: Path) -> tuple[Path, Path, Float[np.ndarray, "vertices 9"], Float[np.ndarray, "3 3"]]:
    """Reads an .mhclo: paths of .obj and .mhmat; for each vertex three vertices of hm08, three weights and three
    offsets; for x, y and z two vertices of hm08 and their reference distance, which defines the scale.

    Scales are required, because without them MakeHuman takes offsets as decimetres, and this head has another unit.
    `delete_verts` (skin under clothes) and `z_depth` (drawing order) are only for MakeHuman's own renderer. No
    published asset has `shear_x` and so on instead of scales.
    """
    keywords: dict[str, list[str]] = {}
    rows, section = [], ""
    for words in _lines(path):
        if words[0] in SECTIONS:
            section = words[0]
        elif words[0][0].isalpha():  # keywords may occur between rows
            keywords[words[0]] = words[1:]
        elif section == "verts":
            rows.append(words)
    base = " ".join(keywords.get("basemesh", [BASE_MESH]))
    if base != BASE_MESH:
        raise DataError(f"{path}: made for base mesh {base}, looked for {BASE_MESH}; leave this proxy out")
    with _named_errors(path):
        if not rows:
            raise ValueError("no rows of vertices after `verts`")
        bound = _numbers([_full_row(row) for row in rows])
        if (abs(bound[:, 3:6].sum(axis=1) - 1) > 0.01).any():
            raise ValueError("expected weights that sum to 1")
        of_axes = {f"{axis}_scale": keywords.get(f"{axis}_scale", []) for axis in "xyz"}
        if missing := [key for key, row in of_axes.items() if len(row) != 3]:
            raise ValueError(f"{missing[0]}: expected two vertices and a length")
        scales = _numbers(list(of_axes.values()))
        if scales[:, 2].min() <= 0:
            raise ValueError("expected scales with a length above 0")
        vertices = np.concatenate([bound[:, :3].ravel(), scales[:, :2].ravel()])
        if vertices.min() < 0 or vertices.max() >= BASE_VERTICES or (vertices % 1).any():
            raise ValueError(f"names vertices other than those of {BASE_MESH}, 0 ... {BASE_VERTICES - 1}")
        return _named_file(path, "obj_file", keywords), _named_file(path, "material", keywords), bound, scales


def _full_row(words: list[str]) -> list[str]:
    """Completes a row to three vertices, weights and offsets. Offsets, or all but one vertex, may be missing."""
    if len(words) not in (1, 6, 9):
        raise ValueError(f"expected rows of 1, 6 or 9 numbers, found {' '.join(words)}")
    full = [*(words * 3), "1", "0", "0"] if len(words) == 1 else words
    return [*full, "0", "0", "0"][:9]


def _read_mesh(
    path: Path,
) -> tuple[int, Int[np.ndarray, "points"], Float[np.ndarray, "points 2"], Int[np.ndarray, "triangles 3"]]:
    """Reads an .obj of triangles and quads: number of vertices; vertex and UV of each point, which is a unique pair of
    both; triangles of points. Vertex positions are not needed, because the binding defines them."""
    vertices, uv, corners = 0, [], []
    with _named_errors(path):
        for key, *words in _lines(path):
            if key == "v":
                vertices += 1
            elif key == "vt":
                u, v = [*words, "nan", "nan"][:2]
                uv.append((float(u), float(v)))
            elif key == "f":
                if len(words) not in (3, 4):
                    raise ValueError("expected faces that are triangles or quads")
                if not all(map(CORNER.match, words)):
                    raise ValueError(f"expected corners of faces as VERTEX/UV, found {' '.join(words)}")
                face = [[int(number) for number in word.split("/")[:2]] for word in words]
                corners += [corner for i in range(2, len(face)) for corner in (face[0], face[i - 1], face[i])]
        if not corners:
            raise ValueError("no faces in it")
        places, table = _numbers(uv), np.array(corners) - 1  # the file counts from 1
        if table.min() < 0 or (table.max(axis=0) >= [vertices, len(places)]).any():
            raise ValueError("a face names a vertex or texture coordinate that does not exist")
    pairs, triangles = np.unique(table[:, 0] * len(places) + table[:, 1], return_inverse=True)
    triangles, vertex_of_point = triangles.reshape(-1, 3), pairs // len(places)
    # MakeHuman may write a triangle as a quad with a repeated vertex.
    a, b, c = vertex_of_point[triangles].T
    return vertices, vertex_of_point, places[pairs % len(places)], triangles[(a != b) & (b != c) & (c != a)]


def _numbers(rows: Sequence[Sequence[str | float]]) -> Float[np.ndarray, "rows columns"]:
    table = np.array([[float(word) for word in row] for row in rows])
    if not np.isfinite(table).all():
        raise ValueError("holds NaN or infinite values")
    return table


class Textures:
    """Reads textures of .mhmat files at size x size pixels. Materials with the same image share one texture."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._textures: dict[Path, UInt8[Tensor, "size size 4"]] = {}

    def read(self, path: Path) -> UInt8[Tensor, "size size 4"]:
        """Reads the texture of an .mhmat, or its plain colour if it names no image.

        If there is an image, the colour is ignored, as by MakeHuman's shader for skin, hair and eyes: half of the skins
        have an arbitrary grey there.

        Raises:
            DataError: the file or its image is missing or broken.
        """
        keywords = {key: words for key, *words in _lines(path)}
        if not keywords.get("diffuseTexture"):
            with _named_errors(path):
                colour = _numbers([keywords.get("diffuseColor", [])])
                if colour.shape != (1, 3) or not 0 <= colour.min() <= colour.max() <= 1:
                    raise ValueError("names neither a diffuseTexture nor a diffuseColor of three shares")
            return self._resized(np.rint([[[*colour[0], 1]]] * np.array(255.0)).astype(np.uint8))
        image = _named_file(path, "diffuseTexture", keywords)
        if image not in self._textures:
            self._textures[image] = self._resized(_read_image(image))
        return self._textures[image]

    def _resized(self, image: UInt8[np.ndarray, "height width 4"]) -> UInt8[Tensor, "size size 4"]:
        """Resizes with alpha-weighted colours, because black transparent pixels of hair would darken its edges."""
        colour, alpha = image[..., :3].astype(np.float32), image[..., 3].astype(np.float32)
        resize = partial(cv2.resize, dsize=(self.size, self.size), interpolation=cv2.INTER_AREA)
        weight, plain = resize(alpha)[..., None], resize(colour)
        blend = resize(colour * alpha[..., None]) / np.maximum(weight, 1e-6)
        rgba = np.concatenate([np.where(weight > 0, blend, plain), weight], axis=-1)
        return torch.from_numpy(np.rint(rgba).clip(0, 255).astype(np.uint8))


def _read_image(path: Path) -> UInt8[np.ndarray, "height width 4"]:
    """Reads an image file as RGBA."""
    data = np.frombuffer(_content(path), dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None or image.dtype != np.uint8:
        raise DataError(f"{path}: not a whole 8-bit image ({len(data)} bytes); {AGAIN}")
    conversion = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}
    return cv2.cvtColor(image, conversion[len(np.atleast_3d(image)[0, 0])])


def _named_file(path: Path, key: str, keywords: dict[str, list[str]]) -> Path:
    """Path of the file that an entry names relative to its own file."""
    if not keywords.get(key):
        raise ValueError(f"names no {key}")
    return (path.parent / " ".join(keywords[key])).resolve()


def _lines(path: Path) -> Iterator[list[str]]:
    """Words of each line that is neither empty nor a comment."""
    # Comments with names and licences have any encoding; everything else is ASCII.
    for line in _content(path).decode("utf-8-sig", errors="replace").splitlines():
        words = line.split()
        if words and not words[0].startswith("#"):
            yield words


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot read this file of MakeHuman's assets ({error.strerror}); {AGAIN}") from error


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Turns a ValueError into a DataError that names the file."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}; {AGAIN}") from error
