"""Errors on synthetic faces of known shape: methods whose errors are known."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from jointface.datamodules import CropTransform, SyntheticFaces
from jointface.datamodules.face_dataset import FaceSample
from jointface.errors import ConfigError
from jointface.evaluation.benchmark_result import BenchmarkResult
from jointface.evaluation.known_shape import identity_error, known_shape
from jointface.evaluation.methods import LabelMethod, PredictedFace
from jointface.geometry import MorphableModel
from jointface.synthesis.head import Head
from tests.data.florence import data as florence_data

COUNT = 5


@pytest.fixture(scope="module")
def dataset(head: Head) -> SyntheticFaces:
    return SyntheticFaces("test", CropTransform(48), COUNT)


@dataclass
class Changed:
    """The labels, changed: a face given with its sample."""

    name: str
    head: Head
    change: Callable[[PredictedFace, FaceSample], PredictedFace | None]

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        assert len(samples) == len(files)
        faces = LabelMethod(self.head.model).predict(samples, files)
        return [self.change(face, sample) for face, sample in zip(faces, samples, strict=True) if face is not None]


def shifted(face: PredictedFace, sample: FaceSample) -> PredictedFace:
    """3 pixels right, 4 down; any depth, which has no origin."""
    assert face.vertices is not None
    assert face.landmarks68 is not None
    shift = torch.tensor([3.0, 4.0, 70.0])
    return replace(face, vertices=face.vertices + shift, landmarks68=face.landmarks68 + shift)


def turned(face: PredictedFace, sample: FaceSample) -> PredictedFace:
    assert face.pose is not None
    return replace(face, pose=face.pose + torch.tensor([3.0, -6.0, 9.0]))


def sparse(face: PredictedFace, sample: FaceSample) -> PredictedFace:
    assert face.landmarks68 is not None
    return PredictedFace(landmarks68=face.landmarks68[:, :2])


def slid(face: PredictedFace, sample: FaceSample) -> PredictedFace:
    """Each vertex lies where its neighbours' middle is, once more for each face."""
    assert face.vertices is not None
    assert face.triangles is not None
    vertices = face.vertices.clone()
    for _ in range(1 + int(sample.labels["identity"]) % 5 if "identity" in sample.labels else 2):
        moved, count = torch.zeros_like(vertices), torch.zeros(len(vertices), 1)
        for corner in range(3):
            moved.index_add_(0, face.triangles[:, corner], vertices[face.triangles[:, (corner + 1) % 3]])
            count.index_add_(0, face.triangles[:, corner], torch.ones(len(face.triangles), 1))
        vertices = torch.where(count > 0, moved / count.clamp(min=1), vertices)
    return replace(face, vertices=vertices, landmarks68=None)


def foreign(face: PredictedFace, sample: FaceSample) -> PredictedFace:
    return replace(face, topology="another")


def first_only(face: PredictedFace, sample: FaceSample) -> PredictedFace | None:
    return face if sample.labels["camera"][0, 0] == first_only.camera[0, 0] else None  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def result(head: Head, dataset: SyntheticFaces) -> BenchmarkResult:
    first_only.camera = dataset.read(0).labels["camera"]  # type: ignore[attr-defined]
    changes = {
        "shifted": shifted,
        "turned": turned,
        "sparse": sparse,
        "foreign": foreign,
        "first": first_only,
        "slid": slid,
    }
    methods = [Changed(name, head, change) for name, change in changes.items()]
    return known_shape([LabelMethod(head.model), *methods], dataset)


def test_the_labels_themselves_have_no_error(result: BenchmarkResult) -> None:
    for error in ("nme_2d_68", "nme_3d_dense", "dense_mm", "identity_mm", "identity_scaled_mm", "pose_error"):
        assert result.metrics[f"labels/{error}"] == pytest.approx(0, abs=1e-3)


def test_a_shift_of_five_pixels_is_known_in_every_unit(result: BenchmarkResult, dataset: SyntheticFaces) -> None:
    rows = result.per_image[result.per_image["method"] == "shifted"].set_index("index")
    for index in range(COUNT):
        labels = dataset.read(index).labels
        width, height = (labels["landmarks68"].amax(0) - labels["landmarks68"].amin(0))[:2].tolist()
        scale = torch.linalg.det(labels["camera"][:, :3]).abs().item() ** (1 / 3)
        assert rows["nme_2d_68"][index] == pytest.approx(5 / math.sqrt(width * height), rel=1e-3)
        assert rows["nme_3d_dense"][index] == pytest.approx(5 / math.sqrt(width * height), rel=1e-3)
        assert rows["dense_mm"][index] == pytest.approx(5 / scale, rel=1e-3)
    assert rows["identity_mm"].max() < 1e-3


def test_an_error_within_the_surface_is_hidden_from_scans(result: BenchmarkResult) -> None:
    """Where vertices slide over the face, corresponding points are off, but the closest ones are not."""
    metrics = result.metrics
    assert metrics["labels/corresponding_mm"] < 1e-3
    assert metrics["labels/icp_mm"] < 1e-3
    assert metrics["slid/corresponding_mm"] > 2 * metrics["slid/icp_mm"]
    rows = result.per_image[result.per_image["method"] == "slid"]
    expected = np.corrcoef(rows["corresponding_mm"], rows["icp_mm"])[0, 1]
    assert metrics["slid/icp_correlation"] == pytest.approx(expected)
    assert "foreign/icp_mm" not in metrics


