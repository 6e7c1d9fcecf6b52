"""A tiny REALY: photos, 85 keypoints on each scan and its four regions, in a unit of several millimetres."""

import json
from pathlib import Path

import cv2
import numpy as np

from jointface.datamodules.realy import REGIONS
from jointface.geometry import MorphableModel
from tests.data.now.data import scan, write_obj

UNIT = 8.0  # millimetres in a unit of the scans
PEOPLE = 2
# What each region covers on the tiny face: middle and radius in mm, x and y.
PLACES = {"nose": ((0, 6), 33), "mouth": ((0, -46), 32), "forehead": ((0, 45), 60), "cheek": ((40, -10), 20)}


def keypoint_vertices(model: MorphableModel) -> np.ndarray:
    """The vertices at the 85 keypoints: iBUG's 68, and 17 others."""
    return np.concatenate([model.landmarks68.numpy(), np.arange(1000, 2700, 100)])


def write(folder: Path, model: MorphableModel) -> Path:
    random = np.random.default_rng(0)
    mean, triangles = model.mean.numpy() / 1000, model.triangles.numpy()
    for person in range(1, PEOPLE + 1):
        vertices = scan(model, person) / UNIT
        photo = folder / "REALY_image" / "crop_image_frontal_512x512" / f"{person}.png"
        photo.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(photo), random.integers(0, 255, (64, 64, 3), np.uint8))
        write_obj(folder / "REALY_HIFI3D_keypoints" / f"{person}.obj", vertices[keypoint_vertices(model)])
        for region in REGIONS:
            middle, radius = PLACES[region]
            inside = np.linalg.norm(mean[:, :2] - middle, axis=1) < radius
            places = np.cumsum(inside) - 1
            path = folder / "REALY_scan_region" / str(person) / f"{region}.obj"
            write_obj(path, vertices[inside], places[triangles[inside[triangles].all(1)]])
    (folder / "metrical_scale.txt").write_text("".join(f"{UNIT:.18e}\n" for _ in range(PEOPLE)))
    return folder


def write_keypoints(path: Path, model: MorphableModel) -> Path:
    """The keypoints on the model's mesh: a triangle and the weights of its first two corners, in REALY's JSON."""
    triangles = model.triangles.numpy()
    rows = []
    for vertex in keypoint_vertices(model).tolist():
        triangle, corner = np.argwhere(triangles == vertex)[0].tolist()
        rows.append([triangle, int(corner == 0), int(corner == 1)])
    path.write_text(json.dumps(rows))
    return path
