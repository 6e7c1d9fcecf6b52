"""A batch of scenes is the same as its scenes one by one, in few tensors."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jointface.errors import InputError
from jointface.synthesis.faces import FaceFactory
from jointface.synthesis.head import Head
from jointface.synthesis.materials import to_bytes
from jointface.synthesis.mesh_store import MeshStore
from jointface.synthesis.scenes import CLOTH, HAIR, ON_DEVICE, PROXY_TEETH, Scene, Scenes

SIZE = 48
TENSORS = (*ON_DEVICE, "worn", "mirrored")


@pytest.fixture(scope="module")
def scenes(factory: FaceFactory) -> list[Scene]:
    faces = [factory.face("train", index) for index in range(24)]
    return [factory.scene(face, factory.crop_camera(face, SIZE), SIZE) for face in faces]


def test_a_part_of_a_batch_is_the_batch_of_that_part(factory: FaceFactory, scenes: list[Scene]) -> None:
    """Whatever the rest of the batch wears."""
    batch = Scenes.of(scenes)
    assert len(batch) == 24
    for first, end in ((0, 5), (5, 6), (20, 24)):
        part, alone = batch.part(first, end), Scenes.of(scenes[first:end])
        for name in TENSORS:
            assert torch.equal(getattr(part, name), getattr(alone, name)), name
        assert part.present >= alone.present
        apart = factory.renderer.render(part, SIZE).int() - factory.renderer.render(scenes[first:end], SIZE).int()
        assert not apart.any()


def test_batches_are_joined_in_their_order(scenes: list[Scene]) -> None:
    whole = Scenes.of(scenes)
    joined = Scenes.joined([whole.part(0, 7), whole.part(7, 8), whole.part(8, 24)])
    for name in TENSORS:
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert joined.present == whole.present


def test_a_batch_takes_few_tensors_and_little_room(scenes: list[Scene]) -> None:
    """Each tensor costs an open file, and its bytes cross the bus: hardly more than the picture's."""
    tensors = [value for value in vars(Scenes.of(scenes)).values() if isinstance(value, Tensor)]
    assert len(tensors) == len(TENSORS) == 8
    assert sum(tensor.nbytes for tensor in tensors) < 24 * (3 * SIZE**2 + 2000)


def test_looks_are_found_by_name(scenes: list[Scene]) -> None:
    batch = Scenes.of(scenes)
    table, present = batch.look_table(), batch.present
    for number, scene in enumerate(scenes):
        look = scene.appearance
        torch.testing.assert_close(table["skin"][:, number], torch.tensor(look.skin))
        torch.testing.assert_close(table["collar"][number], torch.tensor(look.collar))
        assert table["has_hair"][number] == (look.hair >= 0)
        assert table["seed"][number] == pytest.approx(scene.seed)
    assert ("stubble" in present) == any(scene.appearance.stubble for scene in scenes)
    bare = [replace(scene, appearance=replace(scene.appearance, stubble=0.0)) for scene in scenes]
    assert "stubble" not in Scenes.of(bare).present


def test_what_is_worn_is_listed_by_picture(scenes: list[Scene]) -> None:
    look = replace(scenes[0].appearance, hair=2, hat=1, glasses=-1, earrings=-1)
    bald = replace(look, hair=-1, hat=-1)
    worn = Scenes.of([replace(scenes[0], appearance=bald), replace(scenes[0], appearance=look)]).worn
    assert worn.tolist() == [[1, HAIR, 2, 1], [1, CLOTH, 1, -1]]
    assert Scenes.of([replace(scenes[0], appearance=bald)]).worn.shape == (0, 4)


def test_colours_are_rounded_to_the_nearest_byte() -> None:
    assert to_bytes(torch.tensor([0.0, 1 / 255, 1.4 / 255, 1.6 / 255, 0.5, 1.0])).tolist() == [0, 1, 1, 2, 128, 255]


def test_the_store_dresses_heads_as_each_proxy_says(factory: FaceFactory, head: Head, scenes: list[Scene]) -> None:
    """One gather for all pieces gives what `Proxy.fit` gives for each, in the order of the pieces."""
    heads = head.points(torch.stack([s.shape for s in scenes[:3]]), torch.stack([s.expression for s in scenes[:3]]))
    store = MeshStore([torch.zeros(256, 256, 4, dtype=torch.uint8)], torch.device("cpu"))
    wardrobe = factory.wardrobe
    proxies = [wardrobe.hair[0].proxy, wardrobe.hats[0].proxy, wardrobe.glasses[0].frame, wardrobe.hair[0].proxy]
    rows = [store.row(proxy) for proxy in proxies]
    assert rows == [0, 1, 2, 0]
    pictures = [0, 0, 2, 1]
    dressed = store.dress(torch.tensor([(picture, 7, row) for picture, row in zip(pictures, rows, strict=True)]), heads)
    points, triangles = 0, 0
    for picture, proxy in zip(pictures, proxies, strict=True):
        own = slice(points, points + len(proxy.uv))
        torch.testing.assert_close(dressed.points[own], proxy.fit(heads[picture : picture + 1])[0], rtol=0, atol=1e-4)
        assert torch.equal(dressed.uv[own], proxy.uv)
        assert (dressed.picture[own] == picture).all()
        faces = slice(triangles, triangles + len(proxy.triangles))
        assert torch.equal(dressed.triangles[faces].long(), proxy.triangles + points)
        assert (dressed.triangle_picture[faces] == picture).all()
        assert (dressed.material[faces] == 7).all()
        (texture,) = dressed.texture[faces].unique().tolist()
        assert torch.equal(store.packed.textures[texture][0, 0], proxy.texture[0, 0])  # all have one size there
        points, triangles = own.stop, faces.stop
    assert len(dressed.points) == points
    assert len(dressed.triangles) == triangles


def test_a_batch_may_wear_nothing(head: Head) -> None:
    store = MeshStore([torch.zeros(256, 256, 4, dtype=torch.uint8)], torch.device("cpu"))
    dressed = store.dress(torch.empty(0, 3, dtype=torch.int64), head.mean[None])
    assert dressed.points.shape == (0, 3)
    assert dressed.triangles.shape == (0, 3)


def test_assets_that_are_not_there_are_named(factory: FaceFactory, scenes: list[Scene]) -> None:
    look = replace(scenes[0].appearance, asset_teeth=0)
    assert Scenes.of([replace(scenes[0], appearance=look)]).worn[-1].tolist() == [0, PROXY_TEETH, 0, -1]
    with pytest.raises(InputError, match="set assets_dir"):
        factory.renderer.render([replace(scenes[0], appearance=look)], SIZE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("shadows", [False, True])
def test_a_gpu_renders_what_the_cpu_renders(scenes: list[Scene], compiled: bool, shadows: bool) -> None:
    """Except for pixels on an edge between two triangles."""
    on_device = FaceFactory(device="cuda", compiled=compiled, shadows=shadows).renderer
    there = on_device.render(Scenes.of(scenes).pin_memory(), SIZE).cpu()
    apart = (there.int() - FaceFactory(shadows=shadows).renderer.render(scenes, SIZE).int()).abs().amax(1)
    assert (apart > 2).float().mean() < 2e-3
