"""Reads textured 3D scans, finds the face in them, and renders them.

Scan space is in millimetres, with x to the viewer's right, y up and z towards the viewer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import small_gicp
import torch
import trimesh
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from trimesh.visual import TextureVisuals

from jointface.errors import DataError
from jointface.geometry.camera import apply_camera, crop_camera, euler_to_rotation
from jointface.geometry.mesh import triangle_normals
from jointface.geometry.rasteriser import interpolate, rasterise_meshes

HEAD_EXTENT = (100.0, 1000.0)  # mm; from a bare face to a bust
START_STEP = 25.0  # mm between the start points of the search for the face
START_TILTS = (-30.0, 0.0, 30.0)  # degrees of pitch tried at each start point
NOSE_REACH = 10.0  # mm: largest distance between the nose tips of the scan and of the aligned mean face
ALIGNED_RADIUS = 60.0  # mm around the nose tip: eyes, nose and mouth, which hair and collars do not cover

Place = Float[Tensor, "3"]
Motion = Float[Tensor, "3 4"]
Points = Float[Tensor, "points 3"]


@dataclass
class Scan:
    """A textured triangle mesh. A vertex on a texture seam is repeated for each of its texture coordinates."""

    vertices: Float[Tensor, "vertices 3"]  # in millimetres
    triangles: Int64[Tensor, "triangles 3"]
    uv: Float[Tensor, "vertices 2"]  # in [0, 1], v upwards: v = 1 is the upper border of the first row
    texture: UInt8[Tensor, "rows columns 3"]  # RGB


def read_scan(path: Path) -> Scan:
    """Reads a Wavefront .obj with its .mtl and images. Several materials are merged into one texture; holes are fine.

    Raises:
        DataError: the file has no mesh, lacks a material's image, has non-finite coordinates, or is not in millimetres.
    """
    mesh = _read_mesh(path)
    visual = mesh.visual
    assert isinstance(visual, TextureVisuals)
    assert visual.uv is not None
    scan = Scan(
        vertices=torch.from_numpy(np.array(mesh.vertices, dtype=np.float32)),
        triangles=torch.from_numpy(np.array(mesh.faces, dtype=np.int64)),
        uv=torch.from_numpy(np.array(visual.uv[:, :2], dtype=np.float32)),
        texture=torch.from_numpy(_texture_image(visual, path)),
    )
    for what, values in (("vertices", scan.vertices), ("texture coordinates", scan.uv)):
        if not values.isfinite().all():
            raise DataError(f"{path}: {what} hold values that are not finite; the file is damaged, get it again")
    low, high = _bounds(scan.vertices)
    extent = (high - low).max().item()
    if not HEAD_EXTENT[0] < extent < HEAD_EXTENT[1]:
        raise DataError(
            f"{path}: the scan is {extent:.3g} units large, but a head is {HEAD_EXTENT[0]:.0f} to "
            f"{HEAD_EXTENT[1]:.0f} millimetres; convert it to millimetres"
        )
    return scan


def read_surface(path: Path) -> tuple[Points, Int64[Tensor, "triangles 3"]]:
    """Reads the vertices and triangles of a .obj without its texture, one vertex for each in the file.

    Raises:
        DataError: the file has no mesh or is damaged.
    """
    try:
        mesh = trimesh.load_mesh(path.resolve(), process=False, maintain_order=True, skip_materials=True)
        vertices = torch.from_numpy(np.array(mesh.vertices, dtype=np.float32))
        triangles = torch.from_numpy(np.array(mesh.faces, dtype=np.int64))
    except Exception as error:  # a damaged file can raise anything in the parser
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise DataError(f"{path}: not a readable .obj with triangles ({reason}); get it again") from error
    if not len(triangles) or not vertices.isfinite().all():
        raise DataError(f"{path}: holds no triangles, or vertices that are not finite; get it again")
    return vertices, triangles


def read_points(path: Path) -> Points:
    """Reads the vertices of a .obj, which may have no triangles."""
    try:
        rows = [line.split()[1:4] for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
                if line.startswith("v ")]  # fmt: skip
        points = np.array(rows, dtype=np.float32).reshape(len(rows), 3)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable .obj ({error}); get it again") from error
    if not len(points) or not np.isfinite(points).all():
        raise DataError(f"{path}: holds no vertices, or vertices that are not finite; get it again")
    return torch.from_numpy(points)


def _read_mesh(path: Path) -> trimesh.Trimesh:
    try:
        # With maintain_order, a seam vertex would get the mean of its texture coordinates instead of one copy for each.
        found = trimesh.load_scene(path.resolve(), process=False, maintain_order=False).geometry.values()
        meshes = [mesh for mesh in found if isinstance(mesh, trimesh.Trimesh) and len(mesh.faces)]
        if not meshes:
            raise DataError(f"{path}: holds no triangles; it is damaged or not a scan, get it again")
        if not all(_is_textured(mesh) for mesh in meshes):
            raise DataError(
                f"{path}: no texture; its .mtl and the image named there (map_Kd) must exist under exactly these "
                "names, and each vertex needs texture coordinates"
            )
        return meshes[0] if len(meshes) == 1 else cast(trimesh.Trimesh, trimesh.util.concatenate(meshes))
    except DataError:
        raise
    except Exception as error:  # a damaged file can raise anything in the parser or the image decoder
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise DataError(
            f"{path}: not a readable .obj ({reason}); it is damaged or of the wrong kind, get it again"
        ) from error


def _is_textured(mesh: trimesh.Trimesh) -> bool:
    image = getattr(getattr(mesh.visual, "material", None), "image", None)
    uv = getattr(mesh.visual, "uv", None)
    # trimesh adds its own image if there is none; only an image from a file has a path.
    from_file = image is not None and "file_path" in image.info
    return from_file and uv is not None and len(uv) == len(mesh.vertices)


def _texture_image(visual: TextureVisuals, path: Path) -> UInt8[np.ndarray, "rows columns 3"]:
    material: Any = visual.material
    image = getattr(material, "image", None) or material.baseColorTexture  # merged materials are glTF's
    try:
        return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises on broken files
        name = image.info.get("file_path", "the texture")
        raise DataError(f"{path}: {name} is not an intact image ({error}); get it again") from error


def _bounds(vertices: Points) -> tuple[Place, Place]:
    """Corners of the box between the 1 % and 99 % quantiles, because scans have stray points."""
    low, high = np.quantile(vertices.numpy(), (0.01, 0.99), axis=0).astype(np.float32)
    return torch.from_numpy(low), torch.from_numpy(high)


def find_face(scan: Scan, mean_face: Points, nose_tip: Place | None = None) -> tuple[Place, Motion]:
    """Finds the nose tip in a scan and aligns a mean face with the scan.

    The frontmost vertex is often a curl, a collar or the chin, and heads may be tilted. So the centre of a mean face is
    aligned with the scan by ICP (Besl and McKay, PAMI 1992; small_gicp's): coarsely from each point of a grid over the
    middle of the scan with three tilts, then finely from the best result. The nose tip is the scan vertex near the
    mean face's that protrudes most in the face's viewing direction. Finds faces turned by up to about 40 degrees.

    Args:
        mean_face: vertices of a frontal face in millimetres, relative to its nose tip; those within 60 mm are used.
        nose_tip: the nose tip, if known.

    Returns:
        The nose tip, and the rigid motion from the mean face's frame to scan space.
    """
    face = mean_face[mean_face.norm(dim=1) < ALIGNED_RADIUS]
    starts = _start_points(scan) if nose_tip is None else nose_tip[None]
    motions = [_rigid_matrix(start, tilt) for start in starts for tilt in START_TILTS]
    align = _aligner(_subsample(face, 300), _subsample(scan.vertices, 6000), 25)
    best = min((align(motion) for motion in motions), key=lambda aligned: aligned.error).T_target_source
    best = _aligner(_subsample(face, 1500), scan.vertices, 100)(best).T_target_source
    pose = torch.from_numpy(best).float()[:3]
    if nose_tip is None:
        ahead = scan.vertices @ pose[:, 2]
        around = near(scan, pose[:, 3], NOSE_REACH)
        around = around if around.any() else torch.ones_like(around)
        nose_tip = scan.vertices[torch.where(around, ahead, -torch.inf).argmax()]
    return nose_tip, pose


def _start_points(scan: Scan) -> Float[Tensor, "starts 3"]:
    """The frontmost points of the scan on a grid over the middle half of its width and 70 % of its height."""
    low, high = _bounds(scan.vertices)
    scale = 1 / START_STEP
    columns, rows = (int(length * scale) + 1 for length in (high - low)[:2].tolist())
    to_grid = scale * torch.tensor([[1.0, 0, 0, -low[0]], [0, 1.0, 0, -low[1]], [0, 0, 1.0, 0]])
    depth = rasterise_meshes(apply_camera(to_grid[None], scan.vertices[None]), scan.triangles, rows, columns).depth[0]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    middle = ((x + 0.5) / columns - 0.5).abs().le(0.25) & ((y + 0.5) / rows - 0.5).abs().le(0.35)
    y, x = (middle & depth.isfinite()).nonzero(as_tuple=True)
    starts = START_STEP * torch.stack([x, y, depth[y, x]], dim=1) + low * low.new_tensor([1, 1, 0])
    return starts if len(starts) else ((low + high) / 2)[None]


def _aligner(
    face: Points, surface: Float[Tensor, "vertices 3"], iterations: int
) -> Callable[[Float[np.ndarray, "4 4"]], small_gicp.RegistrationResult]:
    """Finds rigid motions from the face to the surface by ICP, from a start; each result has its squared distances."""
    source, target = (small_gicp.PointCloud(points.double().numpy()) for points in (face, surface))
    tree = small_gicp.KdTree(target, num_threads=1)
    return partial(
        small_gicp.align, target, source, tree, registration_type="ICP", max_correspondence_distance=math.inf,
        num_threads=1, max_iterations=iterations,
    )  # fmt: skip


def _subsample(points: Points, count: int) -> Float[Tensor, "fewer 3"]:
    return points[:: max(1, len(points) // count)]


def _rigid_matrix(place: Place, pitch: float) -> np.ndarray:
    motion = np.eye(4)
    motion[:3, :3] = euler_to_rotation(torch.tensor([math.radians(pitch), 0, 0])).numpy()
    motion[:3, 3] = place.numpy()
    return motion


def near(scan: Scan, point: Place, radius: float) -> Bool[Tensor, "vertices"]:
    """Which vertices lie within `radius` millimetres of a point."""
    return (scan.vertices - point).square().sum(1) <= radius**2


def render_scan(
    scan: Scan, camera: Motion, size: int, background: int = 128, supersampling: int = 2
) -> UInt8[np.ndarray, "size size 3"]:
    """Renders the scan unlit on plain grey with an affine camera from scan to image space.

    supersampling: samples per pixel along each axis."""
    finer = torch.tensor([[1.0, 0, 0.5], [0, 1.0, 0.5]]) * supersampling - torch.tensor([0, 0, 0.5])
    camera = crop_camera(camera, finer)
    points, side = apply_camera(camera[None], scan.vertices[None]), size * supersampling
    fragments = rasterise_meshes(points, scan.triangles, side, side)
    uv = interpolate(fragments, scan.triangles, scan.uv)
    texture = _reduced_texture(scan, camera).movedim(-1, 0)[None].float()
    grid = uv * uv.new_tensor([2.0, -2.0]) + uv.new_tensor([-1.0, 1.0])
    colour = torch.nn.functional.grid_sample(texture, grid, padding_mode="border", align_corners=False)
    colour = torch.where(fragments.triangle[:, None] >= 0, colour, float(background))
    image = torch.nn.functional.avg_pool2d(colour, supersampling)[0]
    return image.round().to(torch.uint8).movedim(0, -1).contiguous().numpy()


def _reduced_texture(scan: Scan, camera: Motion) -> UInt8[Tensor, "rows columns 3"]:
    """Reduces a texture with more than about one texel per pixel, to avoid aliasing."""
    rows, columns = scan.texture.shape[:2]
    scale = torch.linalg.det(camera[:, :3]).abs() ** (1 / 3)
    flat = torch.nn.functional.pad(scan.uv * scan.uv.new_tensor([columns, rows]), (0, 1))
    factor = (_area(flat, scan.triangles) / _area(scan.vertices * scale, scan.triangles)).sqrt().item()
    if factor < 1.5:
        return scan.texture
    reduced = (max(1, round(columns / factor)), max(1, round(rows / factor)))
    return torch.from_numpy(cv2.resize(scan.texture.numpy(), reduced, interpolation=cv2.INTER_AREA))


def _area(points: Points, triangles: Int64[Tensor, "triangles 3"]) -> Float[Tensor, ""]:
    return triangle_normals(points, triangles).norm(dim=1).sum() / 2
