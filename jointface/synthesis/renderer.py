"""Draws people: all visible points of a batch of pictures are found at once, coloured by what they are made of, and
lit."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from jointface.errors import InputError
from jointface.geometry.camera import apply_camera, is_mirrored
from jointface.geometry.rasteriser import Cutout, Fragments, rasterise
from jointface.synthesis import materials
from jointface.synthesis.appearance import Appearance, Colour, Lights
from jointface.synthesis.asset_wardrobe import BROW_LEFT, BROW_STEP, BROW_TOP, RELIEF_UNIT, FaceAssets, skin_relief
from jointface.synthesis.face_fields import layout_pixel, make_fields
from jointface.synthesis.head import BODY, CAVITY, EYE, LASHES, SKIN, TEETH, Head
from jointface.synthesis.makehuman import Proxy
from jointface.synthesis.wardrobe import Wardrobe

# What proxies are made of, after the materials of the head.
HAIR, CLOTH, FRAME, LENS, METAL, PROXY_LASHES, PROXY_TEETH = range(6, 13)
_LOOK_FIELDS = tuple(field.name for field in fields(Appearance) if field.type in ("float", float, Colour))
TEXTURE_SIZE = 256
LASH_TEXTURE = 0  # row of the textures


@dataclass(frozen=True)
class Scene:
    """One picture to draw.

    shape: (Ks,), expression: (Ke,) of the head. camera: (3, 4) from model space to the picture. background:
    (3, size, size) sRGB in 0 ... 1. seed: of the noise on the skin.
    """

    shape: Float[Tensor, "shape"]
    expression: Float[Tensor, "expression"]
    camera: Float[Tensor, "3 4"]
    appearance: Appearance
    lights: Lights
    background: Float[Tensor, "3 size size"]
    seed: float


@dataclass
class _Geometry:
    """The meshes of all pictures, packed."""

    points: Tensor  # in their pictures' pixels
    triangles: Tensor
    image: Tensor  # of each triangle
    material: Tensor  # of each triangle
    texture: Tensor  # of each triangle, -1 without
    uv: Tensor  # of each point
    canonical: Tensor  # of each point
    weld: Tensor  # points that share a normal


class Renderer:
    """Renders scenes of one head.

    Args:
        head: the head. wardrobe: its hair, hats, glasses and earrings.
        assets: MakeHuman's skins, brows, lashes and teeth, where the appearances refer to them.
        supersampling: each pixel is the mean of this many by this many.
        device: where to render.
    """

    def __init__(
        self,
        head: Head,
        wardrobe: Wardrobe,
        assets: FaceAssets | None = None,
        supersampling: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.head, self.wardrobe, self.assets = head, wardrobe, assets
        self.supersampling = supersampling
        self.device = torch.device(device)
        fields = make_fields(head)
        self.fields = fields.to(self.device)
        points = len(head.mean)
        self._uv = torch.zeros(points, 2)
        self._uv[: len(head.model.uv)] = head.model.uv
        lashes = head.triangles[head.material == LASHES].unique()
        self._uv[lashes] = lash_uv(head, lashes)
        self._textures = [lash_texture()]
        self._texture_rows: dict[str, int] = {}
        self._pressed: dict[tuple[int, int], Proxy] = {}
        self._eye_centre = head.mean[head.triangles[head.material == EYE].unique()]
        self._eye_centre = self._eye_centre[self._eye_centre[:, 0] > 0].mean(0)
        if assets is not None:
            self._relief = skin_relief(head, fields, assets.skins).to(self.device)
            self._brows = torch.stack([brow.shape for brow in assets.brows]).to(self.device)

    def render(self, scenes: Sequence[Scene], size: int) -> UInt8[Tensor, "batch 3 size size"]:
        """RGB pictures of size x size pixels."""
        if not scenes or size < 1:
            raise InputError(f"nothing to render: {len(scenes)} scenes of size {size}; both must be at least 1")
        large = size * self.supersampling
        geometry = self._geometry(scenes)
        mirrored = is_mirrored(torch.stack([scene.camera for scene in scenes])).to(self.device)
        normals = triangle_normals(geometry, mirrored)
        fragments, textures = self._visible(geometry, normals, len(scenes), large)
        background = torch.stack([scene.background for scene in scenes], dim=1).to(self.device)
        image = materials.linear(_enlarged(background, large))
        self._shade(image, fragments, geometry, normals, textures, scenes)
        if self.supersampling > 1:
            image = torch.nn.functional.avg_pool2d(image, self.supersampling)
        return materials.srgb(image).mul_(255).add_(0.5).to(torch.uint8).transpose(0, 1)

    def proxies(self, appearance: Appearance) -> list[tuple[Proxy, int]]:
        """What is worn, with its material."""
        look, worn, assets = appearance, self.wardrobe, self.assets
        chosen: list[tuple[Proxy, int]] = []
        if look.hair >= 0:
            chosen.append((self._hair(look.hair, look.hat), HAIR))
        if look.hat >= 0:
            chosen.append((worn.hats[look.hat].proxy, CLOTH))
        if look.glasses >= 0:
            chosen.append((worn.glasses[look.glasses].frame, FRAME))
            if look.sunglasses:
                chosen.append((worn.glasses[look.glasses].lenses, LENS))
        if look.earrings >= 0:
            chosen.append((worn.earrings[look.earrings].proxy, METAL))
        if assets is not None:
            for rows, row, material in (
                (assets.lashes, look.asset_lashes, PROXY_LASHES),
                (assets.teeth, look.asset_teeth, PROXY_TEETH),
            ):
                if row >= 0:
                    chosen.append((rows[row], material))
        return chosen

    def _hair(self, hair: int, hat: int) -> Proxy:
        """Hair, pressed flat under a hat."""
        if hat < 0:
            return self.wardrobe.hair[hair].proxy
        if (hair, hat) not in self._pressed:
            self._pressed[hair, hat] = self.wardrobe.hats[hat].press(self.wardrobe.hair[hair].proxy, self.head)
        return self._pressed[hair, hat]

    def _texture_row(self, proxy: Proxy) -> int:
        if proxy.name not in self._texture_rows:
            self._texture_rows[proxy.name] = len(self._textures)
            self._textures.append(_resized(proxy.texture))
        return self._texture_rows[proxy.name]

    def _geometry(self, scenes: Sequence[Scene]) -> _Geometry:
        head = self.head
        model_points = head.points(
            torch.stack([scene.shape for scene in scenes]), torch.stack([scene.expression for scene in scenes])
        )[:, head.weld]  # to the last bit, or seams would show
        cameras = torch.stack([scene.camera for scene in scenes])
        head_points = apply_camera(cameras, model_points)
        parts: dict[str, list[Tensor]] = {field.name: [] for field in fields(_Geometry)}
        count = 0
        for number, scene in enumerate(scenes):
            worn = self.proxies(scene.appearance)
            kinds = {material for _, material in worn}
            kept = torch.ones_like(head.material, dtype=torch.bool)
            for own, replacement in ((LASHES, PROXY_LASHES), (TEETH, PROXY_TEETH)):
                if replacement in kinds:
                    kept &= head.material != own
            triangles = head.triangles[kept]
            material = head.material[kept].int()
            meshes = [(head_points[number], triangles, material, torch.where(material == LASHES, LASH_TEXTURE, -1),
                       self._uv, head.mean, head.weld)]  # fmt: skip
            for proxy, kind in worn:
                points = proxy.fit(model_points[number : number + 1])
                size, row = len(proxy.triangles), self._texture_row(proxy)
                meshes.append((
                    apply_camera(cameras[number : number + 1], points)[0], proxy.triangles,
                    torch.full((size,), kind, dtype=torch.int32), torch.full((size,), row, dtype=torch.int32),
                    proxy.uv, points[0], torch.arange(len(proxy.uv)),
                ))  # fmt: skip
            for points, triangles, material, texture, uv, canonical, weld in meshes:
                parts["points"].append(points)
                parts["triangles"].append(triangles + count)
                parts["image"].append(torch.full((len(triangles),), number, dtype=torch.int32))
                parts["material"].append(material)
                parts["texture"].append(texture.int())
                parts["uv"].append(uv)
                parts["canonical"].append(canonical)
                parts["weld"].append(weld + count)
                count += len(points)
        return _Geometry(**{name: torch.cat(values).to(self.device) for name, values in parts.items()})

    def _visible(
        self, geometry: _Geometry, normals: Float[Tensor, "triangles 3"], batch: int, size: int
    ) -> tuple[Fragments, UInt8[Tensor, "textures rows columns 4"]]:
        """What each pixel shows. Of the head's closed surface only what faces the viewer is drawn, which is faster."""
        used = torch.bincount(geometry.texture + 1)[1:].nonzero()[:, 0].tolist()
        textures = torch.stack([self._textures[row] for row in used]).to(self.device)
        place = torch.full((len(self._textures) + 1,), -1, dtype=torch.int32, device=self.device)
        place[1 + torch.tensor(used, device=self.device)] = torch.arange(
            len(used), dtype=torch.int32, device=self.device
        )
        rows = place[geometry.texture + 1]
        geometry.texture = rows
        kept = ((normals[:, 2] > 0) | _two_sided(geometry.material)).nonzero()[:, 0]
        cutout = Cutout(geometry.uv, rows.index_select(0, kept), textures[..., 3].contiguous())
        points = geometry.points * self.supersampling + (self.supersampling - 1) / 2
        triangles, image = geometry.triangles.index_select(0, kept).int(), geometry.image.index_select(0, kept)
        fragments = rasterise(points, triangles, image, (batch, size, size), cutout=cutout)
        # The last row stands for -1, the background.
        rows = torch.cat([kept, kept.new_tensor([-1])]).int()
        fragments.triangle = rows.index_select(0, fragments.triangle.flatten() % len(rows)).view_as(fragments.triangle)
        return fragments, textures

    def _shade(
        self,
        image: Float[Tensor, "3 batch size size"],
        fragments: Fragments,
        geometry: _Geometry,
        of_triangle: Float[Tensor, "triangles 3"],
        textures: UInt8[Tensor, "textures rows columns 4"],
        scenes: Sequence[Scene],
    ) -> None:
        """Colours the covered pixels of the picture, in place."""
        seen = fragments.triangle.flatten().ge(0).nonzero()[:, 0]
        triangle = fragments.triangle.flatten().index_select(0, seen).long()
        weights = fragments.barycentric.flatten(0, 2).index_select(0, seen)
        corners = geometry.triangles.index_select(0, triangle)
        normals = vertex_normals(of_triangle, geometry)
        values = torch.cat([normals, geometry.uv, geometry.canonical], dim=1)
        interpolated = torch.nn.functional.embedding_bag(corners, values, mode="sum", per_sample_weights=weights)
        # With the points last, everything below is several times faster.
        normal, uv, canonical = interpolated.T.contiguous().split([3, 2, 3])
        picture = geometry.image.index_select(0, triangle).long()
        normal = materials.unit(normal)
        material = geometry.material.index_select(0, triangle)
        looks = look_table([scene.appearance for scene in scenes], [scene.seed for scene in scenes], self.device)
        colour = torch.empty(3, len(seen), device=self.device)
        shine = torch.empty(len(seen), device=self.device)
        by_kind = material.argsort()
        counts = torch.bincount(material).tolist()
        for kind, rows in enumerate(by_kind.split(counts)):
            if not counts[kind]:
                continue
            look = materials.Look(*looks, picture.index_select(0, rows))
            texel = None
            if kind >= HAIR:
                texel = sample_texture(textures, geometry.texture[triangle[rows]].long(), uv[:, rows])
            of_kind = self._material(kind, uv.index_select(1, rows), canonical.index_select(1, rows), texel, look)
            colour.index_copy_(1, rows, of_kind[0].expand(3, len(rows)))
            shine.index_copy_(0, rows, of_kind[1].expand(len(rows)))
        normal = torch.where(_two_sided(material) & (normal[2] < 0), -normal, normal)
        lit = illuminate(colour, shine, normal, picture, [scene.lights for scene in scenes])
        image.flatten(1).index_copy_(1, seen, lit)

    def _material(
        self, kind: int, uv: Tensor, canonical: Tensor, texel: Tensor | None, look: materials.Look
    ) -> tuple[Tensor, Tensor]:
        base = materials.linear(look["skin"])
        matt = torch.full_like(uv[0], 0.05)
        if kind == SKIN:
            return self._skin(uv, base, look)
        if kind == BODY:
            return materials.neck_and_clothes(canonical, base, look)
        if kind == EYE:
            return materials.eye(canonical, self._eye_centre.to(uv.device), look)
        if kind == CAVITY:
            return materials.cavity(canonical, base)
        if kind == TEETH:
            return materials.teeth(canonical)
        if kind == LASHES:
            return torch.full_like(canonical, 0.015), 0 * matt
        assert texel is not None
        if kind == HAIR:
            return materials.dyed(texel, look["hair_colour"]), 0.5 * matt + 0.12 * texel.mean(0)
        if kind == CLOTH:
            return materials.dyed(texel, look["hat_colour"]), matt
        if kind == FRAME:
            return materials.linear(look["frame_colour"]), torch.full_like(matt, 0.5)
        if kind == LENS:
            return torch.full_like(canonical, 0.012), torch.full_like(matt, 0.6)
        if kind == METAL:
            return materials.linear(look["metal"]), torch.full_like(matt, 0.9)
        if kind == PROXY_LASHES:
            return torch.full_like(canonical, 0.015), 0 * matt
        return materials.painted_teeth(texel, canonical)

    def _skin(self, uv: Tensor, base: Tensor, look: materials.Look) -> tuple[Tensor, Tensor]:
        pixel = layout_pixel(uv)
        field = self.fields.look_up(pixel)
        if look.has("skin_painted"):
            row = look["asset_skin"].long().clamp(min=0)
            relief = self._relief.flatten(0, 1).index_select(0, row * self._relief.shape[1] + pixel)
            ratio = relief.T.float().contiguous() / RELIEF_UNIT
            base = base * (1 + look["skin_painted"] * (materials.linear(ratio) - 1))
        if look.has("brow_painted"):
            field["brow"] = self._brow(field, look)
        return materials.skin(field, base, look)

    def _brow(self, field: dict[str, Tensor], look: materials.Look) -> Float[Tensor, "points"]:
        """Coverage of asset brows, 0 ... 1."""
        _, height, width = self._brows.shape
        column = ((field["x"] - BROW_LEFT) / BROW_STEP).long()
        row = ((BROW_TOP - field["y"]) / BROW_STEP).long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (field["brow_across"].abs() < 20)
        texel = (look["asset_brows"].long().clamp(min=0) * height + row) * width + column
        shape = self._brows.flatten().index_select(0, torch.where(inside, texel, 0)).float() / 255
        return shape * inside * look["brow_painted"]


