"""AFLW2000-3D's protocols against closed forms and an independent float64 implementation."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch

from jointface.datamodules import AFLW2000, CropTransform, FaceSample
from jointface.errors import ConfigError, DataError
from jointface.evaluation.benchmark_result import BenchmarkResult, Table
from jointface.evaluation.landmarks_and_pose import balanced_subset, landmarks_and_pose
from jointface.evaluation.methods import FolderMethod, LabelMethod, NetworkMethod, PredictedFace
from jointface.evaluation.prediction_files import write_prediction
from jointface.evaluation.published_figures import QuotedRow, quoted_rows, with_quoted
from jointface.evaluation.shape_errors import yaw_bins
from jointface.geometry import MorphableModel
from tests.data.aflw2000 import data as aflw2000_data
from tests.test_methods import network

CROP = CropTransform(64)


class Moved:
    """The labels' own landmarks and mesh, moved by some pixels, the pose turned by some degrees."""

    def __init__(self, model: MorphableModel, shift: Sequence[float], turn: Sequence[float] = (0, 0, 0)) -> None:
        self.name, self.labels = "moved", LabelMethod(model)
        self.shift, self.turn = torch.tensor(shift), torch.tensor(turn)

    def predict(self, samples: Sequence[FaceSample], files: Sequence[str]) -> list[PredictedFace | None]:
        return [
            replace(
                face,
                landmarks68=sample.labels["landmarks68"] + self.shift,
                vertices=face.vertices + self.shift,
                pose=face.pose + self.turn,
            )
            for face, sample in zip(self.labels.predict(samples, files), samples, strict=True)
        ]


@pytest.fixture(scope="module")
def dataset(tiny_data: Path, tiny_model: MorphableModel) -> AFLW2000:
    return AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model)


@pytest.fixture(scope="module")
def references(dataset: AFLW2000, tiny_model: MorphableModel) -> BenchmarkResult:
    """The labels and the mean face, without a method."""
    return landmarks_and_pose([], dataset, tiny_model)


def written(folder: Path, model: MorphableModel, angles: Mapping[int, float], axis: int, photos: int = 3) -> Path:
    """A tiny AFLW2000-3D with other angles, in degrees by number of the photo, about one axis of Pose_Para."""
    aflw2000_data.write(folder, model, photos=photos)
    for number, path in enumerate(sorted(folder.glob("*.mat"))):
        content = {key: value for key, value in scipy.io.loadmat(path).items() if not key.startswith("__")}
        if number in angles:
            content["Pose_Para"][0, axis] = np.deg2rad(angles[number])
            scipy.io.savemat(path, content)
    return folder


def of_method(result: BenchmarkResult, method: str) -> pd.DataFrame:
    return result.per_image[result.per_image["method"] == method]


def box_sizes(folder: Path) -> np.ndarray:
    """sqrt(width x height) of the landmarks, in the files' own arrays."""
    points = [scipy.io.loadmat(path)["pt3d_68"].astype(np.float64) for path in sorted(folder.glob("*.mat"))]
    return np.array([np.sqrt(np.prod(np.ptp(p[:2], axis=1))) for p in points])


def nme(points: np.ndarray, truth: np.ndarray, box: np.ndarray) -> float:
    """Of points (dims, 68), in float64."""
    width, height = box[:2].max(1) - box[:2].min(1)
    return float(np.sqrt(((points - truth) ** 2).sum(0)).mean() / np.sqrt(width * height))


def flat(points: np.ndarray) -> np.ndarray:
    """(3, 68) with z from its mean."""
    return np.stack([points[0], points[1], points[2] - points[2].mean()])


def test_a_known_shift_gives_known_errors(dataset: AFLW2000, tiny_data: Path, tiny_model: MorphableModel) -> None:
    rows = of_method(landmarks_and_pose([Moved(tiny_model, (3, -4, 12), (1, -2, 3))], dataset, tiny_model), "moved")
    sizes = box_sizes(tiny_data / "AFLW2000")
    np.testing.assert_allclose(rows["nme_2d_68"], 5 / sizes, rtol=1e-5)
    np.testing.assert_allclose(rows["nme_3d_68"], 5 / sizes, rtol=1e-5)  # z counts from its mean
    np.testing.assert_allclose(rows["nme_3d_dense"], 5 / sizes, rtol=1e-5)
    for column, error in {"pitch_error": 1, "yaw_error": 2, "roll_error": 3}.items():
        np.testing.assert_allclose(rows[column], error, atol=1e-3)


