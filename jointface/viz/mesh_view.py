"""Renders meshes: views from any side, and the surface shading that overlays also use."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from jointface.geometry.camera import euler_to_rotation
from jointface.geometry.mesh import vertex_normals
from jointface.geometry.rasteriser import interpolate, rasterise_meshes

LIGHT = np.array([0.25, -0.35, 0.9])  # from the upper right, behind the viewer
SIDE_YAW = 60.0  # degrees of yaw in a side view
SURFACE = (190.0, 204.0, 230.0)  # default RGB of a mesh

Vertices = Float[np.ndarray, "vertices 3"]
Triangles = Int[np.ndarray, "triangles 3"]  # counter-clockwise seen from outside


def render_surface(
    points: Vertices, triangles: Triangles, height: int, width: int, colours: Vertices | None = None
) -> tuple[Bool[np.ndarray, "height width"], Float[np.ndarray, "seen"], Float[np.ndarray, "seen 3"]]:
    """Which pixels show the mesh and, for these pixels, the dot product of its normal with LIGHT, and its colour.

    Args:
        points: vertices in pixels: x right, y down, z towards the viewer.
        colours: RGB of each vertex, 0 to 255; None takes SURFACE.
    """
    vertices, mesh = torch.from_numpy(points), torch.from_numpy(np.ascontiguousarray(triangles))
    normals = -vertex_normals(vertices.double(), mesh).numpy()  # y down reverses the winding
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
    """A shaded mesh that fills a white picture. The picture stays white if any vertex is not finite.

    Args:
        vertices: x right, y down, z towards the viewer.
        pose: pitch, yaw, roll of the face in degrees, which are undone first.
        yaw: degrees by which the frontal face is then turned.
        colours: see `render_surface`.
    """
    canvas = np.full((size, size, 3), 255, np.uint8)
    if not np.isfinite(vertices).all():
        return canvas
    angles = np.stack([np.zeros(3) if pose is None else pose, [0.0, yaw, 0.0]])
    undone, turned = euler_to_rotation(torch.from_numpy(angles).double().deg2rad()).numpy()
    y_up = np.array([1.0, -1.0, 1.0])  # rotations are defined in model space
    points = ((vertices * y_up) @ (turned @ undone.T).T) * y_up
    low, high = points.min(0), points.max(0)
    scale = 0.94 * (size - 1) / (high - low)[:2].max()
    points = (points - (low + high) / 2) * scale + [(size - 1) / 2, (size - 1) / 2, 0]
    seen, facing, rendered = render_surface(points, triangles, size, size, colours)
    # A side view shows parts of the inside of the face: shade them like the outside, but darker.
    light = 0.35 + 0.65 * np.abs(facing).clip(0, 1) * np.where(facing > 0, 1, 0.6)
    canvas[seen] = np.clip(light[:, None] * rendered, 0, 255)
    return canvas
