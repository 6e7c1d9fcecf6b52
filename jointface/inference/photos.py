"""Opens photos of any kind as upright RGB pictures, and refuses what is none in one line."""

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from jointface.errors import InputError


@runtime_checkable
class BinaryFile(Protocol):
    """An open file, as `open(path, "rb")` gives it, or io.BytesIO."""

    def read(self) -> bytes: ...


Source = str | os.PathLike[str] | bytes | BinaryFile | Image.Image | np.ndarray | Tensor

# What Pillow may read here: pictures, by decoders that run no other program.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "BMP", "DIB", "TIFF", "JPEG2000", "PPM", "TGA", "PCX")
MAX_SIDE = 65_535  # pixels, the largest that JPEG knows; Pillow limits the area to 179 million pixels
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning, append=True)  # of photos from half of that
# How files begin that people take for photos.
OTHER_KINDS = {
    b"%PDF": "a PDF document; export the page as PNG or JPEG",
    b"<svg": "an SVG drawing; export it as PNG",
    b"<?xml": "an XML file, perhaps an SVG drawing; export it as PNG",
    b"<html": "a web page, not the picture on it",
    b"<!doc": "a web page, not the picture on it",
    b"%!PS": "a PostScript file; export it as PNG",
}
HEIC_BRANDS = (b"ftyphei", b"ftyphev", b"ftypmif1", b"ftypmsf1")
HEIC = "a HEIC photo: pip install 'jointface[heic]', or export it as JPEG"
DAMAGED_HEIC = "the HEIC photo is damaged"


@dataclass(frozen=True)
class Photo:
    """A photo as people see it.

    image: (H, W, 3) uint8 RGB, turned as its EXIF orientation says. Treat it as read-only. name: of the file, or ""
    where there is none. notes: what of the file the picture does not show, such as its transparency, in words.
    """

    image: UInt8[np.ndarray, "height width 3"]
    name: str = ""
    notes: list[str] = field(default_factory=list)


