"""The pictures of a run: the mesh is drawn where the face is."""

import numpy as np

from jointface.geometry import MorphableModel
from jointface.geometry.mesh import vertex_normals
from jointface.modules.shape_decoders import frontal_face
from jointface.viz.overlay import OUTLINES, draw_mesh


def test_the_mesh_covers_the_face_and_leaves_the_corners(tiny_model: MorphableModel) -> None:
    crop = np.full((64, 64, 3), 10, np.uint8)
    face = frontal_face(tiny_model, 64).numpy()
    picture = draw_mesh(crop, face, tiny_model.triangles.numpy())
    assert picture.shape == (192, 192, 3)
    centre = face[tiny_model.landmarks68[30], :2]
    row, column = (3 * centre[::-1]).astype(int)
    assert picture[row, column].mean() > 60
    assert (picture[:3, :3] == 10).all()


def test_normals_point_out_of_the_face(tiny_model: MorphableModel) -> None:
    normals = -vertex_normals(frontal_face(tiny_model, 64), tiny_model.triangles).numpy()  # y is down
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)
    assert (normals[:, 2] > 0).mean() > 0.95
    left, right = normals[tiny_model.landmarks68[2]], normals[tiny_model.landmarks68[14]]
    assert left[0] < 0 < right[0]


def test_outlines_name_all_landmarks() -> None:
    assert set().union(*map(set, OUTLINES)) == set(range(68))
