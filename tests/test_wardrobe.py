"""The procedural wardrobe: hair, hats, glasses and earrings on the mean head and on other people."""

import numpy as np
import pytest
import torch
from torch import Tensor

from jointface.geometry.mesh import triangle_normals
from jointface.geometry.rasteriser import Cutout, Fragments, rasterise
from jointface.synthesis import hair_styles
from jointface.synthesis.head import SKIN, Head
from jointface.synthesis.people import identity_coefficients, sample_expression, sample_person
from jointface.synthesis.proxy import EAR_SIDE, EAR_TOP, Proxy, bind
from jointface.synthesis.skull import CENTRE
from jointface.synthesis.solids import Solid
from jointface.synthesis.wardrobe import Wardrobe, load_wardrobe

PEOPLE = 6
SIZE, SCALE = 160, 0.4  # pixels, pixels per mm
FROM_ABOVE = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # y becomes the depth


@pytest.fixture(scope="module")
def wardrobe(head: Head) -> Wardrobe:
    return load_wardrobe(head)


@pytest.fixture(scope="module")
def people(head: Head) -> Tensor:
    """(PEOPLE, points, 3) random heads with random expressions."""
    rng = np.random.default_rng(0)
    persons = [sample_person(rng, head.change_labels) for _ in range(PEOPLE)]
    expressions = torch.stack([sample_expression(rng, head.expression_labels) for _ in persons])
    return head.points(identity_coefficients(head, persons), expressions)


@pytest.fixture(scope="module")
def skin(head: Head) -> Tensor:
    """Rows of the points of the skin."""
    return head.triangles[head.material == SKIN].unique()


@pytest.fixture(scope="module")
def eyes(head: Head) -> Tensor:
    """Rows of the landmarks of the eyes."""
    return head.model.landmarks68[36:48]


def proxies(wardrobe: Wardrobe) -> list[Proxy]:
    glasses = [part for pair in wardrobe.glasses for part in (pair.frame, pair.lenses)]
    return [*(worn.proxy for worn in (*wardrobe.hair, *wardrobe.hats)), *wardrobe.earrings, *glasses]


def render(head: Head, heads: Tensor, proxy: Proxy, turn: Tensor) -> tuple[Fragments, Tensor]:
    """Heads with a proxy each, and the places of all points in pixels. turn: rows are the axes right, up, near."""
    points = torch.cat([heads, proxy.fit(heads)], dim=1) @ turn.T
    middle = 0 if torch.equal(turn, torch.eye(3)) else points[:, : heads.shape[1]].mean(dim=1, keepdim=True)
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
    """(batch, rows) whether the pixel at a point of the head shows the proxy."""
    fragments, places = render(head, heads, proxy, torch.eye(3) if turn is None else turn)
    x, y = places[:, rows, :2].round().long().clamp(0, SIZE - 1).unbind(-1)
    return fragments.triangle[torch.arange(len(heads))[:, None], y, x] >= len(head.triangles)


def test_the_wardrobe_holds_what_attributes_ask_for(wardrobe: Wardrobe) -> None:
    hair = {style.proxy.name: style for style in wardrobe.hair}
    assert (len(hair), len(wardrobe.glasses), len(wardrobe.earrings)) == (17, 8, 4)
    assert {name for name, style in hair.items() if style.bangs} == {"fringe_short", "bob_bangs", "long_straight_bangs"}
    assert {name for name, style in hair.items() if style.receding} == {"receding_short", "horseshoe"}
    assert {style.wave for style in wardrobe.hair} == {"straight", "wavy", "curly"}
    assert {style.length for style in wardrobe.hair} == {"short", "medium", "long"}
    assert [hat.proxy.name for hat in wardrobe.hats] == ["beanie", "baseball_cap", "wide_brim"]


def test_proxies_are_whole(head: Head, wardrobe: Wardrobe) -> None:
    for proxy in proxies(wardrobe):
        count = len(proxy.corners)
        assert all(values.isfinite().all() for values in (proxy.weights, proxy.offsets, proxy.uv)), proxy.name
        assert 0 <= int(proxy.triangles.min()) <= int(proxy.triangles.max()) < count, proxy.name
        assert 0 <= proxy.uv.min() <= proxy.uv.max() <= 1, proxy.name
        torch.testing.assert_close(proxy.weights.sum(dim=1), torch.ones(count))
        assert 0 <= int(proxy.corners.min()) <= int(proxy.corners.max()) < len(head.mean)


def test_hair_textures_are_strands_of_one_luminance(wardrobe: Wardrobe) -> None:
    for style in wardrobe.hair:
        texture = style.proxy.texture
        assert texture.shape == (256, 256, 4)
        hair = texture[..., 3] == 255
        assert (hair | (texture[..., 3] == 0)).all()
        assert 0.05 < hair.float().mean() < 0.95, style.proxy.name
        strands = texture[..., 0][hair].float()
        assert abs(strands.mean() - 153) < 2
        assert strands.std() > 15


