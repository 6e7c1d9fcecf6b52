"""Meshes of faces as files: they open upright in other programs, and lie on the photo."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import trimesh
from PIL import Image

from jointface.errors import ConfigError, DataError
from jointface.geometry import FaceBox
from jointface.inference.face import Face
from jointface.inference.photos import Photo

TRIANGLES = np.array([[0, 1, 2], [0, 2, 3]])  # a square, counter-clockwise for those who look at the photo
POINTS = np.array([[100.25, 60, 5], [100.5, 160, -3], [180, 150.75, 2], [175, 40, -4]], np.float32)


@pytest.fixture
def face() -> Face:
    """A square on a photo whose red and green count the columns and rows."""
    rows, columns = np.mgrid[:200, :250].astype(np.uint8)
    image = np.stack([columns, rows, np.full_like(rows, 90)], axis=-1)
    return Face(Photo(image), FaceBox(140, 100, 100), 1.0, POINTS, TRIANGLES, landmarks=POINTS[np.arange(68) % 4])


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, Path]:
    """Vertices, texture coordinates, triangles and picture of an .obj, by the format's definition."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    vertices, places = (np.array([line[1:] for line in lines if line[0] == kind], float) for kind in ("v", "vt"))
    corners = [[word.split("/") for word in line[1:]] for line in lines if line[0] == "f"]
    assert all(word[0] == word[1] for corner in corners for word in corner)
    triangles = np.array([[int(word[0]) - 1 for word in corner] for corner in corners])
    (library,) = (line[1] for line in lines if line[0] == "mtllib")
    material = [line.split() for line in (path.parent / library).read_text().splitlines()]
    (picture,) = (line[1] for line in material if line and line[0] == "map_Kd")
    return vertices, places, triangles, path.parent / picture


def colours_at(picture: Image.Image, places: np.ndarray) -> np.ndarray:
    """The texture at (u, v), v upwards, as viewers sample it."""
    texture = np.asarray(picture.convert("RGB")).astype(np.float32)
    x, y = places[:, 0] * texture.shape[1] - 0.5, (1 - places[:, 1]) * texture.shape[0] - 0.5
    return cv2.remap(texture, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR).reshape(-1, 3)


def lies_on_the_photo(vertices: np.ndarray, triangles: np.ndarray, colours: np.ndarray, atol: float) -> None:
    np.testing.assert_allclose(vertices * [1, -1, 1], POINTS, atol=1e-4)
    np.testing.assert_array_equal(triangles, TRIANGLES)
    normals = np.cross(vertices[triangles[:, 1]] - vertices[triangles[:, 0]],
                       vertices[triangles[:, 2]] - vertices[triangles[:, 0]])  # fmt: skip
    assert (normals[:, 2] > 0).all()  # the outside faces the viewer
    np.testing.assert_allclose(colours[:, :2], POINTS[:, :2], atol=atol)


def test_obj_lies_on_the_photo_for_any_reader_of_the_format(face: Face, tmp_path: Path) -> None:
    face.save(tmp_path / "my face.obj")
    vertices, places, triangles, picture = read_obj(tmp_path / "my face.obj")
    lies_on_the_photo(vertices, triangles, colours_at(Image.open(picture), places), atol=0.1)
    loaded = trimesh.load(tmp_path / "my face.obj", process=False, force="mesh")
    lies_on_the_photo(loaded.vertices, loaded.faces, colours_at(loaded.visual.material.image, loaded.visual.uv), 0.1)


def test_glb_holds_everything_in_one_file(face: Face, tmp_path: Path) -> None:
    face.save(tmp_path / "face.glb")
    assert [path.name for path in tmp_path.iterdir()] == ["face.glb"]
    loaded = trimesh.load(tmp_path / "face.glb", process=False, force="mesh")
    texture = loaded.visual.material.baseColorTexture
    lies_on_the_photo(loaded.vertices, loaded.faces, colours_at(texture, loaded.visual.uv), atol=0.1)


def test_ply_has_the_photos_colours_at_its_vertices(face: Face, tmp_path: Path) -> None:
    face.save(tmp_path / "face.ply")
    loaded = trimesh.load(tmp_path / "face.ply", process=False)
    lies_on_the_photo(loaded.vertices, loaded.faces, loaded.visual.vertex_colors.astype(float), atol=1.01)
    vertices, *_ = cv2.loadMesh(str(tmp_path / "face.ply"))
    np.testing.assert_allclose(vertices.reshape(-1, 3) * [1, -1, 1], POINTS, atol=1e-4)
    assert b"comment JointFace: x right, y up, z towards the viewer" in (tmp_path / "face.ply").read_bytes()


def test_a_mesh_is_scaled_to_other_units(face: Face) -> None:
    np.testing.assert_allclose(face.mesh(scale=0.01).vertices * [100, -100, 100], POINTS, atol=1e-4)


def test_parts_outside_the_photo_take_the_colour_of_its_border(face: Face) -> None:
    outside = Face(face.photo, face.box, 1.0, POINTS + np.float32([120, -50, 0]), TRIANGLES)
    mesh = outside.mesh()
    colours = colours_at(mesh.visual.material.baseColorTexture, mesh.visual.uv)
    np.testing.assert_allclose(colours[:, :2], outside.vertices[:, :2].clip(0, [249, 199]), atol=0.1)


def test_large_textures_are_shrunk_and_stay_in_place(face: Face) -> None:
    large = Photo(face.photo.image.repeat(20, 0).repeat(20, 1))
    mesh = Face(large, face.box, 1.0, (POINTS + 0.5) * 20 - 0.5, TRIANGLES).mesh()
    texture = mesh.visual.material.baseColorTexture
    assert max(texture.size) == 2048
    np.testing.assert_allclose(colours_at(texture, mesh.visual.uv)[:, :2], POINTS[:, :2], atol=0.6)


def test_files_that_cannot_be_written_are_named(face: Face, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"face\.stl: a mesh can be written as \.glb, \.obj, \.ply"):
        face.save(tmp_path / "face.stl")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write"):
        face.save(tmp_path / "file" / "face.glb")


def test_an_overlay_shows_mesh_and_landmarks_on_the_photo(face: Face) -> None:
    picture = face.overlay()
    bare = Face(face.photo, face.box, 1.0).overlay()
    changed = (picture != bare).any(-1)
    assert 0.1 < changed.mean() < 0.5
    assert not changed[:40].any()
