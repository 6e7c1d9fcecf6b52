"""Photos of any kind become upright RGB; what is no photo is refused in one line."""

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, features

from jointface.errors import InputError
from jointface.inference.photos import Source, open_photo

RED, GREEN, BLUE, GREY = (200, 30, 30), (30, 200, 30), (30, 30, 200), (120, 120, 120)
QUARTERS = np.array([[RED, GREEN], [BLUE, GREY]], np.uint8).repeat(20, 0).repeat(30, 1)  # 40 x 60 pixels
PICTURE = Image.fromarray(QUARTERS)


def corners(image: np.ndarray) -> np.ndarray:
    """The colours of the quarters."""
    height, width = image.shape[:2]
    return image[height // 4 :: height // 2, width // 4 :: width // 2].astype(int)


def content(picture: Image.Image, form: str, **options: Any) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "source",
    [
        PICTURE, QUARTERS, QUARTERS.astype(np.uint16) * 257, QUARTERS / 255, (QUARTERS / 255).astype(np.float32),
        np.dstack([QUARTERS, np.full((40, 60), 255, np.uint8)]), QUARTERS[::-1][::-1],
        torch.from_numpy(QUARTERS), torch.from_numpy(QUARTERS).permute(2, 0, 1),
        (torch.from_numpy(QUARTERS) / 255).permute(2, 0, 1).requires_grad_(),
        *(content(PICTURE, form, **options) for form, options in [
            ("PNG", {}), ("JPEG", {"quality": 95}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {}),
            ("PPM", {}), ("JPEG2000", {}),
        ]),
        content(PICTURE.convert("CMYK"), "JPEG", quality=95), content(PICTURE.convert("CMYK"), "TIFF"),
        content(PICTURE.quantize(8), "PNG"), content(PICTURE.quantize(8), "GIF"),
        cv2.imencode(".png", QUARTERS[..., ::-1].astype(np.uint16) * 257)[1].tobytes(),
        BytesIO(content(PICTURE, "PNG")),
    ],
)  # fmt: skip
def test_every_source_and_format_gives_the_same_picture(source: Source) -> None:
    photo = open_photo(source)
    assert photo.image.shape == (40, 60, 3)
    assert photo.notes == []
    np.testing.assert_allclose(corners(photo.image), corners(QUARTERS), atol=4)


GRAY = np.asarray(PICTURE.convert("L"))


@pytest.mark.parametrize(
    ("source", "notes"),
    [
        (GRAY, []),
        (GRAY[..., None], []),
        (content(PICTURE.convert("L"), "JPEG", quality=95), []),
        (content(Image.fromarray(GRAY.astype(np.uint16) * 257), "PNG"), ["reduced to 8 bits"]),
        (content(Image.fromarray(GRAY.astype(np.uint16) * 257), "TIFF"), ["reduced to 8 bits"]),
        (content(Image.fromarray((GRAY / 255).astype(np.float32)), "TIFF"), ["reduced to 8 bits"]),
    ],
)
def test_gray_pictures_become_rgb(source: Source, notes: list[str]) -> None:
    photo = open_photo(source)
    np.testing.assert_allclose(corners(photo.image), corners(np.dstack([GRAY] * 3)), atol=2)
    assert photo.notes == notes


def half_transparent() -> Image.Image:
    picture = PICTURE.convert("RGBA")
    picture.putalpha(127)
    return picture


@pytest.mark.parametrize("source", [content(half_transparent(), "PNG"), np.asarray(half_transparent())])
def test_transparent_parts_are_shown_over_white(source: Source) -> None:
    np.testing.assert_allclose(corners(open_photo(source).image), (255 + corners(QUARTERS)) / 2, atol=1)


def test_a_transparent_colour_of_a_palette_is_shown_over_white() -> None:
    palette = PICTURE.quantize(4)
    photo = open_photo(content(palette, "GIF", transparency=palette.getpixel((5, 5))))
    assert corners(photo.image)[0, 0].tolist() == [255, 255, 255]
    assert photo.notes == ["transparent parts are shown over white"]


