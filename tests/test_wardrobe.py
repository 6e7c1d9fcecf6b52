"""The procedural wardrobe: hair, hats, glasses and earrings on the mean head and on other people."""

import numpy as np
import pytest
import torch
from torch import Tensor

from jointface.errors import DataError
from jointface.geometry.rasteriser import Cutout, Fragments, rasterise
from jointface.synthesis.binding import EAR_SIDE, EAR_TOP, bind
from jointface.synthesis.head import SKIN, Head, load_head
from jointface.synthesis.makehuman import Proxy
from jointface.synthesis.people import blend_weights, sample_expression, sample_person
from jointface.synthesis.skull import CENTRE
from jointface.synthesis.wardrobe import Wardrobe, load_wardrobe

EYES = range(36, 48)
SIZE, SCALE = 320, 0.8  # pixels, pixels per mm
FROM_ABOVE = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # y becomes the depth


@pytest.fixture(scope="module")
def head() -> Head:
    try:
        return load_head()
    except DataError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def wardrobe(head: Head) -> Wardrobe:
    return load_wardrobe(head)


@pytest.fixture(scope="module")
def people(head: Head) -> Tensor:
    """(20, points, 3) random heads with random expressions."""
    rng = np.random.default_rng(0)
    persons = [sample_person(rng, head.change_labels) for _ in range(20)]
    weights = blend_weights(persons, head.variations, head.phenotype_mask, head.change_labels)
    expressions = torch.stack([sample_expression(rng, head.expression_labels) for _ in persons])
    return head.points(weights @ head.identity_of_blendshapes + head.identity_offset, expressions)


def proxies(wardrobe: Wardrobe) -> list[Proxy]:
    glasses = [part for pair in wardrobe.glasses for part in (pair.frame, pair.lenses)]
    return [worn.proxy for worn in (*wardrobe.hair, *wardrobe.hats, *wardrobe.earrings)] + glasses


def draw(head: Head, heads: Tensor, proxy: Proxy, turn: Tensor | None = None) -> tuple[Fragments, Tensor]:
    """Heads with a proxy each, and the places of all points in pixels. turn: rows are the axes right, up, near."""
    points = torch.cat([heads, proxy.fit(heads)], dim=1) @ (torch.eye(3) if turn is None else turn).T
    middle = points[:, : heads.shape[1]].mean(dim=1, keepdim=True) if turn is not None else 0
    places = (points - middle) * torch.tensor([SCALE, -SCALE, SCALE]) + torch.tensor([SIZE / 2, SIZE / 2, 0])
    triangles = torch.cat([head.triangles, proxy.triangles + heads.shape[1]])
    batch, count = places.shape[:2]
    cutout = Cutout(
        torch.cat([torch.zeros(heads.shape[1], 2), proxy.uv]).repeat(batch, 1),
        torch.cat([torch.full((len(head.triangles),), -1), torch.zeros(len(proxy.triangles))]).int().repeat(batch),
        proxy.texture[None, ..., 3].contiguous(),
    )
    copies = torch.cat([triangles + i * count for i in range(batch)])
    image = torch.arange(batch).repeat_interleave(len(triangles))
    fragments = rasterise(places.flatten(0, 1), copies, image, (batch, SIZE, SIZE), cutout=cutout)
    fragments.triangle = torch.where(fragments.triangle < 0, -1, fragments.triangle % len(triangles))
    return fragments, places


def covered(head: Head, heads: Tensor, proxy: Proxy, rows: Tensor, turn: Tensor | None = None) -> Tensor:
    """(batch, rows) whether a pixel at a point of the head shows the proxy."""
    fragments, places = draw(head, heads, proxy, turn)
    x, y = places[:, rows, :2].round().long().clamp(0, SIZE - 1).unbind(-1)
    return fragments.triangle[torch.arange(len(heads))[:, None], y, x] >= len(head.triangles)


def forehead(head: Head) -> Tensor:
    """Skin between brows and hairline."""
    x, y, z = head.mean.unbind(1)
    skin = torch.zeros(len(head.mean), dtype=torch.bool)
    skin[head.triangles[head.material == SKIN].unique()] = True
    return (skin & (x.abs() < 30) & (y > 76) & (y < 98) & (z > 0)).nonzero().squeeze(1)


