"""300W-LP and AFLW2000-3D: photos with fitted faces, whole, broken and real."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import h5py
import jaxtyping
import numpy as np
import pytest
import scipy.io
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from jointface.attributes import CELEBA
from jointface.command_line import CONF_DIR
from jointface.datamodules import AFLW2000, W300LP, Augmentation, CropTransform, FaceSample, FittedCelebA
from jointface.datamodules.fitted_face import FittedFaceReader
from jointface.datamodules.held_out import held_out_fraction
from jointface.datamodules.on_disk import Count
from jointface.datamodules.w300lp import original_name
from jointface.errors import ConfigError, DataError
from jointface.geometry import MIRROR68, MorphableModel, face_box, is_mirrored
from jointface.modules.source_metrics import true_face
from tests.data.aflw2000 import data as aflw2000_data
from tests.data.w300lp import data as w300lp_data
from tests.faults import Fault, archived, deeper, removed, written

CROP = CropTransform(96)


def test_an_item_is_the_data_contract(tiny_data: Path, tiny_model: MorphableModel) -> None:
    item = W300LP(tiny_data / "300W_LP", "train", CROP, tiny_model)[0]
    shapes = {key: tuple(value.shape) for key, value in item.items()}
    assert shapes == {
        "image": (3, 96, 96),
        "shape_coefficients": (40,),
        "expression_coefficients": (10,),
        "camera": (3, 4),
        "index": (),
    }
    assert all(item[key].dtype == torch.float32 for key in ("shape_coefficients", "expression_coefficients", "camera"))


@pytest.fixture(scope="module")
def wild(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos with fits, attributes and identity: twelve to train on, of which six show person 5, and two others."""
    root = tmp_path_factory.mktemp("wild")
    (root / "photos").mkdir()
    photos = [path for path in (tiny_data / "300W_LP").rglob("*.jpg") if path.with_suffix(".mat").is_file()][:14]
    names = [f"{number:06d}" for number in range(1, 15)]
    for photo, name in zip(photos, names, strict=True):
        for ending in (".jpg", ".mat"):
            shutil.copy(photo.with_suffix(ending), root / "photos" / f"{name}{ending}")
    people, parts = [5] * 6 + [2] * 4 + [9] * 2 + [7, 8], [0] * 12 + [1, 2]
    rows = [" ".join("1" if (row + column) % 3 else "-1" for column in range(40)) for row in range(14)]
    lists = {"list_eval_partition": parts, "identity_CelebA": people, "list_attr_celeba": rows}
    for file, values in lists.items():
        lines = [f"{name}.jpg {value}" for name, value in zip(names, values, strict=True)]
        heads = ["14", " ".join(CELEBA.attributes)] if file == "list_attr_celeba" else []
        (root / f"{file}.txt").write_text("\n".join([*heads, *lines]) + "\n")
    return root


def test_fitted_celeba_has_both_labels_and_knows_the_people(wild: Path, tiny_model: MorphableModel) -> None:
    data = FittedCelebA(wild, "train", CROP, tiny_model)
    assert data.identity.tolist() == [5] * 6 + [2] * 4 + [9] * 2
    assert data.has_shape
    item = data[1]
    assert {"camera", "shape_coefficients", "expression_coefficients", "identity"} < item.keys()
    assert item["attributes"].tolist() == [float((1 + column) % 3 > 0) for column in range(40)]
    assert [len(FittedCelebA(wild, split, CROP, tiny_model)) for split in ("val", "test")] == [1, 1]


@pytest.mark.parametrize(("labels", "lacks"), [("shape", "attributes"), ("attributes", "camera")])
def test_fitted_celeba_may_label_one_task_alone(
    wild: Path, tiny_model: MorphableModel, labels: Any, lacks: str
) -> None:
    data = FittedCelebA(wild, "train", CROP, tiny_model, labels=labels)
    assert {"identity", "image"} < data[0].keys()
    assert lacks not in data[0]
    assert (data.label_set is None, data.has_shape) == ((labels == "shape",) * 2)


