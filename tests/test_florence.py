"""MICC Florence: scans read, found, and rendered, whole and broken."""

import logging
import math
import os
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from jointface.datamodules import CropTransform, Florence
from jointface.datamodules.face_dataset import FaceSample
from jointface.datamodules.florence import mean_face
from jointface.errors import ConfigError, DataError
from jointface.geometry import MorphableModel, apply_camera, euler_to_rotation, face_box
from jointface.geometry.scan import Scan, find_face, read_scan, render_scan
from tests.data.florence import data as florence_data

CROP = CropTransform(64)
PITCHES, YAWS = (-15.0, 20.0, 25.0), (-80.0, -40.0, 0.0, 40.0, 80.0)
FRONTAL = Path("subject_01/Model/frontal1/obj/110920150452.obj")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: MorphableModel) -> Path:
    """To read only. Noses have to be found."""
    return florence_data.write(tmp_path_factory.mktemp("data") / "florence", tiny_model, noses=False)


@pytest.fixture(scope="module")
def with_noses(tmp_path_factory: pytest.TempPathFactory, tiny_model: MorphableModel) -> Path:
    """The same with the tips of the noses, where finding them is not the subject."""
    return florence_data.write(tmp_path_factory.mktemp("data") / "florence", tiny_model)


@pytest.fixture(scope="module")
def dataset(root: Path, tiny_model: MorphableModel) -> Florence:
    """It keeps both subjects: tests go back and forth between them."""
    dataset = Florence(root, "test", CROP, tiny_model)
    dataset._read_subject = cache(dataset._read_subject)
    return dataset


@pytest.fixture(scope="module")
def views(dataset: Florence) -> list[FaceSample]:
    """Of the first subject."""
    return [dataset.read(index) for index in range(15)]


