"""`python -m jointface.predict`: photos in; overlays, meshes and tables out, whatever the photos, and resumable."""

import csv
import json
import os
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
import trimesh
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image

from jointface import FaceReader
from jointface.command_line import CONF_DIR
from jointface.errors import CheckpointError, ConfigError, InputError
from jointface.geometry import FaceBox, MorphableModel
from jointface.inference.face import Face, Pose
from jointface.inference.input_files import find_files
from jointface.inference.output_folder import Results
from jointface.inference.photo_overlay import likeliest, photo_overlay
from jointface.inference.photos import Photo
from jointface.modules.checkpoint import KEY, describe
from jointface.predict import predict
from jointface.viz.overlay import AXIS_COLOURS, overlay_axes, overlay_text
from tests.commands import run_command
from tests.networks import make_module, network_config

SKIPPED = {
    "cut.jpg": "damaged",
    "dot.png": "1 x 1 pixels are too small",
    "notes\\udcff.txt": "not a picture",  # a name that is not UTF-8
    "page.jpg": "PDF",
}


@pytest.fixture(scope="module")
def checkpoint(tiny_model: MorphableModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights, near to the mean face."""
    module = make_module(tiny_model)
    with torch.no_grad():
        for parameter in module.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    description = describe(module.network, network_config("morphable"))
    torch.save({KEY: description, "state_dict": module.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four photos, two of them of one name, and four files that are none."""
    folder = tmp_path_factory.mktemp("photos")
    coarse = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC)
    (folder / "below").mkdir()
    picture.save(folder / "same.jpg")
    picture.resize((60, 90)).save(folder / "same.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    picture.save(folder / "below" / "turned one.jpg", exif=turned)
    picture.save(folder / "moving.gif", save_all=True, append_images=[picture.rotate(180)])
    (folder / "cut.jpg").write_bytes((folder / "same.jpg").read_bytes()[:900])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / os.fsdecode(b"notes\xff.txt")).write_text("not a photo")
    (folder / "page.jpg").write_bytes(b"%PDF-1.7 ...")
    (folder / ".hidden.jpg").write_bytes((folder / "same.jpg").read_bytes())
    return folder


def prediction_config(source: Path | str, checkpoint: Path, output_dir: Path, *overrides: str) -> DictConfig:
    given = [f"input={source}", f"checkpoint={checkpoint}", f"output_dir={output_dir}", "finder=none", "device=cpu"]
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("predict", overrides=[*given, *overrides])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same_results(folder: Path, other: Path) -> None:
    """The same files, and the same faces to the last digits, in which batches of other sizes differ."""
    assert contents(folder).keys() == contents(other).keys()
    tables = [pd.read_csv(path / "faces.csv") for path in (folder, other)]
    pd.testing.assert_frame_equal(*tables, rtol=0, atol=5e-3)