def test_fewer_photos_are_shared_among_the_people(wild: Path, tiny_model: MorphableModel) -> None:
    """The first five of each person come first, so that a choice has pairs of photos of many people."""
    people = [FittedCelebA(wild, "train", CROP, tiny_model, num_photos=n).identity.tolist() for n in (5, 12)]
    assert people == [[5] * 5, [5] * 5 + [2] * 4 + [9] * 2 + [5]]
    with pytest.raises(ConfigError, match="num_photos=13: there are 12 to choose from"):
        FittedCelebA(wild, "train", CROP, tiny_model, num_photos=13)


def test_aflw2000_brings_its_own_landmarks(tiny_data: Path, tiny_model: MorphableModel) -> None:
    item = AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model)[0]
    landmarks, vertices = true_face(tiny_model, {key: value[None] for key, value in item.items()})
    torch.testing.assert_close(landmarks[0], vertices[0, tiny_model.landmarks68], atol=0.02, rtol=0)


def test_the_landmarks_fill_the_crop_by_the_framing_rule(tiny_data: Path, tiny_model: MorphableModel) -> None:
    for item in (AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model)[i] for i in range(3)):
        box = face_box(item["landmarks68"])
        assert (box.x, box.y, box.size) == pytest.approx((47.5, 47.5, 96 / 1.58), abs=1e-3)


class OneDot(AFLW2000):
    """The first face of the data set, its photo replaced by a white dot at one of its landmarks."""

    def __len__(self) -> int:
        return 68

    def read(self, index: int) -> FaceSample:
        sample = super().read(0)
        sample.image = np.zeros_like(sample.image)
        x, y = (sample.labels["landmarks68"][index, :2] * 16).round().int().tolist()
        cv2.circle(sample.image, (x, y), 5 * 16, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
        return sample


def shipped_augmentation() -> Augmentation:
    """That of the config, without what hides the dot."""
    config = OmegaConf.load(CONF_DIR / "data" / "augmentation" / "default.yaml")
    config.occlusion = 0
    return instantiate(config, _convert_="all")


@pytest.mark.parametrize(
    "augmentation",
    [None, Augmentation(rotation=30, scale=0.15, shift=0.05, flip=0.5), shipped_augmentation()],
    ids=["none", "geometric", "shipped"],
)
def test_image_camera_and_landmarks_move_together(
    tiny_data: Path, tiny_model: MorphableModel, augmentation: Augmentation | None
) -> None:
    """A dot rendered at each landmark is found where landmarks and camera of the item say."""
    dataset = OneDot(tiny_data / "AFLW2000", "test", CropTransform(96, augmentation), tiny_model)
    rows, columns = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")
    torch.manual_seed(0)
    mirrored = 0
    for drawn in range(68):
        item = {key: value[None] for key, value in dataset[drawn].items()}
        landmarks, vertices = true_face(tiny_model, item)
        torch.testing.assert_close(landmarks, vertices[:, tiny_model.landmarks68], atol=0.02, rtol=0)
        flipped = bool(is_mirrored(item["camera"]))
        place = landmarks[0, MIRROR68[drawn] if flipped else drawn, :2]
        brightness = (item["image"][0].float().amin(0) - 80).clamp(min=0)
        found = torch.stack([(brightness * columns).sum(), (brightness * rows).sum()]) / brightness.sum()
        torch.testing.assert_close(found, place, atol=0.3, rtol=0)
        mirrored += flipped
    assert (mirrored > 20) == (augmentation is not None)


def test_a_flipped_sample_has_its_landmarks_on_the_right_side(tiny_data: Path, tiny_model: MorphableModel) -> None:
    plain = AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model)[0]
    flipped = AFLW2000(tiny_data / "AFLW2000", "test", CropTransform(96, Augmentation(flip=1.0)), tiny_model)[0]
    assert (flipped["image"].float() - plain["image"].flip(-1).float()).abs().mean() < 1  # of 255: interpolation rounds
    expected = plain["landmarks68"][list(MIRROR68)] * torch.tensor([-1.0, 1, 1]) + torch.tensor([95.0, 0, 0])
    torch.testing.assert_close(flipped["landmarks68"], expected, atol=1e-3, rtol=0)


def test_copies_and_twins_of_a_photo_stay_on_one_side(tiny_data: Path, tiny_model: MorphableModel) -> None:
    def photos(split: str) -> set[str]:
        dataset = W300LP(tiny_data / "300W_LP", split, CROP, tiny_model, val_fraction=0.4)
        return {dataset.path(i).stem.rsplit("_", 1)[0] for i in range(len(dataset))}

    train, val = photos("train"), photos("val")
    assert len(train | val) == 6
    assert not train & val
    assert val


