"""A predicted face as a mesh file."""

import numpy as np
import torch
import trimesh
from jaxtyping import UInt8

from jointface.geometry.rasteriser import visible_vertices
from jointface.viz.mesh_view import Triangles, Vertices

TOLERANCE = 0.03  # of the crop's side: depth that a vertex may lie behind the surface and still count as seen
HIDDEN = np.uint8(160)  # grey


def face_mesh(crop: UInt8[np.ndarray, "size size 3"], vertices: Vertices, triangles: Triangles) -> trimesh.Trimesh:
    """A face in crop space as glTF has it, y up and triangles wound counter-clockwise, with the colours of the photo
    where that shows it and grey elsewhere. Its centre is the origin, its unit the crop's side."""
    size = len(crop)
    points = torch.from_numpy(vertices).float()[None]
    seen = visible_vertices(points, torch.from_numpy(triangles), size, size, tolerance=TOLERANCE * size)[0].numpy()
    column, row = vertices[:, :2].round().astype(int).clip(0, size - 1).T
    colours = np.where(seen[:, None], crop[row, column], HIDDEN)
    upright = (vertices - vertices.mean(0)) * np.array([1.0, -1.0, 1.0]) / size
    return trimesh.Trimesh(upright, triangles, vertex_colors=colours, process=False)
