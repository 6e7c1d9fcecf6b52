"""What PRNet and 3DDFA write, turned into predictions: the right way up, whole or not at all."""

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io
import torch

from jointface.errors import DataError
from jointface.evaluation.other_programs import import_predictions
from jointface.evaluation.prediction_files import read_prediction
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
    with pytest.raises(DataError, match="the morphable model has other vertices"):
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


def test_photos_without_a_file_are_counted_and_listed(
    source: Path, tmp_path: Path, photos: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    np.savetxt(source / "image00002.txt", np.ones((68, 2)))
    with caplog.at_level(logging.WARNING):
        assert import_predictions(source, tmp_path / "out", photos) == ["image00004"]
    assert "1 of 2 photos have no file in" in caplog.text
    assert "image00004; " in caplog.text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["image00002.npz", "missing.txt"]
    assert (tmp_path / "out" / "missing.txt").read_text() == "image00004.jpg\n"


def test_many_photos_without_a_file_are_only_listed(
    source: Path, tmp_path: Path, photos: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    np.savetxt(source / "image00002.txt", np.ones((68, 2)))
    others = {f"image{n:05d}": tmp_path / f"image{n:05d}.jpg" for n in range(1000, 1020)}
    with caplog.at_level(logging.WARNING):
        import_predictions(source, tmp_path / "out", {**photos, **others})
    (line,) = caplog.messages
    assert line.startswith("21 of 22 photos have no file in")
    assert "image01000" not in line
    assert str(tmp_path / "out" / "missing.txt") in line
    assert len((tmp_path / "out" / "missing.txt").read_text().splitlines()) == 21


def test_a_damaged_file_leaves_nothing_and_all_of_them_are_named(
    source: Path, tmp_path: Path, photos: dict[str, Path]
) -> None:
    stems = [f"image{n:05d}" for n in range(9)]
    for stem in stems:
        np.savetxt(source / f"{stem}_kpt.txt", np.ones((68, 3)))
    for stem in stems[1:8]:
        (source / f"{stem}_kpt.txt").write_text("1 2 3\n")
    with pytest.raises(DataError, match=r"damaged files in .* \(7\), nothing was imported: ") as error:
        import_predictions(source, tmp_path / "out", {stem: tmp_path / f"{stem}.jpg" for stem in stems})
    for stem in stems[1:6]:
        assert f"{stem}_kpt.txt: landmarks68 has shape (1, 3)" in str(error.value)
    assert str(error.value).endswith("; and 2 more")
    assert "\n" not in str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"results", *(path.name for path in photos.values())}


def test_an_interrupted_import_leaves_nothing(
    source: Path, tmp_path: Path, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for stem in photos:
        np.savetxt(source / f"{stem}.txt", np.ones((68, 2)))

    def interrupted(path: Path, **arrays: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jointface.evaluation.other_programs.write_prediction", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_predictions(source, tmp_path / "out", photos)
    assert {path.name for path in tmp_path.iterdir()} == {"results", *(path.name for path in photos.values())}


def test_a_folder_that_holds_something_stays_as_it_is(source: Path, tmp_path: Path, photos: dict[str, Path]) -> None:
    np.savetxt(source / "image00002.txt", np.ones((68, 2)))
    target = tmp_path / "out"
    target.mkdir()
    import_predictions(source, target, photos)  # empty
    before = (target / "image00002.npz").read_bytes()
    with pytest.raises(DataError, match=r"out: already exists; choose another output_dir, or remove it first"):
        import_predictions(source, target, photos)
    assert (target / "image00002.npz").read_bytes() == before


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
        ("image00002_kpt.txt", b"1 2 3\n", r"landmarks68 has shape \(1, 3\), expected \(68, 2\) or \(68, 3\)"),
        ("image00002_kpt.txt", b"a b\n", "not a table of landmarks"),
        (
            "image00002_kpt.txt",
            b"nan nan\n" * 68,
            "image00002_kpt.txt: landmarks68 holds values that are not finite numbers",
        ),
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
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, photos: dict[str, Path]) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere: looked there for the files that a method wrote"):
        import_predictions(tmp_path / "nowhere", tmp_path / "out", photos)
