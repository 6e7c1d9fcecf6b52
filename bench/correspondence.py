"""Measures the dense correspondence of morphable models, and draws a pattern that it carries from the synthetic head.

`python -m bench.correspondence DATA/bfm_3ddfa [ICT-FaceKit/FaceXModel] [PICTURE.jpg]`. For each pair of models it
prints the seconds of a registration, the share of the face's vertices that have a counterpart, and how far from their
place on the mean face they are after a journey to the other model and back.
"""

import sys
import time
from itertools import permutations
from pathlib import Path

import cv2
import matplotlib
import numpy as np
import trimesh

from jointface.geometry import MorphableModel, load_bfm_3ddfa
from jointface.geometry.correspondence import EYE_CORNERS, EYE_DISTANCE, Correspondence, register
from jointface.geometry.ict import load_ict
from jointface.synthesis.head_cache import load_anny
from jointface.viz.mesh_view import view_mesh

SIZE, CELL = 380, 8.0  # pixels of a view; mm of the pattern
GREY, Y_DOWN = 190.0, np.array([1.0, -1.0, 1.0])


def round_trip(model: MorphableModel, there: Correspondence, back: Correspondence) -> str:
    """Median and 99 % quantile of the distances in mm between vertices and where they come back to."""
    right, left = model.mean[model.landmarks68[list(EYE_CORNERS)]]
    known = there.mask & back.mask[there.corners].all(1)
    moved = (there.carry(back.carry(model.mean)) - model.mean)[known].norm(dim=1) * EYE_DISTANCE / (right - left).norm()
    return f"{moved.quantile(0.5):.2f} / {moved.quantile(0.99):.2f} mm"


def pattern(points: np.ndarray, known: np.ndarray) -> np.ndarray:
    """RGB of a chequered rainbow at points of the synthetic head, in mm; grey where nothing is known."""
    rainbow = 255 * matplotlib.colormaps["hsv"](np.clip((points[:, 1] + 75) / 240, 0, 1))[:, :3]
    light = 1 - 0.45 * (np.floor(points[:, :2] / CELL).sum(1) % 2)
    return np.where(known[:, None], rainbow * light[:, None], GREY)


def views(model: MorphableModel, on_head: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The mean face from the front and from the side. `on_head`: the place of each vertex on the synthetic head."""
    vertices, triangles = np.hstack([model.mean.numpy(), on_head, known[:, None]]), model.triangles.numpy()
    while len(triangles) < 100_000:  # the pattern is finer than a coarse mesh
        vertices, triangles = trimesh.remesh.subdivide(vertices, triangles)
    colours = pattern(vertices[:, 3:6], vertices[:, 6] > 0.99)
    pictures = [view_mesh(vertices[:, :3] * Y_DOWN, triangles, yaw=yaw, colours=colours, size=SIZE) for yaw in (0, 50)]
    return np.concatenate(pictures)


def main(bfm: str, *rest: str) -> None:
    models = [load_anny(), load_bfm_3ddfa(bfm)] + [load_ict(folder) for folder in rest if Path(folder).is_dir()]
    maps = {}
    for model, other in permutations(models, 2):
        start = time.perf_counter()
        maps[model.name, other.name] = register(model, other)
        share = maps[model.name, other.name].mask.sum() / model.face_region.sum()
        print(f"{model.name} on {other.name}: {time.perf_counter() - start:.0f} s, {share:.0%} of the face")
    for model, other in permutations(models, 2):
        there, back = maps[model.name, other.name], maps[other.name, model.name]
        print(f"{model.name} by {other.name} and back: {round_trip(model, there, back)}")
    for path in (name for name in rest if name.endswith(".jpg")):
        head, columns = models[0], []
        for model in models:
            at_head = maps[model.name, head.name] if model is not head else None
            on_head = head.mean if at_head is None else at_head.carry(head.mean)
            known = head.face_region if at_head is None else at_head.mask
            columns.append(views(model, on_head.numpy(), known.numpy()))
        cv2.imwrite(path, np.concatenate(columns, axis=1)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main(*sys.argv[1:])