def test_pose_errors_are_absolute_angles(result: BenchmarkResult) -> None:
    metrics = result.metrics
    columns = ["yaw_error", "pitch_error", "roll_error", "pose_error"]
    assert [metrics[f"turned/{column}"] for column in columns] == pytest.approx([6, 3, 9, 6])
    assert list(result.tables[-2].frame.columns) == ["yaw", "pitch", "roll", "mean"]
    rows = result.per_image[result.per_image["method"] == "turned"]
    assert rows[columns[:3]].to_numpy() == pytest.approx(np.tile([6.0, 3.0, 9.0], (COUNT, 1)), abs=1e-3)


def test_identity_error_ignores_pose_and_counts_shape(head: Head) -> None:
    """Independently: SciPy's rotation, and the mean distance that is left."""
    from scipy.spatial.transform import Rotation

    model = head.model
    one, other = (0.5 * torch.randn(model.num_shape, generator=torch.Generator().manual_seed(n)) for n in range(2))
    assert identity_error(model, one, one) < 1e-4
    neutral = torch.zeros(1, model.num_expression)
    a, b = (model(shape[None], neutral)[0, model.face_region].double().numpy() for shape in (one, other))
    a, b = a - a.mean(0), b - b.mean(0)
    rotation = Rotation.align_vectors(b, a)[0].as_matrix()
    expected = (((a @ rotation.T - b) ** 2).sum(1) ** 0.5).mean()
    assert identity_error(model, one, other).item() == pytest.approx(expected, rel=1e-4)


def test_a_person_of_another_size_has_a_known_identity_error(tiny_model: MorphableModel) -> None:
    """In closed form: enlarged by a tenth, each vertex lies a tenth of its distance from the middle too far out; the
    size taken out, nothing is left. Someone wider is not someone larger."""
    model = florence_data.stretched(tiny_model)
    face = model.mean[model.face_region]
    expected = 0.1 * (face - face.mean(0)).norm(dim=1).mean().item()
    larger, mean = torch.full((3,), 0.1), torch.zeros(3)
    assert identity_error(model, larger, mean).item() == pytest.approx(expected, rel=1e-4)
    assert identity_error(model, larger, mean, scaled=True).item() == pytest.approx(0, abs=1e-3 * expected)
    wider = torch.tensor([0.1, 0.0, 0.0])
    assert identity_error(model, wider, wider, scaled=True).item() == pytest.approx(0, abs=1e-3 * expected)
    assert identity_error(model, wider, mean, scaled=True) > 0.1 * expected


def test_methods_are_judged_by_what_they_give(result: BenchmarkResult) -> None:
    given = {
        method: {name.split("/")[1] for name in result.metrics if name.startswith(f"{method}/")}
        for method in ("sparse", "foreign")
    }
    assert given["sparse"] == {"nme_2d_68"}
    assert given["foreign"] == {"nme_2d_68", "pose_error", "pitch_error", "yaw_error", "roll_error"}
    assert (
        "sparse has no error for dense, identity, identity without size, pose: it predicts no vertices of this "
        "morphable model, no shape coefficients of this morphable model, no pose."
    ) in result.notes
    assert any("first" in note and f"{COUNT - 1} of {COUNT}" in note for note in result.notes)
    assert {name: len(files) for name, files in result.missing.items()} == {"first": COUNT - 1}


def test_tables_have_every_method_and_the_means_of_the_images(result: BenchmarkResult) -> None:
    names = ["labels", "shifted", "turned", "sparse", "foreign", "first", "slid"]
    for table in result.tables[:-1]:
        assert list(table.frame.index) == names
        assert "Zhu" in table.caption
    rows = result.per_image[result.per_image["method"] == "shifted"]
    assert result.tables[0].frame["dense, mm"]["shifted"] == pytest.approx(rows["dense_mm"].mean())
    assert list(result.tables[1].frame.columns) == ["[0, 30]", "(30, 60]", "(60, 90]", "mean", "std", "all"]
    assert result.tables[1].frame["all"]["shifted"] == pytest.approx(100 * rows["nme_2d_68"].mean())
    inside = rows[rows["yaw"].abs() <= 30]
    assert f"{COUNT} faces; by |yaw|: {len(inside)} in [0, 30]" in result.tables[1].caption
    assert result.tables[1].frame["[0, 30]"]["shifted"] == pytest.approx(100 * inside["nme_2d_68"].mean())
    assert result.metrics["shifted/dense_mm/yaw_0_30"] == pytest.approx(inside["dense_mm"].mean())


def test_faces_without_their_shape_are_refused() -> None:
    with pytest.raises(ConfigError, match="labels=both"):
        known_shape([], SyntheticFaces("test", CropTransform(48), 2, labels="attributes"))
