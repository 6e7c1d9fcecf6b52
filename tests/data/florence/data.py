"""A tiny MICC Florence: subject folders with textured .obj scans as the scanner's software writes them."""

from pathlib import Path

import cv2
import numpy as np
import torch

from jointface.geometry import MorphableModel, euler_to_rotation

TEXTURE_SIDE = 256
SHIFT = np.array([30.0, -12.0, 5.0])  # of the nose's landmark, in mm: scans do not lie at the origin
STEMS = {"frontal1": "110920150452", "frontal2": "110920150628", "sidel": "110920150714", "sider": "110920150801"}
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


def write(folder: Path, model: MorphableModel, subjects: int = 2) -> Path:
    """Writes subject_01/, subject_02/, ... with all four scans of the first and the frontal one of the others."""
    for number in range(1, subjects + 1):
        subject = folder / f"subject_{number:02d}"
        for name, stem in STEMS.items() if number == 1 else [("frontal1", STEMS["frontal1"])]:
            write_obj(subject / "Model" / name / "obj" / f"{stem}.obj", vertices(model, seed=number), model)
            (subject / "Model" / name / "vrml").mkdir()
        (subject / "Video").mkdir()
        (subject / "Video" / "Indoor-Cooperative.mjpg").write_bytes(b"\xff\xd8")
    return folder
