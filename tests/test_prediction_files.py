"""Other methods' predictions: the format, and what PRNet and 3DDFA write turned into it."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from jointface.benchmarks.prediction_files import import_predictions, read_prediction, write_prediction
from jointface.errors import DataError
from jointface.geometry import MorphableModel
from tests.data.prnet import data as prnet_data

HEIGHT = 300


@pytest.fixture
def face(tiny_model: MorphableModel) -> np.ndarray:
    """(V, 3) the mean face in a photo, y down."""
    return tiny_model.mean.double().numpy() * [1e-3, -1e-3, 1e-3] + [140.25, 130.5, 0]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An empty folder for what a method wrote."""
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    """Two photos."""
    paths = {stem: tmp_path / f"{stem}.jpg" for stem in ("image00002", "image00004")}
    for path in paths.values():
        cv2.imwrite(str(path), np.zeros((HEIGHT, 280, 3), np.uint8))
    return paths


def seen_from_below(model: MorphableModel) -> np.ndarray:
    """Triangles as PRNet has them, for y down."""
    return model.triangles.numpy()[:, ::-1]


def test_a_prediction_reads_back_as_written(tmp_path: Path, tiny_model: MorphableModel) -> None:
    face = {
        "landmarks68": torch.rand(68, 3),
        "vertices": tiny_model.mean,
        "triangles": tiny_model.triangles,
        "pose": torch.tensor([1.0, -80, 3]),
    }
    write_prediction(tmp_path / "folder" / "photo.npz", **face)
    read = read_prediction(tmp_path / "folder" / "photo.npz")
    assert read.keys() == face.keys()
    for name, tensor in face.items():
        torch.testing.assert_close(read[name], tensor, rtol=0, atol=0)
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["photo.npz"]


def test_landmarks_alone_are_a_prediction_in_any_number_type(tmp_path: Path) -> None:
    np.savez(tmp_path / "photo.npz", landmarks68=np.arange(136).reshape(68, 2))
    read = read_prediction(tmp_path / "photo.npz")
    assert read["landmarks68"].dtype == torch.float32
    assert read["landmarks68"][67].tolist() == [134, 135]


POINTS, TRIANGLES = np.zeros((4, 3)), np.array([[0, 1, 2], [1, 3, 2]])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds neither landmarks68 nor vertices"),
        ({"pose": np.zeros(3)}, "holds neither landmarks68 nor vertices"),
        ({"landmarks68": np.zeros((3, 68))}, r"landmarks68 has shape \(3, 68\), expected \(68, 2\) or \(68, 3\)"),
        ({"landmarks68": np.zeros((68, 4))}, r"landmarks68 has shape \(68, 4\)"),
        ({"landmarks68": np.full((68, 2), np.nan)}, "landmarks68 holds NaN"),
        ({"landmarks68": np.full((68, 2), "a")}, "landmarks68 holds NaN or values that are no finite numbers"),
        ({"landmarks68": np.full((68, 2), None)}, "without pickled objects"),
        ({"landmarks68": np.zeros((68, 2)), "pose": np.zeros(7)}, r"pose has shape \(7,\), expected \(3,\)"),
        ({"vertices": POINTS}, "vertices and triangles belong together"),
        ({"vertices": POINTS[:, :2], "triangles": TRIANGLES}, r"vertices has shape \(4, 2\), expected \(V, 3\)"),
        ({"vertices": POINTS, "triangles": TRIANGLES.T}, r"triangles has shape \(3, 2\), expected \(F, 3\)"),
        ({"vertices": POINTS, "triangles": TRIANGLES + 1}, "whole numbers from 0 to 3"),
        ({"vertices": POINTS, "triangles": TRIANGLES / 2}, "whole numbers from 0 to 3"),
        ({"vertices": POINTS[:0], "triangles": TRIANGLES}, r"vertices has shape \(0, 3\)"),
    ],
)
def test_a_file_that_is_no_prediction_is_refused_in_one_line(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "photo.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        read_prediction(tmp_path / "photo.npz")
    assert "photo.npz" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"], ids=["empty", "other", "cut"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "photo.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"photo.npz") as error:
        read_prediction(tmp_path / "photo.npz")
    assert "\n" not in str(error.value)


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "photo.npz").open("wb") as file:
        np.save(file, np.zeros((68, 2)))
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        read_prediction(tmp_path / "photo.npz")


def test_a_file_cut_in_the_middle_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "photo.npz"
    write_prediction(path, torch.rand(68, 3))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"not a readable .npz file"):
        read_prediction(path)


# What other programs write


