"""Soft shadows that the head casts on itself: below nose, brows, lips and chin, beside the nose, around the eyes.

They are precomputed on the mean head (precomputed radiance transfer: Sloan, Kautz, Snyder, SIGGRAPH 2002), so a picture
costs one small matrix product. Hair, hats and glasses cast none.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree
from torch import Tensor

from jointface.geometry.full_precision import full_precision
from jointface.geometry.mesh import vertex_normals
from jointface.geometry.rasteriser import visible_vertices
from jointface.synthesis.head import BODY, EYE, SKIN, Head

DIRECTIONS = 192  # from which the mean head is looked at
GROUP = 32  # looked from at a time
SIDE = 128  # pixels; bounds how many triangles are compared with a point
TOLERANCE = 3.0  # mm: a point that lies so little behind a surface is lit
HIDDEN = 0.1  # a point to which less light comes is out of sight on the mean head
WRAP = 0.15  # lights reach so far around a surface, as a cosine, see `renderer.illuminate`
DEGREE = 4  # of the polynomials in the direction: as soft as spherical harmonics of this degree


class Openness(NamedTuple):
    """How much of the light from outside reaches each point.

    whole: of light from everywhere, weighted by the cosine to the normal, which is known as ambient occlusion.
    of_direction: coefficients of the polynomials `_monomials`, which give the visible part of a light in a direction.
    """

    whole: Float[Tensor, "points"]
    of_direction: Float[Tensor, "points terms"]

    def to(self, device: torch.device) -> "Openness":
        return Openness(self.whole.to(device), self.of_direction.to(device))

    @full_precision
    def of_lights(self, directions: Float[Tensor, "batch lights 3"]) -> Float[Tensor, "batch points reached"]:
        """The part that reaches each point, 0 ... 1: first of the light from everywhere, then of each light.

        directions: vectors from the head to the lights, of any length, in model space.
        """
        of_each = self.of_direction @ _monomials(torch.nn.functional.normalize(directions, dim=-1)).mT
        whole = self.whole[:, None].expand(len(directions), -1, 1)
        return torch.cat([whole, of_each.clamp(0, 1)], dim=2)


@lru_cache(maxsize=2)
def openness_of_head(head: Head) -> Openness:
    """Of the mean head. Skin that lips and lids hide has the openness of the nearest skin in sight. Eyeballs turn, so
    each has everywhere the mean of its points in sight. The inside of the mouth, teeth and lashes, which have shading
    of their own, are lit everywhere."""
    casts = torch.isin(head.material, head.material.new_tensor([SKIN, BODY, EYE]))
    found = openness(head.mean, head.triangles[casts].long(), head.weld)
    skin, eye = (_points_of(head, materials) for materials in ([SKIN, BODY], [EYE]))
    in_sight = found.whole > HIDDEN
    candidates = (skin & in_sight).nonzero()[:, 0]
    nearest = candidates[torch.from_numpy(KDTree(head.mean[candidates].numpy()).query(head.mean.numpy())[1])]
    whole, of_direction = found.whole[nearest], found.of_direction[nearest]
    for side in (head.mean[:, 0] < 0, head.mean[:, 0] > 0):
        ball = eye & side
        whole[ball] = found.whole[ball & in_sight].mean()
        of_direction[ball] = found.of_direction[ball & in_sight].mean(0)
    whole[~skin & ~eye] = 1
    of_direction[~skin & ~eye] = torch.eye(of_direction.shape[1])[0]
    return Openness(whole, of_direction)


def _points_of(head: Head, materials: list[int]) -> Bool[Tensor, "points"]:
    of_materials = torch.isin(head.material, head.material.new_tensor(materials))
    return torch.isin(head.weld, head.weld[head.triangles[of_materials].long()])


def openness(
    points: Float[Tensor, "points 3"], triangles: Int[Tensor, "triangles 3"], weld: Int[Tensor, "points"]
) -> Openness:
    """Of the points of a mesh. weld: for each point, the first one at the same place.

    The polynomial of a point is fitted to what it sees in DIRECTIONS directions, weighted by how much a light there
    matters. The point's own surface hides no light: the angle to it is a matter of shading.
    """
    directions = _evenly_around(DIRECTIONS)
    normals = vertex_normals(points, weld[triangles])[weld]
    cosine = (directions @ normals.mT).double()
    seen = torch.cat([_reached(points, triangles, group) for group in directions.split(GROUP)])[:, weld].double()
    weight = cosine.clamp(min=1e-3)
    whole = (weight * seen).sum(0) / weight.sum(0)
    weight, seen = (cosine + WRAP).clamp(min=1e-2), torch.where(cosine > 0, seen, 1)
    terms = _monomials(directions).double()
    products = (terms[:, :, None] * terms[:, None]).flatten(1)
    gram = (weight.mT @ products).unflatten(1, (-1, terms.shape[1]))
    gram += 1e-4 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(terms.shape[1])
    return Openness(whole.float(), torch.linalg.solve(gram, (weight * seen).mT @ terms).float())


def _evenly_around(count: int) -> Float[Tensor, "count 3"]:
    """Unit vectors evenly over the sphere (a Fibonacci lattice)."""
    height = 1 - (2 * torch.arange(count) + 1) / count
    turn = math.pi * (1 + math.sqrt(5)) * torch.arange(count)
    level = (1 - height.square()).sqrt()
    return torch.stack([level * turn.cos(), height, level * turn.sin()], dim=1)


def _reached(
    points: Float[Tensor, "points 3"], triangles: Int[Tensor, "triangles 3"], directions: Float[Tensor, "directions 3"]
) -> Float[Tensor, "directions points"]:
    """1 where nothing lies between a point and a light far away."""
    aside = torch.where(directions[:, 1:2].abs() < 0.9, torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]))
    right = torch.nn.functional.normalize(torch.linalg.cross(aside, directions), dim=1)
    axes = torch.stack([right, torch.linalg.cross(directions, right), directions], dim=1)
    centred = points - (points.amax(0) + points.amin(0)) / 2
    scale = SIDE / (2.01 * centred.norm(dim=1).max())
    places = scale * centred @ axes.mT + torch.tensor([SIDE / 2, SIDE / 2, 0.0])
    return visible_vertices(places, triangles, SIDE, SIDE, TOLERANCE * float(scale)).float()


def _monomials(directions: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch terms"]:
    """All x^a y^b z^c of degree at most DEGREE, without those that follow from x^2 + y^2 + z^2 = 1; the first is 1."""
    x, y, z = directions.unbind(-1)
    powers = [(a, b, c) for c in (0, 1) for a in range(DEGREE + 1) for b in range(DEGREE + 1 - a - c)]
    return torch.stack([x**a * y**b * z**c for a, b, c in powers], dim=-1)
