"""Reads MakeHuman's system assets for heads: skins, hair, eyebrows, eyelashes, teeth and irises.

They are CC0 (asset pack `makehuman_system_assets_cc0.zip` of makehumancommunity.org). A proxy such as hair is bound
vertex by vertex to the base mesh hm08, so it follows any head that knows where vertices of hm08 lie on it. The formats
are those of MakeHuman's `shared/proxy.py` and of the wiki page "File formats and extensions".
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
CORNER = re.compile(r"-?\d+/-?\d+(/|$)")  # of a face in an .obj: VERTEX/UV or VERTEX/UV/NORMAL
SECTIONS = ("verts", "weights", "delete_verts")  # keywords of .mhclo that rows of numbers follow


@dataclass(frozen=True)
class Skin:
    """A skin of people who are young, middleage or old; african, asian or caucasian; female or male.

    texture: in MakeHuman's UV atlas of the whole body, RGBA with the first row at v = 1; skins of one image share it.
    """

    name: str
    age: str
    ancestry: str
    gender: str
    texture: UInt8[Tensor, "rows columns 4"]


@dataclass(frozen=True)
class MakeHumanAssets:
    """What a head can wear, each kind sorted by name. Eyelashes, teeth and irises may be empty.

    irises: RGBA texture of an eyeball by the name of its colour; the first row is at v = 1.
    """

    skins: tuple[Skin, ...]
    hair: tuple[Proxy, ...]
    eyebrows: tuple[Proxy, ...]
    eyelashes: tuple[Proxy, ...]
    teeth: tuple[Proxy, ...]
    irises: dict[str, UInt8[Tensor, "rows columns 4"]]


class _NotOnHeadError(DataError):
    """A sound proxy that needs vertices of hm08 that the head does not carry."""


def read_assets(folder: Path, base_points: Int[Tensor, "19158"], texture_size: int = 256) -> MakeHumanAssets:
    """All assets in a folder, in the layout of MakeHuman's asset packs.

    Looks for `skins/AGE_ANCESTRY_GENDER/*.mhmat` (other folders of skins bear no tags and are left out),
    `hair/**/*.mhclo`, `eyebrows/**/*.mhclo`, and, if there, `eyelashes/**/*.mhclo`, `teeth/**/*.mhclo`,
    `eyes/materials/*.mhmat`. A proxy of which nothing lies on the head is left out with a line in the log.

    Args:
        base_points: row among the head's points of each vertex of hm08, -1 where the head carries none.
        texture_size: side of the textures, in pixels.

    Raises:
        DataError: the folder, its skins, hair or eyebrows are missing, none of the hair or eyebrows lies on the head,
            or any of the files is broken.
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
    # Archives made on a Mac bring a binary ._NAME beside every file.
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def read_proxy(path: Path, base_points: Int[Tensor, "19158"], textures: "Textures") -> Proxy:
    """An .mhclo with its mesh and its texture; see `read_assets` for `base_points`.

    Triangles that need vertices which the head does not carry are left out, and then the points without triangles:
    long hair reaches the shoulders.

    Raises:
        DataError: a file is missing, broken or made for another base mesh, or nothing of the proxy lies on the head.
    """
    mesh_path, material, bound, scales = _read_binding(path)
    count, vertex_of_point, uv, triangles = _read_mesh(mesh_path)
    if count != len(bound):
        raise DataError(f"{path}: binds {len(bound)} vertices, but {mesh_path.name} has {count}; {AGAIN}")
    corners, weights, offsets = bound[:, :3].astype(np.int64), bound[:, 3:6], bound[:, 6:]
    # A corner of weight 0 counts for nothing, so the heaviest stands in for it: the head need not carry it.
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
    """The content of an .mhclo: .obj and .mhmat; three vertices of hm08, three weights, three offsets of each vertex;
    for x, y, z two vertices of hm08 and the distance that scales are relative to.

    Without scales MakeHuman would take offsets as decimetres, which a head in another unit cannot. `delete_verts` (skin
    under clothes) and `z_depth` (drawing order) are for MakeHuman's own renderer; `shear_x` and so on, instead of
    scales, occur in no published asset.
    """
    keywords: dict[str, list[str]] = {}
    rows, section = [], ""
    for words in _lines(path):
        if words[0] in SECTIONS:
            section = words[0]
        elif words[0][0].isalpha():  # keywords may stand between the rows
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
            raise ValueError(f"names other vertices than those of {BASE_MESH}, 0 ... {BASE_VERTICES - 1}")
        return _named_file(path, "obj_file", keywords), _named_file(path, "material", keywords), bound, scales


