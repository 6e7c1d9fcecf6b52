"""NoW and REALY: their layouts, and methods whose errors are known."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from jointface.datamodules import REALY, CropTransform, NoW
from jointface.datamodules.face_dataset import FaceSample
from jointface.datamodules.packed import fingerprint
from jointface.errors import DataError
from jointface.evaluation.benchmark_result import BenchmarkResult
from jointface.evaluation.identity_shape import face_region, identity_shape
from jointface.evaluation.methods import PredictedFace
from jointface.evaluation.regional_errors import INCOMPLETE, regional_errors
from jointface.geometry import FaceBox, MorphableModel, euler_to_rotation
from jointface.geometry.closest_point import Surface
from jointface.metrics.alignment import move
from jointface.metrics.scan_alignment import align_region, align_with_scan
from tests.data.now import data as now_data
from tests.data.realy import data as realy_data
from tests.faults import Fault, removed, renamed, written

CROP = CropTransform(32)


def middle(photo: np.ndarray) -> FaceBox:
    return FaceBox(30, 30, 40)


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory, tiny_model: MorphableModel) -> NoW:
    return NoW(now_data.write(tmp_path_factory.mktemp("data") / "NoW", tiny_model), "val", CROP, middle)


@pytest.fixture(scope="module")
def realy(tmp_path_factory: pytest.TempPathFactory, tiny_model: MorphableModel) -> REALY:
    return REALY(realy_data.write(tmp_path_factory.mktemp("data") / "REALY", tiny_model), "test", CROP, middle)


@dataclass
class Fake:
    """Knows the scans; `change` says what it makes of a face in mm (V, 3), y up. Predicts in pixels, 3 to a mm."""

    name: str
    model: MorphableModel
    people: Callable[[int], np.ndarray]  # a scan in mm by identity
    change: Callable[[Tensor], Tensor] = lambda vertices: vertices
    neutral: bool = False  # whether the change is an expression, which the neutral face lacks

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [self.face(int(sample.labels["identity"])) for sample in samples]

    def face(self, person: int) -> PredictedFace:
        true = torch.from_numpy(self.people(person)).float()
        turn = euler_to_rotation(torch.tensor([0.1, -0.3, 0.05]))
        pixels = 3 * (self.change(true) @ turn.T) * torch.tensor([1.0, -1.0, 1.0]) + torch.tensor([40.0, 50.0, 7.0])
        landmarks = pixels[self.model.landmarks68]
        face = PredictedFace(landmarks, pixels, self.model.triangles, fingerprint(self.model))
        neutral = (1000 * true, 1000 * true[self.model.landmarks68])
        return replace(face, neutral=lambda: neutral) if self.neutral else face


def wider(vertices: Tensor) -> Tensor:
    return vertices * torch.tensor([1.1, 1.0, 1.0])


# --- alignment


def test_the_surfaces_closest_points_are_those_of_a_plane() -> None:
    grid = torch.stack(torch.meshgrid(*[torch.arange(3.0)] * 2, indexing="ij"), -1).reshape(-1, 2)
    vertices = torch.nn.functional.pad(grid, (0, 1))
    surface = Surface(vertices, torch.tensor([[0, 3, 4], [0, 4, 1], [3, 6, 7], [3, 7, 4]]))
    points = torch.tensor([[0.3, 0.6, 5.0], [1.9, 0.1, -2.0], [-4.0, 0.5, 0.0], [1.0, 9.0, 3.0]])
    expected = torch.tensor([[0.3, 0.6, 0], [1.9, 0.1, 0], [0, 0.5, 0], [1.0, 1.0, 0]])
    torch.testing.assert_close(surface.closest(points), expected.double(), atol=1e-6, rtol=0)


def test_alignment_with_a_scan_finds_the_similarity(tiny_model: MorphableModel) -> None:
    """From eight degrees, 7 per cent and some millimetres off, by a part of the surface, between its vertices."""
    face = tiny_model.mean.double() / 1000
    middles = face[tiny_model.triangles].mean(1)
    part = middles[middles[:, :2].norm(dim=1) < 55]
    motion = torch.cat(
        [1.07 * euler_to_rotation(torch.tensor([0.1, -0.08, 0.05])), torch.tensor([[4.0], [-3], [2]])], 1
    )
    found = align_with_scan(Surface(face, tiny_model.triangles), move(motion, part), torch.eye(3, 4))
    torch.testing.assert_close(found, motion.double(), atol=1e-4, rtol=0)


def test_regional_alignment_is_rigid_and_heeds_the_keypoints(tiny_model: MorphableModel) -> None:
    face, nose = tiny_model.mean.double() / 1000, tiny_model.landmarks68[27:36]
    part = face[(face[:, :2] - face[nose].mean(0)[:2]).norm(dim=1) < 25]
    motion = torch.cat([euler_to_rotation(torch.tensor([0.03, -0.04, 0.02])), torch.tensor([[1.0], [-1], [1]])], 1)
    surface = Surface(face, tiny_model.triangles)
    found = align_region(surface, move(motion, part), face[nose], move(motion, face[nose]))
    torch.testing.assert_close(found, motion.double(), atol=0.02, rtol=0)
    assert torch.linalg.det(found[:, :3]).item() == pytest.approx(1)


# --- NoW


@pytest.fixture(scope="module")
def now_result(now: NoW, tiny_model: MorphableModel) -> BenchmarkResult:
    fake = partial(Fake, model=tiny_model, people=partial(now_data.scan, tiny_model))
    return identity_shape([fake("true"), fake("wide", change=wider), fake("smiling", change=wider, neutral=True)], now)


def test_now_reads_the_published_layout(now: NoW) -> None:
    assert len(now) == 6
    assert now.name(1) == "FaMoS_180424_03335_TA_multiview_expressions_IMG_0042"
    assert (now.subject(3), now.challenge(3)) == ("FaMoS_180426_03336_TA", "multiview_neutral")
    assert now[0]["image"].shape == (3, 32, 32)
    assert [now[index]["identity"].item() for index in range(6)] == [0, 0, 0, 1, 1, 1]
    assert {count.what: (count.found, count.published) for count in now.inventory()} == {
        "photos": (6, 352),
        "people": (2, 20),
    }


def test_nows_face_region_is_the_published_ball() -> None:
    """Outer eye corners 90 mm apart, the nose's base 50 mm below the inner ones: 98 mm around a point 15 mm above."""
    eyes = [[-45.0, 50, 0], [-15, 50, 0], [15, 50, 0], [45, 50, 0]]
    landmarks = torch.tensor([*eyes, [0, 0, 0], [-25, -30, 0], [25, -30, 0]])
    points = torch.tensor([[97.9, 15.0, 0], [98.1, 15, 0], [0, 15 + 97.9, 0], [0, 15, -98.1]])
    assert face_region(points, landmarks).tolist() == [True, False, True, False]