@pytest.fixture
def copy(with_noses: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(with_noses, tmp_path / "florence")


def view(dataset: Florence, pitch: float, yaw: float) -> int:
    """Index of a view of the first subject."""
    return PITCHES.index(pitch) * len(YAWS) + YAWS.index(yaw)


def projected(dataset: Florence, index: int, point: Tensor) -> Tensor:
    return apply_camera(dataset.view_camera(index)[None], point[None, None])[0, 0]


def mark(dataset: Florence, model: MorphableModel, landmark: int) -> Tensor:
    """Where a marked landmark of the first subject is in scan space: its vertex has the landmark's uv."""
    scan = dataset.scan(0)
    return scan.vertices[(scan.uv - model.uv[model.landmarks68[landmark]]).square().sum(1).argmin()]


def pure(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(N, 2) places (x, y) of the pixels that have a mark's colour."""
    return np.argwhere((np.abs(image.astype(int) - colour) < 60).all(axis=2))[:, ::-1]


def test_an_item_is_the_data_contract(dataset: Florence) -> None:
    item = dataset[17]
    assert set(item) == {"image", "identity", "index"}
    assert item["image"].shape == (3, 64, 64)
    assert item["image"].dtype == torch.uint8
    assert item["identity"].item() == 2
    assert item["identity"].dtype == torch.int64
    assert item["index"].item() == 17
    assert not dataset.has_shape


def test_each_subject_has_the_fifteen_views_of_the_protocol(
    dataset: Florence, views: list[FaceSample], tiny_model: MorphableModel
) -> None:
    assert len(dataset) == 2 * 15
    assert [dataset[index]["identity"].item() for index in (14, 15)] == [1, 2]
    images = [sample.image for sample in views]
    assert all(image.shape == (450, 450, 3) for image in images)
    differences = [np.abs(a.astype(int) - b).mean() for i, a in enumerate(images) for b in images[:i]]
    assert min(differences) > 0.5  # of 255: most of a view is background
    few = Florence(dataset.root, "test", CROP, tiny_model, pitches=[0], yaws=[-30, 30], view_size=90)
    assert len(few) == 4
    assert few.read(1).image.shape == (90, 90, 3)


def test_views_are_named_by_subject_and_angles_and_a_subset_keeps_whole_subjects(dataset: Florence) -> None:
    assert [dataset.name(index) for index in (0, 17)] == ["subject_01_pitch-15_yaw-80", "subject_02_pitch-15_yaw+0"]
    assert [len(dataset.subset(count)) for count in (1, 15, 16, 100)] == [15, 15, 30, 30]
    assert dataset.plot(2).shape == (192, 192, 3)


def test_views_turn_by_the_angles_of_the_protocol(dataset: Florence) -> None:
    """In closed form: a point ahead of the axis by z moves by -scale z sin(yaw), since positive yaw looks to the left;
    positive pitch looks up."""
    for index in range(15):
        camera, frontal = dataset.view_camera(index), dataset.view_camera(0)
        scale = camera[0, :3].norm()
        torch.testing.assert_close(camera[:, :3].norm(dim=1), frontal[:, :3].norm(dim=1))
        pitch, yaw = (math.radians(angle) for angle in (PITCHES[index // 5], YAWS[index % 5]))
        ahead = torch.tensor([0.0, 0.0, 50.0])
        moved = projected(dataset, index, dataset.nose_tip(0)) - projected(dataset, index, dataset.nose_tip(0) - ahead)
        expected = [-math.sin(yaw), -math.sin(pitch) * math.cos(yaw), math.cos(pitch) * math.cos(yaw)]
        torch.testing.assert_close(moved, 50 * scale * torch.tensor(expected), atol=1e-2, rtol=0)
    turned = [projected(dataset, view(dataset, 20, yaw), dataset.nose_tip(0))[0].item() for yaw in YAWS]
    assert turned == sorted(turned, reverse=True)


@pytest.mark.parametrize("pitch", PITCHES)
@pytest.mark.parametrize("yaw", YAWS)
def test_a_mark_is_seen_where_the_camera_says(
    dataset: Florence, views: list[FaceSample], tiny_model: MorphableModel, pitch: float, yaw: float
) -> None:
    index = view(dataset, pitch, yaw)
    image = views[index].image
    for landmark, colour in florence_data.MARKS.items():
        place, found = projected(dataset, index, mark(dataset, tiny_model, landmark)), pure(image, colour)
        hidden_side = 36 if yaw > 0 else 45
        if abs(yaw) == 80 and landmark == hidden_side:
            assert not len(found)
        elif abs(yaw) < 80:
            assert len(found) > 20
            assert np.linalg.norm(found - place[:2].numpy(), axis=1).min() < 1
            # A disc on the nose is partly hidden and bent where the face is turned.
            np.testing.assert_allclose(found.mean(0), place[:2], atol=1.5 if yaw == 0 else 4)


def test_a_texture_is_sampled_with_v_upwards_and_pixel_centres_at_integers() -> None:
    """A square whose texture is as large as its picture shows the texture itself."""
    generator = torch.Generator().manual_seed(0)
    texture = torch.randint(256, (32, 32, 3), generator=generator, dtype=torch.uint8)
    corners = torch.tensor([[-0.5, -0.5], [31.5, -0.5], [-0.5, 31.5], [31.5, 31.5]])
    vertices = torch.cat([corners * torch.tensor([1, -1]), torch.zeros(4, 1)], dim=1)
    uv = torch.tensor([[0.0, 1], [1, 1], [0, 0], [1, 0]])
    camera = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, 1, 0]])
    square = Scan(vertices, torch.tensor([[0, 1, 2], [1, 3, 2]]), uv, texture)
    assert np.array_equal(render_scan(square, camera, 32, supersampling=1), texture.numpy())
    smooth = render_scan(square, camera, 32).astype(int)  # four samples a pixel, symmetric about its centre
    assert abs((smooth * [1, 1, 1]).mean() - texture.float().mean().item()) < 0.5
    assert (render_scan(square, camera + torch.tensor([[0, 0, 0, 10.0]] * 3), 32)[:9, :9] == 128).all()


def test_framing_is_that_of_the_mean_face_on_the_scan(
    dataset: Florence, views: list[FaceSample], tiny_model: MorphableModel
) -> None:
    """The box of the scan's own landmarks, which only this test knows, is nearly that of the mean face's."""
    own = torch.from_numpy(florence_data.vertices(tiny_model, seed=1)).float()[tiny_model.landmarks68]
    for index, sample in enumerate(views):
        box = sample.box
        true = face_box(apply_camera(dataset.view_camera(index)[None], own[None])[0])
        assert (box.x, box.y, box.size) == pytest.approx((true.x, true.y, true.size), abs=0.05 * true.size)
    low, high = own.aminmax(dim=0)
    assert face_box(own * dataset.view_camera(0)[0, :3].norm()).size == pytest.approx(0.4 * 450, rel=0.05)
    assert dataset.view_camera(2) @ torch.cat([(low + high) / 2, torch.ones(1)]) == pytest.approx(
        [224.5, 224.5, 0], abs=6
    )


@pytest.mark.parametrize("pitch", [-35.0, 15.0])
def test_a_tipped_face_is_framed_as_it_is_tipped(tmp_path: Path, tiny_model: MorphableModel, pitch: float) -> None:
    path = tmp_path / FRONTAL
    points = florence_data.vertices(tiny_model, pitch)
    florence_data.write_obj(path, points, tiny_model)
    scan = read_scan(path)
    _, pose = find_face(scan, mean_face(tiny_model))
    true = euler_to_rotation(torch.tensor([pitch, 0, 0]).deg2rad())
    assert (pose[:, :3].T @ true).trace() > 1 + 2 * math.cos(math.radians(5))
    dataset = Florence(tmp_path, "test", CROP, tiny_model)
    own = torch.from_numpy(points).float()[tiny_model.landmarks68]
    box, true_box = dataset.read(7).box, face_box(apply_camera(dataset.view_camera(7)[None], own[None])[0])
    assert (box.x, box.y, box.size) == pytest.approx((*true_box,), abs=0.05 * true_box.size)


def test_hair_collar_and_stray_points_are_no_nose(tiny_model: MorphableModel) -> None:
    points = torch.from_numpy(florence_data.vertices(tiny_model)).float()
    face = mean_face(tiny_model)
    texture = torch.zeros(2, 2, 3, dtype=torch.uint8)
    tip, _ = find_face(Scan(points, tiny_model.triangles, tiny_model.uv, texture), face)
    y = points[:, 1] - tip[1]
    changed = points.clone()
    changed[(y > 60) & (points[:, 0] > 20), 2] += 70  # a curl
    changed[y < -70, 2] += 60  # a collar
    changed[(points - tip - torch.tensor([20.0, 30, 0]))[:, :2].norm(dim=1).argmin(), 2] += 200
    found, _ = find_face(Scan(changed, tiny_model.triangles, tiny_model.uv, texture), face)
    assert changed[:, 2].max() > tip[2] + 50
    assert (found - tip).norm() < 4


def test_the_real_mean_face_finds_itself_however_it_is_tipped(bfm: MorphableModel) -> None:
    face = mean_face(bfm)
    for pitch in (-40, 30):
        rotation = euler_to_rotation(torch.tensor([pitch, 10, 5]).deg2rad())
        points = face @ rotation.T + torch.tensor([30.0, -12, 5])
        tip, pose = find_face(Scan(points, bfm.triangles, bfm.uv, torch.zeros(2, 2, 3, dtype=torch.uint8)), face)
        assert (tip - torch.tensor([30.0, -12, 5])).norm() < 4
        assert (pose[:, :3].T @ rotation).trace() > 1 + 2 * math.cos(math.radians(2))


def test_the_face_region_is_the_ball_around_the_nose_tip(dataset: Florence) -> None:
    region, scan, tip = dataset.face_region(3), dataset.scan(3), dataset.nose_tip(3)
    distance = (scan.vertices - tip).norm(dim=1)
    assert torch.equal(region, distance <= 95)
    assert 0 < region.sum() < len(region)


def test_a_nose_tip_file_overrides_what_is_found(copy: Path, tiny_model: MorphableModel) -> None:
    given = torch.from_numpy(florence_data.SHIFT).float() + torch.tensor([3.0, 0, 0])
    (copy / FRONTAL).with_name("nose_tip.txt").write_text(" ".join(map(str, given.tolist())) + "\n")
    torch.testing.assert_close(Florence(copy, "test", CROP, tiny_model).nose_tip(0), given)


@pytest.mark.parametrize("text", ["", "1 2", "left right up", "1 2 nan", "0 0 5000"])
def test_a_nose_tip_file_with_something_else_is_refused(copy: Path, tiny_model: MorphableModel, text: str) -> None:
    (copy / FRONTAL).with_name("nose_tip.txt").write_text(text)
    with pytest.raises(DataError, match=r"nose_tip.txt") as caught:
        Florence(copy, "test", CROP, tiny_model)[0]
    assert "\n" not in str(caught.value)


def test_units_of_morphable_models_are_told_by_the_width_of_the_jaw(tiny_model: MorphableModel) -> None:
    def model(factor: float) -> MorphableModel:
        parts = (tiny_model.mean * factor, tiny_model.shape_basis, tiny_model.expression_basis, tiny_model.triangles)
        return MorphableModel("scaled", *parts, tiny_model.uv, tiny_model.landmarks68, tiny_model.mirror)

    vertices = mean_face(tiny_model)
    landmarks = vertices[tiny_model.landmarks68]
    assert (landmarks[16] - landmarks[0]).norm() == pytest.approx(134, abs=2)
    for factor in (1e-3, 1e-6):  # millimetres, metres
        torch.testing.assert_close(mean_face(model(factor)), vertices, atol=1e-3, rtol=0)
    with pytest.raises(DataError, match=r"'scaled' is 1.3\de\+03 units wide"):
        mean_face(model(1e-2))


def test_a_vertex_on_a_seam_has_each_of_its_texture_coordinates(tmp_path: Path) -> None:
    """Two triangles with a common edge, each with its own half of the texture."""
    corners = "v -90 90 0\nv 90 90 0\nv -90 -90 0\nv 90 -90 0\n"
    uv = "vt 0 1\nvt 0.4 1\nvt 0 0\nvt 1 1\nvt 0.6 0\nvt 1 0\n"
    (tmp_path / "1.obj").write_text(f"mtllib 1.mtl\n{corners}{uv}usemtl 1\nf 1/1 2/2 3/3\nf 2/4 4/6 3/5\n")
    (tmp_path / "1.mtl").write_text("newmtl 1\nmap_Kd 1.png\n")
    cv2.imwrite(str(tmp_path / "1.png"), np.repeat([[255] * 8 + [0] * 8], 16, 0)[..., None].repeat(3, 2))
    scan = read_scan(tmp_path / "1.obj")
    assert len(scan.vertices) == 6
    camera = torch.tensor([[0.1, 0, 0, 9.0], [0, -0.1, 0, 9], [0, 0, 0.1, 0]])
    image = render_scan(scan, camera, 19)
    assert (image[2:7, 2:7] == 255).all()
    assert (image[12:17, 12:17] == 0).all()


def test_several_materials_become_one_texture(tmp_path: Path, tiny_model: MorphableModel) -> None:
    points = florence_data.vertices(tiny_model, seed=1)
    camera = torch.tensor([[1.2, 0, 0, 100.0], [0, -1.2, 0, 100], [0, 0, 1.2, 0]])
    views = []
    for materials in (1, 2):
        florence_data.write_obj(tmp_path / str(materials) / "1.obj", points, tiny_model, materials)
        views.append(render_scan(read_scan(tmp_path / str(materials) / "1.obj"), camera, 225).astype(int))
    assert np.abs(views[0] - views[1]).mean() < 1
    for colour in florence_data.MARKS.values():
        np.testing.assert_allclose(pure(views[0], colour).mean(0), pure(views[1], colour).mean(0), atol=1)


def test_holes_are_fine(copy: Path, tiny_model: MorphableModel) -> None:
    path = copy / FRONTAL
    lines = path.read_text().splitlines()
    faces = [line for line in lines if line.startswith("f ")]
    kept = set(faces[: len(faces) // 3] + faces[len(faces) // 3 + 400 :])
    path.write_text("\n".join(line for line in lines if not line.startswith("f ") or line in kept))
    path.with_name("nose_tip.txt").unlink()
    assert Florence(copy, "test", CROP, tiny_model)[7]["image"].float().std() > 10


def test_only_the_last_scan_stays_in_memory_and_workers_can_be_spawned(
    with_noses: Path, tiny_model: MorphableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def counted(path: Path) -> Scan:
        read.append(path)
        return read_scan(path)

    monkeypatch.setattr("jointface.datamodules.florence.read_scan", counted)
    dataset = Florence(with_noses, "test", CROP, tiny_model, view_size=90)
    assert not read
    for index in (0, 14, 15, 29):
        dataset.read(index)
    assert [path.parents[3].name for path in read] == ["subject_01", "subject_02"]
    assert dataset.scan(16) is dataset.scan(29)
    again = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(again[3]["image"], dataset[3]["image"])


def test_the_second_frontal_scan_stands_in_for_the_first(copy: Path, tiny_model: MorphableModel) -> None:
    (copy / FRONTAL).unlink()
    assert Florence(copy, "test", CROP, tiny_model).path(0).parts[-3:] == ("frontal2", "obj", "110920150628.obj")


def test_the_published_scan_is_read_not_what_was_written_beside_it(copy: Path, tiny_model: MorphableModel) -> None:
    for name in ("110920150452_new.obj", "aligned.obj", "0.obj.txt"):
        (copy / FRONTAL).with_name(name).write_text("v 0 0 0")
    assert Florence(copy, "test", CROP, tiny_model).path(0).name == FRONTAL.name


def test_subjects_without_a_frontal_scan_are_left_out_and_counted(
    copy: Path, tiny_model: MorphableModel, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(copy / "subject_02" / "Model")
    with caplog.at_level(logging.WARNING):
        assert len(Florence(copy, "test", CROP, tiny_model)) == 15
    assert "Florence: 1 subjects have no frontal .obj and are left out, e.g. subject_02" in caplog.text


def test_the_inventory_counts_subjects_and_scans(dataset: Florence) -> None:
    counts = {count.what: (count.found, count.published) for count in dataset.inventory()}
    assert counts == {"subjects": (2, 53), "subjects with a frontal scan": (2, 53), "scans": (5, None)}


@pytest.mark.parametrize("arguments", [{"pitches": []}, {"yaws": []}, {"view_size": 0}, {"split": "train"}])
def test_impossible_arguments_are_refused(root: Path, tiny_model: MorphableModel, arguments: dict) -> None:
    with pytest.raises(ConfigError):
        Florence(**{"root": root, "split": "test", "transform": CROP, "morphable_model": tiny_model, **arguments})


def deeper(root: Path) -> None:
    shutil.move(root, root.with_name("moved"))
    shutil.move(root.with_name("moved"), root / "Florence Face")


def zipped(root: Path) -> None:
    for subject in root.glob("subject_*"):
        shutil.rmtree(subject)
        subject.with_name(f"{subject.name}.zip").write_bytes(b"PK")


def renamed(root: Path) -> None:
    for subject in root.glob("subject_*"):
        subject.rename(subject.with_name(subject.name.title()))


def without_models(root: Path) -> None:
    for subject in root.glob("subject_*"):
        (subject / "Model").rename(subject / "model")


def without_obj(root: Path) -> None:
    for path in root.rglob("*.obj"):
        path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shutil.rmtree, "no folder .*florence: looked there for MICC Florence; set paths.data_dir"),
        (deeper, "no folder .*subject_01: .*found it one folder too deep, in .*Florence Face"),
        (zipped, "no folder .*subject_01: .*found subject_01.zip there, unpack it"),
        (renamed, "no folder .*subject_01: .*found 'Subject_01' there, rename it to 'subject_01'"),
        (without_models, "no folder .*Model: .*found 'model' there, rename it to 'Model'"),
        (without_obj, "no .obj in .*frontal1/obj: looked there for the first frontal scan of MICC Florence"),
    ],
)
def test_another_layout_is_refused_in_one_line(
    copy: Path, tiny_model: MorphableModel, change: Callable[[Path], None], message: str
) -> None:
    change(copy)
    with pytest.raises(DataError, match=message) as caught:
        Florence(copy, "test", CROP, tiny_model)
    assert "\n" not in str(caught.value)


def break_scan(path: Path, change: str) -> None:
    lines, image = path.read_text().splitlines(), path.with_suffix(".bmp")
    match change:
        case "metres":
            for row, line in enumerate(lines):
                if line.startswith("v "):
                    lines[row] = "v " + " ".join(f"{float(value) / 1000:.6f}" for value in line.split()[1:])
        case "few vertices":
            faces = [line for line in lines if line.startswith("f ")]
            lines = [line for line in lines if not line.startswith("f ")] + faces[::72]
        case "not a number":
            lines[40] = "v 1.0 nan 2.0"
        case "letters":
            lines[40] = "v one two three"
        case "index":
            lines[-1] = "f 99999/1 1/1 2/2"
        case "empty":
            lines = []
        case "cut":
            lines = [*lines[:2000], lines[2000][:6]]
        case "no uv":
            lines = [line for line in lines if not line.startswith("vt ")]
            lines = [
                "f " + " ".join(corner.split("/")[0] for corner in line.split()[1:]) if line[0] == "f" else line
                for line in lines
            ]
        case "no map_Kd":
            path.with_suffix(".mtl").write_text("newmtl 110920150452\nKd 1 1 1\n")
        case "no image":
            image.unlink()
        case "no bitmap":
            image.write_bytes(b"not an image")
        case "image":
            image.write_bytes(image.read_bytes()[:3000])
    path.write_text("\n".join(lines))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("metres", r"the scan is 0\.\d+ units large, .* convert it to millimetres"),
        ("few vertices", r"\d+ vertices lie within 95 mm of the nose tip at \(.*\), a face has at least 500"),
        ("not a number", "vertices hold values that are not finite"),
        ("letters", r"11092\d+.obj: "),
        ("index", "not a readable .obj"),
        ("empty", "the file is empty"),
        ("cut", "holds no triangles; it is damaged or not a scan, get it again"),
        ("no uv", "no texture; its .mtl and the image"),
        ("no map_Kd", "no texture; its .mtl and the image"),
        ("no image", "no texture; its .mtl and the image"),
        ("no bitmap", "no texture; its .mtl and the image"),
        ("image", "110920150452.bmp is not an intact image"),
    ],
)
def test_a_broken_scan_is_refused_in_one_line(
    copy: Path, tiny_model: MorphableModel, change: str, message: str
) -> None:
    break_scan(copy / FRONTAL, change)
    dataset = Florence(copy, "test", CROP, tiny_model)
    with pytest.raises(DataError, match=f"{FRONTAL.name}.*{message}" if change != "letters" else message) as caught:
        dataset[0]
    assert "\n" not in str(caught.value)


def test_the_scans_beside_a_broken_one_are_read(copy: Path, tiny_model: MorphableModel) -> None:
    (copy / FRONTAL).write_text("v")
    dataset = Florence(copy, "test", CROP, tiny_model)
    with pytest.raises(DataError):
        dataset[0]
    assert dataset[15]["identity"] == 2


def test_folders_and_scans_without_permission_are_named(
    copy: Path, tiny_model: MorphableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Florence(copy, "test", CROP, tiny_model)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).suffix != ".obj")
    with pytest.raises(DataError, match=r"110920150452.obj: no permission to read the file"):
        dataset[0]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(DataError, match=r"florence: no permission to read the folder"):
        Florence(copy, "test", CROP, tiny_model)
