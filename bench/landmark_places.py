"""Where on the synthetic head photos mark the 68 landmarks.

`python -m bench.landmark_places DATA [FILE]` fits the head to MediaPipe's landmarks of FairFace's training photos in
DATA/fairface and finds how far each landmark of the head is from its place, in the same way on all photos. It prints
this, and writes the places to FILE as three vertices of hm08 with their weights:
`jointface/synthesis/landmark_places.csv`. The offsets are from the landmarks that the head has now, so a second run
starts from the places of the first. `head_cache.FORMAT` has to be raised with a new file.

The contour is where MediaPipe has it, without the stretch by which `LandmarkTable` brings it to the outline that other
data sets mark.
"""

import math
import sys

import numpy as np
import torch
import trimesh
from jaxtyping import Float, Int
from torch import Tensor, nn

from jointface.datamodules import CropTransform, FairFace
from jointface.datamodules.landmark_table import even_contour
from jointface.geometry.camera import rotation_6d_to_matrix
from jointface.geometry.morphable_model import MIRROR68, linear_faces
from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.head_builder import Body, add_landmarks, read_body
from jointface.synthesis.head_cache import load_head

STEPS = 600
EXPRESSION = 0.15  # standard deviation of a facial action
TOLERANCE = 0.02  # of the face box: residuals beyond count linearly
WIDTH = 2.0  # mm: standard deviation of the offsets
PRIOR, MEAN_PRIOR = 0.02, 0.3  # of each face's coefficients, of their mean
SMALLEST = 0.05  # a smaller weight becomes 0: the landmark lies on the edge
LARGEST = 0.93  # a larger one is cut, so that no landmark coincides with a vertex
HEADER = "vertex_a,vertex_b,vertex_c,weight_a,weight_b,weight_c"

Offsets = Float[Tensor, "68 3"]
Parts = Float[Tensor, "parts 3 3"]  # corners of triangles, or of edges with the second one twice
MIRROR = torch.tensor(MIRROR68)
ACROSS = torch.tensor([-1.0, 1.0, 1.0])


def photo_landmarks(data: str) -> Float[Tensor, "photos 68 2"]:
    """Landmarks of FairFace's training photos with y up, centred and divided by the root of the box's area."""
    dataset = FairFace(f"{data}/fairface", "train", CropTransform(64))
    points = torch.stack([torch.as_tensor(even_contour(marks)) for marks in dataset.landmarks])[..., :2].float()
    points = points * torch.tensor([1.0, -1.0])
    size = (points.amax(1) - points.amin(1)).prod(1).sqrt()
    return (points - points.mean(1, keepdim=True)) / size[:, None, None]


class Fit(nn.Module):
    """A camera and coefficients for each photo, and for all photos the mean coefficients and the offsets of the
    landmarks, alike on both sides of the head."""

    def __init__(self, head: Head, photos: int) -> None:
        super().__init__()
        model = head.model
        self.mean, self.basis = model.mean[model.landmarks68], model.basis[:, model.landmarks68]
        width, height = (self.mean.amax(0) - self.mean.amin(0))[:2].tolist()
        self.rotation = nn.Parameter(torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(photos, 1))
        self.log_scale = nn.Parameter(torch.full((photos,), -math.log(width * height) / 2))
        self.shift = nn.Parameter(torch.zeros(photos, 2))
        self.coefficients = nn.Parameter(torch.zeros(photos, self.basis.shape[-1]))
        self.mean_coefficients = nn.Parameter(torch.zeros(self.basis.shape[-1]))
        self.free_offsets = nn.Parameter(torch.zeros(68, 3))
        self.unit = torch.ones(self.basis.shape[-1])
        self.unit[model.num_shape :] = EXPRESSION

    def offsets(self) -> Offsets:
        return (self.free_offsets + self.free_offsets[MIRROR] * ACROSS) / 2

    def forward(self) -> Float[Tensor, "photos 68 2"]:
        faces = linear_faces(self.mean, self.basis, (self.coefficients + self.mean_coefficients) * self.unit)
        turned = (faces + self.offsets()) @ rotation_6d_to_matrix(self.rotation).mT
        return turned[..., :2] * self.log_scale.exp()[:, None, None] + self.shift[:, None]

    def loss(self, landmarks: Float[Tensor, "photos 68 2"]) -> Tensor:
        residual = (self() - landmarks).norm(dim=2) / TOLERANCE
        robust = ((1 + residual.square()).sqrt() - 1).sum(1).mean()
        prior = PRIOR * (self.coefficients.square().sum(1).mean() + (self.offsets() / WIDTH).square().sum())
        return robust + prior + MEAN_PRIOR * self.mean_coefficients.square().sum()


