"""Distances to MICC Florence's scans: methods whose errors are known, on tiny scans."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from jointface.datamodules import CropTransform, Florence
from jointface.datamodules.face_dataset import FaceSample
from jointface.errors import DataError
from jointface.evaluation.benchmark_result import BenchmarkResult
from jointface.evaluation.methods import MeanFaceMethod, PredictedFace
from jointface.evaluation.scan_distance import scan_distance
from jointface.geometry import MorphableModel, euler_to_rotation
from jointface.geometry.camera import apply_camera
from tests.data.florence import data as florence_data

VIEWS = {"pitches": [20.0], "yaws": [-40.0, 80.0]}
NAMES = ["subject_01_pitch+20_yaw-40", "subject_01_pitch+20_yaw+80", "subject_02_pitch+20_yaw-40",
         "subject_02_pitch+20_yaw+80"]  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny_model: MorphableModel) -> Path:
    return florence_data.write(tmp_path_factory.mktemp("data") / "florence", tiny_model)


@pytest.fixture(scope="module")
def dataset(root: Path, tiny_model: MorphableModel) -> Florence:
    return Florence(root, "test", CropTransform(32), tiny_model, **VIEWS, view_size=120)


@dataclass
class Fake:
    """Knows the people; `change` says what it makes of a face in pixels (V, 3), given the view's number."""

    name: str
    dataset: Florence
    model: MorphableModel
    change: Callable[[Tensor, int], Tensor] = lambda vertices, view: vertices
    landmarks: bool = True
    surface: bool = True
    silent: tuple[str, ...] = ()
    people: Sequence[Tensor] | None = None  # faces (V, 3) in scan space; None takes those that the data are made of

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        size = self.dataset.view_size
        assert all(sample.image.shape == (size, size, 3) for sample in samples)
        names = [self.dataset.name(index) for index in range(len(self.dataset))]
        return [None if file in self.silent else self.face(names.index(file)) for file in files]

    def face(self, view: int) -> PredictedFace:
        subject = view // len(self.dataset.angles)
        if self.people is None:
            person = torch.from_numpy(florence_data.vertices(self.model, seed=subject + 1)).float()
        else:
            person = self.people[subject]
        vertices = self.change(apply_camera(self.dataset.view_camera(view)[None], person[None])[0], view)
        return PredictedFace(
            landmarks68=vertices[self.model.landmarks68] if self.landmarks else None,
            vertices=vertices if self.surface else None,
            triangles=self.model.triangles if self.surface else None,
        )


def turned(vertices: Tensor, view: int) -> Tensor:
    """Elsewhere, of another size and pose."""
    rotation = euler_to_rotation(torch.tensor([0.2, -0.5, 0.1]))
    return 1.7 * vertices @ rotation.T + torch.tensor([5.0, 9.0, -400.0])


def deeper(vertices: Tensor, view: int) -> Tensor:
    return vertices + torch.tensor([0.0, 0, 1000.0])


def noisy(vertices: Tensor, view: int) -> Tensor:
    return vertices + 0.3 * torch.randn(vertices.shape, generator=torch.Generator().manual_seed(view))


@pytest.fixture(scope="module")
def result(dataset: Florence, tiny_model: MorphableModel) -> BenchmarkResult:
    methods = [
        Fake("exact", dataset, tiny_model),
        Fake("turned", dataset, tiny_model, turned),
        Fake("deeper", dataset, tiny_model, deeper, landmarks=False),
        Fake("noisy", dataset, tiny_model, noisy),
        Fake("sparse", dataset, tiny_model, surface=False),
        Fake("silent", dataset, tiny_model, noisy, silent=(NAMES[1],)),
    ]
    return scan_distance(methods, dataset)


@pytest.mark.parametrize("method", ["exact", "turned", "deeper"])
def test_the_person_itself_has_no_error_wherever_it_is_predicted(result: BenchmarkResult, method: str) -> None:
    assert result.metrics[f"{method}/nme"] < 1e-3
    assert result.metrics[f"{method}/rmse_mm"] < 0.02