def open_photo(source: Source) -> Photo:
    """Opens a photo.

    Gray, palette, CMYK and 16-bit pictures become RGB of 8 bits; transparent parts are shown over white. Of a file with
    several frames the first is read. Colour profiles are not applied.

    Args:
        source: a file; its content; a binary file that is open; a PIL image; an array or tensor in RGB, see
            `_from_array`. An array that is uint8 RGB already is not copied.

    Raises:
        InputError: there is no such file, it is no picture, it is damaged, or it has more than 65,535 pixels a side or
            179 million in all (PIL.Image.MAX_IMAGE_PIXELS, doubled).
    """
    if isinstance(source, Tensor):
        return Photo(_from_array(_channels_last(source)))
    if isinstance(source, np.ndarray):
        return Photo(_from_array(source))
    if isinstance(source, Image.Image):
        return _read("PIL image", "", lambda: source)
    if isinstance(source, bytes):
        return _read("bytes", "", lambda: _identify(BytesIO(source)))
    if isinstance(source, BinaryFile):
        return _from_open_file(source)
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"cannot read a photo from a {type(source).__name__}: give a path, the bytes of a file, an open binary "
            "file, a PIL image, or an array or tensor in RGB; several as a list, a tuple, or a tensor (B, 3, H, W)"
        )
    path = Path(source)
    if not os.path.isfile(path):
        raise InputError(f"{str(source)[:300]!r}: {_no_file(os.fspath(source))}; give the file of a photo")
    try:
        with path.open("rb") as file:
            return _read(str(path), path.name, lambda: _identify(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _from_open_file(file: BinaryFile) -> Photo:
    content, name = file.read(), str(getattr(file, "name", ""))
    if not isinstance(content, bytes):
        raise InputError(f"{name or 'an open file'}: it was opened as text; open it with mode 'rb'")
    return _read(name or "an open file", Path(name).name, lambda: _identify(BytesIO(content)))


def _no_file(path: str) -> str:
    if "://" in path:
        return "a web address; download it first"
    return "a folder" if os.path.isdir(path) else "a device or pipe" if os.path.exists(path) else "no such file"


def _identify(file: BufferedReader | BytesIO) -> Image.Image:
    try:
        return Image.open(file, formats=_readable())
    except UnidentifiedImageError as error:
        file.seek(0)
        raise InputError(_kind(file.read(64))) from error


@cache
def _readable() -> list[str]:
    """Those of FORMATS that this installation reads."""
    if find_spec("pillow_heif") is not None:
        import_module("pillow_heif").register_heif_opener()
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _kind(head: bytes) -> str:
    """What a file is that is no picture, from its first bytes."""
    if not head:
        return "the file is empty"
    if any(brand in head[4:16] for brand in HEIC_BRANDS):
        return DAMAGED_HEIC if "HEIF" in _readable() else HEIC
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    known = [kind for magic, kind in OTHER_KINDS.items() if start.lower().startswith(magic.lower())]
    return known[0] if known else "not a picture that can be read; give JPEG, PNG, WebP, AVIF, TIFF, GIF or BMP"


def _read(where: str, name: str, opened: Callable[[], Image.Image]) -> Photo:
    try:
        picture = opened()
        _require_size(*picture.size)
        notes = _frames(picture)
        picture.load()
        image, converted = _to_rgb(_upright(picture))
        return Photo(np.array(image), name, [*notes, *converted])
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{where}: the picture is too large ({_one_line(error)}); shrink it") from error
    except Exception as error:  # decoders raise many unrelated types on damaged or hostile files
        raise InputError(f"{where}: the picture is damaged ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _require_size(width: int, height: int) -> None:
    if min(width, height) < 1:
        raise InputError(f"the picture is empty, {width} x {height} pixels")
    if max(width, height) > MAX_SIDE:
        raise InputError(f"{width} x {height} pixels are too many, {MAX_SIDE} a side is the limit; cut or shrink it")


def _frames(picture: Image.Image) -> list[str]:
    """A note where the file has more than its first frame. The pictures in an MPO are variants of one photo."""
    several = getattr(picture, "is_animated", False) and picture.format != "MPO"
    return ["only the first frame is read"] if several else []


def _upright(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # damaged EXIF does not make a photo unreadable
        return picture


def _to_rgb(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture in RGB of 8 bits, and notes about what that changed."""
    if picture.mode[0] in "IF":
        return _from_deep_gray(picture)
    if "a" in picture.mode.lower().replace("lab", "") or "transparency" in picture.info:
        layer = picture.convert("RGBA")
        if layer.getchannel("A").getextrema() == (255, 255):
            return layer.convert("RGB"), []
        white = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(white, layer).convert("RGB"), ["transparent parts are shown over white"]
    return picture.convert("RGB"), []


def _from_deep_gray(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """A gray picture of 16 bits, or of floats from 0 to 1."""
    values = np.asarray(picture)
    values = values.astype(np.uint16) if values.dtype.kind in "iu" and _within(values, 0, 65_535) else values
    gray = Image.fromarray(_to_eight_bits(values), "L")
    return gray.convert("RGB"), ["reduced to 8 bits"]


def _channels_last(tensor: Tensor) -> np.ndarray:
    """(3, H, W), or (H, W, 3) where the first axis is no channel axis."""
    tensor = tensor.detach().cpu()
    if tensor.ndim == 3 and tensor.shape[0] in (1, 3, 4):
        tensor = tensor.permute(1, 2, 0)
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _from_array(array: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    """An array in RGB: (H, W, 3), (H, W, 4) with alpha, or (H, W) and (H, W, 1) in gray.

    Values are uint8, uint16 from 0 to 65,535, or floats from 0 to 1. OpenCV reads BGR: convert its pictures before.
    """
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(f"expected an RGB picture of shape (height, width, 3), got {array.shape}")
    _require_size(array.shape[1], array.shape[0])
    values = array[..., None] if array.ndim == 2 else array
    if values.shape[2] == 4:
        values = _over_white(_to_eight_bits(values))
    return np.ascontiguousarray(np.broadcast_to(_to_eight_bits(values), (*values.shape[:2], 3)))


def _over_white(layer: UInt8[np.ndarray, "height width 4"]) -> UInt8[np.ndarray, "height width 3"]:
    return np.asarray(_to_rgb(Image.fromarray(layer, "RGBA"))[0])


def _to_eight_bits(values: np.ndarray) -> UInt8[np.ndarray, "*shape"]:
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.uint16:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if values.dtype.kind != "f":
        raise InputError(f"expected values of uint8, uint16 or floats from 0 to 1, got {values.dtype}")
    if not _within(values, 0, 1):  # false for NaN, too
        raise InputError("expected floats from 0 to 1, got others; scale them, or give uint8")
    return (values * 255).round().astype(np.uint8)


def _within(values: np.ndarray, low: float, high: float) -> bool:
    return bool(((values >= low) & (values <= high)).all())
