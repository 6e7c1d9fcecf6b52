"""Synthetic pictures: labels fit the pixels at every pose, and a face looks the same wherever it is rendered."""

import copy
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from jointface.datamodules import CropTransform, SyntheticFaces
from jointface.errors import ConfigError, DataError, InputError
from jointface.geometry.camera import apply_camera, pose_from_camera
from jointface.geometry.rasteriser import visible_vertices
from jointface.synthesis.appearance import Lights
from jointface.synthesis.faces import SPLITS, FaceFactory, SyntheticFace
from jointface.synthesis.head import Head
from jointface.synthesis.proxy import Proxy
from jointface.synthesis.renderer import Renderer
from jointface.synthesis.scenes import Scene
from jointface.synthesis.solids import ellipsoid, join

SIZE = 96
EVEN = Lights(sky=(0.6, 0.6, 0.6), ground=(0.6, 0.6, 0.6), directions=((0.0, 0.0, 1.0),) * 2, colours=((0.0,) * 3,) * 2)


@pytest.fixture(scope="module")
def faces(factory: FaceFactory) -> list[SyntheticFace]:
    return [factory.face("train", index) for index in range(40)]


def cameras(factory: FaceFactory, faces: Sequence[SyntheticFace], size: int = SIZE) -> Tensor:
    return torch.stack([factory.crop_camera(face, size) for face in faces])


def draw(factory: FaceFactory, faces: Sequence[SyntheticFace], size: int = SIZE) -> Tensor:
    return factory.render(faces, cameras(factory, faces, size), size)


def scene(factory: FaceFactory, face: SyntheticFace, size: int = SIZE) -> Scene:
    """The face before a grey wall."""
    wall = torch.full((3, size, size), 0.5)
    return replace(factory.scene(face, factory.crop_camera(face, size), size), background=wall)


def background(factory: FaceFactory, face: SyntheticFace, size: int = SIZE) -> Tensor:
    return factory.scene(face, factory.crop_camera(face, size), size).background


def difference(one: Tensor, other: Tensor) -> Tensor:
    """Largest difference of a pixel's colours, in grey levels."""
    return (one.int() - other.int()).abs().amax(-3)


# Labels and pixels


def dots(head: Head, radius: float) -> Proxy:
    """A ball about each of the 68 landmarks, of that radius in millimetres."""
    ball = ellipsoid((radius, radius, radius))
    count, rows = len(ball.points), head.model.landmarks68
    size = head.mean[:, :].amax(0) - head.mean.amin(0)
    return Proxy(
        name="dots",
        corners=rows.repeat_interleave(count)[:, None].repeat(1, 3),
        weights=torch.full((68 * count, 3), 1 / 3),
        offsets=torch.from_numpy(ball.points).float().repeat(68, 1),
        scale_points=torch.stack([head.mean.argmax(0), head.mean.argmin(0)], dim=1),
        scale_reference=size,
        triangles=torch.from_numpy(join([ball] * 68).triangles).long(),
        uv=torch.full((68 * count, 2), 0.5),
        texture=torch.full((256, 256, 4), 255, dtype=torch.uint8),
    )