def test_names(wardrobe: Wardrobe) -> None:
    hair = {style.name: style for style in wardrobe.hair}
    assert len(hair) == 17
    assert {name for name, style in hair.items() if style.bangs} == {"fringe_short", "bob_bangs", "long_straight_bangs"}
    assert {name for name, style in hair.items() if style.receding} == {"receding_short", "horseshoe"}
    assert {style.wave for style in wardrobe.hair} == {"straight", "wavy", "curly"}
    assert {style.length for style in wardrobe.hair} == {"short", "medium", "long"}
    assert [hat.name for hat in wardrobe.hats] == ["beanie", "baseball_cap", "wide_brim"]
    assert len(wardrobe.glasses) == 8
    assert len(wardrobe.earrings) == 4


def test_proxies_are_whole(head: Head, wardrobe: Wardrobe) -> None:
    for proxy in proxies(wardrobe):
        count = len(proxy.corners)
        assert all(values.isfinite().all() for values in (proxy.weights, proxy.offsets, proxy.uv)), proxy.name
        assert 0 <= int(proxy.triangles.min()) <= int(proxy.triangles.max()) < count, proxy.name
        assert 0 <= proxy.uv.min() <= proxy.uv.max() <= 1, proxy.name
        torch.testing.assert_close(proxy.weights.sum(dim=1), torch.ones(count))
        assert 0 <= int(proxy.corners.min()) <= int(proxy.corners.max()) < len(head.mean)


def test_hair_textures(wardrobe: Wardrobe) -> None:
    for style in wardrobe.hair:
        texture = style.proxy.texture
        assert texture.shape == (256, 256, 4)
        hair = texture[..., 3] == 255
        assert (hair | (texture[..., 3] == 0)).all()
        assert 0.05 < hair.float().mean() < 0.95, style.name
        strands = texture[..., 0][hair].float()
        assert abs(strands.mean() - 153) < 2
        assert strands.std() > 15


def test_bound_points_come_back(head: Head) -> None:
    rng = np.random.default_rng(0)
    ways = rng.standard_normal((500, 3))
    points = CENTRE + ways / np.linalg.norm(ways, axis=1, keepdims=True) * rng.uniform(90, 180, (500, 1))
    triangles, uv, texture = np.zeros((1, 3), int), np.zeros((500, 2)), np.zeros((1, 1, 4), np.uint8)
    proxy = bind(points, head).proxy("points", triangles, uv, texture)
    torch.testing.assert_close(proxy.fit(head.mean[None])[0], torch.from_numpy(points).float(), atol=1e-3, rtol=0)
    # A head of twice the size takes them along.
    torch.testing.assert_close(proxy.fit(2 * head.mean[None]), 2 * proxy.fit(head.mean[None]), atol=1e-2, rtol=0)


def test_same_every_time(head: Head, wardrobe: Wardrobe) -> None:
    for first, second in zip(proxies(wardrobe), proxies(load_wardrobe(head)), strict=True):
        assert first.name == second.name
        assert torch.equal(first.texture, second.texture)
        assert torch.equal(first.offsets, second.offsets)
        assert torch.equal(first.triangles, second.triangles)


def test_triangles_face_outwards(head: Head, wardrobe: Wardrobe) -> None:
    for proxy in [worn.proxy for worn in (*wardrobe.hair, *wardrobe.hats)]:
        corners = proxy.fit(head.mean[None])[0][proxy.triangles]
        normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        outwards = corners.mean(dim=1) - torch.from_numpy(CENTRE).float()
        assert ((normals * outwards).sum(dim=1) > -1e-3).float().mean() > 0.85, proxy.name


def test_hair_and_hats_leave_eyes_free(head: Head, wardrobe: Wardrobe, people: Tensor) -> None:
    eyes = head.model.landmarks68[list(EYES)]
    for worn in (*wardrobe.hair, *wardrobe.hats):
        assert not covered(head, people, worn.proxy, eyes).any(), worn.name


