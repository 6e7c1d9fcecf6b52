"""Dense correspondence: on faces whose true correspondence is known, and between the Basel Face Model and the head."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from jointface.errors import DataError
from jointface.geometry import NECK, MorphableModel
from jointface.geometry import correspondence as module
from jointface.geometry.correspondence import Correspondence, carry_model, correspondence, register
from jointface.geometry.morphable_model import mirror_from_uv
from jointface.synthesis.head import Head
from tests.data.ict import data as ict_data

ROWS = 26  # of the 31 rows of vertices: the other face ends at the forehead


def face(rows: int = ict_data.SIDE, unit: float = 10.0, slant: float = 0.0) -> MorphableModel:
    """A face in some unit per centimetre, wider towards the chin by the slant. Equal texture coordinates are equal
    places."""
    uv, quads, landmarks = (torch.from_numpy(part) for part in ict_data.grid())
    uv, quads = uv[: rows * ict_data.SIDE].float(), quads[(quads < rows * ict_data.SIDE).all(1)]
    points = torch.from_numpy(ict_data.face(*(uv.numpy().T - 0.5))).float()
    points[:, 0] *= 1 - slant * (uv[:, 1] - 0.5)
    basis = torch.randn(len(uv), 3, 5, generator=torch.Generator().manual_seed(rows))
    triangles = torch.cat([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    mirror = mirror_from_uv(uv, landmarks)
    return MorphableModel("sheet", unit * points, basis[..., :3], basis[..., 3:], triangles, uv, landmarks, mirror)


@pytest.fixture(scope="module")
def models() -> dict[str, MorphableModel]:
    return {"whole": face(), "part": face(ROWS, unit=0.01, slant=0.3)}


@pytest.fixture(scope="module")
def found(models: dict[str, MorphableModel]) -> dict[str, Correspondence]:
    whole, part = models.values()
    return {"whole": register(whole, part), "part": register(part, whole)}


@pytest.mark.parametrize(("of", "on"), [("whole", "part"), ("part", "whole")])
def test_each_vertex_finds_its_place_on_the_other_face(
    of: str, on: str, models: dict[str, MorphableModel], found: dict[str, Correspondence]
) -> None:
    model, one = models[of], found[of]
    distance = (one.carry(models[on].uv) - model.uv).norm(dim=1)[one.mask]
    below = model.uv[:, 1] < (ROWS - 2) / ict_data.SIDE
    inside = (model.uv[:, 0] - 0.5).abs() < 0.45
    assert one.mask[model.face_region & below & inside].float().mean() > 0.95
    assert distance.median() < 0.002  # of the face's width
    assert distance.quantile(0.99) < 0.02
    assert (one.weights >= 0).all()
    torch.testing.assert_close(one.weights[one.mask].sum(1), torch.ones(int(one.mask.sum())))


def test_there_is_no_counterpart_on_the_neck_nor_where_the_other_face_ends(
    models: dict[str, MorphableModel], found: dict[str, Correspondence]
) -> None:
    model, mask = models["whole"], found["whole"].mask
    assert not mask[~model.face_region].any()
    assert not mask[model.uv[:, 1] > ROWS / ict_data.SIDE].any()


def test_landmarks_correspond_to_landmarks_and_sides_to_sides(
    models: dict[str, MorphableModel], found: dict[str, Correspondence]
) -> None:
    (whole, part), one = models.values(), found["whole"]
    torch.testing.assert_close(one.carry(part.mean)[whole.landmarks68], part.mean[part.landmarks68])
    assert torch.equal(one.mask, one.mask[whole.mirror])
    beside = one.mask & (whole.mean[:, 0].abs() > 1)  # mm
    assert (one.carry(part.mean)[beside, 0].sign() == whole.mean[beside, 0].sign()).all()


def test_a_carried_model_gives_the_same_faces_on_the_other_topology(
    models: dict[str, MorphableModel], found: dict[str, Correspondence]
) -> None:
    (whole, part), mask = models.values(), found["part"].mask
    carried = carry_model(whole, part, found["part"])
    coefficients = torch.randn(4, 3), torch.randn(4, 2)
    expected = found["part"].carry(whole(*coefficients))
    torch.testing.assert_close(carried(*coefficients)[:, mask], expected[:, mask])
    assert torch.equal(carried.triangles, part.triangles[mask[part.triangles].all(1)])
    assert (carried.regions[~mask] == NECK).all()
    assert torch.equal(carried.regions[mask], part.regions[mask])


def test_what_was_found_is_kept_under_the_contents_of_both_models(
    models: dict[str, MorphableModel], found: dict[str, Correspondence], tmp_path: Path
) -> None:
    whole, part = models.values()
    with patch.object(module, "register", return_value=found["part"]) as compute:
        kept = [correspondence(part, whole, tmp_path) for _ in range(2)]
        assert compute.call_count == 1
        correspondence(whole, part, tmp_path)
        assert compute.call_count == 2
    for one in kept:
        assert all(torch.equal(a, b) for a, b in zip(one, found["part"], strict=True))


def test_a_damaged_file_and_a_folder_that_cannot_be_written_are_named(
    models: dict[str, MorphableModel], found: dict[str, Correspondence], tmp_path: Path
) -> None:
    whole, part = models.values()
    with patch.object(module, "register", return_value=found["part"]):
        correspondence(part, whole, tmp_path)
        (path,) = tmp_path.glob("correspondence-*.safetensors")
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(DataError, match=r"not a whole file .*; delete it, and it is made anew"):
            correspondence(part, whole, tmp_path)
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match=r"cannot keep the correspondence .*; set XDG_CACHE_HOME"):
            correspondence(part, whole, tmp_path / "file" / "folder")


@pytest.mark.slow
def test_the_basel_face_model_and_the_head_agree_and_carry_landmarks_there_and_back(
    bfm: MorphableModel, head: Head
) -> None:
    there, back = register(bfm, head.model), register(head.model, bfm)
    assert there.mask.sum() > 0.8 * bfm.face_region.sum()
    assert back.mask.sum() > 0.8 * head.model.face_region.sum()
    moved = (there.carry(back.carry(bfm.mean)) - bfm.mean).norm(dim=1)[there.mask & back.mask[there.corners].all(1)]
    marks = bfm.mean[bfm.landmarks68]
    box = (marks.amax(0) - marks.amin(0))[:2].mean()
    assert moved.quantile(0.99) < 0.015 * box