def test_now_measures_neutral_faces_whatever_pose_and_size(now_result: BenchmarkResult) -> None:
    metrics = now_result.metrics
    for error in ("median_mm", "mean_mm", "std_mm"):
        assert metrics[f"true/{error}"] < 1e-3
        assert metrics[f"smiling/{error}"] < 1e-3
    assert metrics["wide/median_mm"] > 0.3
    assert metrics["wide/median_mm/selfie"] == pytest.approx(metrics["wide/median_mm"], rel=1e-6)
    assert "wide/median_mm/multiview_occlusions" not in metrics
    assert [table.title for table in now_result.tables] == [
        "NoW, distance in mm",
        "NoW, median distance in mm by challenge",
    ]


# --- REALY


def test_realy_reads_the_published_layout(realy: REALY) -> None:
    assert [realy.path(index).name for index in range(len(realy))] == ["1.png", "2.png"]
    assert [realy[index]["identity"].item() for index in range(2)] == [1, 2]
    assert set(realy.regions(0)) == {"nose", "mouth", "forehead", "cheek"}
    assert realy.keypoints(1).shape == (85, 3)
    assert realy.millimetres(1) == realy_data.UNIT
    assert realy.inventory()[0].published == 100


@pytest.mark.parametrize("with_keypoints", [True, False])
def test_realy_measures_regions_on_their_own(
    with_keypoints: bool, realy: REALY, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    """A face that is wrong only at the nose is wrong only there."""
    tip = torch.from_numpy(now_data.scan(tiny_model, 1)[tiny_model.landmarks68[30]])

    def long_nose(vertices: Tensor) -> Tensor:
        near = (-(vertices - tip)[:, :2].square().sum(1) / 8**2).exp()
        return vertices + 6 * near[:, None] * torch.tensor([0, 0, 1.0])

    fake = partial(Fake, model=tiny_model, people=partial(now_data.scan, tiny_model))
    file = str(realy_data.write_keypoints(tmp_path / "tiny.txt", tiny_model)) if with_keypoints else None
    result = regional_errors([fake("true"), fake("long", change=long_nose)], realy.subset(1), tiny_model, file)
    metrics = result.metrics
    for region in ("nose", "mouth", "forehead", "cheek"):
        assert metrics[f"true/{region}_mm"] < 0.01
    assert metrics["long/nose_mm"] > 0.3
    assert max(metrics[f"long/{region}_mm"] for region in ("mouth", "forehead", "cheek")) < 0.1
    four = [metrics[f"long/{region}_mm"] for region in ("nose", "mouth", "forehead", "cheek")]
    assert metrics["long/all_mm"] == pytest.approx(math.fsum(four) / 4)
    assert (INCOMPLETE in result.notes) != with_keypoints


# --- broken copies


@pytest.mark.parametrize(
    ("kind", "fault", "message"),
    [
        ("NoW", removed("imagepathsvalidation.txt"), "no file .*imagepathsvalidation.txt"),
        ("NoW", written("imagepathsvalidation.txt", b"IMG_0041.jpg\n"), "expected rows SUBJECT/CHALLENGE/IMAGE.jpg"),
        ("NoW", removed("NoW_Dataset"), "no folder .*iphone_pictures: looked there for NoW's photos"),
        ("NoW", removed("scans"), "looked there for NoW's .obj of a person"),
        ("NoW", removed(f"scans_lmks_onlypp/{now_data.PEOPLE[1]}"), "looked there for NoW's .pp of a person"),
        ("REALY", removed("metrical_scale.txt"), "no file .*metrical_scale.txt.*github.com/czh-98/REALY"),
        ("REALY", written("metrical_scale.txt", b"8.0\n"), "metrical_scale.txt: no row for person 2"),
        ("REALY", renamed("REALY_image", "images"), "no folder .*crop_image_frontal_512x512"),
        ("REALY", removed("REALY_scan_region/2/cheek.obj"), "no file .*cheek.obj"),
    ],
)
def test_a_broken_copy_is_refused_in_one_line(
    kind: str, fault: Fault, message: str, now: NoW, realy: REALY, tmp_path: Path
) -> None:
    root = Path(shutil.copytree((now if kind == "NoW" else realy).root, tmp_path / kind))
    fault(root)
    with pytest.raises(DataError, match=message) as caught:
        NoW(root, "val", CROP, middle) if kind == "NoW" else REALY(root, "test", CROP, middle)
    assert "\n" not in str(caught.value)
