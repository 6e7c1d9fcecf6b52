"""The closest points of a triangle mesh, by Warp's bounding volume hierarchy."""

from typing import no_type_check

import numpy as np
import torch
import warp as wp
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jointface.geometry.rasteriser import start_warp


@wp.kernel(enable_backward=False)
@no_type_check
def _find(
    mesh: wp.uint64,
    points: wp.array(dtype=wp.vec3),
    faces: wp.array(dtype=wp.int32),
    weights: wp.array(dtype=wp.vec3),
):
    """The triangle of the closest point and the weights of its corners."""
    thread = wp.tid()
    query = wp.mesh_query_point_no_sign(mesh, points[thread], 1.0e9)
    faces[thread] = query.face
    weights[thread] = wp.vec3(query.u, query.v, 1.0 - query.u - query.v)


class Surface:
    """A triangle mesh that is asked for its closest points. Its triangles are found in float32, in any unit."""

    def __init__(self, vertices: Float[Tensor, "vertices 3"], triangles: Int[Tensor, "triangles 3"]) -> None:
        start_warp()
        self.vertices, self.triangles = vertices.double().cpu(), triangles.long().cpu()
        self.centre = self.vertices.mean(0)
        indices: wp.array = wp.array(self.triangles.numpy().astype(np.int32).ravel(), dtype=wp.int32, device="cpu")
        self.mesh = wp.Mesh(self._on_device(self.vertices), indices)

    def closest(self, points: Float[Tensor, "points 3"]) -> Float64[Tensor, "points 3"]:
        """The point of the surface that is nearest to each point."""
        faces = wp.empty(len(points), dtype=wp.int32, device="cpu")
        weights = wp.empty(len(points), dtype=wp.vec3, device="cpu")
        wp.launch(_find, len(points), [self.mesh.id, self._on_device(points.double())], [faces, weights], device="cpu")
        corners = self.vertices[self.triangles[torch.from_numpy(faces.numpy()).long()]]
        return (torch.from_numpy(weights.numpy()).double()[..., None] * corners).sum(1)

    def _on_device(self, points: Tensor) -> wp.array:
        return wp.array((points - self.centre).float().numpy(), dtype=wp.vec3, device="cpu")