def test_a_scan_with_the_published_vertices_is_measured_end_to_end(tmp_path: Path, tiny_model: MorphableModel) -> None:
    """The landmarks of the fit lie where people picked the corners of the eyes, the base of the nose and the lips."""
    root = florence_data.write_published(tmp_path / "florence", tiny_model)
    dataset = Florence(root, "test", CropTransform(32), tiny_model, pitches=[-15.0], yaws=[0.0, 40.0], view_size=120)
    scan, found = dataset.scan(0), dataset.landmarks68(0)
    for name, (vertex, landmark) in florence_data.PICKED[1].items():
        assert (found[landmark] - scan.vertices[vertex]).norm() < 2, name
    result = scan_distance([Fake("exact", dataset, tiny_model), MeanFaceMethod(tiny_model)], dataset)
    assert result.metrics["num_images"] == 2
    assert result.metrics["exact/nme"] < 0.02  # the person has fewer vertices than the scan
    assert result.metrics["exact/nme"] < result.metrics["mean face/nme"] < 0.2


def test_noise_in_pixels_is_noise_in_millimetres(result: BenchmarkResult, dataset: Florence) -> None:
    pixels_per_mm = dataset.view_camera(0)[0, :3].norm().item()
    assert result.metrics["noisy/rmse_mm"] == pytest.approx(0.3 / pixels_per_mm, rel=0.15)


def test_nme_is_the_mean_nearest_distance_over_the_outer_interocular_distance(
    dataset: Florence, tiny_model: MorphableModel, result: BenchmarkResult
) -> None:
    """Counted independently, with the view's own camera instead of an alignment, which small noise hardly moves, and
    the eyes that only this test knows."""
    camera = dataset.view_camera(0).double().numpy()
    person = florence_data.vertices(tiny_model, seed=1) @ camera[:, :3].T + camera[:, 3]
    predicted = noisy(torch.from_numpy(person).float(), 0).double().numpy()
    in_scan_space = (predicted - camera[:, 3]) @ np.linalg.inv(camera[:, :3]).T
    distances = KDTree(in_scan_space).query(dataset.scan(0).vertices[dataset.face_region(0)].numpy())[0]
    right, left = florence_data.vertices(tiny_model, seed=1)[tiny_model.landmarks68[[36, 45]]]
    expected = distances.mean() / np.linalg.norm(left - right)
    rows = result.per_image[(result.per_image["method"] == "noisy") & (result.per_image["index"] == 0)]
    assert rows["nme"].item() == pytest.approx(expected, rel=0.05)


def bumps(face: Tensor) -> Tensor:
    """Every third vertex stands out by 2 % of the face's width."""
    offsets = torch.zeros_like(face)
    offsets[::3, 2] = 0.02 * (face[:, 0].max() - face[:, 0].min())
    return offsets


def test_each_subject_is_measured_by_the_distance_between_its_own_eyes(
    tmp_path: Path, tiny_model: MorphableModel
) -> None:
    """In closed form: the second person is the first enlarged by 1.1, the third the first made wider by a fifth."""
    model = florence_data.stretched(tiny_model)
    first = model.mean / 1000
    people = [first, 1.1 * first, first * torch.tensor([1.2, 1.0, 1.0])]
    for number, face in enumerate(people, start=1):
        path = tmp_path / f"subject_{number:02d}/Model/frontal1/obj/1.obj"
        florence_data.write_obj(path, face.numpy(), model)
        np.savetxt(path.with_name("nose_tip.txt"), face[model.landmarks68[30]][None])
    dataset = Florence(tmp_path, "test", CropTransform(32), model, pitches=[0], yaws=[0], view_size=90)
    bumpy = [face + bumps(face) for face in people]
    rows = scan_distance([Fake("bumpy", dataset, model, people=bumpy)], dataset).per_image
    own = [(face[model.landmarks68[45]] - face[model.landmarks68[36]]).norm().item() for face in people]
    assert own[1] / own[0] == pytest.approx(1.1)
    assert own[2] / own[0] > 1.15
    assert rows["interocular_mm"].tolist() == pytest.approx(own, rel=0.01)
    # Of the same shape, whatever its size, but for 95 mm, which are a little less of a larger face.
    assert rows["nme"][1] == pytest.approx(rows["nme"][0], rel=0.03)
    assert rows["rmse_mm"][1] == pytest.approx(1.1 * rows["rmse_mm"][0], rel=0.03)


