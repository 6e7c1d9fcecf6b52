"""Poses, cameras and what they do to points."""

import math

import hypothesis.strategies as st
import pytest
import roma
import torch
from hypothesis import given

from jointface.geometry import (
    apply_camera,
    camera_from_pose,
    center_depth,
    crop_camera,
    euler_to_rotation,
    is_mirrored,
    pose_from_camera,
    rotation_6d_to_matrix,
    rotation_to_euler,
    similarity,
    warp_points,
)

angle = st.floats(-3.1, 3.1)
yaw = st.floats(-1.5, 1.5)


def euler(*angles: float) -> torch.Tensor:
    return euler_to_rotation(torch.tensor(angles, dtype=torch.float64))


def test_rotations_are_rx_ry_rz_of_300wlp() -> None:
    right = math.pi / 2
    for angles, expected in {
        (right, 0, 0): [[1, 0, 0], [0, 0, 1], [0, -1, 0]],
        (0, right, 0): [[0, 0, -1], [0, 1, 0], [1, 0, 0]],
        (0, 0, right): [[0, 1, 0], [-1, 0, 0], [0, 0, 1]],
    }.items():
        torch.testing.assert_close(euler(*angles), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(euler(0.3, -0.5, 0.8), euler(0.3, 0, 0) @ euler(0, -0.5, 0) @ euler(0, 0, 0.8))
    of_roma = roma.euler_to_rotmat("XYZ", torch.tensor([-0.3, 0.5, -0.8], dtype=torch.float64))
    torch.testing.assert_close(euler(0.3, -0.5, 0.8), of_roma)


@given(angle, yaw, angle)
def test_euler_angles_survive_the_round_trip(pitch: float, yaw: float, roll: float) -> None:
    angles = torch.tensor([pitch, yaw, roll], dtype=torch.float64)
    torch.testing.assert_close(rotation_to_euler(euler_to_rotation(angles)), angles, atol=1e-6, rtol=0)


@given(angle, angle, st.sampled_from([-1, 1]))
def test_at_a_right_angle_of_yaw_the_rotation_still_survives(pitch: float, roll: float, sign: int) -> None:
    rotation = euler(pitch, sign * math.pi / 2, roll)
    torch.testing.assert_close(euler_to_rotation(rotation_to_euler(rotation)), rotation, atol=1e-6, rtol=0)


@given(st.lists(st.floats(-5, 5), min_size=6, max_size=6))
def test_six_numbers_give_a_rotation(numbers: list[float]) -> None:
    six = torch.tensor(numbers, dtype=torch.float64) + torch.tensor([7, 0, 0, 0, 7, 0], dtype=torch.float64)
    rotation = rotation_6d_to_matrix(six)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(rotation).item() == pytest.approx(1)


def test_a_rotation_is_found_again_from_its_first_two_rows() -> None:
    rotation = euler(0.2, -0.9, 0.4)
    torch.testing.assert_close(rotation_6d_to_matrix(rotation[:2].flatten()), rotation)


def test_camera_is_the_matlab_formula_of_the_file_format() -> None:
    pose = torch.tensor([[0.1, -0.6, 0.2, 200.0, 220.0, -80.0, 1.2e-3]], dtype=torch.float64)
    points = torch.randn(1, 9, 3, dtype=torch.float64) * 5e4
    matlab = 1.2e-3 * points @ euler_to_rotation(pose[:, :3]).mT + pose[:, None, 3:6]
    expected = torch.stack([matlab[..., 0] - 1, 450 - matlab[..., 1], matlab[..., 2]], dim=-1)
    torch.testing.assert_close(apply_camera(camera_from_pose(pose, 450), points), expected)


@given(angle, yaw, angle, st.floats(1e-4, 1e-2), st.floats(-500, 500))
def test_pose_survives_the_round_trip(pitch: float, yaw: float, roll: float, scale: float, shift: float) -> None:
    pose = torch.tensor([pitch, yaw, roll, shift, 100.0, -shift, scale], dtype=torch.float64)
    torch.testing.assert_close(pose_from_camera(camera_from_pose(pose, 450), 450), pose, atol=1e-6, rtol=1e-6)


@given(st.floats(0.2, 4), angle, st.floats(-0.3, 0.3), st.booleans())
def test_a_crop_of_the_camera_is_the_crop_of_its_points(scale: float, turn: float, shift: float, flip: bool) -> None:
    camera = camera_from_pose(torch.tensor([0.1, 0.5, -0.2, 60.0, 70.0, -30.0, 1e-3]), 128)
    points = torch.randn(20, 3) * 5e4
    transform = similarity(scale, turn, (shift, -shift), flip, size=96)
    seen = apply_camera(camera[None], points[None])[0]
    cropped = apply_camera(crop_camera(camera, transform)[None], points[None])[0]
    torch.testing.assert_close(cropped, warp_points(transform, seen), atol=1e-2, rtol=1e-4)


def test_only_a_flip_mirrors_a_camera() -> None:
    camera = camera_from_pose(torch.tensor([0.1, 0.5, -0.2, 60.0, 70.0, -30.0, 1e-3]), 128)
    turned = crop_camera(camera, similarity(0.7, 1.0, (0.1, 0.0), flip=False, size=96))
    flipped = crop_camera(camera, similarity(0.7, 1.0, (0.1, 0.0), flip=True, size=96))
    assert is_mirrored(torch.stack([camera, turned, flipped])).tolist() == [False, False, True]


def test_depth_is_relative_to_the_mean_of_the_face() -> None:
    vertices = torch.randn(2, 50, 3) + 7
    centred = center_depth(vertices)
    torch.testing.assert_close(centred[..., 2].mean(1), torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(centred[..., :2], vertices[..., :2])