def triangle_normals(geometry: _Geometry, mirrored: Bool[Tensor, "batch"]) -> Float[Tensor, "triangles 3"]:
    """Normals that point out of the surface, in (x right, y up, z towards the viewer), as long as twice the area."""
    a, b, c = (geometry.points.index_select(0, corner) for corner in geometry.triangles.T.contiguous())
    outwards = torch.linalg.cross(b - a, c - a) * a.new_tensor([-1.0, 1.0, -1.0])
    return outwards * torch.where(mirrored, -1.0, 1.0)[geometry.image.long(), None] if mirrored.any() else outwards


def vertex_normals(of_triangle: Float[Tensor, "triangles 3"], geometry: _Geometry) -> Float[Tensor, "points 3"]:
    """Unit normals of the points, the mean of those of their triangles by area; seams are smooth."""
    total = torch.zeros_like(geometry.points)
    for corner in geometry.triangles.T.contiguous():
        total.index_add_(0, geometry.weld.index_select(0, corner), of_triangle)
    return total.mul_(total.square().sum(1, keepdim=True).clamp(min=1e-20).rsqrt()).index_select(0, geometry.weld)


def _two_sided(material: Int[Tensor, "points"]) -> Bool[Tensor, "points"]:
    """Sheets, which show both sides."""
    return (material >= HAIR) | (material == LASHES)