def test_tables_are_by_yaw_and_by_view(result: BenchmarkResult) -> None:
    nme, nme_views, rmse, rmse_views = (table.frame for table in result.tables)
    assert list(nme.columns) == list(rmse.columns) == ["40°", "80°", "mean", "std"]
    assert list(nme.index) == ["exact", "turned", "deeper", "noisy", "silent"]
    assert list(nme_views.index) == ["pitch +20°, yaw -40°", "pitch +20°, yaw +80°"]
    assert list(nme_views.columns) == list(rmse_views.columns) == list(nme.index)
    noisy = result.per_image[result.per_image["method"] == "noisy"]
    assert nme["mean"]["noisy"] == pytest.approx(100 * noisy["nme"].mean())
    assert nme["std"]["noisy"] == pytest.approx(100 * noisy["nme"].std(ddof=0))
    assert rmse["80°"]["noisy"] == pytest.approx(noisy[noisy["yaw"] == 80]["rmse_mm"].mean())
    assert result.metrics["noisy/nme/yaw_40"] == pytest.approx(nme["40°"]["noisy"] / 100)
    for table in result.tables:
        assert "95 mm" in table.caption
        assert "PRNet" in table.caption


def test_each_view_has_its_row(result: BenchmarkResult) -> None:
    rows = result.per_image[result.per_image["method"] == "exact"]
    assert rows["file"].tolist() == NAMES
    assert rows["index"].tolist() == [0, 1, 2, 3]
    assert rows["subject"].tolist() == [1, 1, 2, 2]
    assert rows["yaw"].tolist() == [-40, 80, -40, 80]


def test_who_is_left_out_is_said(result: BenchmarkResult) -> None:
    assert any("sparse has no prediction for 4 of 4 photos" in note for note in result.notes)
    assert any("silent has no prediction for 1 of 4 photos" in note for note in result.notes)
    assert result.missing == {"sparse": NAMES, "silent": [NAMES[1]]}
    silent = result.per_image[result.per_image["method"] == "silent"]
    assert silent["nme"].notna().tolist() == [True, False, True, True]
    assert "sparse/nme" not in result.metrics
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_vertices_that_are_no_numbers_are_no_prediction(dataset: Florence, tiny_model: MorphableModel) -> None:
    broken = Fake("broken", dataset, tiny_model, lambda vertices, view: vertices * (math.nan if view else 1.0))
    result = scan_distance([broken], dataset)
    assert result.per_image["nme"].notna().tolist() == [True, False, False, False]
    assert any("broken" in note and "3 of 4" in note for note in result.notes)


def edited(root: Path, folder: Path, model: MorphableModel, pattern: str, edit: Callable[[Path], None]) -> Florence:
    """The data set with some of its files edited."""
    for path in shutil.copytree(root, folder).rglob(pattern):
        edit(path)
    return Florence(folder, "test", CropTransform(32), model, **VIEWS, view_size=120)


def test_scans_with_holes_are_measured_on_what_there_is(root: Path, tmp_path: Path, tiny_model: MorphableModel) -> None:
    def cut_hole(path: Path) -> None:
        lines = path.read_text().splitlines()
        faces = [line for line in lines if line.startswith("f ")]
        kept = {*faces[: len(faces) // 3], *faces[len(faces) // 3 + 400 :]}
        path.write_text("\n".join(line for line in lines if not line.startswith("f ") or line in kept))

    dataset = edited(root, tmp_path / "florence", tiny_model, "frontal1/obj/*.obj", cut_hole)
    assert scan_distance([Fake("exact", dataset, tiny_model)], dataset).metrics["exact/nme"] < 1e-3


def test_a_scan_without_texture_is_the_data_sets_error(root: Path, tmp_path: Path, tiny_model: MorphableModel) -> None:
    dataset = edited(root, tmp_path / "florence", tiny_model, "*.bmp", Path.unlink)
    with pytest.raises(DataError, match="no texture"):
        scan_distance([Fake("exact", dataset, tiny_model)], dataset)
