"""Shapes of scanned faces on the synthetic head."""

from pathlib import Path

import numpy as np
import torch

from jointface.geometry import MorphableModel
from jointface.geometry.correspondence import Correspondence
from jointface.synthesis.head import Head
from jointface.synthesis.scanned_shapes import ScannedShapes, nearest_components
from tests.data.ict import data as ict_data
from tests.test_correspondence import face


def test_components_that_the_head_can_make_are_found_again() -> None:
    own, generator = face(), torch.Generator().manual_seed(0)
    wanted = torch.randn(6, own.num_shape, generator=generator)
    other = MorphableModel(
        "other", own.mean, own.shape_basis @ wanted.T + torch.tensor([3.0, 0, 0])[:, None], own.expression_basis,
        own.triangles, own.uv, own.landmarks68, own.mirror,
    )  # fmt: skip
    vertices = torch.arange(len(own.mean))
    same = Correspondence(vertices[:, None].repeat(1, 3), torch.full((len(vertices), 3), 1 / 3), own.face_region)
    components, explained = nearest_components(own, other, same)
    torch.testing.assert_close(components, wanted, atol=5e-3, rtol=0)  # the prior pulls a little; a shift is no shape
    assert explained > 0.999


def test_a_scan_keeps_what_belongs_to_the_person(head: Head, tmp_path: Path) -> None:
    axis = torch.nn.functional.normalize(torch.randn(head.model.num_shape), dim=0)
    folder = ict_data.write(tmp_path / "FaceXModel")
    scans = ScannedShapes(head, str(folder), [axis], str(tmp_path))
    person = torch.randn(head.model.num_shape)
    first, again, other = (scans.sample(np.random.default_rng(seed), person) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert (first - other).norm() > 0.1
    for shape in (first, other):
        torch.testing.assert_close(shape @ axis, person @ axis, atol=1e-3, rtol=0)
