"""Normals of triangle meshes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def triangle_normals(
    vertices: Float[Tensor, "*batch vertices 3"], triangles: Int[Tensor, "triangles 3"]
) -> Float[Tensor, "*batch triangles 3"]:
    """Normals with twice the triangle's area as length; seen from their side, triangles are counter-clockwise."""
    a, b, c = (vertices.index_select(-2, corner) for corner in triangles.T.contiguous())
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(
    vertices: Float[Tensor, "*batch vertices 3"], triangles: Int[Tensor, "triangles 3"]
) -> Float[Tensor, "*batch vertices 3"]:
    """Unit normals: area-weighted means over the triangles at each vertex; zero for a vertex without triangles."""
    return averaged_normals(triangle_normals(vertices, triangles), triangles, vertices.shape[-2])


def averaged_normals(
    of_triangles: Float[Tensor, "*batch triangles 3"], triangles: Int[Tensor, "triangles 3"], num_vertices: int
) -> Float[Tensor, "*batch vertices 3"]:
    """Like `vertex_normals`, computed from given triangle normals."""
    total = of_triangles.new_zeros(*of_triangles.shape[:-2], num_vertices, 3)
    for corner in triangles.T.contiguous():
        total.index_add_(-2, corner, of_triangles)
    return total.mul_(total.square().sum(-1, keepdim=True).clamp(min=1e-20).rsqrt())
