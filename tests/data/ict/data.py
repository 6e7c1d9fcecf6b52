"""A small face model in the layout of ICT-FaceKit's folder FaceXModel: a coarse sheet that bulges like a face."""

import json
from pathlib import Path

import numpy as np

from tests.data.bfm_3ddfa.data import landmark_template

SIDE = 31  # vertices along u and v
IDENTITIES = 100
ACTIONS = ("jawOpen", "mouthSmile_L", "mouthSmile_R")


def face(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(V, 3) mean face in centimetres over x, y in [-1/2, 1/2]."""
    bulge = np.sqrt(np.clip(1 - 2.4 * x**2 - 1.3 * y**2, 0.05, None))
    nose = 0.28 * np.exp(-((x / 0.06) ** 2) - ((y / 0.15) ** 2))
    return np.stack([16.5 * x, 18 * y, 11 * (bulge + nose)], axis=1)


def component(number: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(V, 3) displacement of an identity component or facial action."""
    waves = np.stack([np.sin(3 * x + number), np.cos(2 * y + number), np.sin(2 * x * y + number)], axis=1)
    return 0.3 / (1 + number) * waves


def grid() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Texture coordinates (V, 2) row by row, quads (F, 4) and the 68 vertices of the landmarks, from 0."""
    u, v = (axis.ravel() for axis in np.meshgrid(np.linspace(0, 1, SIDE), np.linspace(0, 1, SIDE)))
    corner = (np.arange(SIDE - 1)[:, None] * SIDE + np.arange(SIDE - 1)).ravel()
    quads = np.stack([corner, corner + 1, corner + SIDE + 1, corner + SIDE], axis=1)
    place = np.round((landmark_template() + 0.5) * (SIDE - 1)).astype(int)
    return np.stack([u, v], axis=1), quads, place[:, 1] * SIDE + place[:, 0]


def write(folder: Path) -> Path:
    """Writes the files: vertices of the face, then three of something else, quads with texture coordinates."""
    folder.mkdir(parents=True)
    uv, quads, landmarks = grid()
    x, y = uv.T - 0.5
    polygons = ["usemtl M_Face", *("f " + " ".join(f"{i}/{i}" for i in quad) for quad in quads + 1)]
    count = len(uv)
    polygons += ["usemtl M_BackHead", f"f {count + 1}/1 {count + 2}/2 {count + 3}/3"]
    texture = [f"vt {u:.6f} {v:.6f}" for u, v in uv]
    names = ["generic_neutral_mesh", *(f"identity{number:03d}" for number in range(IDENTITIES)), *ACTIONS]
    for number, name in enumerate(names):
        points = face(x, y) + (component(number - 1, x, y) if number else 0)
        points = np.concatenate([points, np.full((3, 3), -9.0)])
        vertices = ["v " + " ".join(f"{value:.6f}" for value in point) for point in points]
        lines = ["# ICT FaceKit", "mtllib ICTFaceModelMaterial.mtl", *vertices, *texture, *polygons]
        (folder / f"{name}.obj").write_text("\n".join(lines) + "\n", encoding="utf-8")
    indices = {"expressions": ACTIONS, "idx_to_landmark_verts": landmarks.tolist()}
    (folder / "vertex_indices.json").write_text(json.dumps(indices), encoding="utf-8")
    return folder
