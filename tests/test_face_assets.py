"""Synthetic faces with MakeHuman's assets: which are chosen, how they are measured and rendered."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from jointface.errors import DataError
from jointface.synthesis.asset_brows import BROW_STEP
from jointface.synthesis.asset_hair import balanced
from jointface.synthesis.face_assets import DARK, RELIEF_UNIT, skin_relief
from jointface.synthesis.face_fields import NAMES, brow_place
from jointface.synthesis.faces import FaceFactory, SyntheticFace
from jointface.synthesis.materials import Look, brow_shape
from tests.data.makehuman import data as makehuman_data
from tests.fixtures import lend_parts

SIZE = 96


@pytest.fixture(scope="module")
def dressed(real_data: Path, factory: FaceFactory) -> FaceFactory:
    """With the real assets."""
    folder = real_data / "makehuman_assets"
    if not folder.is_dir():
        pytest.skip(f"no MakeHuman assets in {folder}")
    with pytest.MonkeyPatch.context() as patch:
        lend_parts(factory, patch)
        return FaceFactory(assets_dir=str(folder), max_yaw=20)


@pytest.fixture(scope="module")
def faces(dressed: FaceFactory) -> list[SyntheticFace]:
    return [dressed.face("train", number) for number in range(60)]


def render(factory: FaceFactory, face: SyntheticFace) -> Tensor:
    return factory.render([face], factory.crop_camera(face, SIZE)[None], SIZE)[0]


def test_skins_suit_the_person(dressed: FaceFactory, faces: list[SyntheticFace]) -> None:
    assert dressed.assets is not None
    for face in faces:
        skin = dressed.assets.skins[face.appearance.asset_skin]
        assert skin.gender == ("female" if face.person.gender > 0.5 else "male")
        assert (skin.ancestry == "african") == (face.appearance.tone > DARK)


def test_the_face_is_as_bright_as_the_skin_says(dressed: FaceFactory) -> None:
    assert dressed.assets is not None
    fields = dressed.renderer.fields
    field = dict(zip(NAMES, fields.float().T, strict=True))
    relief = skin_relief(dressed.head, fields, dressed.assets.skins).float() / RELIEF_UNIT
    face = (field["z"] > 10) & (field["forehead"] + field["cheek"] > 0.3) & (field["eye_distance"] > 6)
    face &= field["scalp"] < -6
    np.testing.assert_allclose(relief[:, face].mean(dim=(1, 2)), 1, atol=0.15)
    # The relief fades where the plain neck begins, and is left out where hair is shaved.
    assert (relief[:, field["scalp"] > 20] == 1).all()
    lowest = field["y"] < -78
    assert lowest.any()
    assert (relief[:, lowest] - 1).abs().mean() < 0.03


def test_hair_is_measured(dressed: FaceFactory) -> None:
    hair = {style.proxy.name: style for style in dressed.wardrobe.hair[17:]}  # after the procedural
    assert {name for name, style in hair.items() if style.bangs} == {"bob01", "bob02", "braid01", "short03"}
    lengths = {name: style.length for name, style in hair.items()}
    assert {name for name, length in lengths.items() if length == "long"} == {"braid01", "long01"}
    assert {name for name, length in lengths.items() if length == "medium"} == {"bob01", "bob02"}
    for style in hair.values():
        middle = style.proxy.uv[style.proxy.triangles].mean(dim=1)
        column, row = (middle[:, 0] * 256).long().clamp(max=255), ((1 - middle[:, 1]) * 256).long().clamp(max=255)
        texel = style.proxy.texture[row, column].float()
        assert 115 < texel[texel[:, 3] >= 128, 0].mean() < 190, style.proxy.name


def test_attributes_of_hair_are_as_frequent_as_without_assets(dressed: FaceFactory) -> None:
    procedural = dressed.wardrobe.hair[:17]
    plain = [replace(style, feminine=1.0, masculine=0.5) for style in procedural]
    added = [replace(plain[1], feminine=0.3), replace(plain[1], feminine=0.1)]
    mixed = balanced(plain, added)
    like = [style for style in mixed if (style.bangs, style.receding, style.wave, style.length)
            == (plain[1].bangs, plain[1].receding, plain[1].wave, plain[1].length)]  # fmt: skip
    assert sum(style.feminine for style in like) == pytest.approx(len(like) - 2)
    assert sum(style.feminine for style in mixed) == pytest.approx(len(plain))


def test_asset_brows_are_measured_like_procedural_ones(dressed: FaceFactory) -> None:
    assert dressed.assets is not None
    along, across = torch.meshgrid(torch.linspace(0, 1, 101), torch.arange(-12, 12, 0.1), indexing="ij")
    _, _, length = brow_place(dressed.head, torch.zeros(1), torch.zeros(1))
    for brow in dressed.assets.brows:
        table = {"brow_arch": torch.tensor([brow.arch]), "brow_thickness": torch.tensor([brow.thickness])}
        drawn = brow_shape(along, across, Look(table, set(table), torch.zeros(1, dtype=torch.long))).sum() * 0.1 / 101
        painted = brow.shape.float().sum() / 255 * BROW_STEP**2 / (2 * length)
        if 1 < brow.thickness < 8:
            assert float(painted / drawn) == pytest.approx(1, abs=0.35)
        assert -5 < brow.arch < 5
    assert max(brow.thickness * brow.density for brow in dressed.assets.brows) > 3.18  # "Bushy_Eyebrows"


def test_skin_brows_lashes_and_teeth_change_the_picture(dressed: FaceFactory, faces: list[SyntheticFace]) -> None:
    open_mouth = dressed.head.expression_labels.index("jawOpen")
    for name in ("asset_brows", "asset_lashes", "asset_teeth", "asset_skin"):
        face = next(face for face in faces if getattr(face.appearance, name) >= 0 and face.appearance.glasses < 0)
        expression = face.expression.clone()
        expression[open_mouth] = 0.5
        face = replace(face, expression=expression, appearance=replace(face.appearance, hair=-1, hat=-1))
        without = replace(face, appearance=replace(face.appearance, **{name: -1}))
        changed = (render(dressed, face).int() - render(dressed, without).int()).abs().amax(dim=0) > 12
        assert changed.sum() > 5, name


def test_faces_are_the_same_alone_and_in_a_batch(dressed: FaceFactory, faces: list[SyntheticFace]) -> None:
    again = dressed.face("train", 7)
    assert again.appearance == faces[7].appearance
    pair = dressed.render(faces[7:9], torch.stack([dressed.crop_camera(face, SIZE) for face in faces[7:9]]), SIZE)
    assert (pair[0].int() - render(dressed, again).int()).abs().max() <= 1


def test_without_assets_nothing_refers_to_them(factory: FaceFactory) -> None:
    look = factory.face("train", 0).appearance
    assert {look.asset_skin, look.asset_brows, look.asset_lashes, look.asset_teeth} == {-1}


@pytest.fixture
def tiny_assets(tmp_path: Path, quick_factories: None) -> Path:
    return makehuman_data.write(tmp_path / "assets")


def test_any_sound_folder_can_be_worn(tiny_assets: Path) -> None:
    tiny = FaceFactory(assets_dir=str(tiny_assets))
    faces = [tiny.face("train", number) for number in range(4)]
    cameras = torch.stack([tiny.crop_camera(face, SIZE) for face in faces])
    assert tiny.render(faces, cameras, SIZE).shape == (4, 3, SIZE, SIZE)


def other_base_mesh(folder: Path) -> None:
    binding = folder / "hair" / "short01" / "short01.mhclo"
    text = binding.read_text(encoding="utf-8")
    binding.write_text(text.replace("basemesh hm08", "basemesh alpha7"), encoding="utf-8")


def text_for_a_skin(folder: Path) -> None:
    next((folder / "skins" / "textures").glob("*.png")).write_text("not an image")


def brow_cut_short(folder: Path) -> None:
    image = cv2.imencode(".png", np.zeros((16, 16, 4), np.uint8))[1].tobytes()
    (folder / "eyebrows" / "eyebrow001" / "eyebrow001_diffuse.png").write_bytes(image[:20])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "no folder"),
        (lambda folder: shutil.rmtree(folder / "skins"), "no skins"),
        (other_base_mesh, "alpha7"),
        (text_for_a_skin, "image"),
        (brow_cut_short, "image"),
    ],
)
def test_broken_folders_are_refused(tiny_assets: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(tiny_assets)
    with pytest.raises(DataError, match=message):
        FaceFactory(assets_dir=str(tiny_assets))