def test_held_out_share_is_the_fraction() -> None:
    shares = np.array([held_out_fraction(original_name(f"HELEN_{i}_1_0")) for i in range(4000)])
    assert (shares < 0.05).mean() == pytest.approx(0.05, abs=0.01)
    assert held_out_fraction(original_name("HELEN_7_1_0")) == held_out_fraction(original_name("HELEN_7_1_12"))
    assert held_out_fraction(original_name("000311")) != held_out_fraction(original_name("000312"))


def test_the_held_out_photos_never_change() -> None:
    """Metrics of earlier runs stay comparable."""
    assert held_out_fraction(original_name("AFW_134212_1_5")) == pytest.approx(0.136628287)
    assert held_out_fraction(original_name("LFPW_image_test_0001_13")) == pytest.approx(0.559840416)


def test_subsets_are_the_folders_or_those_named(tiny_data: Path, tiny_model: MorphableModel) -> None:
    root = tiny_data / "300W_LP"
    both = W300LP(root, "train", CROP, tiny_model, val_fraction=0)
    one = W300LP(root, "train", CROP, tiny_model, subsets=["AFW"], val_fraction=0)
    assert (len(both), len(one)) == (36, 18)
    with pytest.raises(DataError, match=r"no folder .*HELEN: looked there for 300W-LP's subset HELEN"):
        W300LP(root, "train", CROP, tiny_model, subsets=["HELEN"])


def test_photos_without_a_fit_are_left_out_and_counted(
    tmp_path: Path, tiny_model: MorphableModel, caplog: pytest.LogCaptureFixture
) -> None:
    root = w300lp_data.write(tmp_path, tiny_model, photos=2, copies=1)
    next((root / "AFW").glob("*.mat")).unlink()
    with caplog.at_level(logging.WARNING):
        assert len(W300LP(root, "train", CROP, tiny_model, val_fraction=0)) == 3
    assert "300W-LP: 1 photos have no .mat in" in caplog.text


def item_pair(root: Path, model: MorphableModel, **options: str) -> tuple[dict, dict]:
    """The same photo and its flipped twin, both from their files."""
    photo, twin = (
        W300LP(root, "train", CROP, model, subsets=[subset], val_fraction=0, **options)[4]
        for subset in ("AFW", "AFW_Flip")
    )
    return photo, twin


def test_landmarks_of_the_files_are_those_of_the_photo_and_of_its_flipped_twin(
    tiny_data: Path, tiny_model: MorphableModel
) -> None:
    for item in item_pair(tiny_data / "300W_LP", tiny_model, landmarks="file"):
        landmarks, vertices = true_face(tiny_model, {key: value[None] for key, value in item.items()})
        distance = (landmarks - vertices[:, tiny_model.landmarks68]).norm(dim=-1)
        assert (
            distance.mean() < 0.1
        )  # a pixel of the photo is 0.3 here; two of the tiny model's brow points lie oblique


def test_landmarks_come_from_the_file_and_the_framing_from_the_fit(tmp_path: Path, tiny_model: MorphableModel) -> None:
    root = w300lp_data.write(tmp_path, tiny_model, photos=2)
    before = item_pair(root, tiny_model, landmarks="file")
    path = sorted((root / "landmarks" / "AFW").glob("*.mat"))[4]
    points = scipy.io.loadmat(path)
    scipy.io.savemat(path, {"pts_2d": points["pts_2d"], "pts_3d": points["pts_3d"] + [7.0, 0.0]})
    after = item_pair(root, tiny_model, landmarks="file")
    for old, new, direction in zip(before, after, (1, -1), strict=True):
        moved = new["landmarks68"] - old["landmarks68"]
        assert (direction * moved[:, 0] > 1).all()
        assert moved[:, 1:].abs().max() < 1e-4
        assert torch.equal(old["image"], new["image"])