def test_hair_and_hats_cover_the_crown(head: Head, wardrobe: Wardrobe, people: Tensor) -> None:
    radius = (head.mean[:, [0, 2]] - torch.tensor([0.0, -90.0])).norm(dim=1)
    skin = head.triangles[head.material == SKIN].unique()
    crown = skin[(radius[skin] < 55) & (head.mean[skin, 1] > 110)]
    for worn in (*wardrobe.hair, *wardrobe.hats):
        hidden = covered(head, people, worn.proxy, crown, FROM_ABOVE).float().mean()
        if worn.name == "horseshoe":
            assert hidden < 0.2
        elif worn.name == "receding_short":
            assert hidden > 0.8
        else:
            assert hidden > 0.95, (worn.name, float(hidden))


def test_bangs_hide_the_forehead(head: Head, wardrobe: Wardrobe, people: Tensor) -> None:
    for style in wardrobe.hair:
        hidden = covered(head, people, style.proxy, forehead(head)).float().mean()
        assert hidden > 0.9 if style.bangs else hidden < 0.1, (style.name, float(hidden))


def test_hats_press_hair(head: Head, wardrobe: Wardrobe, people: Tensor) -> None:
    """Nothing of the hair comes out of the hat above its rim."""
    for hat in wardrobe.hats:
        for style in wardrobe.hair:
            if not style.fits_under_hat:
                continue
            hair = hat.press(style.proxy, head)
            both = torch.cat([hat.proxy.fit(people[:4]), hair.fit(people[:4])], dim=1)
            points = hair.fit(head.mean[None])[0]
            azimuth = torch.atan2(points[:, 0], points[:, 2] - CENTRE[2]).rad2deg()
            rim = torch.from_numpy(hat.rim)[(azimuth + 180).floor().long() % 360]
            above = (points[:, 1] > rim + 10).nonzero().squeeze(1)
            out = distance_from_middle(both[:, len(hat.proxy.corners) + above])
            nearest = torch.cdist(both[:, len(hat.proxy.corners) + above], both[:, : len(hat.proxy.corners)]).argmin(-1)
            cloth = distance_from_middle(both[:, : len(hat.proxy.corners)]).gather(1, nearest)
            assert (out < cloth).float().mean() > 0.98, (hat.name, style.name)


def distance_from_middle(points: Tensor) -> Tensor:
    return (points - torch.from_numpy(CENTRE).float()).norm(dim=-1)


def test_glasses_surround_the_eyes(head: Head, wardrobe: Wardrobe, people: Tensor) -> None:
    eyes = head.model.landmarks68[list(EYES)]
    for pair in wardrobe.glasses:
        # The lenses fill the rims: eyes behind them are surrounded, and the rims leave them free.
        assert covered(head, people, pair.lenses, eyes).float().mean() > 0.97, pair.name
        assert covered(head, people, pair.frame, eyes).float().mean() < 0.03, pair.name


def test_glasses_stay_before_the_face(head: Head, wardrobe: Wardrobe) -> None:
    """Seen from the front on the mean head, no part of rims and bridge lies behind the skin."""
    for pair in wardrobe.glasses:
        fragments, places = draw(head, head.mean[None], pair.frame)
        rims = places[0, len(head.mean) :]
        rims = rims[rims[:, 2] > 15 * SCALE]
        x, y = rims[:, :2].round().long().unbind(-1)
        behind = fragments.depth[0, y, x] - rims[:, 2]
        skin = fragments.triangle[0, y, x] < len(head.triangles)
        assert not (skin & (behind > 1)).any(), pair.name


def test_earrings_hang_at_the_ears(head: Head, wardrobe: Wardrobe, people: Tensor) -> None:
    skin = head.triangles[head.material == SKIN].unique()
    ears = skin[(head.mean[skin, 0].abs() > EAR_SIDE) & (head.mean[skin, 1] < EAR_TOP)]
    for pair in wardrobe.earrings:
        points = pair.proxy.fit(people)
        for side in (-1, 1):
            ring = points[:, points[0, :, 0] * side > 0]
            lobe = people[:, ears[head.mean[ears, 0] * side > 0]]
            assert (torch.cdist(ring, lobe).amin(dim=(1, 2)) < 4).all(), pair.name
            assert ring[..., 1].amin(dim=1).lt(lobe[..., 1].amin(dim=1) + 4).all()