@pytest.mark.parametrize(
    ("orientation", "quarters"),
    [
        (1, [[RED, GREEN], [BLUE, GREY]]), (2, [[GREEN, RED], [GREY, BLUE]]), (3, [[GREY, BLUE], [GREEN, RED]]),
        (4, [[BLUE, GREY], [RED, GREEN]]), (5, [[RED, BLUE], [GREEN, GREY]]), (6, [[BLUE, RED], [GREY, GREEN]]),
        (7, [[GREY, GREEN], [BLUE, RED]]), (8, [[GREEN, GREY], [RED, BLUE]]), (9, [[RED, GREEN], [BLUE, GREY]]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])  # Pillow turns TIFFs itself
def test_photos_are_turned_as_their_exif_orientation_says(form: str, orientation: int, quarters: list[Any]) -> None:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow reads no AVIF")
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = open_photo(content(PICTURE, form, exif=exif, quality=95))
    assert photo.image.shape == ((60, 40, 3) if orientation in (5, 6, 7, 8) else (40, 60, 3))
    np.testing.assert_allclose(corners(photo.image), quarters, atol=6)


def test_heic_is_read_as_its_own_transform_says_whatever_its_exif_says() -> None:
    pytest.importorskip("pillow_heif", reason="needs the extra heic").register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = content(PICTURE, "HEIF", exif=exif, quality=95)
    np.testing.assert_allclose(corners(open_photo(data).image), corners(QUARTERS), atol=6)
    with pytest.raises(InputError, match="damaged"):
        open_photo(data[: len(data) // 2])


def test_without_its_package_heic_is_refused_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointface.inference.photos._readable", lambda: ["JPEG"])
    with pytest.raises(InputError, match=r"a HEIC photo: pip install 'jointface\[heic\]', or export it as JPEG"):
        open_photo(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64))


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_read(form: str) -> None:
    frames = {"save_all": True, "append_images": [PICTURE.transpose(Image.Transpose.ROTATE_180)]}
    photo = open_photo(content(PICTURE, form, **frames))
    assert photo.notes == ["only the first frame is read"]
    np.testing.assert_allclose(corners(photo.image), corners(QUARTERS), atol=4)


def test_a_photo_knows_its_file(tmp_path: Path) -> None:
    PICTURE.save(tmp_path / "me.png")
    assert open_photo(tmp_path / "me.png").name == open_photo(str(tmp_path / "me.png")).name == "me.png"
    with (tmp_path / "me.png").open("rb") as file:
        assert open_photo(file).name == "me.png"
    assert open_photo(PICTURE).name == ""


@pytest.mark.parametrize("source", [np.zeros((1, 1, 3), np.uint8), content(Image.new("1", (1, 1)), "PNG")])
def test_a_single_pixel_is_a_photo(source: Source) -> None:
    assert open_photo(source).image.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"hello", "not a picture"),
        (b"%PDF-1.7 ...", "a PDF document"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><svg/>", "an XML file, perhaps an SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a PostScript file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64), "HEIC photo"),
        (content(PICTURE, "JPEG")[:400], "damaged"),
        (content(PICTURE, "PNG")[:-30], "damaged"),
        (png(50_000, 50_000), "too large"),
        (png(2**31 - 1, 2**31 - 1), "too large"),
        (png(100_000, 2, bytes(600_002)), "100000 x 2 pixels are too many"),
        (content(Image.fromarray(QUARTERS[..., 0].astype(np.int32) * 10_000), "TIFF"), "expected values of uint8"),
    ],
)
def test_what_is_no_photo_is_refused_in_one_line(data: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(data)
    for source, name in ((file, str(file)), (data, "bytes")):
        with pytest.raises(InputError, match=message) as caught:
            open_photo(source)
        assert str(caught.value).startswith(f"{name}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder, "a folder"),
        (lambda folder: folder / "missing.jpg", "no such file"),
        (lambda folder: os.devnull, "a device or pipe"),
        (lambda folder: "https://example.org/photo.jpg", "a web address"),
        (lambda folder: "", "no such file"),
        (lambda folder: "a\0b", "no such file"),
        (lambda folder: "x" * 5000, "no such file"),
        (lambda folder: StringIO("photo"), "opened as text; open it with mode 'rb'"),
        (lambda folder: np.zeros((3, 40, 60), np.uint8), r"\(height, width, 3\)"),
        (lambda folder: np.zeros((0, 4, 3), np.uint8), "empty"),
        (lambda folder: np.zeros((1, 70_000, 3), np.uint8), "too many"),
        (lambda folder: np.full((4, 4, 3), 200.0), "floats from 0 to 1"),
        (lambda folder: np.full((4, 4, 3), np.nan), "floats from 0 to 1"),
        (lambda folder: np.zeros((4, 4, 3), np.int64), "got int64"),
        (lambda folder: torch.zeros(2, 3, 4, 4), r"\(height, width, 3\)"),
    ],
)
def test_sources_that_hold_no_photo_are_refused_in_one_line(
    make: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        open_photo(make(tmp_path))
    assert "\n" not in str(caught.value)