def _full_row(words: list[str]) -> list[str]:
    """Three vertices, three weights, three offsets; the file may leave out the offsets, or all but one vertex."""
    if len(words) not in (1, 6, 9):
        raise ValueError(f"expected rows of 1, 6 or 9 numbers, found {' '.join(words)}")
    full = [*(words * 3), "1", "0", "0"] if len(words) == 1 else words
    return [*full, "0", "0", "0"][:9]


def _read_mesh(
    path: Path,
) -> tuple[int, Int[np.ndarray, "points"], Float[np.ndarray, "points 2"], Int[np.ndarray, "triangles 3"]]:
    """An .obj of triangles and quads: number of vertices; vertex and texture coordinates of its points, which are pairs
    of the two; triangles of these points. Where the vertices lie does not matter: the binding says it."""
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
            raise ValueError("a face names a vertex or texture coordinate that is not there")
    pairs, triangles = np.unique(table[:, 0] * len(places) + table[:, 1], return_inverse=True)
    triangles, vertex_of_point = triangles.reshape(-1, 3), pairs // len(places)
    # MakeHuman may write a triangle as a quad that repeats a vertex.
    a, b, c = vertex_of_point[triangles].T
    return vertices, vertex_of_point, places[pairs % len(places)], triangles[(a != b) & (b != c) & (c != a)]


def _numbers(rows: Sequence[Sequence[str | float]]) -> Float[np.ndarray, "rows columns"]:
    table = np.array([[float(word) for word in row] for row in rows])
    if not np.isfinite(table).all():
        raise ValueError("holds NaN or infinite values")
    return table


class Textures:
    """Reads the textures of .mhmat files, `size` pixels a side. Materials of one image share one texture."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._of_images: dict[Path, UInt8[Tensor, "size size 4"]] = {}

    def read(self, path: Path) -> UInt8[Tensor, "size size 4"]:
        """The texture of an .mhmat, or its plain colour where it names no image.

        Beside an image the colour counts for nothing, as in MakeHuman's shader of skin, hair and eyes: half of its
        skins bear an arbitrary grey there.

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
        if image not in self._of_images:
            self._of_images[image] = self._resized(_read_image(image))
        return self._of_images[image]

    def _resized(self, image: UInt8[np.ndarray, "height width 4"]) -> UInt8[Tensor, "size size 4"]:
        """Colours are averaged by alpha: clear pixels of hair are black and would darken its edges."""
        colour, alpha = image[..., :3].astype(np.float32), image[..., 3].astype(np.float32)
        resize = partial(cv2.resize, dsize=(self.size, self.size), interpolation=cv2.INTER_AREA)
        weight, plain = resize(alpha)[..., None], resize(colour)
        blend = resize(colour * alpha[..., None]) / np.maximum(weight, 1e-6)
        rgba = np.concatenate([np.where(weight > 0, blend, plain), weight], axis=-1)
        return torch.from_numpy(np.rint(rgba).clip(0, 255).astype(np.uint8))


def _read_image(path: Path) -> UInt8[np.ndarray, "height width 4"]:
    """An image file as RGBA."""
    data = np.frombuffer(_content(path), dtype=np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None or image.dtype != np.uint8:
        raise DataError(f"{path}: not a whole 8-bit image ({len(data)} bytes); {AGAIN}")
    conversion = {1: cv2.COLOR_GRAY2RGBA, 3: cv2.COLOR_BGR2RGBA, 4: cv2.COLOR_BGRA2RGBA}
    return cv2.cvtColor(image, conversion[len(np.atleast_3d(image)[0, 0])])


def _named_file(path: Path, key: str, keywords: dict[str, list[str]]) -> Path:
    """The file that an entry names, relative to the file that it stands in."""
    if not keywords.get(key):
        raise ValueError(f"names no {key}")
    return (path.parent / " ".join(keywords[key])).resolve()


def _lines(path: Path) -> Iterator[list[str]]:
    """The words of each line that is neither empty nor a comment."""
    # Names and licences in comments come in any encoding; what matters is ASCII.
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
    """Says which file could not be understood."""
    try:
        yield
    except ValueError as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}; {AGAIN}") from error
