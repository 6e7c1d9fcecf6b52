"""How training crops vary: closed forms of the colour matrices, chances, and independence of the batch."""

import math
from unittest.mock import Mock

import albumentations
import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from jointface.datamodules import Augmentation, CropTransform
from jointface.datamodules.augmentation import LUMA, change_colours, colour_matrices
from jointface.errors import ConfigError
from jointface.geometry import FaceBox

NEUTRAL = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}


def matrix(**changes: float) -> Tensor:
    """The (3, 4) matrix of one crop."""
    return colour_matrices(**{name: torch.tensor([value]) for name, value in {**NEUTRAL, **changes}.items()})[0]


def apply(colours: Tensor, *rgb: float) -> list[float]:
    return (colours @ torch.tensor([*rgb, 1.0])).tolist()


def test_nothing_changes_nothing() -> None:
    torch.testing.assert_close(matrix(), torch.eye(3, 4))


def test_brightness_multiplies_and_contrast_does_so_about_mid_grey() -> None:
    assert apply(matrix(brightness=1.5), 10, 20, 30) == pytest.approx([15, 30, 45])
    assert apply(matrix(contrast=0.5), 127.5, 27.5, 227.5) == pytest.approx([127.5, 77.5, 177.5])


def test_no_saturation_is_the_luma() -> None:
    luma = (LUMA * torch.tensor([200.0, 40.0, 90.0])).sum().item()
    assert apply(matrix(saturation=0.0), 200, 40, 90) == pytest.approx([luma] * 3)


def test_a_third_of_the_circle_turns_red_into_green() -> None:
    assert apply(matrix(hue=1 / 3), 200, 0, 0) == pytest.approx([0, 200, 0], abs=1e-4)


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.5, 0.5), st.floats(0, 2), st.floats(0, 255))
def test_grey_stays_grey(hue: float, saturation: float, grey: float) -> None:
    assert apply(matrix(hue=hue, saturation=saturation), grey, grey, grey) == pytest.approx([grey] * 3, abs=1e-3)


def test_device_and_worker_change_colours_alike() -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    colours = Augmentation(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.05).sample_colour_matrices(5)
    by_device = change_colours(images, colours)
    for image, one, expected in zip(images, colours.numpy(), by_device, strict=True):
        by_worker = cv2.transform(image.permute(1, 2, 0).numpy().copy(), one)
        assert np.abs(by_worker.astype(int) - expected.permute(1, 2, 0).numpy().astype(int)).max() <= 1


def test_samples_stay_within_their_limits() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(rotation=20, scale=0.2, shift=0.1, flip=0.5, brightness=0.25)
    similarities = augmentation.sample_similarities(2000, 100)
    linear = similarities[:, :, :2]
    flipped = torch.linalg.det(linear) < 0
    scale = torch.linalg.det(linear).abs().sqrt()
    sign = torch.where(flipped, -1.0, 1.0)
    angle = torch.rad2deg(torch.atan2(linear[:, 0, 1], sign * linear[:, 0, 0]))
    moved = (similarities @ torch.tensor([49.5, 49.5, 1.0]) - 49.5).abs()  # where the centre goes
    assert flipped.float().mean() == pytest.approx(0.5, abs=0.05)
    assert 1 / 1.2 - 1e-5 <= scale.min() < 0.85
    assert 1.18 < scale.max() <= 1.2 + 1e-5
    assert 19 < angle.abs().max() <= 20 + 1e-3
    assert 9 < moved.max() <= 10 + 1e-3
    bright = augmentation.sample_colour_matrices(2000)[:, 0, 0]
    assert bright.min() >= 0.75 - 1e-6
    assert bright.max() <= 1.25 + 1e-6


def test_each_transform_keeps_its_own_chance() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(extra=[albumentations.InvertImg(p=0.25)])
    crops = np.zeros((2000, 4, 4, 3), np.uint8)
    changed = CropTransform(4, augmentation).change_colours(crops)
    assert (changed.amax((1, 2, 3)) == 255).float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_degradations_are_as_frequent_as_asked_and_exclude_each_other() -> None:
    torch.manual_seed(0)
    augmentation = Augmentation(blur=0.1, noise=0.1, compression=0.2, occlusion=0.25)
    one_of, dropout = augmentation.photometric
    augmentation.photometric = [Mock(side_effect=lambda image: {"image": image}) for _ in range(2)]
    augmentation.change_crops(np.zeros((2000, 4, 4, 3), np.uint8))
    for transform, chance in zip(augmentation.photometric, (0.4, 0.25), strict=True):
        assert transform.call_count / 2000 == pytest.approx(chance, abs=0.04)
    assert isinstance(dropout, albumentations.CoarseDropout)
    assert one_of.transforms_ps == pytest.approx([0.25, 0.25, 0.5])


def test_grey_crops_are_as_frequent_as_asked() -> None:
    torch.manual_seed(0)
    matrices = Augmentation(grey=0.3).sample_colour_matrices(2000)
    grey = (matrices[:, 0, :3] - matrices[:, 1, :3]).abs().amax(1) < 1e-6
    assert grey.float().mean().item() == pytest.approx(0.3, abs=0.04)


def test_a_crop_that_is_turned_finds_its_pixels() -> None:
    """A turn by the augmentation equals the turn of the picture itself, within interpolation."""
    y, x = np.mgrid[:200, :200]
    image = np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)
    torch.manual_seed(3)
    crop, transform = CropTransform(64, Augmentation(rotation=45))(image, FaceBox(100, 100, 50))
    back = torch.linalg.inv(transform[:, :2].double())
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    points = torch.stack([columns, rows], dim=-1).double() - transform[:, 2].double()
    expected = points @ back.T
    assert (crop[0].double() - expected[..., 0]).abs().max() < 1.1
    assert (crop[1].double() - expected[..., 1]).abs().max() < 1.1
    assert not math.isclose(transform[0, 1].item(), 0, abs_tol=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flip": 1.5}, "flip"),
        ({"brightness": -0.1}, "brightness"),
        ({"occlusion": 2}, "occlusion"),
        ({"blur": 0.6, "noise": 0.6}, r"blur \+ noise \+ compression"),
    ],
)
def test_a_number_out_of_range_is_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"data.augmentation: .*{message}.* must lie in 0 ... 1"):
        Augmentation(**changes)