@pytest.mark.parametrize("yaw", [-90, -60, -30, 0, 30, 60, 90])
def test_a_landmark_is_painted_where_its_label_says(factory: FaceFactory, head: Head, yaw: int) -> None:
    """Balls on the landmarks, worn like earrings, change the picture there and nowhere else."""
    size, radius = 256, 1.5
    renderer = copy.copy(factory.renderer)
    renderer.wardrobe = replace(factory.wardrobe, earrings=(dots(head, radius),))
    plain, dotted, labels, scales, posed = [], [], [], [], []
    for index in range(3):
        face = factory.face("train", 100 + index)
        face = replace(face, camera=factory.framed_camera(face.shape, face.expression, turned(yaw, index)), lights=EVEN,
                       appearance=replace(face.appearance, hair=-1, hat=-1, glasses=-1, earrings=-1))  # fmt: skip
        picture = scene(factory, face, size)
        plain.append(picture)
        dotted.append(replace(picture, appearance=replace(face.appearance, earrings=0, metal=(0.0, 1.0, 0.0))))
        labels.append(factory.landmarks68(face, picture.camera))
        scales.append(picture.camera[2, :3].norm())
        posed.append(apply_camera(picture.camera[None], head.points(face.shape[None], face.expression[None]))[0])
    painted = difference(renderer.render(plain, size), renderer.render(dotted, size)) > 8
    marks = torch.stack(labels)
    seen = visible_vertices(torch.stack(posed), head.triangles, size, size, tolerance=0.2)[:, head.model.landmarks68]
    assert seen.sum(1).min() > 20
    seen[:, 60:] = False  # between closed lips a ball is hidden
    beside = torch.nn.functional.max_pool2d(painted.float(), 3, stride=1, padding=1) > 0
    near = seen.clone()
    # The chin's neighbour and the middle of the lips are on the outline of a profile, where half of a ball is hidden.
    near[:, [9, 51, 57]] &= abs(yaw) < 90
    for number, scale in enumerate(scales):
        x, y = marks[number, near[number], :2].round().long().T
        assert painted[number, y, x].float().mean() > 0.85
        x, y = marks[number, seen[number], :2].round().long().T
        assert beside[number, y, x].all()  # half of a ball on the outline is behind the head
        row, column = painted[number].nonzero().T
        away = torch.cdist(torch.stack([column, row], 1).float(), marks[number, :, :2]).amin(1)
        assert away.max() < 1.6 * radius * scale + 0.5  # heads differ in size


def turned(yaw: float, index: int) -> Tensor:
    """Pitch, yaw and roll in radians."""
    return torch.tensor([(0.0, 0.3, -0.3)[index], np.radians(yaw), (0.0, -0.3, 0.2)[index]], dtype=torch.float32)


def test_labels_are_framed_like_any_crop(factory: FaceFactory, faces: list[SyntheticFace]) -> None:
    """The landmarks lie around the middle of the picture and fill the same share of it at every pose."""
    for face in faces:
        marks = factory.landmarks68(face, factory.crop_camera(face, SIZE))[:, :2]
        low, high = marks.amin(0), marks.amax(0)
        assert (low > -0.02 * SIZE).all()
        assert (high < 1.02 * SIZE).all()
        assert ((low + high) / 2 - (SIZE - 1) / 2).abs().max() < 0.15 * SIZE
        assert 0.4 * SIZE < (high - low).max() < 0.95 * SIZE


def test_a_camera_of_another_size_shows_the_same(factory: FaceFactory, faces: list[SyntheticFace]) -> None:
    for face in faces[:5]:
        small, large = (factory.landmarks68(face, factory.crop_camera(face, size)) for size in (48, 96))
        torch.testing.assert_close((small[:, :2] + 0.5) * 2, large[:, :2] + 0.5, atol=1e-3, rtol=0)


def test_heads_are_turned_no_further_than_asked(quick_factories: None) -> None:
    for max_yaw in (0.0, 25.0, 90.0):
        factory = FaceFactory(max_yaw=max_yaw)
        seen = [pose_from_camera(factory.crop_camera(factory.face("train", i), SIZE), SIZE)[1] for i in range(60)]
        yaw = torch.stack(seen).abs().rad2deg()
        assert yaw.max() <= max_yaw + 0.01
        assert yaw.max() > 0.7 * max_yaw - 0.01


@pytest.mark.parametrize("shadows", [False, True])
@pytest.mark.usefixtures("quick_factories")
def test_a_flipped_camera_draws_the_flipped_picture(
    shadows: bool, factory: FaceFactory, faces: list[SyntheticFace]
) -> None:
    """With mirrored lights, and except for pixels on an edge between two triangles."""
    factory = FaceFactory(shadows=True) if shadows else factory
    flip, far = torch.diag(torch.tensor([-1.0, 1.0, 1.0])), torch.zeros(3, 4)
    far[0, 3] = SIZE - 1
    scenes = [scene(factory, face) for face in faces[:24]]
    flipped = [
        replace(one, camera=flip @ one.camera + far, lights=replace(
            one.lights, directions=tuple((-x, y, z) for x, y, z in one.lights.directions)))
        for one in scenes
    ]  # fmt: skip
    apart = difference(factory.renderer.render(flipped, SIZE).flip(-1), factory.renderer.render(scenes, SIZE))
    assert (apart > 1).float().mean() < 2e-4