def illuminate(
    colour: Float[Tensor, "3 points"],
    shine: Float[Tensor, "points"],
    normal: Float[Tensor, "3 points"],
    picture: Int[Tensor, "points"],
    lights: Sequence[Lights],
) -> Float[Tensor, "3 points"]:
    """Hemisphere light, wrapped Lambert for each light, and a Blinn-Phong highlight (Blinn, SIGGRAPH 1977)."""
    sky, ground = (torch.tensor([getattr(light, name) for light in lights]).T for name in ("sky", "ground"))
    directions, colours = (torch.tensor([getattr(light, name) for light in lights]).permute(1, 2, 0)
                           for name in ("directions", "colours"))  # fmt: skip

    def of(values: Float[Tensor, "3 batch"]) -> Float[Tensor, "3 points"]:
        values = values.to(colour.device)
        return values if len(lights) == 1 else values.index_select(1, picture)

    light = of(ground) + of(sky - ground) * (0.5 + 0.5 * normal[1])
    highlight = torch.zeros_like(light)
    for direction, strength in zip(directions, colours, strict=True):
        halfway = torch.nn.functional.normalize(direction + direction.new_tensor([[0.0], [0.0], [1.0]]), dim=0)
        facing = (normal * of(direction)).sum(0)
        light = light + of(strength) * ((facing + 0.15) / 1.15).clamp(min=0)
        gloss = (normal * of(halfway)).sum(0).clamp(min=0).square().square().square()
        highlight = highlight + of(strength) * (shine * gloss * gloss.square() * (facing > 0))  # to the power 24
    return colour * light + 0.6 * highlight


