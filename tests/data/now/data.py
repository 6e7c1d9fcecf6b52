"""A tiny NoW, validation part: photos of people and their neutral scans with seven picked points."""

from pathlib import Path

import cv2
import numpy as np
import torch

from jointface.datamodules.now import LIST, PHOTOS
from jointface.geometry import MorphableModel

SEVEN = [36, 39, 42, 45, 33, 48, 54]
PEOPLE = ("FaMoS_180424_03335_TA", "FaMoS_180426_03336_TA")
SHOTS = ("multiview_neutral/IMG_0041.jpg", "multiview_expressions/IMG_0042.jpg", "selfie/IMG_0041.jpg")


def scan(model: MorphableModel, person: int) -> np.ndarray:
    """(V, 3) of a person in mm, y up, somewhere in space."""
    shape = 2e4 * torch.randn(1, model.num_shape, generator=torch.Generator().manual_seed(person))
    face = model(shape, torch.zeros(1, model.num_expression))[0].numpy() / 1000
    return face + np.array([5.0, -20.0, 30.0 + person], np.float32)


def write_obj(path: Path, vertices: np.ndarray, triangles: np.ndarray | None = None) -> None:
    lines = ["v {:.6f} {:.6f} {:.6f}".format(*vertex) for vertex in vertices]
    lines += [] if triangles is None else ["f {} {} {}".format(*corners) for corners in triangles + 1]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write(folder: Path, model: MorphableModel) -> Path:
    """Three photos of each of two people; the challenge multiview_occlusions is not there."""
    random = np.random.default_rng(0)
    for number, person in enumerate(PEOPLE):
        for shot in SHOTS:
            photo = folder / PHOTOS / person / shot
            photo.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(photo), random.integers(0, 255, (96, 72, 3), np.uint8))
        vertices = scan(model, number)
        write_obj(folder / "scans" / person / "scan.obj", vertices, model.triangles.numpy())
        points = vertices[model.landmarks68[SEVEN].numpy()]
        rows = [
            f' <point x="{x:.6f}" y="{y:.6f}" z="{z:.6f}" active="1" name="{n}"/>' for n, (x, y, z) in enumerate(points)
        ]
        head = [
            "<!DOCTYPE PickedPoints>",
            "<PickedPoints>",
            " <DocumentData>",
            '  <DateTime time="10:45:31" date="2018"/>',
        ]
        head += [
            '  <User name="now"/>',
            '  <DataFileName name="scan.obj"/>',
            '  <templateName name=""/>',
            " </DocumentData>",
        ]
        marks = folder / "scans_lmks_onlypp" / person / "scan_picked_points.pp"
        marks.parent.mkdir(parents=True, exist_ok=True)
        marks.write_text("\n".join([*head, *rows, "</PickedPoints>"]) + "\n")
    (folder / LIST).write_text("\n".join(f"{person}/{shot}" for person in PEOPLE for shot in SHOTS) + "\n")
    return folder
