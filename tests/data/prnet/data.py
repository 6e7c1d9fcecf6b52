"""Outputs of PRNet's and 3DDFA's demos for photos, as those programs write them."""

from pathlib import Path

import numpy as np
import scipy.io


def write_prnet_obj(
    path: Path, vertices: np.ndarray, triangles: np.ndarray, height: int, textured: bool = False
) -> None:
    """STEM.obj of `--is3d`: y up from the last row, the triangles turned over; with colours, or with a texture.

    Args:
        vertices: (V, 3) in the photo, y down. triangles: (F, 3) from 0, as PRNet has them for y down.
    """
    saved = vertices * [1, -1, 1] + [0, height - 1, 0]
    lines = [f"mtllib {path.with_suffix('.mtl').absolute()}"] if textured else []
    for x, y, z in saved:
        lines.append(f"v {x} {y} {z}" + ("" if textured else " 0.5 0.25 0.125"))
    if textured:
        lines += [f"vt {u} {1 - u}" for u in np.linspace(0, 1, len(saved))] + ["usemtl FaceTexture"]
    for a, b, c in triangles[:, ::-1] + 1:
        lines.append(f"f {a}/{a} {b}/{b} {c}/{c}" if textured else f"f {a} {b} {c}")
    path.write_text("\n".join(lines) + "\n")


def write_prnet_mat(path: Path, vertices: np.ndarray, triangles: np.ndarray) -> None:
    """STEM_mesh.mat of `--isMat`."""
    content = {"vertices": vertices, "colors": np.zeros_like(vertices), "triangles": triangles}
    scipy.io.savemat(path, content)


def write_3ddfa_v2_obj(path: Path, vertices: np.ndarray, triangles: np.ndarray, height: int) -> None:
    """STEM_obj.obj of `-o obj`: y up from one row below the last, two decimals."""
    saved = vertices * [1, -1, 1] + [0, height, 0]
    lines = [f"v {x:.2f} {y:.2f} {z:.2f} 0.50 0.25 0.12" for x, y, z in saved]
    lines += [f"f {a} {b} {c}" for a, b, c in triangles[:, ::-1] + 1]
    path.write_text("\n".join(lines) + "\n")


def write_3ddfa(folder: Path, stem: str, vertices: np.ndarray, landmarks: np.ndarray) -> None:
    """STEM_0.mat with `vertex` (3, V) and STEM_0.txt with (3, 68)."""
    scipy.io.savemat(folder / f"{stem}_0.mat", {"vertex": vertices.T})
    np.savetxt(folder / f"{stem}_0.txt", landmarks.T, fmt="%.3f")