def test_the_head_covers_the_background(factory: FaceFactory, faces: list[SyntheticFace]) -> None:
    for one, face in zip(draw(factory, faces[:8]), faces[:8], strict=True):
        behind = background(factory, face)
        same = difference(one, (behind * 255).round().to(torch.uint8)) <= 1
        assert 0.005 < same.float().mean() < 0.75
        assert same[SIZE // 3 : 2 * SIZE // 3, SIZE // 3 : 2 * SIZE // 3].float().mean() < 0.1


# The same everywhere


class Pictures(Dataset[Tensor]):
    """Faces rendered one at a time."""

    def __init__(self, factory: FaceFactory) -> None:
        self.factory = factory

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> Tensor:
        return draw(self.factory, [self.factory.face("val", index)])[0]


def test_a_face_is_drawn_the_same_every_time_and_in_every_process(factory: FaceFactory) -> None:
    """Bit for bit."""
    here = torch.stack([Pictures(factory)[index] for index in range(12)])
    assert torch.equal(here, torch.stack([Pictures(factory)[index] for index in range(12)]))
    loader = DataLoader(Pictures(factory), batch_size=3, num_workers=2, multiprocessing_context="fork")
    assert torch.equal(here, torch.cat(list(loader)))


def test_a_face_is_drawn_alone_as_in_a_batch(factory: FaceFactory, faces: list[SyntheticFace]) -> None:
    """Within one grey level, as sums are rounded differently."""
    alone = torch.cat([draw(factory, [face]) for face in faces])
    together = draw(factory, faces)
    assert difference(alone, together).max() <= 1
    assert (difference(alone, together) > 0).float().mean() < 1e-3
    assert difference(draw(factory, faces[::-1]).flip(0), together).max() <= 1


def test_another_factory_makes_the_same_faces(factory: FaceFactory, quick_factories: None) -> None:
    again = pickle.loads(written := pickle.dumps(FaceFactory(shadows=True)))
    assert again.renderer.openness is not None
    factory = FaceFactory(shadows=True)
    assert len(written) < 1000  # no tensors
    for index in (0, 5, 17):
        one, other = factory.face("train", index), again.face("train", index)
        assert torch.equal(one.shape, other.shape)
        assert torch.equal(one.camera, other.camera)
        assert (one.person, one.appearance, one.lights) == (other.person, other.appearance, other.lights)
        assert torch.equal(draw(factory, [one]), draw(again, [other]))


def test_splits_and_seeds_share_nobody(factory: FaceFactory, quick_factories: None) -> None:
    other = FaceFactory(seed=1)
    everyone = {split: [factory.face(split, index) for index in range(60)] for split in SPLITS}
    everyone["other seed"] = [other.face("train", index) for index in range(60)]
    identities = [face.identity for split in SPLITS for face in everyone[split]]
    assert len(set(identities)) == 3 * 60
    shapes = torch.stack([face.shape for group in everyone.values() for face in group])
    apart = torch.cdist(shapes, shapes) + 1e3 * torch.eye(len(shapes))
    assert apart.min() > 1  # standard deviations


def test_pictures_of_one_person_share_only_the_person(factory: FaceFactory, quick_factories: None) -> None:
    """The first is the same however many follow."""
    several = FaceFactory(images_per_person=3)
    for person in range(20):
        pictures = [several.face("train", 3 * person + image) for image in range(3)]
        first, single = pictures[0], factory.face("train", person)
        assert first.identity == single.identity
        assert torch.equal(first.shape, single.shape)
        assert torch.equal(first.expression, single.expression)
        for one in pictures[1:]:
            assert one.identity == first.identity
            assert one.person == first.person
            assert torch.equal(one.shape, first.shape)
            for kept in ("skin", "iris", "hair", "hair_colour", "beard", "brow_arch"):
                assert getattr(one.appearance, kept) == getattr(first.appearance, kept)
            assert not torch.equal(one.expression, first.expression)
            assert not torch.equal(one.camera, first.camera)
            assert one.lights != first.lights
            assert one.background != first.background
    assert several.face("train", 2).identity != several.face("train", 3).identity


def test_nobody_wears_a_hat_over_hair_that_does_not_fit_under_it(quick_factories: None) -> None:
    factory = FaceFactory(images_per_person=2)
    looks = [factory.face("train", index).appearance for index in range(160)]
    hats = [look for look in looks if look.hat >= 0]
    assert len(hats) > 2
    assert all(look.hair < 0 or factory.wardrobe.hair[look.hair].fits_under_hat for look in hats)


# How pictures are made


def test_supersampling_is_the_mean_of_the_pixels(factory: FaceFactory, faces: list[SyntheticFace]) -> None:
    """The mean is taken in linear light."""
    renderer = copy.copy(factory.renderer)
    renderer.supersampling = 2
    dim = [replace(scene(factory, face), lights=EVEN) for face in faces[:6]]  # nothing is overexposed
    doubled = torch.diag(torch.tensor([2.0, 2.0, 2.0]))
    beside = torch.tensor([[0.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0]])
    large = [
        replace(one, camera=doubled @ one.camera + beside, background=torch.full((3, 2 * SIZE, 2 * SIZE), 0.5))
        for one in dim
    ]
    linear = (factory.renderer.render(large, 2 * SIZE).float() / 255).square()
    mean = torch.nn.functional.avg_pool2d(linear, 2).sqrt() * 255
    assert ((mean - renderer.render(dim, SIZE)).abs() > 2).float().mean() < 1e-3


@pytest.mark.parametrize("size", [1, 2, 33, 200])
def test_pictures_have_the_size_that_was_asked_for(factory: FaceFactory, size: int) -> None:
    pictures = draw(factory, [factory.face("train", 0), factory.face("train", 1)], size)
    assert pictures.shape == (2, 3, size, size)
    assert pictures.dtype == torch.uint8


def test_a_face_is_lit_from_where_the_light_is(factory: FaceFactory) -> None:
    face = factory.face("train", 3)
    look = replace(face.appearance, hair=-1, hat=-1, glasses=-1, stubble=0.0, beard=0.0)
    face = replace(face, appearance=look, camera=factory.framed_camera(face.shape, face.expression, torch.zeros(3)))
    halves = []
    for side in (-1.0, 1.0):
        lights = Lights((0.2,) * 3, (0.2,) * 3, ((side, 0.0, 0.3), (0.0, 0.0, 1.0)), ((0.7,) * 3, (0.0,) * 3))
        picture = factory.renderer.render([replace(scene(factory, face), lights=lights)], SIZE)[0].float()
        cheeks = picture[:, 40:70]
        halves.append((cheeks[..., 20:48].mean() - cheeks[..., 48:76].mean()).item())
    assert halves[0] > 10 > -10 > halves[1]


def test_skin_has_its_colour(factory: FaceFactory) -> None:
    face = factory.face("train", 3)
    face = replace(face, lights=EVEN, camera=factory.framed_camera(face.shape, face.expression, torch.zeros(3)))
    means = []
    for skin in ((0.95, 0.85, 0.8), (0.3, 0.2, 0.14)):
        look = replace(face.appearance, skin=skin, hat=-1, glasses=-1, stubble=0.0, beard=0.0, blush=0.0)
        picture = factory.renderer.render([scene(factory, replace(face, appearance=look))], SIZE)[0].float()
        marks = factory.landmarks68(face, factory.crop_camera(face, SIZE))
        x, y = (marks[[2, 30], :2].mean(0)).round().long().tolist()  # the cheek
        means.append(picture[:, y - 2 : y + 3, x - 2 : x + 3].mean((1, 2)))
    assert (means[0] > means[1] + 60).all()
    assert (means[1].diff() < 0).all()  # skin is redder than green and greener than blue


# Backgrounds


def test_a_photo_shows_up_behind_the_face(tmp_path: Path, quick_factories: None) -> None:
    colour = (200, 20, 180)
    (tmp_path / "deeper").mkdir()
    cv2.imwrite(str(tmp_path / "deeper" / "wall.PNG"), np.full((50, 80, 3), colour[::-1], np.uint8))
    (tmp_path / "notes.txt").write_text("no photo")
    factory = FaceFactory(backgrounds_dir=str(tmp_path))
    pictures = draw(factory, [factory.face("train", index) for index in range(6)])
    shown = difference(pictures, torch.tensor(colour)[None, :, None, None]) <= 2
    assert (shown.float().mean((1, 2)) > 0.02).all()
    assert shown.float().mean() > 0.15


def test_photos_vary_with_the_face_and_not_with_the_run(tmp_path: Path, quick_factories: None) -> None:
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((9, 9, 3), 60 * number + 20, np.uint8))
    factory = FaceFactory(backgrounds_dir=str(tmp_path))
    faces = [factory.face("train", index) for index in range(20)]
    walls = torch.stack([background(factory, face, 8)[0, 4, 4] for face in faces])
    assert len(walls.unique()) == 4
    assert torch.equal(walls, torch.stack([background(factory, face, 8)[0, 4, 4] for face in faces]))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 700), (40, 30), (700, 900)])
