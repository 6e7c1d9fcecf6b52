"""Predicted faces as textured meshes for export."""

import numpy as np
import torch
import trimesh
from jaxtyping import UInt8

from jointface.geometry.rasteriser import visible_vertices
from jointface.viz.mesh_view import Triangles, Vertices

TOLERANCE = 0.03  # a vertex at most this far behind the surface counts as visible; fraction of the crop's side
HIDDEN = np.uint8(160)  # grey


def face_mesh(crop: UInt8[np.ndarray, "size size 3"], vertices: Vertices, triangles: Triangles) -> trimesh.Trimesh:
    """Converts a face in crop space to glTF's convention: y up, counter-clockwise triangles. The origin is its centre
    and the unit the crop's side. Visible vertices take the photo's colours, the others are grey."""
    size = len(crop)
    points = torch.from_numpy(vertices).float()[None]
    seen = visible_vertices(points, torch.from_numpy(triangles), size, size, tolerance=TOLERANCE * size)[0].numpy()
    column, row = vertices[:, :2].round().astype(int).clip(0, size - 1).T
    colours = np.where(seen[:, None], crop[row, column], HIDDEN)
    upright = (vertices - vertices.mean(0)) * np.array([1.0, -1.0, 1.0]) / size
    return trimesh.Trimesh(upright, triangles, vertex_colors=colours, process=False)
