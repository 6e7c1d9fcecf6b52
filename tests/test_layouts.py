"""Faces written in the layouts of CelebA and 300W-LP, read back by the data sets of those."""

import errno
from pathlib import Path

import cv2
import numpy as np
import pandas
import pytest
import scipy.io
import torch
from torch import Tensor

from jointface.attributes import CELEBA
from jointface.datamodules.aflw2000 import AFLW2000
from jointface.datamodules.celeba import CelebA
from jointface.datamodules.crop import CropTransform
from jointface.datamodules.face_dataset import read_image
from jointface.datamodules.w300lp import W300LP
from jointface.errors import DataError
from jointface.geometry import MorphableModel, apply_camera, camera_from_pose, crop_camera, similarity
from jointface.synthesis.layouts import Split, write_300wlp_face, write_celeba_labels, write_image

SPLITS: tuple[Split, ...] = ("train", "val", "test")
TRANSFORM = CropTransform(64)
SIDE = 200


def picture(seed: int, height: int = 218, width: int = 178) -> np.ndarray:
    """A smooth RGB image, which JPEG keeps well."""
    noise = np.random.default_rng(seed).integers(0, 255, (6, 5, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def celeba_faces(count: int = 9, extension: str = ".jpg") -> pandas.DataFrame:
    numbers = np.arange(1, count + 1)
    attributes = np.random.default_rng(0).integers(2, size=(count, 40))
    return pandas.DataFrame(attributes, columns=list(CELEBA.attributes)).assign(
        file=[f"{number:06d}{extension}" for number in numbers],
        split=[SPLITS[number % 3] for number in numbers],
        identity=100 + numbers // 2,
    )


# --- CelebA


def write_celeba(root: Path, extension: str = ".jpg") -> pandas.DataFrame:
    faces = celeba_faces(extension=extension)
    for number, file in enumerate(faces["file"]):
        write_image(root / "img_align_celeba" / file, picture(number))
    write_celeba_labels(root, faces[::-1])  # in any order
    return faces


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_celeba_reads_exactly_the_attributes_and_splits_written(tmp_path: Path, extension: str) -> None:
    faces = write_celeba(tmp_path, extension)
    for split in SPLITS:
        data = CelebA(tmp_path, split, TRANSFORM)
        expected = faces[faces["split"] == split]
        assert [data.path(i).name for i in range(len(data))] == list(expected["file"])
        assert torch.equal(data.attributes, torch.tensor(expected[list(CELEBA.attributes)].to_numpy()).float())


def test_images_keep_their_colours_and_jpeg_its_quality(tmp_path: Path) -> None:
    sizes = {}
    for name, quality, error in (("a.png", 95, 0), ("a.jpg", 95, 8), ("b.jpg", 20, 60)):
        write_image(tmp_path / name, picture(3), quality)
        assert abs(read_image(tmp_path / name).astype(int) - picture(3)).max() <= error
        sizes[name] = (tmp_path / name).stat().st_size
    assert sizes["b.jpg"] < sizes["a.jpg"] / 1.5


def test_celeba_files_have_the_published_format(tmp_path: Path) -> None:
    rows = [("000002.jpg", "test", 7, 0, 0, 0, 1), ("000001.jpg", "train", 2880, 1, 1, 0, 0)]
    columns = ["file", "split", "identity", "Smiling", "5_o_Clock_Shadow", "Young", "Asian"]
    write_celeba_labels(tmp_path, pandas.DataFrame(rows, columns=columns))
    count, header, first, *others = (tmp_path / "list_attr_celeba.txt").read_text().split("\n")
    assert count == "2"
    assert header == " ".join(CELEBA.attributes) + " "
    smiling = CELEBA.attributes.index("Smiling")
    assert first == "000001.jpg  1" + " -1" * (smiling - 1) + "  1" + " -1" * (39 - smiling)
    assert others == ["000002.jpg" + " -1" * 40, ""]  # unlabelled is written as absent
    assert (tmp_path / "list_eval_partition.txt").read_text() == "000001.jpg 0\n000002.jpg 2\n"
    assert (tmp_path / "identity_CelebA.txt").read_text() == "000001.jpg 2880\n000002.jpg 7\n"


# --- 300W-LP


def random_face(model: MorphableModel, seed: int) -> dict[str, Tensor]:
    """Camera, coefficients and landmarks of a face inside the image, at any yaw up to 85 degrees."""
    random = torch.Generator().manual_seed(seed)
    turn, place = torch.rand(2, 3, generator=random) * 2 - 1
    angles = turn * torch.tensor([0.5, 1.48, 0.5])
    offset = SIDE / 2 + place * torch.tensor([20.0, 20.0, 50.0])
    camera = camera_from_pose(torch.cat([angles, offset, torch.tensor([6e-4])]), SIDE)
    shape = torch.randn(model.num_shape, generator=random) * 3e4
    expression = torch.randn(model.num_expression, generator=random)
    marks = model.project(shape[None], expression[None], camera[None])[0, model.landmarks68]
    return {"camera": camera, "shape": shape, "expression": expression, "landmarks68": marks}


def write_300wlp(root: Path, model: MorphableModel) -> dict[Split, list[dict[str, Tensor]]]:
    faces: dict[Split, list[dict[str, Tensor]]] = {
        split: [random_face(model, 10 * place + number) for number in range(4)] for place, split in enumerate(SPLITS)
    }
    for split, of_split in faces.items():
        for number, face in enumerate(of_split):
            write_300wlp_face(root / f"Synthetic_{split}" / f"{number:06d}.jpg", picture(number, SIDE, SIDE), **face)
    return faces


def assert_same_face(labels: dict[str, Tensor], face: dict[str, Tensor]) -> None:
    """Coefficients are equal; the camera is to float32: 2e-6 of its scale, 2e-4 pixels."""
    assert torch.equal(labels["shape_coefficients"], face["shape"])
    assert torch.equal(labels["expression_coefficients"], face["expression"])
    linear, shift = labels["camera"].split([3, 1], dim=1)
    torch.testing.assert_close(linear, face["camera"][:, :3], atol=2e-6 * 6e-4, rtol=0)
    torch.testing.assert_close(shift, face["camera"][:, 3:], atol=2e-4, rtol=0)


def test_300wlp_reads_the_faces_of_each_split(tiny_model: MorphableModel, tmp_path: Path) -> None:
    faces = write_300wlp(tmp_path, tiny_model)
    held_out = {"train": 0.0, "val": 1.0}
    for split, fraction in held_out.items():
        data = W300LP(tmp_path, split, TRANSFORM, tiny_model, [f"Synthetic_{split}"], fraction)
        assert len(data) == len(faces[split])
        for index, face in enumerate(faces[split]):
            assert_same_face(data.read(index).labels, face)
        assert data[0]["image"].shape == (3, 64, 64)
    for split, other in (("val", "train"), ("train", "val")):  # the other side of each folder is empty
        with pytest.raises(DataError, match=f"{split} split is empty"):
            W300LP(tmp_path, split, TRANSFORM, tiny_model, [f"Synthetic_{other}"], held_out[other])


def test_aflw2000_reads_the_test_split_with_its_landmarks(tiny_model: MorphableModel, tmp_path: Path) -> None:
    faces = write_300wlp(tmp_path, tiny_model)["test"]
    data = AFLW2000(tmp_path / "Synthetic_test", "test", TRANSFORM, tiny_model)
    assert len(data) == len(faces)
    for index, face in enumerate(faces):
        labels = data.read(index).labels
        assert_same_face(labels, face)
        torch.testing.assert_close(labels["landmarks68"], face["landmarks68"], atol=1e-4, rtol=0)  # pixels


def test_fields_have_the_published_shapes_and_count_from_one(tiny_model: MorphableModel, tmp_path: Path) -> None:
    face = write_300wlp(tmp_path, tiny_model)["train"][1]
    fit = scipy.io.loadmat(tmp_path / "Synthetic_train" / "000001.mat")
    shapes = {"Pose_Para": (1, 7), "Shape_Para": (40, 1), "Exp_Para": (10, 1), "pt2d": (2, 68), "pt3d_68": (3, 68)}
    assert {key: value.shape for key, value in fit.items() if not key.startswith("__")} == shapes
    camera = camera_from_pose(torch.from_numpy(fit["Pose_Para"]), SIDE)
    shape, expression = (torch.from_numpy(fit[key].T).float() for key in ("Shape_Para", "Exp_Para"))
    projected = tiny_model.project(shape, expression, camera)[0, tiny_model.landmarks68].numpy().T
    np.testing.assert_allclose(fit["pt2d"], projected[:2] + 1, atol=2e-3)  # pixels
    np.testing.assert_allclose(fit["pt3d_68"], projected + np.array([[1], [1], [0]]), atol=2e-3)
    np.testing.assert_allclose(fit["pt2d"], face["landmarks68"].numpy().T[:2] + 1, atol=1e-5)


@pytest.mark.parametrize("yaw", [-1.5708, -1.57, 1.5, 1.5707963])
def test_a_profile_lands_where_its_camera_puts_it(tiny_model: MorphableModel, tmp_path: Path, yaw: float) -> None:
    pose = torch.tensor([0.3, yaw, -0.2, 100.0, 90.0, -70.0, 6e-4])
    face = random_face(tiny_model, 0) | {"camera": camera_from_pose(pose, SIDE)}
    write_300wlp_face(tmp_path / "Synthetic_train" / "profile.jpg", picture(0, SIDE, SIDE), **face)
    data = W300LP(tmp_path, "train", TRANSFORM, tiny_model, ["Synthetic_train"], 0)
    seen = [
        apply_camera(camera[None], tiny_model.mean[None])[0]
        for camera in (data.read(0).labels["camera"], face["camera"])
    ]
    torch.testing.assert_close(*seen, atol=0.05, rtol=0)  # pixels; the angles are hard to tell there


def unfit_camera(camera: Tensor, change: str) -> Tensor:
    match change:
        case "mirrored":
            return crop_camera(camera, similarity(1, 0, (0, 0), True, SIDE))
        case "stretched":
            return camera * torch.tensor([[1.0], [1.01], [1.0]])
        case "sheared":
            return camera + 0.02 * camera[[1, 2, 0]]
        case "zero":
            return torch.zeros(3, 4)
    return torch.full((3, 4), torch.nan)


@pytest.mark.parametrize("change", ["mirrored", "stretched", "sheared", "zero", "nan"])
def test_a_camera_that_pose_para_cannot_hold_is_refused(
    tiny_model: MorphableModel, tmp_path: Path, change: str
) -> None:
    face = random_face(tiny_model, 0)
    face["camera"] = unfit_camera(face["camera"], change)
    with pytest.raises(
        DataError, match="face a: Pose_Para holds a rotation, a uniform scale and a translation"
    ) as caught:
        write_300wlp_face(tmp_path / "a.jpg", picture(0), **face)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_labels_that_are_not_finite_are_refused(tiny_model: MorphableModel, tmp_path: Path) -> None:
    face = random_face(tiny_model, 0)
    face["shape"][3], face["landmarks68"][5, 2] = torch.nan, torch.inf
    with pytest.raises(DataError, match="face a: Shape_Para, pt3d_68 would hold values"):
        write_300wlp_face(tmp_path / "a.jpg", picture(0), **face)
    assert not list(tmp_path.iterdir())


# --- Both: disks and folders


def fill_disk(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Files of more than `room` bytes meet a full disk half-way."""

    def write_bytes(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:room])
        if len(data) > room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)


def test_a_full_disk_leaves_no_half_face(
    tiny_model: MorphableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_disk(monkeypatch, room=500)
    face = random_face(tiny_model, 0)
    attempts = {
        "000001.jpg": lambda: write_image(tmp_path / "000001.jpg", picture(0)),
        "list_attr_celeba.txt": lambda: write_celeba_labels(tmp_path, celeba_faces(50)),
        "000001.mat": lambda: write_300wlp_face(tmp_path / "000001.jpg", picture(0, SIDE, SIDE), **face),
    }
    for file, attempt in attempts.items():
        with pytest.raises(DataError, match=rf"cannot write .*{file} \(No space left on device\); make room") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_a_disk_that_fills_after_the_fit_leaves_the_fit_whole(
    tiny_model: MorphableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, face = tmp_path / "Synthetic_train" / "a.jpg", random_face(tiny_model, 0)
    with monkeypatch.context() as patch:
        fill_disk(patch, room=5000)
        with pytest.raises(DataError, match=r"cannot write .*a\.jpg"):
            write_300wlp_face(photo, picture(0, SIDE, SIDE), **face)
    assert [file.name for file in tmp_path.rglob("a*")] == ["a.mat"]
    write_300wlp_face(photo, picture(0, SIDE, SIDE), **face)
    assert len(W300LP(tmp_path, "train", TRANSFORM, tiny_model, ["Synthetic_train"], 0)) == 1


def test_a_folder_that_cannot_be_made_is_named(tiny_model: MorphableModel, tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("in the way")
    face = random_face(tiny_model, 0)
    for attempt in (
        lambda: write_image(root / "a.jpg", picture(0)),
        lambda: write_celeba_labels(root, celeba_faces()),
        lambda: write_300wlp_face(root / "a.jpg", picture(0), **face),
    ):
        with pytest.raises(DataError, match=f"cannot write {root}/.*choose a folder that you may write to"):
            attempt()


def test_an_image_that_jpeg_cannot_hold_is_refused_in_one_line(tmp_path: Path) -> None:
    for image in (np.zeros((0, 0, 3), np.uint8), np.zeros((70_000, 1, 3), np.uint8)):
        with pytest.raises(DataError, match=r"a.jpg: an image of shape .* cannot be encoded") as caught:
            write_image(tmp_path / "a.jpg", image)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_is_written_again_is_the_same_bytes(tiny_model: MorphableModel, tmp_path: Path) -> None:
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        write_300wlp(root, tiny_model)
        write_celeba(root)
    one, two = (
        {file.relative_to(root): file.read_bytes() for file in root.rglob("*") if file.is_file()} for root in roots
    )
    assert len(one) == 3 * 4 * 2 + 9 + 3
    assert one == two