def test_errors_are_those_of_an_independent_implementation(
    tmp_path: Path, dataset: AFLW2000, tiny_data: Path, tiny_model: MorphableModel
) -> None:
    random = np.random.default_rng(0)
    reannotated = np.load(tiny_data / "AFLW2000" / "AFLW2000-3D-Reannotated.pts68.npy").astype(np.float64)[::-1]
    expected, yaws = [], []
    for row, path in enumerate(sorted((tiny_data / "AFLW2000").glob("*.mat"))):
        content = scipy.io.loadmat(path)
        truth = content["pt3d_68"].astype(np.float64) - [[1], [1], [0]]
        predicted = truth + random.normal(0, 4, (3, 68))
        write_prediction(tmp_path / f"{path.stem}.npz", landmarks68=torch.from_numpy(predicted.T))
        errors = nme(predicted[:2], truth[:2], truth), nme(predicted[:2], reannotated[row], reannotated[row])
        expected.append((*errors, nme(flat(predicted), flat(truth), truth)))
        yaws.append(np.degrees(content["Pose_Para"][0, 1]))
    result = landmarks_and_pose([FolderMethod("other", tmp_path, tiny_model)], dataset, tiny_model)
    rows = of_method(result, "other")
    columns = ["nme_2d_68", "nme_2d_68_reannotated", "nme_3d_68"]
    np.testing.assert_allclose(rows[columns].to_numpy(), expected, rtol=1e-4)
    np.testing.assert_allclose(rows["yaw"], yaws, rtol=1e-6)
    assert rows["nme_3d_dense"].isna().all()
    assert rows["yaw_error"].isna().all()
    assert result.metrics["other/nme_2d_68"] == pytest.approx(np.mean(expected, axis=0)[0], rel=1e-4)


def test_bins_count_their_upper_bound_and_the_last_is_open() -> None:
    bins = yaw_bins(pd.Series([0.0, -30, 30.01, 60, -60.5, 95]))
    assert bins.tolist() == ["[0, 30]"] * 2 + ["(30, 60]"] * 2 + ["(60, 90]"] * 2


def test_the_table_by_yaw_is_as_3ddfas_papers_report_it(tmp_path: Path, tiny_model: MorphableModel) -> None:
    """Means of the bins, their mean and the standard deviation of the population."""
    yaws = dict(enumerate([0, 20, 35, -50, -70, 80]))
    folder = written(tmp_path / "AFLW2000", tiny_model, yaws, axis=1, photos=6)
    result = landmarks_and_pose([Moved(tiny_model, (6, 8, 0))], AFLW2000(folder, "test", CROP, tiny_model), tiny_model)
    errors = 10 / box_sizes(folder)
    of_bins = errors.reshape(3, 2).mean(1)
    row = result.tables[0].frame.loc["moved"]
    np.testing.assert_allclose(row[["[0, 30]", "(30, 60]", "(60, 90]"]], 100 * of_bins, rtol=1e-5)
    assert row["mean"] == pytest.approx(100 * sum(of_bins) / 3, rel=1e-5)
    assert row["std"] == pytest.approx(100 * np.sqrt(((of_bins - of_bins.mean()) ** 2).sum() / 3), rel=1e-4)
    assert row["all"] == pytest.approx(100 * errors.mean(), rel=1e-5)
    for part, value in {"yaw_0_30": of_bins[0], "mean": of_bins.mean(), "std": of_bins.std()}.items():
        assert result.metrics[f"moved/nme_2d_68/{part}"] == pytest.approx(value, rel=1e-4)


def test_the_balanced_subset_has_as_many_of_each_bin_and_is_the_same_for_a_seed() -> None:
    yaw = pd.Series(np.random.default_rng(0).normal(0, 45, 2000))
    chosen = balanced_subset(yaw, seed=3)
    assert chosen is not None
    assert len(set(chosen.tolist())) == 696
    assert yaw_bins(yaw[chosen]).value_counts().tolist() == [232, 232, 232]
    np.testing.assert_array_equal(chosen, balanced_subset(yaw, seed=3))
    assert not np.array_equal(chosen, balanced_subset(yaw, seed=4))
    assert balanced_subset(yaw[:700]) is None


