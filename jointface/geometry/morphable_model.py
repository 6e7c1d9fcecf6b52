"""The linear face model (Blanz and Vetter, SIGGRAPH 1999) whose topology all labels and predictions use."""

import hashlib

import torch
from jaxtyping import Bool, Float, Int, UInt8
from scipy.spatial import KDTree
from torch import Tensor, nn

from jointface.errors import DataError
from jointface.geometry.camera import apply_camera, is_mirrored
from jointface.geometry.full_precision import full_precision
from jointface.geometry.regions import FACE, LANDMARKS, NECK, ORGANS, face_regions

# For each of iBUG's 68 landmarks, its index after a left-right flip.
MIRROR68 = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    *(45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40),
    *(54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55),
    *(64, 63, 62, 61, 60, 67, 66, 65),
)


Shape = Float[Tensor, "batch shape"]  # coefficients
Expression = Float[Tensor, "batch expression"]
Faces = Float[Tensor, "batch vertices 3"]


class MorphableModel(nn.Module):
    """v = mean + shape_basis a + expression_basis b, with the mesh topology, landmarks and regions of its vertices.

    Args:
        name: identifies the model in checkpoints, e.g. "bfm_3ddfa".
        mean: (V, 3) mean face with neutral expression, in the model's own unit.
        shape_basis: (V, 3, Ks) identity basis. expression_basis: (V, 3, Ke).
        triangles: (F, 3) vertex indices, counter-clockwise seen from outside.
        uv: (V, 2) texture coordinates in [0, 1], v upwards.
        landmarks68: (68,) vertex index of each iBUG landmark.
        mirror: (V,) counterpart of each vertex on the other side of the face; pairs the landmarks as MIRROR68 does.
        regions: (V,) NECK, FACE, ORGANS or LANDMARKS; None computes them from the mean face.

    Raises:
        DataError: `mirror` does not pair the landmarks, or the landmarks coincide.
    """

    def __init__(
        self,
        name: str,
        mean: Tensor,
        shape_basis: Tensor,
        expression_basis: Tensor,
        triangles: Tensor,
        uv: Tensor,
        landmarks68: Tensor,
        mirror: Tensor,
        regions: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.num_shape = shape_basis.shape[-1]
        self.num_expression = expression_basis.shape[-1]
        self.mean: Float[Tensor, "vertices 3"] = nn.Buffer(mean.float())
        # One matrix for both bases, with the coordinate first, so that a batch of faces takes one matrix product.
        basis = torch.cat([shape_basis, expression_basis], dim=-1).float()
        self.basis: Float[Tensor, "3 vertices coefficients"] = nn.Buffer(basis.transpose(0, 1).contiguous())
        self.triangles: Int[Tensor, "triangles 3"] = nn.Buffer(triangles.long())
        self.uv: Float[Tensor, "vertices 2"] = nn.Buffer(uv.float())
        self.landmarks68: Int[Tensor, "68"] = nn.Buffer(landmarks68.long())
        self.mirror: Int[Tensor, "vertices"] = nn.Buffer(mirror.long())
        if not torch.equal(self.mirror[self.landmarks68], self.landmarks68[list(MIRROR68)]):
            raise DataError(
                f"the mirror map of morphable model {name!r} does not pair its landmarks: left eye with right eye, ..."
            )
        regions = face_regions(self.mean, self.landmarks68) if regions is None else regions
        self.regions: UInt8[Tensor, "vertices"] = nn.Buffer(regions)

    @property
    def shape_basis(self) -> Float[Tensor, "vertices 3 shape"]:
        return self.basis[..., : self.num_shape].transpose(0, 1)

    @property
    def expression_basis(self) -> Float[Tensor, "vertices 3 expression"]:
        return self.basis[..., self.num_shape :].transpose(0, 1)

    @property
    def face_region(self) -> Bool[Tensor, "vertices"]:
        """The vertices on which dense errors are measured: all but the neck."""
        return self.regions != NECK

    def content_hash(self) -> str:
        """SHA-256 of all buffers. Two models are equal if their hashes and `num_shape` agree."""
        digest = hashlib.sha256()
        for key, buffer in sorted(self.named_buffers()):
            values = buffer.float() if buffer.is_floating_point() else buffer  # undoes a cast of the module
            digest.update(f"{key}{tuple(buffer.shape)}".encode())
            digest.update(values.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def has_mesh_of(self, other: "MorphableModel") -> bool:
        """Whether vertices mean the same in both. The diagonals along which a few quads are split may differ."""
        if self.mean.shape != other.mean.shape or self.triangles.shape != other.triangles.shape:
            return False
        return bool((self.triangles.cpu() != other.triangles.cpu()).any(1).float().mean() < 0.01)

    def agrees_with(self, other: "MorphableModel", tolerance: float) -> bool:
        """Whether coefficients and landmarks mean the same in both. No number of mean and basis differs by more than
        `tolerance` times the largest one: two machines that build a model differ by rounding."""
        if not self.has_mesh_of(other) or self.num_shape != other.num_shape or self.basis.shape != other.basis.shape:
            return False
        numbers = [(self.mean, other.mean.to(self.mean)), (self.basis, other.basis.to(self.basis))]
        rows = [(getattr(self, name), getattr(other, name)) for name in ("landmarks68", "mirror", "regions")]
        return all(bool((a - b).abs().amax() <= tolerance * a.abs().amax()) for a, b in numbers) and all(
            torch.equal(a, b.to(a)) for a, b in rows
        )

    def region_weights(self, landmarks: float, organs: float, face: float, neck: float) -> Float[Tensor, "vertices"]:
        """The weight W in L_shape of each vertex."""
        by_region = {LANDMARKS: landmarks, ORGANS: organs, FACE: face, NECK: neck}
        table = torch.tensor([float(by_region[region]) for region in range(4)], device=self.regions.device)
        return table[self.regions.long()]

    def forward(self, shape_coefficients: Shape, expression_coefficients: Expression) -> Faces:
        """Faces in model space."""
        return linear_faces(self.mean, self.basis, torch.cat([shape_coefficients, expression_coefficients], dim=-1))

    @full_precision
    def project(
        self, shape_coefficients: Shape, expression_coefficients: Expression, camera: Float[Tensor, "batch 3 4"]
    ) -> Faces:
        """Faces mapped by their cameras. Under a mirroring camera each vertex takes the position of its mirror vertex,
        so that vertices keep their meaning: the eye on the left of the picture remains the right eye."""
        vertices = apply_camera(camera, self(shape_coefficients, expression_coefficients))
        return mirror_points(vertices, is_mirrored(camera), self.mirror)

    @full_precision
    def project_landmarks(
        self, shape_coefficients: Shape, expression_coefficients: Expression, camera: Float[Tensor, "batch 3 4"]
    ) -> Float[Tensor, "batch 68 3"]:
        """The landmarks of `project`, without computing the other vertices."""
        coefficients = torch.cat([shape_coefficients, expression_coefficients], dim=-1)
        points = linear_faces(self.mean[self.landmarks68], self.basis[:, self.landmarks68], coefficients)
        mirror = torch.tensor(MIRROR68, device=points.device)
        return mirror_points(apply_camera(camera, points), is_mirrored(camera), mirror)


def mirror_points(
    points: Float[Tensor, "batch points 3"], mirrored: Bool[Tensor, "batch"], mirror: Int[Tensor, "points"]
) -> Float[Tensor, "batch points 3"]:
    """Re-indexes the points of mirrored faces."""
    if not mirrored.is_cuda and not mirrored.any():  # on a GPU, reading the result would wait for all queued work
        return points
    return torch.where(mirrored[:, None, None], points[:, mirror], points)


def linear_faces(
    mean: Float[Tensor, "points 3"],
    basis: Float[Tensor, "3 points coefficients"],
    coefficients: Float[Tensor, "batch coefficients"],
) -> Float[Tensor, "batch points 3"]:
    """mean + basis c for a batch and any set of points, as one matrix product."""
    return torch.addmm(mean.mT.flatten(), coefficients, basis.flatten(0, 1).T).unflatten(-1, (3, -1)).mT


def mirror_from_uv(uv: Float[Tensor, "vertices 2"], landmarks68: Int[Tensor, "68"]) -> Int[Tensor, "vertices"]:
    """Mirror map of a mesh whose UV layout is symmetric about u = 1/2: each vertex maps to the one nearest (1 - u, v).

    Landmarks are paired by MIRROR68. On a symmetric mesh the map is an involution. A vertex without an exact partner
    (BFM 2009 has a few at one corner of the mouth) takes the nearest vertex.
    """
    coordinates = uv.double().cpu().numpy()
    mirror = KDTree(coordinates).query(coordinates * [-1, 1] + [1, 0])[1]
    for a, b in zip(landmarks68.tolist(), landmarks68[list(MIRROR68)].tolist(), strict=True):
        old_a, old_b = mirror[a], mirror[b]
        mirror[old_a], mirror[old_b] = old_b, old_a
        mirror[a], mirror[b] = b, a
    return torch.from_numpy(mirror)