def test_photos_of_any_form_fill_the_picture(tmp_path: Path, height: int, width: int, quick_factories: None) -> None:
    cv2.imwrite(str(tmp_path / "wall.png"), np.full((height, width, 3), 128, np.uint8))
    factory = FaceFactory(backgrounds_dir=str(tmp_path))
    for index in range(5):
        wall = background(factory, factory.face("train", index))
        assert wall.shape == (3, SIZE, SIZE)
        torch.testing.assert_close(wall, torch.full_like(wall, 128 / 255), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [1, 7, 96])
def test_scenery_is_as_varied_as_the_world(factory: FaceFactory, faces: list[SyntheticFace], size: int) -> None:
    walls = torch.stack([background(factory, face, size) for face in faces[:20]])
    assert walls.shape == (20, 3, size, size)
    assert 0 <= walls.min() <= walls.max() <= 1
    assert torch.equal(walls, torch.stack([background(factory, face, size) for face in faces[:20]]))
    assert walls.mean((1, 2, 3)).std() > 0.1


def test_the_background_stays_behind_the_face_when_the_picture_is_cropped_otherwise(
    factory: FaceFactory, faces: list[SyntheticFace]
) -> None:
    """Twice as near shows the middle half of it."""
    for face in faces[:8]:
        camera = factory.crop_camera(face, SIZE)
        nearer = 2 * camera
        nearer[:2, 3] -= (SIZE - 1) / 2
        wide, near = (factory.scene(face, one, SIZE).background for one in (camera, nearer))
        middle = wide[:, SIZE // 4 : 3 * SIZE // 4, SIZE // 4 : 3 * SIZE // 4]
        half = torch.nn.functional.avg_pool2d(near, 2)
        assert (half - middle).abs().mean() < 0.02


# What is refused


@pytest.mark.parametrize(
    "settings", [{"seed": -1}, {"images_per_person": 0}, {"max_yaw": 100.0}, {"max_yaw": -1.0}, {"supersampling": 0}]
)
def test_numbers_out_of_range_are_refused_in_one_line(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError) as caught:
        FaceFactory(**settings)  # type: ignore[arg-type]
    ((name, value),) = settings.items()
    assert f"{name}={value}" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=f"{name}={value}"):
        SyntheticFaces("train", CropTransform(16), num_faces=1, synthesis=settings)