def test_the_balanced_subset_has_its_own_table(
    dataset: AFLW2000, tiny_model: MorphableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jointface.evaluation.landmarks_and_pose.balanced_subset", lambda yaw, seed: np.array([0, 2]))
    result = landmarks_and_pose([Moved(tiny_model, (3, 4, 0))], dataset, tiny_model)
    titles = [table.title for table in result.tables]
    (table,) = (table for table in result.tables if table.title.endswith("original points, balanced"))
    rows = of_method(result, "moved")["nme_2d_68"].to_numpy()
    assert titles.index(table.title) == 1
    assert table.frame.loc["moved", "all"] == pytest.approx(100 * rows[[0, 2]].mean())
    assert result.metrics["moved/nme_2d_68/balanced"] == pytest.approx(rows[[0, 2]].mean())


def test_head_pose_leaves_out_photos_beyond_99_degrees(tmp_path: Path, tiny_model: MorphableModel) -> None:
    folder = written(tmp_path / "AFLW2000", tiny_model, {0: -100}, axis=2)
    result = landmarks_and_pose([], AFLW2000(folder, "test", CROP, tiny_model), tiny_model)
    rows = of_method(result, "mean face")
    assert rows["yaw_error"].isna().tolist() == [True, False, False]
    assert rows["nme_2d_68"].notna().all()
    assert "Photos with an angle beyond 99 degrees, which are customarily left out of head pose: 1." in result.notes


def test_looking_straight_ahead_is_as_wrong_as_the_faces_are_turned(
    references: BenchmarkResult, tiny_data: Path
) -> None:
    table = references.tables[-1]
    poses = [scipy.io.loadmat(p)["Pose_Para"][0, :3] for p in sorted((tiny_data / "AFLW2000").glob("*.mat"))]
    pitch, yaw, roll = np.degrees(np.abs(poses)).mean(0)
    np.testing.assert_allclose(table.frame.loc["mean face"], [yaw, pitch, roll, (yaw + pitch + roll) / 3], rtol=1e-5)
    np.testing.assert_allclose(table.frame.loc["labels"], 0, atol=1e-4)


def test_missing_photos_are_counted_and_listed(tmp_path: Path, dataset: AFLW2000, tiny_model: MorphableModel) -> None:
    write_prediction(tmp_path / f"{dataset.path(1).stem}.npz", landmarks68=torch.rand(68, 2))
    result = landmarks_and_pose([FolderMethod("other", tmp_path, tiny_model)], dataset, tiny_model)
    text = "other has no prediction for 2 of 3 photos, which its errors leave out; missing.csv lists them."
    assert text in result.notes
    assert result.missing == {"other": ["image00002.jpg", "image00006.jpg"]}
    assert of_method(result, "other")["nme_2d_68"].notna().tolist() == [False, True, False]
    assert "other" not in result.tables[-1].frame.index  # no pose
    assert np.isnan(result.per_image["nme_3d_68"][result.per_image["method"] == "other"]).all()


def test_both_annotations_are_reported_whichever_the_data_set_has(
    references: BenchmarkResult, tiny_data: Path, tiny_model: MorphableModel
) -> None:
    reannotated = AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model, "reannotated")
    other = landmarks_and_pose([], reannotated, tiny_model)
    pd.testing.assert_frame_equal(other.per_image, references.per_image)
    assert other.metrics == references.metrics
    assert [table.title for table in references.tables] == [
        "AFLW2000-3D, NME 2D, original points",
        "AFLW2000-3D, NME 2D, re-annotated points",
        "AFLW2000-3D, NME 3D of 68 landmarks by yaw",
        "AFLW2000-3D, NME 3D",
        "AFLW2000-3D, head pose",
    ]


def test_without_reannotated_points_there_is_a_note(tmp_path: Path, tiny_model: MorphableModel) -> None:
    folder = aflw2000_data.write(tmp_path / "AFLW2000", tiny_model)
    (folder / "AFLW2000-3D-Reannotated.pts68.npy").unlink()
    result = landmarks_and_pose([], AFLW2000(folder, "test", CROP, tiny_model), tiny_model)
    assert any(note.startswith("No re-annotated points") for note in result.notes)
    assert not any("re-annotated" in table.title for table in result.tables)


