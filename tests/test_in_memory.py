"""Training crops in memory, and the augmentation of whole batches: the same crops and labels as photo by photo."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import albumentations
import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from jointface.datamodules import W300LP, Augmentation, CelebA, CropTransform, JointDataModule, SyntheticFaces
from jointface.datamodules.batch_augmentation import add_noise, black_out, blur, change_batch, compress, warp_batch
from jointface.datamodules.crop import warp
from jointface.datamodules.face_dataset import FaceDataset
from jointface.datamodules.in_memory import InMemoryFaces, border_of
from jointface.datamodules.perspective import SQUARE, map_of_corners, sample_perspectives
from jointface.errors import ConfigError, DataError
from jointface.geometry import MIRROR68, FaceBox, MorphableModel, apply_camera

SIZE = 32
MOVES = Augmentation(rotation=20, scale=0.2, shift=0.1, flip=0.5)


def smooth_picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4)


@pytest.fixture
def datasets(tiny_data: Path, tiny_model: MorphableModel) -> dict[str, FaceDataset]:
    crop = CropTransform(SIZE)
    return {
        "celeba": CelebA(tiny_data / "celeba", "train", crop),
        "300wlp": W300LP(tiny_data / "300W_LP", "train", crop, tiny_model),
        "synthetic": SyntheticFaces("test", crop, num_faces=4),
    }


@pytest.fixture
def images() -> Tensor:
    return torch.from_numpy(smooth_picture(64, 64)).permute(2, 0, 1).expand(16, -1, -1, -1).contiguous()


def test_warping_a_batch_equals_warping_each_picture() -> None:
    torch.manual_seed(0)
    picture = smooth_picture(50, 40)
    transforms = MOVES.sample_similarities(8, SIZE)
    expected = np.empty((8, SIZE, SIZE, 3), np.uint8)
    for transform, crop in zip(transforms.numpy(), expected, strict=True):
        warp(picture, transform, crop)
    stack = torch.from_numpy(picture).permute(2, 0, 1).expand(8, -1, -1, -1)
    found = warp_batch(stack, transforms, SIZE).permute(0, 2, 3, 1).numpy()
    visible = np.abs(found.astype(int) - expected)[:, 4:-4, 4:-4]
    assert np.percentile(visible, 95) <= 1  # OpenCV rounds coordinates to 1/32 of a pixel, and reflects otherwise


@pytest.mark.parametrize("name", ["celeba", "300wlp", "synthetic"])
def test_labels_follow_the_crop(datasets: dict[str, FaceDataset], name: str) -> None:
    """Pixels and cameras of an augmented crop are those of the same similarity applied to the photo itself."""
    dataset = datasets[name]
    dataset.transform = CropTransform(SIZE, border=border_of(SIZE, MOVES))
    kept = InMemoryFaces(dataset, MOVES)
    kept.load(name, 4, num_workers=0)
    torch.manual_seed(1)
    varied = kept.vary(kept.batch([0, 1, 2, 3]))
    torch.manual_seed(1)
    transforms = MOVES.sample_similarities(4, SIZE)
    dataset.transform = CropTransform(SIZE)
    for index in range(4):
        plain = dataset[index]
        crop = np.empty((SIZE, SIZE, 3), np.uint8)
        sample = dataset.read(index)
        to_crop = CropTransform(SIZE).to_crop(sample.box, transforms[index].numpy())
        warp(sample.image, to_crop, crop)
        pair = (varied["image"][index].permute(1, 2, 0).numpy().astype(float), crop.astype(float))
        varied_blurred, crop_blurred = (cv2.GaussianBlur(image, (0, 0), 2) for image in pair)
        assert np.abs(varied_blurred - crop_blurred).mean() < 4  # one of them was interpolated twice
        if "camera" in plain:
            mean = torch.zeros(1, 1, 3)
            origin = apply_camera(plain["camera"][None], mean)[0, 0, :2]
            moved = transforms[index] @ torch.cat([origin, torch.ones(1)])
            torch.testing.assert_close(
                apply_camera(varied["camera"][index][None], mean)[0, 0, :2], moved, atol=1e-3, rtol=0
            )
        assert varied["index"][index] == index


def test_a_perspective_takes_the_corners_where_it_says() -> None:
    corners = SQUARE + 0.3 * torch.rand(4, 2, generator=torch.Generator().manual_seed(0))
    expected = torch.from_numpy(cv2.getPerspectiveTransform(SQUARE.numpy(), corners.numpy())).float()
    found = map_of_corners(corners[None])[0]
    torch.testing.assert_close(found / found[2, 2], expected)
    torch.testing.assert_close(sample_perspectives(2, 0.0), torch.eye(3).expand(2, 3, 3), atol=1e-6, rtol=0)


def test_landmarks_follow_a_perspective_to_their_pixels(tiny_data: Path) -> None:
    """The picture is x in red and y in green, so that each pixel of the crop tells where it comes from."""
    jitter = Augmentation(rotation=20, scale=0.1, flip=1.0, perspective=0.1)
    border = border_of(SIZE, jitter)
    kept = InMemoryFaces(CelebA(tiny_data / "celeba", "train", CropTransform(SIZE, border=border)), jitter)
    y, x = torch.meshgrid(*[4 * torch.arange(SIZE + 2 * border)] * 2, indexing="ij")
    image = torch.stack([x, y, 0 * x]).to(torch.uint8).expand(4, -1, -1, -1)
    torch.manual_seed(0)
    places = border + SIZE * (0.3 + 0.4 * torch.rand(4, 68, 3))
    varied = kept.vary({"image": image, "landmarks68": places})
    found = varied["landmarks68"]
    grid = (2 * found[:, :, None, :2] + 1) / SIZE - 1
    seen = F.grid_sample(varied["image"].float(), grid, align_corners=False)[:, :2, :, 0].mT / 4
    torch.testing.assert_close(seen, places[:, list(MIRROR68), :2], atol=0.2, rtol=0)  # pixels are rounded


def test_a_perspective_leaves_fitted_faces_alone(tiny_data: Path, tiny_model: MorphableModel) -> None:
    """Their camera could not follow it."""
    dataset, results = W300LP(tiny_data / "300W_LP", "train", CropTransform(SIZE, border=8), tiny_model), []
    for augmentation in (MOVES, replace(MOVES, perspective=0.1)):
        kept = InMemoryFaces(dataset, augmentation)
        kept.load("300wlp", 2, num_workers=0)
        torch.manual_seed(0)
        results.append(kept.vary(kept.batch([0, 1])))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_a_perspective_that_cannot_be_applied_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.augmentation\.perspective=0\.1 needs data\.in_memory=true"):
        JointDataModule({}, SIZE, Augmentation(perspective=0.1))
    with pytest.raises(ConfigError, match=r"data\.augmentation\.perspective=0\.2: must be at most 0\.15"):
        Augmentation(perspective=0.2)


def test_a_border_leaves_the_crop_in_the_middle() -> None:
    picture, box = smooth_picture(120, 120), FaceBox(60, 60, 40)
    plain, wide = CropTransform(SIZE)(picture, box)[0], CropTransform(SIZE, border=5)(picture, box)[0]
    assert wide.shape == (3, SIZE + 10, SIZE + 10)
    assert (wide[:, 5:-5, 5:-5].int() - plain.int()).abs().max() <= 1
    assert border_of(SIZE, None) == 0
    assert border_of(100, Augmentation(shift=0.1)) == 10


def test_each_change_does_what_its_name_says(images: Tensor) -> None:
    torch.manual_seed(0)
    plain = images.float()
    assert blur(images).float().diff(dim=-1).abs().mean() < plain.diff(dim=-1).abs().mean()
    noise = add_noise(images).float() - plain
    inner = (plain > 80).all(1) & (plain < 175).all(1)  # not clipped
    assert (noise.std((1, 2, 3)) > 3).all()
    torch.testing.assert_close(noise[:, 0][inner], noise[:, 1][inner])
    assert 0 < (compress(images).float() - plain).abs().mean() < 8
    hidden = (black_out(images) == 0).all(1).float().mean((1, 2))
    assert (hidden > 0.009).all()
    assert (hidden < 0.2).all()
    torch.testing.assert_close(change_batch(images, Augmentation()), images)


def test_compression_agrees_with_jpeg(images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jointface.datamodules.batch_augmentation.QUALITY", (50.0, 50.0))
    found = compress(images[:1])[0].permute(1, 2, 0).numpy()
    options = [cv2.IMWRITE_JPEG_QUALITY, 50, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    encoded = cv2.imencode(".jpg", images[0].permute(1, 2, 0).numpy()[..., ::-1], options)[1]
    expected = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(found.astype(int) - expected).mean() < 1


def test_a_training_in_memory_reads_each_photo_once(
    datasets: dict[str, FaceDataset],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reads: list[int] = []
    dataset, read = datasets["celeba"], type(datasets["celeba"]).read

    def counted(self: FaceDataset, index: int) -> object:
        reads.append(index)
        if index == 1:
            raise DataError("broken")
        return read(self, index)

    monkeypatch.setattr(type(dataset), "read", counted)

    def opened(split: str, transform: CropTransform) -> FaceDataset:
        dataset.transform = transform
        return dataset

    source = {"dataset": opened, "batch_size": 4, "splits": {"train": "train"}}
    data = JointDataModule({"celeba": source}, SIZE, MOVES, num_workers=0, in_memory=True, max_broken_fraction=0.5)
    data.setup("fit")
    batches = iter(data.train_dataloader())
    for _ in range(2 * len(dataset) // 4):
        batch = data.on_before_batch_transfer(next(batches)[0], 0)
        images = data.on_after_batch_transfer(batch, 0)["celeba"]["image"]
        assert images.shape[1:] == (3, SIZE, SIZE)
    assert sorted(i for i in reads if i != 1) == [i for i in range(len(dataset)) if i != 1]
    assert set(data.broken.reasons["train/celeba"]) == {1}


def test_what_cannot_be_kept_is_refused(datasets: dict[str, FaceDataset], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"data\.in_memory=true augments in torch"):
        InMemoryFaces(datasets["celeba"], Augmentation(extra=[albumentations.HorizontalFlip()]))
    drawn = {"dataset": partial(SyntheticFaces, num_faces=2, drawing={"draw_on": "device"}), "batch_size": 1}
    data = JointDataModule({"drawn": drawn}, SIZE, in_memory=True, num_workers=0)
    with pytest.raises(ConfigError, match=r"data\.sources\.drawn is drawn anew in each step"):
        data.setup("fit")
    monkeypatch.setattr(CelebA, "read", Mock(side_effect=DataError("gone")))
    with pytest.raises(DataError, match="celeba: no sample can be read; the first one: gone"):
        InMemoryFaces(datasets["celeba"], None).load("celeba", 4, num_workers=0)
