"""Renders scenes: finds all visible points of a batch of pictures, colours them by material, and lights them."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from jointface.errors import InputError
from jointface.geometry.camera import apply_camera
from jointface.geometry.full_precision import full_precision
from jointface.geometry.mesh import averaged_normals, triangle_normals
from jointface.geometry.morphable_model import linear_faces
from jointface.geometry.rasteriser import Cutout, Fragments, rasterise
from jointface.synthesis import materials
from jointface.synthesis.asset_brows import BROW_LEFT, BROW_STEP, BROW_TOP
from jointface.synthesis.face_assets import RELIEF_UNIT, FaceAssets, skin_relief
from jointface.synthesis.face_fields import layout_pixel, look_up, make_fields
from jointface.synthesis.head import BODY, CAVITY, EYE, LASHES, SKIN, TEETH, Head
from jointface.synthesis.mesh_store import MeshStore
from jointface.synthesis.proxy import Proxy
from jointface.synthesis.scenes import CLOTH, FRAME, HAIR, LENS, METAL, PROXY_LASHES, PROXY_TEETH, Scene, Scenes
from jointface.synthesis.shadows import WRAP, openness_of_head
from jointface.synthesis.textures import lash_texture
from jointface.synthesis.wardrobe import Wardrobe

LASH_TEXTURE = 0  # row of the head's own lashes in the textures
BLACK = {LASHES: (0.015, 0.0), PROXY_LASHES: (0.015, 0.0), LENS: (0.012, 0.6)}  # brightness and shine
COATED = {FRAME: ("frame_colour", 0.5), METAL: ("metal", 0.9)}  # colour and shine
REPLACED = {PROXY_LASHES: LASHES, PROXY_TEETH: TEETH}  # part of the head that an asset replaces


class _Geometry(NamedTuple):
    """The meshes of all pictures: first all heads, then everything they wear."""

    points: Tensor  # in pixels of their pictures
    uv: Tensor  # of each point
    canonical: Tensor  # of each point, on the mean head
    weld: Tensor  # for each point, the first point that shares its normal
    triangles: Tensor
    image: Tensor  # of each triangle
    material: Tensor  # of each triangle
    texture: Tensor  # of each triangle, -1 if none


class Renderer:
    """Renders scenes of one head.

    Args:
        wardrobe: hair, hats, glasses and earrings of this head.
        assets: MakeHuman's skins, brows, lashes and teeth, if appearances refer to them.
        supersampling: samples per pixel along each axis.
        shadows: whether the head casts soft shadows on itself.
        compiled: fuse per-pixel work with torch.compile; slow at first, then about twice as fast on a GPU.
    """

    def __init__(
        self,
        head: Head,
        wardrobe: Wardrobe,
        assets: FaceAssets | None = None,
        supersampling: int = 1,
        device: torch.device | str = "cpu",
        compiled: bool = False,
        shadows: bool = False,
    ) -> None:
        self.head, self.wardrobe, self.assets = head, wardrobe, assets
        self.supersampling, self.device, self.compiled = supersampling, torch.device(device), compiled
        shaders: list[Callable[..., Any]] = [self._skin, materials.neck_and_clothes, illuminate]
        if compiled:
            shaders = [torch.compile(shader, dynamic=True) for shader in shaders]
        self._skin_shader, self._neck_shader, self._light_shader = shaders
        fields = make_fields(head)
        self.fields = fields.to(self.device)
        self.openness = openness_of_head(head).to(self.device) if shadows else None
        uv = torch.zeros(len(head.mean), 2)
        uv[: len(head.model.uv)] = head.model.uv
        # UV of the head's own lashes from their position relative to the eye: u along the lid, v from root to tip.
        lashes = head.triangles[head.material == LASHES].unique()
        eyes = head.mean[head.model.landmarks68[36:48]].unflatten(0, (2, 6)).mean(1)
        local = head.mean[lashes] - eyes[(head.mean[lashes, 0] > 0).long()]
        uv[lashes] = torch.stack([0.5 + 0.5 * (local[:, 0] / 18), local[:, 2] / 9], dim=1).clamp(0, 1)
        self._uv, self._mean = uv.to(self.device), head.mean.to(self.device)
        self._linear = self._mean.double(), head.basis.to(self.device).double()
        self._weld = head.weld.to(self.device)
        self._triangles, self._material = head.triangles.int().to(self.device), head.material.int().to(self.device)
        self._texture = torch.where(self._material == LASHES, LASH_TEXTURE, -1).int()
        self._store = MeshStore([lash_texture()], self.device)
        self._pressed: dict[tuple[int, int], Proxy] = {}
        eye = head.mean[head.triangles[head.material == EYE].unique()]
        self._eye_centre = eye[eye[:, 0] > 0].mean(0).to(self.device)
        if assets is not None:
            self._relief = skin_relief(head, fields, assets.skins).to(self.device)
            self._brows = torch.stack([brow.shape for brow in assets.brows]).to(self.device)

    @torch.inference_mode(False)  # so that training and validation share compiled code
    @torch.no_grad()
    def render(self, scenes: Scenes | Sequence[Scene], size: int) -> UInt8[Tensor, "batch 3 size size"]:
        """Renders RGB pictures of size x size pixels, on the device.

        Raises:
            InputError: there are no scenes, or `size` is below 1.
        """
        if not len(scenes) or size < 1:
            raise InputError(f"nothing to render: {len(scenes)} scenes of size {size}; both must be at least 1")
        scenes = scenes if isinstance(scenes, Scenes) else Scenes.of(scenes)
        large, scenes = size * self.supersampling, scenes.to(self.device)
        geometry = self._geometry(scenes)
        # Outward normals in (x right, y up, z towards the viewer), with twice the triangle's area as length.
        normals = triangle_normals(geometry.points, geometry.triangles) * geometry.points.new_tensor([-1.0, 1.0, -1.0])
        if scenes.mirrored.any():
            sign = torch.where(scenes.mirrored, -1.0, 1.0).to(self.device)
            normals = normals * sign.index_select(0, geometry.image)[:, None]
        fragments = self._visible(geometry, normals, len(scenes), large)
        background = scenes.backgrounds.transpose(0, 1).contiguous().float() / 255
        if background.shape[-1] != large:
            background = torch.nn.functional.interpolate(background, size=(large, large), mode="bilinear")
        image = materials.linear(background)
        self._shade(image, fragments, geometry, normals, scenes)
        if self.supersampling > 1:
            image = torch.nn.functional.avg_pool2d(image, self.supersampling)
        return materials.to_bytes(materials.srgb(image)).transpose(0, 1)

    def proxy(self, material: int, row: int, hat: int) -> Proxy:
        """The mesh that a row of `Scenes.worn` refers to."""
        worn, assets = self.wardrobe, self.assets
        if material == HAIR:
            if hat < 0:
                return worn.hair[row].proxy
            if (row, hat) not in self._pressed:
                self._pressed[row, hat] = worn.hats[hat].press(worn.hair[row].proxy, self.head)
            return self._pressed[row, hat]
        if material == CLOTH:
            return worn.hats[row].proxy
        if material in (FRAME, LENS):
            return worn.glasses[row].frame if material == FRAME else worn.glasses[row].lenses
        if material == METAL:
            return worn.earrings[row]
        if assets is None:
            raise InputError("a scene uses one of MakeHuman's assets, but the renderer has none: set assets_dir")
        return assets.lashes[row] if material == PROXY_LASHES else assets.teeth[row]

    def _geometry(self, scenes: Scenes) -> _Geometry:
        coefficients = torch.cat([scenes.shape, scenes.expression], dim=1)
        # In float64, so that rounding does not depend on the size of the batch. Points at a seam must agree to the last
        # bit, or the seam would be visible.
        heads = linear_faces(*self._linear, coefficients.double()).float().index_select(1, self._weld)
        batch, count = heads.shape[:2]
        pieces = [
            (picture, material, self._store.row(self.proxy(material, row, hat)))
            for picture, material, row, hat in scenes.worn.tolist()
        ]
        dressed = self._store.dress(torch.tensor(pieces, dtype=torch.int64).view(-1, 3), heads)
        linear, shift = scenes.cameras.index_select(0, dressed.picture).split([3, 1], dim=2)
        worn = (linear * dressed.points[:, None]).sum(dim=2) + shift[..., 0]
        of_worn = dressed.triangles + batch * count, *dressed[4:]
        first = count * torch.arange(batch, dtype=torch.int32, device=self.device)  # point of each head
        own = torch.arange(batch * count, batch * count + len(worn), device=self.device)
        return _Geometry(
            torch.cat([apply_camera(scenes.cameras, heads).flatten(0, 1), worn]),
            torch.cat([self._uv.repeat(batch, 1), dressed.uv]),
            torch.cat([self._mean.repeat(batch, 1), dressed.points]),
            torch.cat([(self._weld + first[:, None]).flatten(), own]),
            *(torch.cat(pair) for pair in zip(self._head_triangles(scenes, first), of_worn, strict=True)),
        )

    def _head_triangles(self, scenes: Scenes, first: Int[Tensor, "batch"]) -> tuple[Tensor, ...]:
        """Triangles, image, material and texture of heads whose points start at `first`, without replaced parts."""
        batch = len(scenes)
        parts = (
            (self._triangles + first[:, None, None]).flatten(0, 1),
            torch.arange(batch, dtype=torch.int32, device=self.device).repeat_interleave(len(self._triangles)),
            self._material.repeat(batch),
            self._texture.repeat(batch),
        )
        replaced = [(picture, REPLACED[kind]) for picture, kind, *_ in scenes.worn.tolist() if kind in REPLACED]
        if not replaced:
            return parts
        shown = torch.ones(batch, max(REPLACED.values()) + 1, dtype=torch.bool)
        shown[tuple(torch.tensor(replaced).T)] = False
        kept = shown.to(self.device)[:, self._material.long().clamp(max=shown.shape[1] - 1)].flatten()
        return tuple(part[kept] for part in parts)

    def _visible(self, geometry: _Geometry, normals: Float[Tensor, "triangles 3"], batch: int, size: int) -> Fragments:
        """Finds what each pixel shows. Back faces of the head's closed surface are culled for speed."""
        kept = ((normals[:, 2] > 0) | _two_sided(geometry.material)).nonzero()[:, 0]
        cutout = Cutout(geometry.uv, geometry.texture.index_select(0, kept), self._store.packed.alpha)
        points = geometry.points * self.supersampling + (self.supersampling - 1) / 2
        triangles, image = geometry.triangles.index_select(0, kept), geometry.image.index_select(0, kept)
        fragments = rasterise(points, triangles, image, (batch, size, size), cutout=cutout)
        # The last row maps -1, the background, to itself.
        rows = torch.cat([kept, kept.new_tensor([-1])]).int()
        fragments.triangle = rows.index_select(0, fragments.triangle.flatten() % len(rows)).view_as(fragments.triangle)
        return fragments

    def _shade(
        self,
        image: Float[Tensor, "3 batch size size"],
        fragments: Fragments,
        geometry: _Geometry,
        of_triangle: Float[Tensor, "triangles 3"],
        scenes: Scenes,
    ) -> None:
        """Colours the covered pixels of the pictures in place."""
        seen = fragments.triangle.flatten().ge(0).nonzero()[:, 0]
        triangle = fragments.triangle.flatten().index_select(0, seen).long()
        weights = fragments.barycentric.flatten(0, 2).index_select(0, seen)
        corners = geometry.triangles.index_select(0, triangle)
        welded = geometry.weld.index_select(0, geometry.triangles.flatten()).view(-1, 3)  # smooth across seams
        normals = averaged_normals(of_triangle, welded, len(geometry.points)).index_select(0, geometry.weld)
        values = torch.cat([normals, geometry.uv, geometry.canonical, *self._reached(geometry, scenes)], dim=1)
        interpolated = torch.nn.functional.embedding_bag(corners, values, mode="sum", per_sample_weights=weights)
        # With points as the last dimension, everything below is several times faster.
        normal, uv, canonical, reached = interpolated.T.contiguous().split([3, 2, 3, values.shape[1] - 8])
        picture = geometry.image.index_select(0, triangle).long()
        normal = materials.unit(normal)
        material = geometry.material.index_select(0, triangle)
        table, present = scenes.look_table(), scenes.present
        if self.compiled:  # compile once, for everything that can occur in a scene
            present = frozenset(table) - ({"brow_painted", "skin_painted"} if self.assets is None else set())
        colour = torch.empty(3, len(seen), device=self.device)
        shine = torch.empty(len(seen), device=self.device)
        by_kind = material.argsort()
        counts = torch.bincount(material).tolist()
        for kind, rows in enumerate(by_kind.split(counts)):
            if not counts[kind]:
                continue
            look = materials.Look(table, present, picture.index_select(0, rows))
            texel = None
            if kind >= HAIR:
                rows_of_texture = geometry.texture[triangle[rows]].long()
                texel = sample_texture(self._store.packed.textures, rows_of_texture, uv[:, rows])
            of_kind = self._paint(kind, uv.index_select(1, rows), canonical.index_select(1, rows), texel, look)
            colour.index_copy_(1, rows, of_kind[0].expand(3, len(rows)))
            shine.index_copy_(0, rows, of_kind[1].expand(len(rows)))
        normal = torch.where(_two_sided(material) & (normal[2] < 0), -normal, normal)
        lit = self._light_shader(colour, shine, normal, picture, scenes.lights, reached)
        image.flatten(1).index_copy_(1, seen, lit)

    def _reached(self, geometry: _Geometry, scenes: Scenes) -> list[Float[Tensor, "points reached"]]:
        """Which part of the light from everywhere and of each light reaches each point; nothing without shadows."""
        if self.openness is None:
            return []
        directions = _in_model_space(scenes.lights[:, 2::2], scenes.cameras)
        of_heads = self.openness.of_lights(directions).flatten(0, 1)
        worn = of_heads.new_ones(len(geometry.points) - len(of_heads), of_heads.shape[1])
        return [torch.cat([of_heads, worn])]

    def _paint(
        self, kind: int, uv: Tensor, canonical: Tensor, texel: Tensor | None, look: materials.Look
    ) -> tuple[Tensor, Tensor]:
        base = materials.linear(look["skin"])
        matt = torch.full_like(uv[0], 0.05)
        if kind == SKIN:
            return self._skin_shader(uv, base, look)
        if kind == BODY:
            return self._neck_shader(canonical, base, look)
        if kind == EYE:
            return materials.eye(canonical, self._eye_centre, look)
        if kind == CAVITY:
            return materials.cavity(canonical, base)
        if kind == TEETH:
            return materials.teeth(canonical)
        if kind in BLACK:
            return torch.full_like(canonical, BLACK[kind][0]), torch.full_like(matt, BLACK[kind][1])
        if kind in COATED:
            return materials.linear(look[COATED[kind][0]]), torch.full_like(matt, COATED[kind][1])
        assert texel is not None
        if kind == HAIR:
            return materials.dyed(texel, look["hair_colour"]), 0.5 * matt + 0.12 * texel.mean(0)
        if kind == CLOTH:
            return materials.dyed(texel, look["hat_colour"]), matt
        return materials.painted_teeth(texel, canonical)

    def _skin(self, uv: Tensor, base: Tensor, look: materials.Look) -> tuple[Tensor, Tensor]:
        pixel = layout_pixel(uv)
        field = look_up(self.fields, pixel)
        if look.has("skin_painted"):
            row = look["asset_skin"].long().clamp(min=0)
            relief = self._relief.flatten(0, 1).index_select(0, row * self._relief.shape[1] + pixel)
            ratio = relief.T.float().contiguous() / RELIEF_UNIT
            base = base * (1 + look["skin_painted"] * (materials.linear(ratio) - 1))
        if look.has("brow_painted"):
            field["brow"] = self._brow(field, look)
        return materials.skin(field, base, look)

    def _brow(self, field: dict[str, Tensor], look: materials.Look) -> Float[Tensor, "points"]:
        """Coverage by MakeHuman's brows, 0 ... 1."""
        _, height, width = self._brows.shape
        column = ((field["x"] - BROW_LEFT) / BROW_STEP).long()
        row = ((BROW_TOP - field["y"]) / BROW_STEP).long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (field["brow_across"].abs() < 20)
        texel = (look["asset_brows"].long().clamp(min=0) * height + row) * width + column
        shape = self._brows.flatten().index_select(0, torch.where(inside, texel, 0)).float() / 255
        return shape * inside * look["brow_painted"]


