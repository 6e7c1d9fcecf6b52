"""Meshes rendered on their own: a view from any side, and the shading that overlays share."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from jointface.geometry.camera import euler_to_rotation
from jointface.geometry.mesh import vertex_normals
from jointface.geometry.rasteriser import interpolate, rasterise_meshes

LIGHT = np.array([0.25, -0.35, 0.9])  # from the upper right, behind the viewer
SIDE_YAW = 60.0  # degrees, of a view from the side
SURFACE = (190.0, 204.0, 230.0)  # RGB of a mesh without colours

Vertices = Float[np.ndarray, "vertices 3"]
Triangles = Int[np.ndarray, "triangles 3"]  # counter-clockwise seen from outside


def render_surface(
    points: Vertices, triangles: Triangles, height: int, width: int, colours: Vertices | None = None
) -> tuple[Bool[np.ndarray, "height width"], Float[np.ndarray, "seen"], Float[np.ndarray, "seen 3"]]:
    """Which pixels show the mesh, and in each of these the cosine between its normal and LIGHT, and its colour.

    Args:
        points: vertices in pixels: x right, y down, z towards the viewer.
        colours: RGB of each vertex, 0 to 255; None is SURFACE.
    """
    vertices, mesh = torch.from_numpy(points), torch.from_numpy(np.ascontiguousarray(triangles))
    normals = -vertex_normals(vertices.double(), mesh).numpy()  # y down turns the winding around
    values = np.concatenate([normals, np.broadcast_to(SURFACE, points.shape) if colours is None else colours], axis=1)
    fragments = rasterise_meshes(vertices.float()[None], mesh, height, width)
    seen = (fragments.triangle[0] >= 0).numpy()
    rendered = interpolate(fragments, mesh, torch.from_numpy(values).float())[0].numpy()[seen]
    return seen, rendered[:, :3] @ LIGHT, rendered[:, 3:]


def view_mesh(
    vertices: Vertices,
    triangles: Triangles,
    pose: Float[np.ndarray, "3"] | None = None,
    yaw: float = 0.0,
    colours: Vertices | None = None,
    size: int = 360,
) -> UInt8[np.ndarray, "size size 3"]:
    """A shaded mesh that fills a white picture; the picture stays white where a vertex is not finite.

    Args:
        vertices: x right, y down, z towards the viewer.
        pose: pitch, yaw, roll in degrees, which the view undoes first.
        yaw: degrees by which the face is turned then.
        colours: see `render_surface`.
    """
    canvas = np.full((size, size, 3), 255, np.uint8)
    if not np.isfinite(vertices).all():
        return canvas
    angles = np.stack([np.zeros(3) if pose is None else pose, [0.0, yaw, 0.0]])
    undone, turned = euler_to_rotation(torch.from_numpy(angles).double().deg2rad()).numpy()
    y_up = np.array([1.0, -1.0, 1.0])  # rotations are those of model space
    points = ((vertices * y_up) @ (turned @ undone.T).T) * y_up
    low, high = points.min(0), points.max(0)
    scale = 0.94 * (size - 1) / (high - low)[:2].max()
    points = (points - (low + high) / 2) * scale + [(size - 1) / 2, (size - 1) / 2, 0]
    seen, facing, rendered = render_surface(points, triangles, size, size, colours)
    # Seen from the side, the inside of a face is turned away: it is shaded like the outside, only darker.
    light = 0.35 + 0.65 * np.abs(facing).clip(0, 1) * np.where(facing > 0, 1, 0.6)
    canvas[seen] = np.clip(light[:, None] * rendered, 0, 255)
    return canvas
