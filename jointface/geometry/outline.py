"""The visible outline of a face in a picture."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CANDIDATES = 2048  # vertices of the outline that are compared with a point


def on_outline(
    vertices: Float[Tensor, "batch vertices dims"], triangles: Int[Tensor, "triangles 3"]
) -> Bool[Tensor, "batch vertices"]:
    """Whether the outline passes through a vertex: of the triangles around it, some face the viewer and some do not, or
    the mesh ends there.

    Args:
        vertices: in the picture; only x and y count. Inner folds, such as those of the nose, are outlines too.
    """
    a, b, c = (vertices[:, :, :2].index_select(1, corner) for corner in triangles.T.contiguous())
    front = (((b - a) * (c - a).flip(-1)) @ vertices.new_tensor([1.0, -1.0]) > 0).to(vertices.dtype)
    around, in_front = vertices.new_zeros(vertices.shape[1]), vertices.new_zeros(vertices.shape[:2])
    for corner in triangles.T.contiguous():
        around.index_add_(0, corner, torch.ones_like(front[0]))
        in_front.index_add_(1, corner, front)
    return ((in_front > 0) & (in_front < around)) | on_border(vertices.shape[1], triangles)


def on_border(num_vertices: int, triangles: Int[Tensor, "triangles 3"]) -> Bool[Tensor, "vertices"]:
    """Whether a vertex is on the border of an open mesh whose triangles all turn the same way.

    Around an inner vertex each neighbour follows it in one triangle and precedes it in another, so that the sum of
    the followers' numbers minus the predecessors' is zero; on the border it is not.
    """
    total = triangles.new_zeros(num_vertices)
    for corner in range(3):
        difference = triangles[:, (corner + 1) % 3] - triangles[:, (corner + 2) % 3]
        total.index_add_(0, triangles[:, corner], difference)
    return total != 0


@torch.no_grad()
def nearest_on_outline(
    points: Float[Tensor, "batch points 2"],
    vertices: Float[Tensor, "batch vertices dims"],
    triangles: Int[Tensor, "triangles 3"],
    region: Bool[Tensor, "vertices"],
) -> Int[Tensor, "batch points"]:
    """The vertex nearest to each point among those of a region that lie on the outline.

    If the outline does not pass through the region, it is an arbitrary vertex of the region. This is how contour
    landmarks slide along the outline (cf. Zhu et al., CVPR 2015, "landmark marching").
    """
    # Few vertices are on the outline, so CANDIDATES of them are enough. If none is, others of the region stand in.
    rank = region.to(vertices.dtype) * (1.0 + on_outline(vertices, triangles))
    rank, candidates = rank.topk(min(CANDIDATES, len(region)))
    distance = torch.cdist(points, vertices[:, :, :2].take_along_dim(candidates[:, :, None], 1))
    distance = distance + (rank.amax(1, keepdim=True) - rank)[:, None] * 1e4 * distance.amax()
    return candidates.gather(1, distance.argmin(-1))