def test_a_flipped_photos_own_file_of_landmarks_goes_first(tmp_path: Path, tiny_model: MorphableModel) -> None:
    root = w300lp_data.write(tmp_path, tiny_model, photos=2)
    own = root / "landmarks" / "AFW_Flip" / sorted((root / "landmarks" / "AFW").glob("*.mat"))[4].name
    own.parent.mkdir()
    scipy.io.savemat(own, {"pts_3d": np.full((68, 2), 226.0)})
    _, twin = item_pair(root, tiny_model, landmarks="file")
    assert (twin["landmarks68"][:, :2].amax(0) == twin["landmarks68"][:, :2].amin(0)).all()


def test_photos_without_landmarks_are_left_out_and_counted(
    tmp_path: Path, tiny_model: MorphableModel, caplog: pytest.LogCaptureFixture
) -> None:
    root = w300lp_data.write(tmp_path, tiny_model, photos=2, copies=1)
    next((root / "landmarks" / "AFW").glob("*.mat")).unlink()
    with caplog.at_level(logging.WARNING):
        dataset = W300LP(root, "train", CROP, tiny_model, val_fraction=0, landmarks="file")
    assert len(dataset) == 2
    assert "300W-LP: 1 photos of AFW_Flip have no landmarks and are left out" in caplog.text
    assert all("landmarks68" in dataset[index] for index in range(2))
    shutil.rmtree(root / "landmarks")
    assert len(W300LP(root, "train", CROP, tiny_model, val_fraction=0)) == 4
    with pytest.raises(DataError, match=r"no landmarks of AFW in .*: looked there for AFW/AFW_\d+_1_0_pts.mat; get"):
        W300LP(root, "train", CROP, tiny_model, val_fraction=0, landmarks="file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pts_2d": np.ones((68, 2))}, "no field pts_3d"),
        ({"pts_3d": np.ones((2, 68))}, r"pts_3d: expected shape \(68, 2\), found \(2, 68\)"),
        ({"pts_3d": np.full((68, 2), np.nan)}, "pts_3d: holds NaN or infinite values"),
    ],
)
def test_broken_landmarks_are_refused_in_one_line(
    tmp_path: Path, tiny_model: MorphableModel, content: dict[str, np.ndarray], message: str
) -> None:
    root = w300lp_data.write(tmp_path, tiny_model, photos=1, copies=1)
    scipy.io.savemat(next((root / "landmarks" / "AFW").glob("*.mat")), content)
    with pytest.raises(DataError, match=f"_pts.mat: {message}") as caught:
        W300LP(root, "train", CROP, tiny_model, val_fraction=0, landmarks="file")[0]
    assert "\n" not in str(caught.value)


def test_reannotated_landmarks_replace_x_and_y_only(tiny_data: Path, tiny_model: MorphableModel) -> None:
    root = tiny_data / "AFLW2000"
    original, again = (
        AFLW2000(root, "test", CROP, tiny_model, annotation=annotation) for annotation in ("original", "reannotated")
    )
    rows = np.load(root / "AFLW2000-3D-Reannotated.pts68.npy")[::-1]  # the tiny copy has the last photo first
    for index, row in enumerate(rows):
        old, new = original[index], again[index]
        assert torch.equal(old["image"], new["image"])
        assert torch.equal(old["landmarks68"][:, 2], new["landmarks68"][:, 2])
        distance = (old["landmarks68"] - new["landmarks68"])[:, :2].norm(dim=1).mean()
        assert 0.1 < distance < 0.05 * 96
        np.testing.assert_array_equal(again.read(index).labels["landmarks68"][:, :2], row.T)


def test_reannotated_landmarks_may_lie_above_the_photos(tmp_path: Path, tiny_model: MorphableModel) -> None:
    root = aflw2000_data.write(tmp_path / "AFLW2000", tiny_model)
    for file in root.glob("*.npy"):
        file.rename(tmp_path / file.name)
    assert "landmarks68" in AFLW2000(root, "test", CROP, tiny_model, annotation="reannotated")[2]