def look_table(
    appearances: Sequence[Appearance], seeds: Sequence[float], device: torch.device
) -> tuple[dict[str, Float[Tensor, "*channels batch"]], set[str]]:
    """The numbers of the appearances, one column a picture, and which of them are not zero everywhere."""
    rows: list[list[float]] = []
    for look, seed in zip(appearances, seeds, strict=True):
        values = [getattr(look, name) for name in _LOOK_FIELDS]
        flat = [number for value in values for number in (value if isinstance(value, tuple) else (value,))]
        rows.append([*flat, seed, look.hair >= 0, look.asset_brows < 0, look.asset_brows >= 0, look.asset_brows,
                     look.asset_skin >= 0, look.asset_skin])  # fmt: skip
    table = torch.tensor(rows, device=device, dtype=torch.float32)
    widths = [3 if isinstance(getattr(appearances[0], name), tuple) else 1 for name in _LOOK_FIELDS]
    names = (
        *_LOOK_FIELDS,
        "seed",
        "has_hair",
        "drawn_brows",
        "brow_painted",
        "asset_brows",
        "skin_painted",
        "asset_skin",
    )
    columns = table.split([*widths, *[1] * (len(names) - len(widths))], dim=1)
    named = {
        name: column.T if column.shape[1] == 3 else column[:, 0] for name, column in zip(names, columns, strict=True)
    }
    return named, {name for name, column in named.items() if column.any()}


