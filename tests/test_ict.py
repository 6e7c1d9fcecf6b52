"""ICT-FaceKit's morphable model, on a tiny copy of its folder."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from jointface.errors import ConfigError, DataError
from jointface.geometry.ict import load_ict
from jointface.geometry.morphable_model import MIRROR68
from tests.data.ict import data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data.write(tmp_path_factory.mktemp("ict") / "FaceXModel")


def test_the_model_is_the_face_of_the_meshes_in_millimetres(folder: Path) -> None:
    model = load_ict(str(folder))
    u, v = model.uv.double().numpy().T
    x, y = u - 0.5, v - 0.5
    assert (model.name, model.num_shape, model.num_expression) == ("ict", 100, 3)
    assert len(model.mean) == data.SIDE**2  # the material M_Face alone
    tolerance = {"atol": 1e-3, "rtol": 0}  # mm
    np.testing.assert_allclose(model.mean, 10 * data.face(x, y), **tolerance)
    np.testing.assert_allclose(model.shape_basis[..., 7], 10 * data.component(7, x, y), **tolerance)
    np.testing.assert_allclose(model.expression_basis[..., 1], 10 * data.component(101, x, y), **tolerance)


def test_quads_become_triangles_that_face_the_viewer(folder: Path) -> None:
    model = load_ict(str(folder))
    a, b, c = model.mean[model.triangles].unbind(1)
    assert len(model.triangles) == 2 * (data.SIDE - 1) ** 2
    assert (torch.linalg.cross(b - a, c - a)[:, 2] > 0).all()


def test_landmarks_and_vertices_are_paired_by_the_mirror_map(folder: Path) -> None:
    model = load_ict(str(folder))
    assert torch.equal(model.mirror[model.landmarks68], model.landmarks68[list(MIRROR68)])
    assert torch.equal(model.mirror[model.mirror], torch.arange(len(model.mirror)))
    torch.testing.assert_close(model.mean[model.mirror] * torch.tensor([-1.0, 1, 1]), model.mean, atol=1e-4, rtol=0)


def test_fewer_components_are_the_first_ones(folder: Path) -> None:
    whole, part = load_ict(str(folder)), load_ict(str(folder), shape_components=5, expression_components=2)
    assert torch.equal(part.shape_basis, whole.shape_basis[..., :5])
    assert torch.equal(part.expression_basis, whole.expression_basis[..., :2])
    with pytest.raises(ConfigError, match=r"morphable_model.shape_components=101: expected 1 ... 100"):
        load_ict(str(folder), shape_components=101)
    with pytest.raises(ConfigError, match=r"morphable_model.expression_components=4: expected 1 ... 3"):
        load_ict(str(folder), expression_components=4)


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_polygons(path: Path) -> None:
    path.write_text(path.read_text().split("usemtl M_BackHead")[0])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("generic_neutral_mesh.obj", Path.unlink, r"no generic_neutral_mesh.obj in .*FaceXModel: point"),
        ("generic_neutral_mesh.obj", cut_polygons, r"no whole polygons of M_Face: cut short or another mesh; point"),
        ("identity042.obj", Path.unlink, r"no identity042.obj in .*: point morphable_model.folder at"),
        ("identity042.obj", lambda path: path.write_bytes(path.read_bytes()[:9000]), r"\d+ vertices of at least 961"),
        ("jawOpen.obj", lambda path: path.write_text(path.read_text().replace("v 1", "v one")), "damaged"),
        ("vertex_indices.json", halve, r"vertex_indices.json: damaged or of another model"),
    ],
)
def test_what_is_missing_or_cut_short_is_named(
    file: str, damage: Callable[[Path], None], message: str, folder: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(folder, tmp_path / "FaceXModel")
    damage(root / file)
    with pytest.raises(DataError, match=message) as error:
        load_ict(str(root))
    assert "\n" not in str(error.value)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no folder .*nowhere: looked there for vertex_indices.json"):
        load_ict(str(tmp_path / "nowhere"))
