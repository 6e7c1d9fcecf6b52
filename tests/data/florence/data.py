"""A tiny MICC Florence: subject folders with textured .obj scans as the scanner's software writes them."""

from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.ndimage import zoom

from jointface.geometry import MorphableModel, euler_to_rotation
from tests.data.bfm_3ddfa.data import SIDE

TEXTURE_SIDE = 256
SHIFT = np.array([30.0, -12.0, 5.0])  # of the nose's landmark, in mm: scans do not lie at the origin
STEMS = {"frontal1": "110920150452", "frontal2": "110920150628", "sidel": "110920150714", "sider": "110920150801"}
# Vertices that were picked on the published frontal scans, and the landmarks that they are, from data/micc of
# github.com/eduardramon/hyperparams-free-3D-losses; there, subject 1 goes with frame 890 of its indoor video.
PICKED = {
    1: {
        "right_eye_lacrimal": (24302, 39), "left_eye_lacrimal": (24086, 42), "nose_base": (9561, 33),
        "lips_central": (12514, 62),
    }
}  # fmt: skip
FINE = 170  # vertices along a side of a scan, 28,900 in all
# Where marks are painted: landmarks of the nose tip, the outer corners of the eyes; RGB.
MARKS = {30: (255, 0, 0), 36: (0, 255, 0), 45: (0, 0, 255)}


def vertices(model: MorphableModel, pitch: float = 0.0, seed: int = 0) -> np.ndarray:
    """(V, 3) in mm, of a person of the model (in micrometres), tipped by `pitch` degrees."""
    generator = torch.Generator().manual_seed(seed)
    shape = 2e4 * torch.randn(1, model.num_shape, generator=generator)
    face = model(shape, torch.zeros(1, model.num_expression))[0]
    rotation = euler_to_rotation(torch.tensor([pitch, 0.0, 0.0]).deg2rad())
    return ((face - face[model.landmarks68[30]]) / 1000 @ rotation.T).numpy() + SHIFT


def stretched(model: MorphableModel) -> MorphableModel:
    """The model with eye sockets and a mouth, and three coefficients: 1 makes a face twice as wide, long, deep."""
    mean = model.mean - model.mean[model.landmarks68[30]]
    for landmarks, depth in (((36, 39), 8e3), ((42, 45), 8e3), ((48, 54), -6e3)):
        middle = mean[model.landmarks68[list(landmarks)]].mean(0)
        mean[:, 2] -= depth * (-((mean - middle)[:, :2] / 12e3).square().sum(1)).exp()
    parts = (model.triangles, model.uv, model.landmarks68, model.mirror)
    return MorphableModel("stretched", mean, torch.diag_embed(mean), model.expression_basis, *parts)