@full_precision
def _in_model_space(
    directions: Float[Tensor, "batch lights 3"], cameras: Float[Tensor, "batch 3 4"]
) -> Float[Tensor, "batch lights 3"]:
    """Directions with y up as seen in the picture, up to their length. Pictures have y down."""
    return (directions * directions.new_tensor([1.0, -1.0, 1.0])) @ cameras[:, :, :3]


def _two_sided(material: Int[Tensor, "points"]) -> Bool[Tensor, "points"]:
    """Whether a material belongs to sheets, which are visible from both sides."""
    return (material >= HAIR) | (material == LASHES)


def illuminate(
    colour: Float[Tensor, "3 points"],
    shine: Float[Tensor, "points"],
    normal: Float[Tensor, "3 points"],
    picture: Int[Tensor, "points"],
    lights: Float[Tensor, "batch lights 3"],
    reached: Float[Tensor, "reached points"],
) -> Float[Tensor, "3 points"]:
    """Lights colours with a hemisphere light and, for each light, wrapped Lambert shading and a Blinn-Phong highlight
    (Blinn, SIGGRAPH 1977). picture: of each point. lights: of each picture, see `Scenes`. reached: which part of the
    hemisphere light and of each light reaches each point; without rows all of it.

    In a crease, light goes to and fro between coloured walls, so that shadows on skin are reddish: of the part 1 - A
    that hits a wall, the part colour comes back, of this again A, and so on, in all A / (1 - colour (1 - A)).
    """
    sky, ground, *rest = lights.permute(1, 2, 0).contiguous()

    def of(values: Float[Tensor, "3 batch"]) -> Float[Tensor, "3 points"]:
        return values if len(lights) == 1 else values.index_select(1, picture)

    light = of(ground) + of(sky - ground) * (0.5 + 0.5 * normal[1])
    if len(reached):
        light = light * reached[0] / (1 - colour.clamp(max=0.9) * (1 - reached[0]))
    highlight = torch.zeros_like(light)
    to_viewer = light.new_tensor([[0.0], [0.0], [1.0]])
    for number, (direction, strength) in enumerate(zip(rest[::2], rest[1::2], strict=True)):
        halfway = torch.nn.functional.normalize(direction + to_viewer, dim=0)
        facing = (normal * of(direction)).sum(0)
        bright = of(strength) * reached[1 + number] if len(reached) else of(strength)
        light = light + bright * ((facing + WRAP) / (1 + WRAP)).clamp(min=0)
        gloss = (normal * of(halfway)).sum(0).clamp(min=0).square().square().square()
        highlight = highlight + bright * (shine * gloss * gloss.square() * (facing > 0))  # to the power 24
    return colour * light + 0.6 * highlight


def sample_texture(
    textures: UInt8[Tensor, "textures rows columns 4"], row: Int[Tensor, "points"], uv: Float[Tensor, "2 points"]
) -> Float[Tensor, "3 points"]:
    """RGB of the nearest texel in 0 ... 1."""
    height, width = textures.shape[1:3]
    u, v = uv.clamp(0, 1).unbind(0)
    y, x = ((1 - v) * height).long().clamp(max=height - 1), (u * width).long().clamp(max=width - 1)
    texel = textures.flatten(0, 2).index_select(0, (row * height + y) * width + x)
    return texel[:, :3].T.float().contiguous() / 255
