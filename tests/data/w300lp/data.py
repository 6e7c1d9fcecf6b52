"""A tiny 300W-LP: subset folders with turned copies and flipped twins, 450 x 450, with their fits and landmarks."""

from pathlib import Path

import cv2
import numpy as np
import scipy.io
import torch

from jointface.datamodules.held_out import held_out_fraction
from jointface.datamodules.w300lp import original_name
from jointface.geometry import MorphableModel, camera_from_pose

SIDE = 450


def random_fit(model: MorphableModel, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Pose_Para, Shape_Para and Exp_Para of a face inside the image, with the file format's sizes and types."""
    shape, expression = np.zeros((199, 1)), np.zeros((29, 1))
    shape[: model.num_shape, 0] = random.normal(0, 4e4, model.num_shape)
    expression[: model.num_expression, 0] = random.normal(0, 0.7, model.num_expression)
    angles = random.uniform([-0.3, -0.8, -0.3], [0.3, 0.8, 0.3])
    scale = random.uniform(1.0e-3, 1.4e-3)
    offset = [*(SIDE / 2 + random.uniform(-20, 20, 2)), -70.0]
    pose = np.concatenate([angles, offset, [scale]])[None].astype(np.float32)
    return {"Pose_Para": pose, "Shape_Para": shape, "Exp_Para": expression}


def landmarks(model: MorphableModel, fit: dict[str, np.ndarray]) -> np.ndarray:
    """(68, 3) landmarks of a fit in the 0-based image, y down."""
    camera = camera_from_pose(torch.from_numpy(fit["Pose_Para"]).float(), SIDE)
    shape = torch.from_numpy(fit["Shape_Para"]).float().T[:, : model.num_shape]
    expression = torch.from_numpy(fit["Exp_Para"]).float().T[:, : model.num_expression]
    return model.project(shape, expression, camera)[0, model.landmarks68].numpy()


def draw(points: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """A picture with a grey face and a bright dot at each landmark."""
    image = random.integers(0, 80, (15, 15, 3)).astype(np.float32)
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    cv2.fillConvexPoly(image, cv2.convexHull(points[:, :2].round().astype(np.int32)), (120, 130, 150))
    for x, y in points[:, :2]:
        cv2.circle(image, (round(16 * x), round(16 * y)), 4 * 16, (255, 255, 255), -1, cv2.LINE_AA, shift=4)
    return image


def mirrored_fit(fit: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The fit of the mirrored picture; the tiny model's faces are symmetric, so that the coefficients stay."""
    pose = fit["Pose_Para"].copy()
    pose[0, [1, 2]] *= -1
    pose[0, 3] = SIDE + 1 - pose[0, 3]
    return {**fit, "Pose_Para": pose}


def write_pair(stem: Path, model: MorphableModel, random: np.random.Generator, with_pt3d: bool = False) -> np.ndarray:
    """A .jpg and its .mat; the (68, 3) landmarks, 1-based."""
    fit = random_fit(model, random)
    points = landmarks(model, fit)
    write_files(stem, fit, draw(points, random), points, with_pt3d)
    return points + np.array([1, 1, 0])


def write_files(
    stem: Path, fit: dict[str, np.ndarray], image: np.ndarray, points: np.ndarray, with_pt3d: bool = False
) -> None:
    """A .jpg and its .mat, of a fit whose (68, 3) landmarks are given 0-based."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(f"{stem}.jpg", image)
    matlab = points.T + np.array([[1], [1], [0]])
    extra = {"pt3d_68": matlab.astype(np.float32)} if with_pt3d else {"pt2d": matlab[:2]}
    filler = {"Illum_Para": np.zeros((1, 10)), "Color_Para": np.zeros((1, 7)), "Tex_Para": np.zeros((199, 1))}
    scipy.io.savemat(f"{stem}.mat", {**fit, **extra, **filler, "roi": np.array([[1, 1, SIDE, SIDE]], np.int16)})


def write_twins(root: Path, name: str, model: MorphableModel, random: np.random.Generator) -> None:
    """A photo of AFW, its mirrored twin of AFW_Flip, and the photo's file of landmarks."""
    fit = random_fit(model, random)
    points = landmarks(model, fit)
    image = draw(points, random)
    write_files(root / "AFW" / name, fit, image, points)
    mirrored = mirrored_fit(fit)
    write_files(root / "AFW_Flip" / name, mirrored, image[:, ::-1], landmarks(model, mirrored))
    visible = points[:, :2] + 1
    visible[:17] += random.normal(0, 3, (17, 2))  # the visible contour is another one
    path = root / "landmarks" / "AFW" / f"{name}_pts.mat"
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"pts_2d": visible, "pts_3d": points[:, :2] + 1})


def write(folder: Path, model: MorphableModel, photos: int = 6, copies: int = 3, seed: int = 0) -> Path:
    """Writes AFW/ and AFW_Flip/ with `photos` photos of `copies` turned copies each, landmarks/AFW, and the archive's
    Code/ folder.

    The first photo is one that the validation split holds out, whatever its fraction.
    """
    random = np.random.default_rng(seed)
    shares = {number: held_out_fraction(original_name(f"AFW_{number}_1_0")) for number in range(1000, 2000)}
    held_out = next(number for number, share in shares.items() if share < 0.02)
    for photo in range(photos):
        for copy in range(copies):
            write_twins(folder, f"AFW_{held_out + photo}_1_{copy}", model, random)
    (folder / "Code").mkdir()
    return folder
