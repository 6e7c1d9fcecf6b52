"""What dashboards are made of: curves, tables, counts of labels, meshes, and which value of a metric is the best."""

import numpy as np
import pytest
import torch

from jointface.callbacks.dashboard import YAW_EDGES, LabelCensus, attribute_table
from jointface.geometry import MorphableModel, camera_from_pose
from jointface.metrics.direction import better
from jointface.metrics.precision_recall import RECALLS, precision_at_recalls, precision_recall_table
from jointface.modules.shape_decoders import frontal_face
from jointface.viz.face_mesh import face_mesh


@pytest.mark.parametrize(
    ("name", "best"),
    [
        ("train/loss_shape", "min"),
        ("val/error", "min"),
        ("test/aflw2000/trivial/nme_3d_dense", "min"),
        ("test/florence/yaw_error", "min"),
        ("val/celeba/broken_samples", "min"),
        ("val/celeba/f1", "max"),
        ("val/celeba/average_precision/Male", "max"),
        ("train/images_per_second", None),
        ("train/gradient_cosine", None),
    ],
)
def test_which_value_is_the_best_follows_from_the_name(name: str, best: str | None) -> None:
    assert better(name) == best


def test_precision_is_the_best_at_a_recall_or_more() -> None:
    truth = np.array([True, False, True, True])
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    precision = dict(zip(RECALLS.round(2).tolist(), precision_at_recalls(truth, scores), strict=True))
    assert precision[0.0] == precision[0.3] == 1  # the first alone: recall 1/3
    assert precision[0.35] == precision[1.0] == 0.75  # all four; the first three have 2/3


def test_unlabelled_samples_and_attributes_without_positives_have_no_part_in_curves() -> None:
    labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    logits = torch.tensor([[2.0, 1.0], [-9.0, 1.0]])
    mask = torch.tensor([[True, True], [False, True]])
    table = precision_recall_table(("known", "never"), logits, labels, mask)
    assert set(table["attribute"]) == {"known"}
    assert (table["precision"] == 1).all()


def test_the_table_counts_labelled_samples_and_leaves_undefined_scores_open() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    samples = (("a", "b"), torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), mask)
    table = attribute_table("val/x", samples, {"val/x/accuracy/a": torch.tensor(0.5)}).set_index("attribute")
    assert table.loc["a", ["labelled", "prevalence", "accuracy"]].tolist() == [2, 0.5, 0.5]
    assert table.loc["b", ["labelled", "prevalence"]].tolist() == [1, 0]
    assert np.isnan(table.loc["b", "accuracy"])


def test_the_census_counts_labels_over_batches() -> None:
    census = LabelCensus()
    poses = torch.zeros(2, 7)
    poses[:, 1] = torch.tensor([35.0, -90.0]).deg2rad()
    poses[:, 6] = 1
    for _ in range(2):
        census.add({
            "faces": {"image": torch.zeros(2, 3, 4, 4), "camera": camera_from_pose(poses, 4)},
            "words": {
                "image": torch.zeros(1, 3, 4, 4), "attributes": torch.tensor([[1.0, 1.0]]),
                "attribute_mask": torch.tensor([[True, False]]),
            },
        })  # fmt: skip
    (yaw,) = census.yaw.values()
    assert {int(YAW_EDGES[bin]): int(yaw[bin]) for bin in yaw.nonzero().flatten()} == {-90: 2, 30: 2}
    assert census.attributes["words"].tolist() == [[2, 0], [2, 0]]  # positives, labelled


def test_a_mesh_stands_upright_and_faces_the_viewer(tiny_model: MorphableModel) -> None:
    crop = np.zeros((64, 64, 3), np.uint8)
    crop[:32] = [200, 0, 0]  # the upper half is red
    face = frontal_face(tiny_model, 64).numpy()
    mesh = face_mesh(crop, face, tiny_model.triangles.numpy())
    brow, chin = (int(tiny_model.landmarks68[landmark]) for landmark in (19, 8))
    assert mesh.vertices[brow, 1] > mesh.vertices[chin, 1]
    assert mesh.visual.vertex_colors[brow, 0] == 200
    assert mesh.visual.vertex_colors[chin, 0] == 0
    assert (mesh.face_normals[:, 2] * mesh.area_faces).sum() > 0
    np.testing.assert_allclose(mesh.vertices.mean(0), 0, atol=1e-4)


def test_what_the_photo_does_not_show_of_a_mesh_is_grey() -> None:
    near = np.array([[8.0, 8, 9], [24, 8, 9], [8, 24, 9]])
    far = near * [0.9, 0.9, -1] + [1.5, 1.5, 0]  # within the near one's outline
    mesh = face_mesh(np.full((32, 32, 3), 250, np.uint8), np.concatenate([near, far]), np.array([[0, 1, 2], [3, 4, 5]]))
    assert mesh.visual.vertex_colors[:, 0].tolist() == [250, 250, 250, 160, 160, 160]