def texture(model: MorphableModel) -> np.ndarray:
    """Skin with a soft chequerboard and a disc of pure colour at each mark."""
    y, x = np.mgrid[:TEXTURE_SIDE, :TEXTURE_SIDE]
    image = np.full((TEXTURE_SIDE, TEXTURE_SIDE, 3), (190, 150, 130), np.uint8)
    image[(x // 16 + y // 16) % 2 == 0] = (170, 130, 115)
    for landmark, colour in MARKS.items():
        u, v = model.uv[model.landmarks68[landmark]].tolist()
        centre = (round(16 * (u * TEXTURE_SIDE - 0.5)), round(16 * ((1 - v) * TEXTURE_SIDE - 0.5)))
        cv2.circle(image, centre, 6 * 16, colour, -1, shift=4)
    return image


def write_obj(path: Path, points: np.ndarray, model: MorphableModel, materials: int = 1) -> None:
    """An .obj, its .mtl and .bmp; with several materials each has an image of its own, and its share of triangles."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [path.stem + (f"_{k}" if k else "") for k in range(materials)]
    lines = [f"mtllib {path.stem}.mtl", *("v {:.4f} {:.4f} {:.4f}".format(*point) for point in points)]
    lines += ["vt {:.6f} {:.6f}".format(*uv) for uv in model.uv.tolist()]
    for name, triangles in zip(names, np.array_split(model.triangles.numpy() + 1, materials), strict=True):
        lines += [f"usemtl {name}", *("f {0}/{0} {1}/{1} {2}/{2}".format(*triangle) for triangle in triangles)]
        cv2.imwrite(str(path.with_name(f"{name}.bmp")), texture(model)[..., ::-1])
    path.write_text("\r\n".join(lines) + "\r\n")
    material = "newmtl {0}\r\nKa 0.2 0.2 0.2\r\nKd 0.8 0.8 0.8\r\nillum 1\r\nmap_Kd {0}.bmp\r\n"
    path.with_suffix(".mtl").write_text("".join(material.format(name) for name in names))


def write_published(folder: Path, model: MorphableModel, number: int = 1) -> Path:
    """A scan as fine as the published ones, with the four points of PICKED at the vertices where the scan has them.

    The model's sheet is sampled anew; a few of its vertices trade places.
    """
    person = vertices(model, seed=number)
    points, uv = (
        zoom(values.reshape(SIDE, SIDE, -1), (FINE / SIDE, FINE / SIDE, 1), order=1).reshape(FINE * FINE, -1)
        for values in (person, model.uv.numpy())
    )
    row, column = (index.ravel() for index in np.mgrid[: FINE - 1, : FINE - 1])
    corner = row * FINE + column
    triangles = np.concatenate(
        [np.stack([corner, corner + 1, corner + FINE], 1), np.stack([corner + 1, corner + FINE + 1, corner + FINE], 1)]
    )
    order = np.arange(len(points))
    for vertex, landmark in PICKED[number].values():
        place = person[int(model.landmarks68[landmark])]
        nearest = int(np.linalg.norm(points - place, axis=1).argmin())
        points[nearest] = place
        here = int(np.flatnonzero(order == nearest)[0])
        order[[here, vertex]] = order[[vertex, here]]
    renumbered = np.argsort(order)
    path = folder / f"subject_{number:02d}" / "Model" / "frontal1" / "obj" / f"{STEMS['frontal1']}.obj"
    path.parent.mkdir(parents=True)
    lines = [f"mtllib {path.stem}.mtl", *("v {:.4f} {:.4f} {:.4f}".format(*point) for point in points[order])]
    lines += ["vt {:.6f} {:.6f}".format(*place) for place in uv[order]]
    lines += [f"usemtl {path.stem}", *("f {0}/{0} {1}/{1} {2}/{2}".format(*t) for t in renumbered[triangles] + 1)]
    path.write_text("\r\n".join(lines) + "\r\n")
    cv2.imwrite(str(path.with_suffix(".bmp")), texture(model)[..., ::-1])
    path.with_suffix(".mtl").write_text(f"newmtl {path.stem}\r\nKd 0.8 0.8 0.8\r\nmap_Kd {path.stem}.bmp\r\n")
    return folder


def write(folder: Path, model: MorphableModel, subjects: int = 2, noses: bool = True) -> Path:
    """Writes subject_01/, subject_02/, ... with all four scans of the first and the frontal one of the others.

    noses: also the places of their tips, which spares readers a search of seconds.
    """
    for number in range(1, subjects + 1):
        subject = folder / f"subject_{number:02d}"
        for name, stem in STEMS.items() if number == 1 else [("frontal1", STEMS["frontal1"])]:
            path = subject / "Model" / name / "obj" / f"{stem}.obj"
            write_obj(path, vertices(model, seed=number), model)
            if noses:
                np.savetxt(path.with_name("nose_tip.txt"), SHIFT[None])
            (subject / "Model" / name / "vrml").mkdir()
        (subject / "Video").mkdir()
        (subject / "Video" / "Indoor-Cooperative.mjpg").write_bytes(b"\xff\xd8")
    return folder