def break_reannotation(root: Path, change: str) -> None:
    original, again = root / "AFLW2000-3D.pts68.npy", root / "AFLW2000-3D-Reannotated.pts68.npy"
    match change:
        case "gone":
            again.unlink()
        case "no order":
            original.unlink()
        case "pickle":
            np.save(again, np.array([{"a": 1}], dtype=object), allow_pickle=True)
        case "21 points":
            np.save(again, np.load(again)[..., :21])
        case "rows":
            np.save(again, np.load(again)[1:])
        case "other faces":
            np.save(original, np.load(original) + 5)
        case "nan":
            np.save(again, np.load(again) * np.nan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("gone", "no AFLW2000-3D-Reannotated.pts68.npy in .*AFLW2000: get it from test.configs/"),
        ("no order", "no AFLW2000-3D.pts68.npy in .*AFLW2000: get it from test.configs/"),
        ("pickle", "Reannotated.pts68.npy: not a readable .npy file"),
        ("21 points", r"Reannotated.pts68.npy: has shape \(3, 2, 21\), expected \(photos, 2, 68\)"),
        ("rows", "AFLW2000-3D.pts68.npy has 3 rows and AFLW2000-3D-Reannotated.pts68.npy 2"),
        ("other faces", "image00002.mat: no row of AFLW2000-3D.pts68.npy matches its pt3d_68"),
        ("nan", "Reannotated.pts68.npy: holds NaN"),
    ],
)
def test_a_broken_reannotation_is_refused_in_one_line(
    tmp_path: Path, tiny_model: MorphableModel, change: str, message: str
) -> None:
    root = aflw2000_data.write(tmp_path / "AFLW2000", tiny_model)
    break_reannotation(root, change)
    with pytest.raises(DataError, match=message) as caught:
        AFLW2000(root, "test", CROP, tiny_model, annotation="reannotated")[0]
    assert "\n" not in str(caught.value)


def test_the_inventory_stands_beside_the_published_numbers(tiny_data: Path, tiny_model: MorphableModel) -> None:
    counts = W300LP(tiny_data / "300W_LP", "val", CROP, tiny_model, subsets=["AFW"]).inventory()
    assert counts[:3] == [
        Count("AFW photos", 18, 5207), Count("AFW_Flip photos", 18, 5207), Count("HELEN photos", 0, 37676),
    ]  # fmt: skip
    assert Count("photos", 36, 122450) in counts
    assert Count("AFW landmarks", 18, 5207) in counts
    aflw = AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model, annotation="reannotated")
    assert aflw.inventory() == [Count("photos", 3, 2000), Count("re-annotated photos", 3, 2000)]


def test_the_inventory_of_the_real_files(real_data: Path, bfm: MorphableModel) -> None:
    counts = W300LP(real_data / "300W_LP", "train", CROP, bfm).inventory()
    assert Count("IBUG photos", 1, 1786) in counts
    assert Count("CELEBA photos", 2623) in counts
    assert AFLW2000(real_data / "AFLW2000", "test", CROP, bfm).inventory() == [Count("photos", 6, 2000)]


def test_unknown_words_are_refused(
    tiny_data: Path, tiny_model: MorphableModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user has no checker of annotations
    with pytest.raises(ConfigError, match="landmarks=all is unknown; choose from fit, file"):
        W300LP(tiny_data / "300W_LP", "train", CROP, tiny_model, landmarks="all")
    with pytest.raises(ConfigError, match="annotation=new is unknown; choose from original, reannotated"):
        AFLW2000(tiny_data / "AFLW2000", "test", CROP, tiny_model, annotation="new")


def zipped(root: Path) -> None:
    archived(root.name, "AFLW2000-3D.zip" if root.name == "AFLW2000" else "300W-LP.zip")(root.parent)


def without_fits(root: Path) -> None:
    for file in root.rglob("*.mat"):
        file.unlink()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (deeper("all"), "found photos one folder too deep, in .*{name}/all: point the path there"),
        (zipped, "no folder .*{name}: looked there for .*; found .*.zip there, unpack it"),
        (archived(".", "AFW.zip"), "no .jpg [+] .mat pair of .* in .*: found AFW.zip there, unpack it"),
        (
            lambda root: root.rename(root.with_name(root.name.lower())),
            "no folder .*{name}: looked there for .*; found '{lower}' there, rename it to '{name}'",
        ),
        (without_fits, "found .*.jpg in .*, without its .mat"),
    ],
)
@pytest.mark.parametrize("name", ["300W_LP", "AFLW2000"])
def test_a_misplaced_data_set_is_refused_with_what_lies_there(
    tmp_path: Path, tiny_model: MorphableModel, name: str, fault: Fault, message: str
) -> None:
    root = tmp_path / name
    write, dataset = (aflw2000_data.write, AFLW2000) if name == "AFLW2000" else (w300lp_data.write, W300LP)
    write(root, tiny_model, photos=2)
    fault(root)
    with pytest.raises(DataError, match=message.format(name=name, lower=name.lower())) as caught:
        dataset(root, dataset.splits[0], CROP, tiny_model)
    assert "\n" not in str(caught.value)