@pytest.mark.parametrize("textured", [False, True])
def test_prnets_obj_is_turned_the_right_way_up(
    source: Path, tmp_path: Path, photos: dict[str, Path], face: np.ndarray, tiny_model: MorphableModel, textured: bool
) -> None:
    for stem in photos:
        prnet_data.write_prnet_obj(source / f"{stem}.obj", face, seen_from_below(tiny_model), HEIGHT, textured)
    assert import_predictions(source, tmp_path / "out", photos) == []
    read = read_prediction(tmp_path / "out" / "image00004.npz")
    np.testing.assert_allclose(read["vertices"], face, atol=1e-3)
    assert torch.equal(read["triangles"], tiny_model.triangles)
    assert "landmarks68" not in read


def test_prnets_mat_and_landmarks_are_of_one_face(
    source: Path, tmp_path: Path, photos: dict[str, Path], face: np.ndarray, tiny_model: MorphableModel
) -> None:
    landmarks = face[tiny_model.landmarks68.numpy()]
    for stem in photos:
        prnet_data.write_prnet_mat(source / f"{stem}_mesh.mat", face, seen_from_below(tiny_model))
        np.savetxt(source / f"{stem}_kpt.txt", landmarks)
        np.savetxt(source / f"{stem}_pose.txt", np.zeros(3))
        scipy.io.savemat(source / f"{stem}_depth.mat", {"depth": np.zeros((4, 4))})
    import_predictions(source, tmp_path / "out", photos)
    read = read_prediction(tmp_path / "out" / "image00002.npz")
    np.testing.assert_allclose(read["vertices"], face, atol=1e-3)
    np.testing.assert_allclose(read["landmarks68"], landmarks, atol=1e-3)
    assert torch.equal(read["triangles"], tiny_model.triangles)


def test_3ddfas_mesh_takes_the_triangles_of_its_model(
    source: Path, tmp_path: Path, photos: dict[str, Path], face: np.ndarray, tiny_model: MorphableModel
) -> None:
    landmarks = face[tiny_model.landmarks68.numpy()]
    for stem in photos:
        prnet_data.write_3ddfa(source, stem, face, landmarks)
    import_predictions(source, tmp_path / "out", photos, tiny_model.triangles)
    read = read_prediction(tmp_path / "out" / "image00002.npz")
    np.testing.assert_allclose(read["vertices"], face, atol=1e-3)
    np.testing.assert_allclose(read["landmarks68"], landmarks, atol=1e-3)
    with pytest.raises(DataError, match="vertices without triangles"):
        import_predictions(source, tmp_path / "other", photos)
    with pytest.raises(DataError, match="the morphable model has others"):
        import_predictions(source, tmp_path / "other", photos, tiny_model.triangles[:9])


def test_3ddfa_v2s_obj_has_its_own_last_row(
    source: Path, tmp_path: Path, photos: dict[str, Path], face: np.ndarray, tiny_model: MorphableModel
) -> None:
    for stem in photos:
        prnet_data.write_3ddfa_v2_obj(source / f"{stem}_obj.obj", face, seen_from_below(tiny_model), HEIGHT)
    import_predictions(source, tmp_path / "out", photos)
    read = read_prediction(tmp_path / "out" / "image00004.npz")
    np.testing.assert_allclose(read["vertices"], face, atol=0.006)
    assert torch.equal(read["triangles"], tiny_model.triangles)


def test_photos_without_a_file_are_counted(
    source: Path, tmp_path: Path, photos: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    np.savetxt(source / "image00002.txt", np.ones((68, 2)))
    with caplog.at_level(logging.WARNING):
        assert import_predictions(source, tmp_path / "out", photos) == ["image00004"]
    assert "1 of 2 photos" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["image00002.npz"]


def test_labels_beside_the_photos_are_no_predictions(tmp_path: Path, photos: dict[str, Path]) -> None:
    for stem in photos:
        scipy.io.savemat(tmp_path / f"{stem}.mat", {"Pose_Para": np.zeros((1, 7))})
        np.savetxt(tmp_path / f"{stem}_0.txt", np.ones((3, 68)))
    assert import_predictions(tmp_path, tmp_path / "out", photos) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image00002.obj", b"", "not a readable .obj file|holds no triangles"),
        ("image00002.obj", b"v 1 2 3\nv 1 2 4\n", "not a readable .obj file|holds no triangles"),
        ("image00002_mesh.mat", b"cut", "not a readable MATLAB file"),
        ("image00002_kpt.txt", b"1 2 3\n", r"points of shape \(1, 3\), expected \(68, 3\)"),
        ("image00002_kpt.txt", b"a b\n", "not a table of landmarks"),
        ("image00002_kpt.txt", b"nan nan\n" * 68, "landmarks68 holds NaN"),
        ("other.obj", b"", "no prediction of any photo in .*: looked there for STEM_mesh.mat, STEM.obj"),
    ],
)
def test_broken_outputs_are_refused_in_one_line(
    source: Path, tmp_path: Path, photos: dict[str, Path], name: str, content: bytes, message: str
) -> None:
    (source / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        import_predictions(source, tmp_path / "out", photos)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, photos: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere: looked there for the files that a method wrote"):
        import_predictions(tmp_path / "nowhere", tmp_path / "out", photos)