@pytest.fixture(scope="module")
def results(photos: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is written of the folder."""
    folder = tmp_path_factory.mktemp("results")
    assert predict(prediction_config(photos, checkpoint, folder, "parquet=true", "batch_size=2")) == 4
    return folder


NAMES = ("below/turned one", "moving", "same_jpg", "same_png")


def test_each_photo_has_an_overlay_and_meshes(results: Path) -> None:
    texture = [f"_texture.{ending}" for ending in ("mtl", "png")]
    expected = {f"overlays/{name}.jpg" for name in NAMES}
    expected |= {f"meshes/{name}_1{ending}" for name in NAMES for ending in (".glb", ".ply", ".obj")}
    expected |= {f"meshes/{name.replace('turned one', 'turned_one')}_1{ending}" for name in NAMES for ending in texture}
    expected |= {"contact_sheet.png", "skipped.csv", "faces.csv", "faces.json", "faces.parquet"}
    assert {name for name in contents(results) if not name.startswith("records")} == expected
    assert cv2.imread(str(results / "overlays" / "below" / "turned one.jpg")).shape == (640, 480, 3)


def test_tables_say_what_the_reader_says_with_units(results: Path, photos: Path, checkpoint: Path) -> None:
    table, entries = pd.read_csv(results / "faces.csv"), json.loads((results / "faces.json").read_text())
    pd.testing.assert_frame_equal(pd.read_parquet(results / "faces.parquet"), table)
    assert [Path(photo).name for photo in table["photo"]] == ["moving.gif", "same.jpg", "same.png", "turned one.jpg"]
    assert set(entries["units"]) <= set(entries["faces"][0])
    (face,) = FaceReader.load(checkpoint, finder="none", device="cpu")(photos / "same.png")
    row, entry = table.loc[2], entries["faces"][2]
    assert [row["width_px"], row["height_px"], row["face"]] == [60, 90, 1]
    assert [row[f"box_{name}_px"] for name in ("x", "y", "size")] == pytest.approx([*face.box], abs=2e-3)
    assert [row[f"{name}_deg"] for name in ("pitch", "yaw", "roll")] == pytest.approx([*face.pose[1:]], abs=2e-3)
    np.testing.assert_allclose(entry["pose"]["matrix"], face.pose.matrix, atol=1e-5)
    np.testing.assert_allclose(entry["landmarks"], face.landmarks, atol=2e-3)
    assert [row[f"landmark_67_{axis}_px"] for axis in "xyz"] == entry["landmarks"][67]
    assert entry["attributes"] == pytest.approx(face.attributes, abs=1e-4)
    assert row["Smiling_prob"] == entry["attributes"]["Smiling"]


def test_what_is_no_photo_is_named_with_the_reason(results: Path) -> None:
    with (results / "skipped.csv").open() as file:
        rows = {Path(row["photo"]).name: row["reason"] for row in csv.DictReader(file)}
    assert set(rows) == set(SKIPPED)
    for name, reason in SKIPPED.items():
        assert reason in rows[name]
        assert name not in rows[name]


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
@pytest.mark.parametrize("scale", [1.0, 0.01])
def test_meshes_stand_upright_and_lie_on_the_photo(
    kind: str, scale: float, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """y is up, one unit is a pixel / scale, and each vertex shows the pixel of the photo at which it lies."""
    source = photos / "below" / "turned one.jpg"
    predict(prediction_config(f"'{source}'", checkpoint, tmp_path, f"meshes=[{kind}]", f"mesh_scale={scale}"))
    (face,) = FaceReader.load(checkpoint, finder="none", device="cpu")(source)
    mesh = trimesh.load_mesh(tmp_path / "meshes" / f"turned one_1.{kind}", process=False)
    corners = np.asarray(mesh.vertices)[np.asarray(mesh.faces)]  # loaders of .obj reorder vertices
    expected = (face.vertices * [1, -1, 1] * scale)[face.triangles]
    np.testing.assert_allclose(corners, expected, atol=0.01 * scale)
    brow, chin = (-face.landmarks[number, 1] for number in (19, 8))
    assert brow > chin
    texture = mesh.visual if kind == "ply" else mesh.visual.to_color()
    colours = np.asarray(texture.vertex_colors)[np.asarray(mesh.faces)][..., :3].astype(int)
    height, width = face.photo.image.shape[:2]
    x, y = (face.vertices[face.triangles][..., :2].round().astype(int).clip(0, [width - 1, height - 1])).T
    difference = np.abs(colours - face.photo.image[y.T, x.T])  # the picture is smooth, nearest pixels differ
    assert (difference.mean() < 2, difference.max() < 25) == (True, True)


@pytest.mark.parametrize("kind", ["obj", "ply"])
def test_another_library_reads_the_same_meshes(kind: str, results: Path, photos: Path, checkpoint: Path) -> None:
    (face,) = FaceReader.load(checkpoint, finder="none", device="cpu")(photos / "moving.gif")
    vertices, triangles, _, _, uv = cv2.loadMesh(str(results / "meshes" / f"moving_1.{kind}"))
    corners = vertices.reshape(-1, 3)[np.stack([triangle.ravel() for triangle in triangles])]
    np.testing.assert_allclose(corners * [1, -1, 1], face.vertices[face.triangles], atol=0.01)
    if kind == "obj":  # v upwards from the lower edge of the texture, which is the part of the photo that is covered
        texture = cv2.imread(str(results / "meshes" / "moving_1_texture.png"), cv2.IMREAD_COLOR_RGB)
        uv = uv.reshape(-1, uv.size // len(vertices.reshape(-1, 3)))[:, :2]
        x, y = (uv * [1, -1] + [0, 1]).T * np.array(texture.shape[1::-1])[:, None] - 0.5
        seen = texture[y.round().astype(int), x.round().astype(int)].astype(int)
        places = (vertices.reshape(-1, 3)[:, :2] * [1, -1]).round().astype(int)
        height, width = face.photo.image.shape[:2]
        inside = ((places >= 0) & (places < [width, height])).all(1)
        assert inside.mean() > 0.3
        assert np.abs(seen - face.photo.image[places[:, 1] % height, places[:, 0] % width])[inside].max() <= 12


def test_what_is_done_is_not_read_again(
    results: Path, photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "results"
    shutil.copytree(results, folder)
    config = prediction_config(photos, checkpoint, folder, "parquet=true", "batch_size=32")
    read: list[str] = []
    whole = Results.write
    monkeypatch.setattr(
        Results, "write", lambda self, file, reading: read.append(file.name) or whole(self, file, reading)
    )
    predict(config)
    assert read == []
    (folder / "meshes" / "moving_1.ply").unlink()
    (folder / "records" / "same_png.json").write_text("{")
    predict(config)
    assert read == ["moving", "same_png"]
    same_results(folder, results)
    read.clear()
    config.meshes, config.parquet = ["ply"], False
    predict(config)
    assert not (folder / "faces.parquet").exists()
    assert len(read) == len(NAMES) + len(SKIPPED)
    assert {path.suffix for path in (folder / "meshes").rglob("*.*")} == {".ply"}


@pytest.mark.parametrize("written", [1, 20])
def test_an_interrupted_run_leaves_whole_files_and_continues(
    written: int, results: Path, photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle of the last step of writing a file, after so many files."""
    replace, count = os.replace, 0

    def stopped(*paths: Any) -> None:
        nonlocal count
        count += 1
        if count > written:
            raise KeyboardInterrupt
        replace(*paths)

    config = prediction_config(photos, checkpoint, tmp_path, "parquet=true", "batch_size=2")
    with monkeypatch.context() as patch:
        patch.setattr("jointface.files.os.replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            predict(config)
    assert len(contents(tmp_path)) == written
    assert contents(tmp_path).items() <= contents(results).items()
    predict(config)
    same_results(tmp_path, results)


def test_no_face_in_any_photo_is_an_error_that_names_the_reasons(
    photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no face in any photo; 1 file skipped, .*skipped.csv says why"):
        predict(prediction_config(photos / "dot.png", checkpoint, tmp_path))
    assert "too small" in (tmp_path / "skipped.csv").read_text()


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["input=null"], ConfigError, "nothing to read: set input=photo.jpg"),
        (["input=nowhere.jpg"], InputError, "input=nowhere.jpg: no such file or folder"),
        (["input=nowhere/*.jpg"], InputError, "input=nowhere/.*: no file matches this pattern"),
        (["checkpoint=nowhere.ckpt"], CheckpointError, "nowhere.ckpt"),
        (["meshes=[stl]"], ConfigError, "meshes=stl: choose from glb, obj, ply"),
        (["mesh_scale=0"], ConfigError, "mesh_scale=0: expected a number above 0"),
        (["overlay_side=9"], ConfigError, "overlay_side=9: expected at least 64"),
        (["max_faces=0"], ConfigError, "max_faces=0: expected a whole number of at least 1"),
        (["overlay=maybe"], ConfigError, "overlay=maybe: expected true or false"),
        (["finder=haar"], ConfigError, "finder=haar: choose from"),
    ],
)
def test_mistakes_are_refused_in_one_line(
    overrides: list[str], error: type[Exception], message: str, photos: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        predict(prediction_config(photos, checkpoint, tmp_path / "out", *overrides))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_ends_with_0_where_there_is_a_face(photos: Path, checkpoint: Path, tmp_path: Path) -> None:
    source = f"input=[{photos}/same.jpg,{photos}/cut.jpg]"
    arguments = [source, f"checkpoint={checkpoint}", "finder=none", "device=cpu", "meshes=[]", "overlay=false"]
    result = run_command("predict", *arguments, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert f"skipped {photos}/cut.jpg: the picture is damaged" in result.stdout
    assert "predictions: 1 face of 1 photo; 1 file skipped" in result.stdout
    assert {path.name for path in (tmp_path / "predictions").iterdir()} == {
        "records", "faces.csv", "faces.json", "skipped.csv"
    }  # fmt: skip


def test_inputs_are_files_folders_and_patterns_each_file_once(photos: Path) -> None:
    def names(*inputs: str, leave_out: Path | None = None) -> list[str]:
        return [file.name for file in find_files(inputs, [] if leave_out is None else [leave_out])]

    assert names(str(photos / "same.jpg")) == ["same"]
    assert names(f"{photos}/*.png") == ["dot", "same"]
    assert names(f"{photos}/**/*.jpg", str(photos / "same.jpg")) == ["below/turned one", "cut", "page", "same"]
    assert names(str(photos / "below"), str(photos / "dot.png")) == ["below/turned one", "dot"]
    assert "below/turned one" not in names(str(photos), leave_out=photos / "below")
    assert names(f"{photos}/below/*", leave_out=photos / "dot.png") == ["turned one"]


def test_results_of_no_two_photos_have_one_name_for_any_program(tmp_path: Path) -> None:
    """Some file systems do not tell cases apart, readers of .obj no blanks; names may be too long or not in UTF-8."""
    files = ["a.jpg", "A.png", "my face.jpg", "my_face.jpg", "x" * 250 + ".jpg", os.fsdecode(b"caf\xe9.jpg")]
    for file in files:
        (tmp_path / file).touch()
    names = {file.path.name: file.name for file in find_files([str(tmp_path)])}
    assert len({"_".join(name.lower().split()) for name in names.values()}) == len(files)
    assert names["x" * 250 + ".jpg"] == "x" * 200
    assert names[os.fsdecode(b"caf\xe9.jpg")] == "caf_"


# --- pictures


def test_axes_point_where_the_head_points() -> None:
    black, rotation = np.zeros((100, 100, 3), np.uint8), np.array([[0, 0, 1.0], [0, 1, 0], [-1, 0, 0]])  # looks right
    picture = overlay_axes(black, np.array([50.0, 50]), rotation, 30, thickness=1)
    _, green, blue = AXIS_COLOURS
    np.testing.assert_allclose(picture[50, 70], blue, atol=40)  # ahead
    np.testing.assert_allclose(picture[30, 50], green, atol=40)  # up
    assert not picture[55:, :45].any()


def test_text_stays_inside_the_picture() -> None:
    grey = np.full((60, 200, 3), 100, np.uint8)
    for place in ((-50.0, -50.0), (190.0, 50.0)):
        box = (overlay_text(grey, ["Smiling"], place) != grey).any(2)
        assert box.any()
        rows, columns = np.nonzero(box)
        assert (rows.max() - rows.min(), columns.max() - columns.min()) >= (15, 50)


def test_labels_of_neighbours_cover_no_face_and_no_other_label() -> None:
    photo = Photo(np.full((480, 640, 3), 100, np.uint8))
    faces = [Face(photo, FaceBox(x, 200, 120), 0.9, attributes={"Smiling": 0.9}) for x in (150, 290, 500)]
    labelled = (photo_overlay(photo, faces, longest=640) != 100).any(2)
    assert not any(labelled[140:260, round(face.box.x) - 60 : round(face.box.x) + 60].any() for face in faces)
    alone = [(photo_overlay(photo, [face], longest=640, numbers=[2]) != 100).any(2).sum() for face in faces]
    assert labelled.sum() == pytest.approx(sum(alone), rel=0.05)


@pytest.mark.parametrize(
    ("size", "expected"), [((40, 30), (640, 480)), ((900, 600), (900, 600)), ((4000, 100), (1600, 40))]
)
def test_overlays_have_a_size_at_which_faces_are_seen(size: tuple[int, int], expected: tuple[int, int]) -> None:
    width, height = size
    photo, pose = Photo(np.zeros((height, width, 3), np.uint8)), Pose.from_matrix(np.eye(3))
    vertices = np.array([[2, 3, 0], [8, 3, 0], [5, 9, 0]], np.float32)

    def face(shift: float) -> Face:
        points = vertices + np.float32(shift)
        landmarks = np.tile(points, (23, 1))[:68]
        return Face(
            photo, FaceBox(5, 5, 6), 1.0, points, np.array([[0, 2, 1]]), None, landmarks, pose, {"Smiling": 0.9}
        )

    picture = photo_overlay(photo, [face(0), face(-200)], longest=1600)  # the second is outside
    assert picture.shape == (*expected[::-1], 3)
    assert picture.any()


def test_the_likeliest_attributes_are_present_ones() -> None:
    chosen = likeliest({"Bald": 0.2, "Smiling": 0.7, "Young": 0.9, "Male": 0.5}, count=2)
    assert chosen == ["Young", "Smiling"]
    assert all(first != second for first, second in pairwise(chosen))