def test_nothing_to_render_is_refused_in_one_line(factory: FaceFactory) -> None:
    renderer: Renderer = factory.renderer
    one = replace(scene(factory, factory.face("train", 0), 8))
    for scenes, size in (([], 8), ([one], 0), ([one], -3)):
        with pytest.raises(InputError, match=f"nothing to render: {len(scenes)} scenes of size {size}") as caught:
            renderer.render(scenes, size)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no folder FOLDER: looked there for background photos"),
        ({}, "FOLDER holds no background photo"),
        ({"notes.txt": b"no photo"}, "FOLDER holds no background photo"),
        ({"wall.jpg": b""}, "FOLDER/wall.jpg: not an image; remove it"),
        ({"wall.jpg": b"no photo"}, "FOLDER/wall.jpg: not an image; remove it"),
    ],
)
def test_a_folder_without_sound_photos_is_refused(tmp_path: Path, files: dict[str, bytes] | None, message: str) -> None:
    folder = tmp_path / "photos"
    if files is not None:
        folder.mkdir()
    for name, content in (files or {}).items():
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message.replace("FOLDER", str(folder))) as caught:
        FaceFactory(backgrounds_dir=str(folder))
    assert "\n" not in str(caught.value)


def test_a_photo_that_is_cut_short_is_named_when_it_is_read(tmp_path: Path, quick_factories: None) -> None:
    path = tmp_path / "wall.jpg"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    path.write_bytes(path.read_bytes()[:200])
    factory = FaceFactory(backgrounds_dir=str(tmp_path))
    with pytest.raises(DataError, match=f"{path}: not an intact image") as caught:
        draw(factory, [factory.face("train", 0)])
    assert "\n" not in str(caught.value)