@pytest.mark.parametrize("decoder", ["morphable", "position_map"])
def test_metrics_do_not_depend_on_the_batch_size(
    dataset: AFLW2000, tiny_model: MorphableModel, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = network(decoder, tiny_model, noise=0.01)
    whole = landmarks_and_pose([NetworkMethod("network", trained, batch_size=32)], dataset, tiny_model).metrics
    monkeypatch.setattr("jointface.evaluation.shape_errors.CHUNK", 2)
    parts = landmarks_and_pose([NetworkMethod("network", trained, batch_size=1)], dataset, tiny_model).metrics
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name
    assert "network/nme_3d_dense" in whole


def test_two_methods_of_one_name_are_refused(dataset: AFLW2000, tiny_model: MorphableModel) -> None:
    with pytest.raises(ConfigError, match="two methods are called 'labels'"):
        landmarks_and_pose([LabelMethod(tiny_model)], dataset, tiny_model)


def test_a_broken_photo_is_named(tmp_path: Path, tiny_model: MorphableModel) -> None:
    folder = aflw2000_data.write(tmp_path / "AFLW2000", tiny_model)
    (folder / "image00004.jpg").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"image00004\.jpg: not an intact image"):
        landmarks_and_pose([], AFLW2000(folder, "test", CROP, tiny_model), tiny_model)


def test_tables_cite_whose_protocol_they_are(references: BenchmarkResult) -> None:
    for table in references.tables:
        assert any(venue in table.caption for venue in ("CVPR 2016", "CVPRW 2018"))
        assert table.reference == ("labels", "mean face")


# Quoted figures


@pytest.mark.parametrize("table", ["nme_2d_68", "pose"])
def test_quoted_rows_have_a_paper_a_source_and_the_means_of_their_parts(table: str) -> None:
    rows = quoted_rows("aflw2000", table)
    assert {"3DDFA-V2", "SADRNet", "SynergyNet"} <= {row.method for row in rows}
    for row in rows:
        assert row.paper[-4:].isdigit()
        assert "20" in row.source
        parts = [value for column, value in row.values.items() if column not in ("mean", "std")]
        assert not parts or np.mean(parts) == pytest.approx(row.values["mean"], abs=0.0101)


def test_quoted_columns_are_those_of_the_tables(references: BenchmarkResult) -> None:
    sparse, *_, pose = references.tables
    for table, name in ((sparse, "nme_2d_68"), (pose, "pose")):
        rows = quoted_rows("aflw2000", name)
        assert len(table.quoted) == len(rows) == len(set(table.quoted))
        assert {column for row in rows for column in row.values} <= set(table.frame.columns)
        assert table.frame.index.is_unique
    assert sparse.frame.loc["PRNet (2018)", "(60, 90]"] == 4.61
    assert np.isnan(sparse.frame.loc["PRNet (2018)", "all"])
    assert "3DV 2021" in sparse.caption


def test_quoted_rows_stand_below_the_measured_ones() -> None:
    table = Table("title", "caption.", pd.DataFrame({"mean": [1.0]}, index=["ours"]))
    joined = with_quoted(table, [QuotedRow("theirs", "A et al., ECCV 2018", "B, 3DV 2021", {"mean": 2.0})])
    assert joined.frame["mean"].to_dict() == {"ours": 1.0, "theirs (2018)": 2.0}
    assert joined.quoted == ("theirs (2018)",)
    assert joined.caption.endswith("printed in: B, 3DV 2021.")
    assert with_quoted(table, []) is table
    assert quoted_rows("nothing", "here") == []


# Real files


def test_the_labels_of_the_real_files_score_their_own_residual(real_data: Path, bfm: MorphableModel) -> None:
    """The benchmark's floor: what 40 + 10 coefficients leave of the files' landmarks."""
    dataset = AFLW2000(real_data / "AFLW2000", "test", CROP, bfm)
    result = landmarks_and_pose([], dataset, bfm)
    rows = of_method(result, "labels")
    assert len(rows) == len(dataset)
    assert rows["nme_2d_68"].max() <= 0.015
    assert rows["nme_3d_dense"].max() < 1e-6
    assert rows[["yaw_error", "pitch_error", "roll_error"]].to_numpy().max() < 0.01
    assert of_method(result, "mean face")["nme_2d_68"].min() > rows["nme_2d_68"].max()
    assert result.tables[0].frame.loc["labels", "all"] == pytest.approx(100 * rows["nme_2d_68"].mean())