def fit_offsets(head: Head, landmarks: Float[Tensor, "photos 68 2"]) -> Offsets:
    """How far each landmark is from where the photos mark it, in mm, as seen from the front: right, up, forward."""
    fit = Fit(head, len(landmarks))
    cameras, coefficients = [fit.rotation, fit.log_scale, fit.shift], [fit.coefficients, fit.mean_coefficients]
    optimizer = torch.optim.Adam([
        {"params": cameras, "lr": 0.02}, {"params": coefficients, "lr": 0.05},
        {"params": [fit.free_offsets], "lr": 0.3},
    ])  # fmt: skip
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        fit.loss(landmarks).backward()
        optimizer.step()
        schedule.step()
    error = (fit() - landmarks).norm(dim=2).mean().item()
    print(f"{len(landmarks)} photos, mean error of the fits {100 * error:.2f} % of the face box")
    return fit.offsets().detach()


def places(
    head: Head, body: Body, landmarks: Float[Tensor, "68 3"]
) -> tuple[Int[Tensor, "68 3"], Float[Tensor, "68 3"]]:
    """The closest points of the skin, as corners of hm08 and weights. Those of the midline lie on its edges, and those
    of the left side mirror those of the right. A triangle holds one landmark."""
    points = head.mean[head.points_of_base()]
    skin = body.triangles[body.is_head & (body.material == SKIN)]
    is_middle = body.mirror == torch.arange(len(body.mirror))
    corners, weights = torch.zeros(68, 3, dtype=torch.long), torch.zeros(68, 3)
    for landmark, partner in enumerate(MIRROR68):
        if landmark > partner:
            corners[landmark], weights[landmark] = body.mirror[corners[partner]], weights[partner]
            continue
        candidates, closest = skin, _on_triangles
        if landmark == partner:
            beside = skin[is_middle[skin].sum(1) == 2]
            candidates, closest = beside[is_middle[beside]].view(-1, 2)[:, [0, 1, 1]], _on_edges
        shares, distance = closest(points[candidates], landmarks[landmark])
        best = distance.argmin()
        corners[landmark], weights[landmark] = candidates[best], _inside(shares[best], landmark == partner)
        used = corners[landmark][weights[landmark] > 0]
        skin = skin[torch.isin(skin, used).sum(1) < len(used)]
    return corners, weights


def _on_triangles(parts: Parts, goal: Float[Tensor, "3"]) -> tuple[Float[Tensor, "parts 3"], Float[Tensor, " parts"]]:
    """The closest point of each triangle to `goal`, as weights of its corners, and how far it is."""
    triangles = parts.double().numpy()
    nearest = trimesh.triangles.closest_point(triangles, goal.double().expand(len(parts), 3).numpy())
    weights = trimesh.triangles.points_to_barycentric(triangles, nearest)
    return torch.from_numpy(weights).float(), (torch.from_numpy(nearest) - goal).norm(dim=1)


def _on_edges(parts: Parts, goal: Float[Tensor, "3"]) -> tuple[Float[Tensor, "parts 3"], Float[Tensor, " parts"]]:
    """The same for edges, of which the third corner has no weight."""
    a, b, _ = parts.unbind(1)
    share = (((goal - a) * (b - a)).sum(1) / (b - a).square().sum(1)).clamp(0, 1)
    weights = torch.stack([1 - share, share, torch.zeros_like(share)], dim=1)
    return weights, (a + share[:, None] * (b - a) - goal).norm(dim=1)


def _inside(weights: Float[Tensor, "3"], on_edge: bool) -> Float[Tensor, "3"]:
    """The weights in thousandths, with none that is all but 0 or 1."""
    weights = torch.where(weights < SMALLEST, 0, weights)
    weights = weights / weights.sum()
    if weights.max() > LARGEST:
        others = torch.tensor([True, True, not on_edge]) & (weights < weights.max())
        weights = torch.where(others, (1 - LARGEST) / others.sum(), weights.clamp(max=LARGEST))
    thousandths = (1000 * weights).round()
    thousandths[thousandths.argmax()] += 1000 - thousandths.sum()  # 1 is exactly their sum, also in the file
    return thousandths / 1000


def main(data: str, file: str | None) -> None:
    """Prints the offsets, and writes the places."""
    head, body = load_head(), read_body()
    offsets = fit_offsets(head, photo_landmarks(data))
    goal = head.model.mean[head.model.landmarks68] + offsets
    corners, weights = places(head, body, goal)
    reached = (head.mean[head.points_of_base()[corners]] * weights[..., None]).sum(1)
    print("landmark: right, up, forward in mm; how far its place on the skin is from there")
    for landmark, (offset, rest) in enumerate(zip(offsets, (goal - reached).norm(dim=1), strict=True)):
        print(f"  {landmark:2}: {offset[0]:5.1f} {offset[1]:5.1f} {offset[2]:5.1f}   {rest:.1f}")
    print(f"mean in the frontal plane: {offsets[:, :2].norm(dim=1).mean():.2f} mm")
    if file is not None:
        add_landmarks(body, corners, weights)  # fails where two landmarks share a triangle
        table = np.hstack([corners.numpy(), weights.numpy()])
        np.savetxt(file, table, fmt=["%d"] * 3 + ["%.3f"] * 3, delimiter=",", header=HEADER, comments="")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
