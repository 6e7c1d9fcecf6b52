"""The face box, the crop around it, and the augmentation that moves image and labels together."""

import math

import cv2
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from jointface.datamodules import Augmentation, CropTransform
from jointface.datamodules.crop import warp
from jointface.geometry import MIRROR68, FaceBox, crop_transform, face_box, similarity, warp_points
from jointface.geometry.framing import compose


def test_face_box_is_the_middle_and_mean_side_of_the_landmarks() -> None:
    landmarks = torch.full((68, 3), 50.0)
    landmarks[0, :2], landmarks[1, :2] = torch.tensor([10.0, 40.0]), torch.tensor([110.0, 100.0])
    assert face_box(landmarks) == FaceBox(x=60.0, y=70.0, size=80.0)


def test_crop_puts_the_box_in_the_middle_at_1_58_of_its_size() -> None:
    transform = crop_transform(FaceBox(x=60.0, y=70.0, size=80.0), size=128)
    corners = torch.tensor([[60.0, 70.0, 0.0], [60 + 40 * 1.58, 70.0, 0.0]])
    torch.testing.assert_close(warp_points(transform, corners)[:, :2], torch.tensor([[63.5, 63.5], [127.5, 63.5]]))


def test_a_crop_without_change_is_the_identity() -> None:
    torch.testing.assert_close(similarity(1, 0, (0, 0), False, 64), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))


@given(st.floats(0.5, 2), st.floats(-0.2, 0.2))
def test_flipping_twice_is_the_identity(scale: float, shift: float) -> None:
    flip = similarity(1, 0, (0, 0), True, 96)
    torch.testing.assert_close(compose(flip, flip), torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    points = torch.randn(5, 3) * 50 * scale + shift
    torch.testing.assert_close(warp_points(flip, warp_points(flip, points)), points)


def test_landmark_names_flipped_twice_are_the_names() -> None:
    assert [MIRROR68[MIRROR68[i]] for i in range(68)] == list(range(68))
    assert MIRROR68[8] == 8
    assert MIRROR68[36] == 45
    assert MIRROR68[48] == 54


def test_a_positive_angle_turns_counter_clockwise_on_screen() -> None:
    quarter = similarity(1, math.pi / 2, (0, 0), False, 101)
    right_of_centre = torch.tensor([[90.0, 50.0, 0.0]])
    torch.testing.assert_close(
        warp_points(quarter, right_of_centre)[0, :2], torch.tensor([50.0, 10.0]), atol=1e-4, rtol=0
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([96, 128]), st.floats(20, 80), st.floats(25, 75))
def test_a_dot_is_found_where_the_transform_says(seed: int, size: int, x: float, y: float) -> None:
    """Renders a dot, crops it with every geometric augmentation at once, and looks for it."""
    torch.manual_seed(seed)
    image = np.zeros((300, 300, 3), np.uint8)
    place = torch.tensor([[2 * x + 50, 2 * y + 50, 0.0]])
    cv2.circle(
        image, tuple((place[0, :2] * 16).round().int().tolist()), 5 * 16, (255, 255, 255), -1, cv2.LINE_AA, shift=4
    )
    crop = CropTransform(size, Augmentation(rotation=40, scale=0.2, shift=0.05, flip=0.5))
    cropped, transform = crop(image, FaceBox(150.0, 150.0, 130.0))
    expected = warp_points(transform, place)[0, :2]
    if not bool(((expected > 5) & (expected < size - 6)).all()):
        return  # the dot has left the crop
    brightness = cropped[0].double()
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    found = torch.stack([(brightness * columns).sum(), (brightness * rows).sum()]) / brightness.sum()
    torch.testing.assert_close(found.float(), expected, atol=0.25, rtol=0)


def test_strong_reduction_averages_instead_of_aliasing() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255
    small = np.empty((64, 64, 3), np.uint8)
    warp(stripes, crop_transform(FaceBox(200, 200, 200), 64).numpy(), small)
    assert small.min() > 100
    assert small.max() < 155


def test_reduction_keeps_places() -> None:
    image = np.zeros((400, 400, 3), np.uint8)
    cv2.circle(image, (230, 170), 20, (255, 255, 255), -1)
    transform = crop_transform(FaceBox(200, 200, 220), 48)
    crop = np.empty((48, 48, 3), np.uint8)
    warp(image, transform.numpy(), crop)
    small = torch.from_numpy(crop[..., 0]).double()
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(48), indexing="ij")
    found = torch.stack([(small * columns).sum(), (small * rows).sum()]) / small.sum()
    expected = warp_points(transform, torch.tensor([[230.0, 170.0, 0.0]]))[0, :2]
    torch.testing.assert_close(found.float(), expected, atol=0.15, rtol=0)


def test_augmentation_follows_the_random_state() -> None:
    image = np.random.default_rng(0).integers(0, 255, (100, 100, 3), np.uint8)
    import albumentations

    crop = CropTransform(64, Augmentation(20, 0.1, 0.1, 0.5, extra=[albumentations.ColorJitter(p=1)]))
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(crop(image, FaceBox(50, 50, 40))[0])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.parametrize("size", [(450, 450), (89, 109)])
def test_no_augmentation_gives_the_plain_crop(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    box = FaceBox(50, 50, 40)
    crop, transform = CropTransform(64)(image, box)
    assert crop.shape == (3, 64, 64)
    assert crop.dtype == torch.uint8
    torch.testing.assert_close(transform, crop_transform(box, 64))