def test_bound_points_come_back_and_grow_with_the_head(head: Head) -> None:
    rng = np.random.default_rng(0)
    ways = rng.standard_normal((500, 3))
    points = CENTRE + ways / np.linalg.norm(ways, axis=1, keepdims=True) * rng.uniform(90, 180, (500, 1))
    mesh = Solid(points, np.zeros((1, 3), int))
    proxy = bind(head, "points", mesh, np.zeros((500, 2)), np.zeros((1, 1, 4), np.uint8))
    torch.testing.assert_close(proxy.fit(head.mean[None])[0], torch.from_numpy(points).float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(proxy.fit(2 * head.mean[None]), 2 * proxy.fit(head.mean[None]), atol=1e-2, rtol=0)


def test_the_wardrobe_is_the_same_every_time(head: Head, wardrobe: Wardrobe, monkeypatch: pytest.MonkeyPatch) -> None:
    first = {proxy.name: proxy for proxy in proxies(wardrobe)}
    monkeypatch.setattr(hair_styles, "CUTS", hair_styles.CUTS[-5::2])  # three stand for all
    for again in proxies(load_wardrobe.__wrapped__(head)):
        for name in ("texture", "offsets", "triangles"):
            assert torch.equal(getattr(first[again.name], name), getattr(again, name)), (again.name, name)


def test_hair_and_hats_face_outwards(head: Head, wardrobe: Wardrobe) -> None:
    for proxy in (worn.proxy for worn in (*wardrobe.hair, *wardrobe.hats)):
        points = proxy.fit(head.mean[None])[0]
        outwards = points[proxy.triangles].mean(dim=1) - torch.from_numpy(CENTRE).float()
        facing = (triangle_normals(points, proxy.triangles) * outwards).sum(dim=1) > -1e-3
        assert facing.float().mean() > 0.85, proxy.name


def test_hair_and_hats_cover_the_crown_and_leave_the_eyes_free(
    head: Head, wardrobe: Wardrobe, people: Tensor, skin: Tensor, eyes: Tensor
) -> None:
    radius = (head.mean[:, [0, 2]] - torch.tensor([0.0, -90.0])).norm(dim=1)
    crown = skin[(radius[skin] < 55) & (head.mean[skin, 1] > 110)]
    expected = {"horseshoe": (0, 0.2), "receding_short": (0.8, 1)}
    for proxy in (worn.proxy for worn in (*wardrobe.hair, *wardrobe.hats)):
        assert not covered(head, people, proxy, eyes).any(), proxy.name
        hidden = float(covered(head, people, proxy, crown, FROM_ABOVE).float().mean())
        low, high = expected.get(proxy.name, (0.95, 1))
        assert low <= hidden <= high, (proxy.name, hidden)


def test_bangs_hide_the_forehead(head: Head, wardrobe: Wardrobe, people: Tensor, skin: Tensor) -> None:
    x, y, z = head.mean[skin].unbind(1)
    forehead = skin[(x.abs() < 30) & (y > 76) & (y < 98) & (z > 0)]
    for style in wardrobe.hair:
        hidden = float(covered(head, people, style.proxy, forehead).float().mean())
        assert hidden > 0.9 if style.bangs else hidden < 0.1, (style.proxy.name, hidden)


def test_hats_press_hair(head: Head, wardrobe: Wardrobe, people: Tensor) -> None:
    """Nothing of the hair comes out of the hat above its rim."""
    heads, centre = people[:1], torch.from_numpy(CENTRE).float()
    for hat in wardrobe.hats:
        cloth = hat.proxy.fit(heads)[0]
        for style in wardrobe.hair:
            if not style.fits_under_hat:
                continue
            pressed = hat.press(style.proxy, head)
            points = pressed.fit(head.mean[None])[0]
            azimuth = torch.atan2(points[:, 0], points[:, 2] - CENTRE[2]).rad2deg()
            rim = torch.from_numpy(hat.rim)[(azimuth + 180).floor().long() % 360]
            hair = pressed.fit(heads)[0, points[:, 1] > rim + 10]
            nearest = cloth[torch.cdist(hair, cloth).argmin(1)]
            inside = (hair - centre).norm(dim=1) < (nearest - centre).norm(dim=1)
            assert inside.float().mean() > 0.98, (hat.proxy.name, style.proxy.name)


def test_glasses_surround_the_eyes(head: Head, wardrobe: Wardrobe, people: Tensor, eyes: Tensor) -> None:
    """The lenses fill the rims: eyes behind them are surrounded, and the rims leave them free."""
    for pair in wardrobe.glasses:
        assert covered(head, people, pair.lenses, eyes).float().mean() > 0.97, pair.frame.name
        assert covered(head, people, pair.frame, eyes).float().mean() < 0.03, pair.frame.name


def test_glasses_stay_before_the_face(head: Head, wardrobe: Wardrobe) -> None:
    """Seen from the front on the mean head, no part of rims and bridge lies behind the skin."""
    for pair in wardrobe.glasses:
        fragments, places = render(head, head.mean[None], pair.frame, torch.eye(3))
        rims = places[0, len(head.mean) :]
        rims = rims[rims[:, 2] > 15 * SCALE]
        x, y = rims[:, :2].round().long().unbind(-1)
        behind = fragments.depth[0, y, x] - rims[:, 2] > 1.25 * SCALE  # mm
        skin = fragments.triangle[0, y, x] < len(head.triangles)
        assert not (skin & behind).any(), pair.frame.name


def test_earrings_hang_at_the_ears(head: Head, wardrobe: Wardrobe, people: Tensor, skin: Tensor) -> None:
    ears = skin[(head.mean[skin, 0].abs() > EAR_SIDE) & (head.mean[skin, 1] < EAR_TOP)]
    for pair in wardrobe.earrings:
        points = pair.fit(people)
        for side in (-1, 1):
            ring = points[:, points[0, :, 0] * side > 0]
            lobe = people[:, ears[head.mean[ears, 0] * side > 0]]
            assert (torch.cdist(ring, lobe).amin(dim=(1, 2)) < 4).all(), pair.name
            assert ring[..., 1].amin(dim=1).lt(lobe[..., 1].amin(dim=1) + 4).all()
