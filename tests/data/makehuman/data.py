"""Tiny MakeHuman system assets: folders and files in their layout, bound to a base mesh of random points."""

from pathlib import Path

import cv2
import numpy as np

BASE_VERTICES = 19158
SCALES = {"x": (5399, 11998), "z": (962, 5320), "y": (791, 881)}  # in the order of the published files
SCALP, HELPER = (7000, 7040), (18722, 19149)  # ranges of vertices: of the skin, of the invisible hair helper
LICENCE = "# This asset was explicitly released as CC0 in september 2020.\n#\n"
# A strip of three quads whose vertices 2 and 3 lie on a seam of the texture, and a triangle.
FACES = "f 1/1 2/2 4/4 3/3\nf 3/9 4/10 6/6 5/5\nf 5/5 6/6 8/8 7/7\nf 7/7 8/8 9/11\n"


def base_mesh(seed: int = 0) -> np.ndarray:
    """(19158, 3) vertices in decimetres."""
    return np.random.default_rng(seed).normal(size=(BASE_VERTICES, 3))


def write(folder: Path, seed: int = 0) -> Path:
    """Writes skins/, hair/, eyebrows/, eyelashes/, eyes/, teeth/."""
    random = np.random.default_rng(seed)
    for age, ancestry, gender, tone in (
        ("young", "african", "female", "dark"),
        ("old", "asian", "male", "light"),
        ("old", "caucasian", "male", "light"),
    ):
        skin = folder / "skins" / f"{age}_{ancestry}_{gender}"
        image = folder / "skins" / "textures" / f"{age}_{tone}skinned_{gender}_diffuse.png"
        write_image(image, random.integers(0, 256, (16, 16, 3)))
        write_material(skin / f"{skin.name}.mhmat", f"../textures/{image.name}", "0.5 0.5 0.5")
    write_material(folder / "skins" / "default.mhmat", "", "")
    write_proxy(folder / "hair" / "short01", SCALP, random)
    write_proxy(folder / "hair" / "long01", HELPER, random)
    write_proxy(folder / "eyebrows" / "eyebrow001", SCALP, random)
    write_proxy(folder / "eyelashes" / "eyelashes01", (14742, 14992), random, single=True)
    write_proxy(folder / "teeth" / "teeth_base", (14992, 15128), random, material="../materials/teeth.mhmat")
    write_image(folder / "teeth" / "materials" / "teeth_diffuse.png", random.integers(0, 256, (16, 16, 4)))
    write_material(folder / "teeth" / "materials" / "teeth.mhmat", "teeth_diffuse.png", "0.64 0.64 0.64")
    for colour in ("brown", "ice"):
        write_image(folder / "eyes" / "materials" / f"{colour}_eye.png", random.integers(0, 256, (16, 16, 4)))
        write_material(folder / "eyes" / "materials" / f"{colour}.mhmat", f"{colour}_eye.png", "1 1 1")
    return folder


def write_proxy(
    folder: Path, span: tuple[int, int], random: np.random.Generator, single: bool = False, material: str = ""
) -> None:
    """Nine vertices bound to base vertices in `span`. The .obj holds where they lie on the base mesh."""
    base, name = base_mesh(), folder.name
    corners = random.choice(np.arange(*span), (9, 3), replace=False)
    weights = random.dirichlet((1, 1, 1), 9).round(5)
    offsets = random.uniform(-0.2, 0.2, (9, 3)).round(5)
    if single:
        corners, weights, offsets = corners[:, [0, 0, 0]], np.tile([1.0, 0, 0], (9, 1)), np.zeros((9, 3))
    places = np.einsum("vc,vcx->vx", weights, base[corners]) + offsets
    header = ["uuid 0a5ec82a-0d5f-43ce-a765-8f076f95692d", "basemesh hm08", "tag MakeHuman™", "", f"name {name}"]
    header.append(f"obj_file {name}.obj")
    for axis, (a, b) in SCALES.items():
        length = abs(base[a] - base[b])["xyz".index(axis)]
        header.append(f"{axis}_scale {a} {b} {length:.6f}")
    header += ["z_depth 50", "verts 0", f"material {material or name + '.mhmat'}"]
    rows = [
        " ".join(["%5d"] * 3 + ["%.5f"] * 6) % (*c, *w, *d) for c, w, d in zip(corners, weights, offsets, strict=True)
    ]
    rows = [str(corner) for corner in corners[:, 0]] if single else rows
    folder.mkdir(parents=True)
    text = "\n".join([*header, *rows, "", "delete_verts", "10 - 12 14"]) + "\n"
    (folder / f"{name}.mhclo").write_text("# This is a clothes file for MakeHuman\n" + LICENCE + text, encoding="utf-8")
    vertices = "".join(f"v {x:.4f} {y:.4f} {z:.4f}\n" for x, y, z in places)
    uv = "".join(f"vt {u:.4f} {v:.4f}\n" for u, v in random.uniform(0, 1, (11, 2)))
    (folder / f"{name}.obj").write_text(LICENCE + "# basemesh hm08\n" + vertices + uv + FACES)
    if not material:
        write_image(folder / f"{name}_diffuse.png", random.integers(0, 256, (16, 16, 4)))
        write_material(folder / f"{name}.mhmat", f"{name}_diffuse.png", "1.0 1.0 1.0")


def write_material(path: Path, texture: str, colour: str) -> None:
    """An .mhmat; without a texture or a colour it does not name them."""
    lines = ["# Material definition", "// Color shading attributes", f"name {path.stem}", "ambientColor 0.11 0.11 0.11"]
    lines += [f"diffuseColor {colour}"] if colour else []
    lines += ["transparent True", "", f"diffuseTexture {texture}"] if texture else ["transparent False"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "shader data/shaders/glsl/litsphere"]) + "\n")


def write_image(path: Path, pixels: np.ndarray) -> None:
    """(H, W, 3 or 4) RGB or RGBA values as a .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    order = [2, 1, 0, 3][: pixels.shape[2]]
    cv2.imwrite(str(path), np.ascontiguousarray(pixels[..., order]).astype(np.uint8))