def test_a_subset_instead_of_the_whole_is_refused(tmp_path: Path, tiny_model: MorphableModel) -> None:
    root = w300lp_data.write(tmp_path / "300W_LP", tiny_model, photos=1, copies=1)
    with pytest.raises(DataError, match="found photos in the folder itself: point the path to its parent folder"):
        W300LP(root / "AFW", "train", CROP, tiny_model)


def test_a_subset_in_another_case_is_refused(tmp_path: Path, tiny_model: MorphableModel) -> None:
    root = w300lp_data.write(tmp_path, tiny_model, photos=1, copies=1)
    (root / "AFW").rename(root / "afw")
    with pytest.raises(DataError, match="found 'afw' there, rename it to 'AFW'"):
        W300LP(root, "train", CROP, tiny_model, subsets=["AFW"])


def test_no_permission_is_said(tmp_path: Path, tiny_model: MorphableModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder, a fit and a photo; tests may run as root, whom nothing is forbidden."""
    dataset = AFLW2000(aflw2000_data.write(tmp_path, tiny_model, 1), "test", CROP, tiny_model)

    def forbidden(*args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("numpy.fromfile", forbidden)
    with pytest.raises(DataError, match=r"image00002.jpg: .*\(Permission denied\)"):
        dataset[0]
    monkeypatch.setattr("scipy.io.loadmat", forbidden)
    with pytest.raises(DataError, match=r"image00002.mat: not a readable MATLAB file .*Permission denied"):
        dataset[0]
    monkeypatch.setattr("os.access", lambda path, mode: False)
    for make, split in ((W300LP, "train"), (AFLW2000, "test")):
        with pytest.raises(DataError, match="no permission to read the folder"):
            make(tmp_path, split, CROP, tiny_model)


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_missing_and_empty_folders_are_named(tmp_path: Path, tiny_model: MorphableModel, kind: str) -> None:
    folder = tmp_path / "nothing"
    if kind == "empty":
        folder.mkdir()
    for make in (lambda: W300LP(folder, "train", CROP, tiny_model), lambda: AFLW2000(folder, "test", CROP, tiny_model)):
        with pytest.raises(DataError, match="nothing"):
            make()


NAME = "image00002"


def with_fit(**fields: Any) -> Fault:
    """Fields of the fit are replaced, by values or by what a function makes of them; None takes them away."""

    def fault(root: Path) -> None:
        fit = {key: value for key, value in scipy.io.loadmat(root / f"{NAME}.mat").items() if not key.startswith("__")}
        for key, value in fields.items():
            fit[key] = value(fit[key]) if callable(value) else value
        scipy.io.savemat(root / f"{NAME}.mat", {key: value for key, value in fit.items() if value is not None})

    return fault


def of_another_kind(**content: np.ndarray) -> Fault:
    return lambda root: scipy.io.savemat(root / f"{NAME}.mat", content)


def of_matlab_7_3(root: Path) -> None:
    path = root / f"{NAME}.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["Pose_Para"] = np.ones((1, 7))
    header = b"MATLAB 7.3 MAT-file".ljust(116) + bytes(8) + b"\x00\x02IM"
    path.write_bytes(header + path.read_bytes()[len(header) :])


def scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """The scale of a pose, its seventh number, times a factor."""
    return lambda pose: pose * np.array([1, 1, 1, 1, 1, 1, factor])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (with_fit(Pose_Para=None), "mat: no field Pose_Para"),
        (with_fit(Exp_Para=lambda values: values * np.nan), "mat: Exp_Para: holds NaN or infinite values"),
        (with_fit(Shape_Para=lambda values: values[:20]), "mat: Shape_Para has 20 values, at least 40"),
        (with_fit(Exp_Para=np.array(["none"])), "mat: Exp_Para: expected numbers"),
        (with_fit(Pose_Para=scaled(0)), "mat: the fitted face is .* pixels large"),
        (with_fit(Pose_Para=scaled(-1)), "mat: the scale of Pose_Para is .* must be positive"),
        (with_fit(pt3d_68=np.full((3, 68), 7.0)), "mat: pt3d_68 is 0 pixels large"),
        (with_fit(pt3d_68=np.ones((3, 21))), r"mat: pt3d_68: expected shape \(3, 68\), found \(3, 21\)"),
        (written(f"{NAME}.jpg", 5000), "jpg: not an intact image"),
        (written(f"{NAME}.mat", 300), "mat: not a readable MATLAB file"),
        (removed(f"{NAME}.mat"), "mat: no such file"),
        (
            of_another_kind(pts_2d=np.ones((68, 2)), pts_3d=np.ones((68, 2))),
            "mat: no field Pose_Para; it seems to be a file of 300W-LP's landmarks/ folder",
        ),
        (
            of_another_kind(AttrName=np.ones((40, 1)), label=np.ones((5, 40))),
            "mat: no field Pose_Para; it holds AttrName, label; expected a file of",
        ),
        (of_matlab_7_3, "mat: not a readable MATLAB file .it is in the format of MATLAB 7.3"),
    ],
)
def test_a_broken_pair_is_refused_in_one_line(
    tmp_path: Path, tiny_model: MorphableModel, fault: Fault, message: str
) -> None:
    dataset = AFLW2000(aflw2000_data.write(tmp_path, tiny_model, 1), "test", CROP, tiny_model)
    fault(tmp_path)
    with pytest.raises(DataError, match=f"{NAME}.{message}") as caught:
        dataset[0]
    assert "\n" not in str(caught.value)


def landmark_error(photo: Path, model: MorphableModel, field: str, points: slice) -> float:
    """Mean distance of the rebuilt landmarks from the file's own (x, y), over the face box."""
    reader = FittedFaceReader(model)
    rebuilt = reader.landmarks(reader.read(photo).labels)[:, :2].numpy()
    own = scipy.io.loadmat(photo.with_suffix(".mat"))[field][:2].T - 1
    return float(np.linalg.norm(rebuilt - own, axis=1)[points].mean() / np.sqrt(np.ptp(own, axis=0).prod()))


def test_real_fits_reproduce_the_files_own_landmarks(real_data: Path, bfm: MorphableModel) -> None:
    aflw = sorted((real_data / "AFLW2000").glob("*.jpg"))
    celeba = sorted((real_data / "300W_LP" / "CELEBA").glob("*.jpg"))[::50]
    ibug = real_data / "300W_LP" / "IBUG" / "IBUG_image_008_1_0.jpg"
    assert max(landmark_error(photo, bfm, "pt3d_68", slice(None)) for photo in aflw) < 0.015
    assert max(landmark_error(photo, bfm, "pt2d", slice(None)) for photo in celeba) < 0.015
    # pt2d marks the visible contour there, so only the inner points compare.
    assert landmark_error(ibug, bfm, "pt2d", slice(17, None)) < 0.03


def test_real_landmark_depth_is_that_of_the_rebuilt_face(real_data: Path, bfm: MorphableModel) -> None:
    """z of `pt3d_68` is in the frame of the camera, as the data contract says."""
    dataset = AFLW2000(real_data / "AFLW2000", "test", CROP, bfm)
    for index in range(6):
        landmarks, vertices = true_face(bfm, {key: value[None] for key, value in dataset[index].items()})
        difference = (landmarks - vertices[:, bfm.landmarks68])[0, :, 2].abs()
        assert difference.mean() < 0.02 * 96 / 1.58


def test_fewer_photos_are_a_choice_within_more(tiny_data: Path, tiny_model: MorphableModel) -> None:
    def photos(split: str, num_photos: int | None) -> set[str]:
        dataset = W300LP(tiny_data / "300W_LP", split, CROP, tiny_model, val_fraction=0.4, num_photos=num_photos)
        assert num_photos is None or split == "val" or len(dataset) == num_photos
        return {str(dataset.path(index)) for index in range(len(dataset))}

    assert photos("train", 3) < photos("train", 7) < photos("train", None)
    assert photos("val", 3) == photos("val", None)
    for count in (0, 1000):
        with pytest.raises(ConfigError, match=f"num_photos={count}: there are"):
            photos("train", count)