def sample_texture(
    textures: UInt8[Tensor, "textures rows columns 4"], row: Int[Tensor, "points"], uv: Float[Tensor, "2 points"]
) -> Float[Tensor, "3 points"]:
    """RGB of the nearest texel, 0 ... 1."""
    height, width = textures.shape[1:3]
    u, v = uv.clamp(0, 1).unbind(0)
    y, x = ((1 - v) * height).long().clamp(max=height - 1), (u * width).long().clamp(max=width - 1)
    texel = textures.flatten(0, 2).index_select(0, (row * height + y) * width + x)
    return texel[:, :3].T.float().contiguous() / 255


def lash_uv(head: Head, lashes: Int[Tensor, "points"]) -> Float[Tensor, "points 2"]:
    """(along the lid, from root to tip) of the points of the lashes, from where they lie about their eye."""
    place = head.mean[lashes]
    right = (place[:, 0] > 0).float()
    uv = torch.zeros(len(lashes), 2)
    for side in (0.0, 1.0):
        rows = right == side
        eye = head.mean[head.model.landmarks68[36 + 6 * int(side) : 42 + 6 * int(side)]]
        local = place[rows] - eye.mean(0)
        along = local[:, 0] / 18
        uv[rows] = torch.stack([(0.5 + 0.5 * along).clamp(0, 1), (local[:, 2] / 9).clamp(0, 1)], dim=1)
    return uv


def lash_texture() -> UInt8[Tensor, "size size 4"]:
    """Lashes that taper from root (v = 0) to tip."""
    v = 1 - (torch.arange(TEXTURE_SIZE) + 0.5)[:, None] / TEXTURE_SIZE
    u = (torch.arange(TEXTURE_SIZE) + 0.5)[None] / TEXTURE_SIZE
    inside = ((u * 44) % 1 - 0.5).abs() < 0.34 * (1 - v)
    texture = torch.zeros(TEXTURE_SIZE, TEXTURE_SIZE, 4, dtype=torch.uint8)
    texture[..., 3] = inside * 255
    return texture


def _resized(texture: UInt8[Tensor, "rows columns 4"]) -> UInt8[Tensor, "size size 4"]:
    """All textures have one size, so that they can be stacked."""
    if texture.shape[0] == texture.shape[1] == TEXTURE_SIZE:
        return texture
    image = texture.movedim(-1, 0)[None].float()
    return torch.nn.functional.interpolate(image, size=(TEXTURE_SIZE, TEXTURE_SIZE))[0].movedim(0, -1).to(torch.uint8)


def _enlarged(background: Float[Tensor, "3 batch height width"], size: int) -> Float[Tensor, "3 batch size size"]:
    if background.shape[-1] == size:
        return background
    return torch.nn.functional.interpolate(background, size=(size, size), mode="bilinear")
