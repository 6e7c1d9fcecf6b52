"""L_shape for photos that label landmarks alone, in 2D or 3D, with a contour on the visible outline."""

import pytest
import torch
import trimesh
from torch import Tensor, nn

from jointface.errors import ConfigError
from jointface.geometry import MorphableModel
from jointface.geometry.outline import nearest_on_outline, on_border, on_outline
from jointface.geometry.regions import contour_region
from jointface.metrics.nme import InnerNME
from jointface.modules import JointFaceModule, root_mean_square, shape_loss
from jointface.modules.losses import landmark_loss
from jointface.modules.shape_supervision import LABELS, PARTS
from tests.networks import Batch, make_module


@pytest.mark.parametrize("dimensions", [2, 3])
def test_landmark_loss_is_the_formula_over_the_labelled_points(dimensions: int) -> None:
    generator = torch.Generator().manual_seed(dimensions)
    predicted, target = torch.rand(2, 4, 68, dimensions, generator=generator, dtype=torch.float64).unbind(0)
    mask = torch.rand(4, 68, generator=generator) > 0.4
    mask[3] = False  # a sample without a labelled point counts, with zero loss
    expected = torch.zeros(4, dtype=torch.float64)
    for sample in range(4):
        labelled = [point for point in range(68) if mask[sample, point]]
        offset = predicted[sample] - target[sample]
        if dimensions == 3 and labelled:
            offset[:, 2] -= sum(offset[point, 2] for point in labelled) / len(labelled)
        for point in labelled:
            expected[sample] += 16 * sum(offset[point] ** 2) / len(labelled)
    torch.testing.assert_close(landmark_loss(predicted, target, 16.0, mask), expected)


def marked(count: int, dimensions: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, 68, generator=generator) > 0.3
    return {
        "image": torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8),
        "landmarks68": 64 * torch.rand(count, 68, dimensions, generator=generator),
        "landmark_mask": mask,
    }


@pytest.fixture
def module(tiny_model: MorphableModel) -> JointFaceModule:
    return make_module(tiny_model).eval()  # batch statistics would tie the samples together


def test_the_loss_of_a_mixed_batch_is_the_mean_over_its_samples(module: JointFaceModule, mixed_batch: Batch) -> None:
    batch = {"fitted": mixed_batch["w300lp"], "flat": marked(3, 2), "deep": marked(5, 3), **mixed_batch}
    batch = {name: part for name, part in batch.items() if name != "w300lp"}
    counts = {"fitted": 8, "flat": 3, "deep": 5}
    alone = {name: module.losses({name: batch[name]})["shape"] for name in counts}
    mean = sum(count * alone[name] for name, count in counts.items()) / sum(counts.values())
    torch.testing.assert_close(module.losses(batch)["shape"], mean)


def test_the_root_is_that_of_each_photo(tiny_model: MorphableModel) -> None:
    batch = marked(4, 2)
    squared, root = (make_module(tiny_model, label_sets={}, rms=rms).eval() for rms in (False, True))
    photos = ({key: value[i : i + 1] for key, value in batch.items()} for i in range(4))
    alone = torch.stack([squared.losses({"flat": photo})["shape"] for photo in photos])
    torch.testing.assert_close(root.losses({"flat": batch})["shape"], root_mean_square(alone).mean())


def test_points_on_the_outline_of_a_ball_lie_on_its_rim() -> None:
    ball = trimesh.creation.icosphere(subdivisions=3)
    vertices, triangles = torch.tensor(ball.vertices).float()[None], torch.tensor(ball.faces)
    rim = on_outline(vertices, triangles)[0]
    assert vertices[0, rim, 2].abs().max() < 0.15  # the length of an edge
    everywhere = torch.ones(len(ball.vertices), dtype=torch.bool)
    points = torch.tensor([[[2.0, 0.0], [0.0, -3.0], [0.1, 0.0]]])
    nearest = vertices[0, nearest_on_outline(points, vertices, triangles, everywhere)[0], :2]
    torch.testing.assert_close(nearest[:2], torch.tensor([[1.0, 0.0], [0.0, -1.0]]), atol=0.05, rtol=0)
    left = vertices[0, :, 0] < 0
    assert (vertices[0, nearest_on_outline(points, vertices, triangles, left)[0], 0] < 0).all()


def test_an_open_mesh_ends_at_its_border() -> None:
    grid = torch.arange(16).reshape(4, 4)
    a, b, c, d = (part.flatten() for part in (grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]))
    triangles = torch.cat([torch.stack([a, c, b], 1), torch.stack([b, c, d], 1)])
    assert on_border(16, triangles).reshape(4, 4).sum() == 12
    assert not on_border(16, triangles).reshape(4, 4)[1:3, 1:3].any()


@pytest.mark.parametrize(("contour", "teaches"), [("slide", True), ("leave_out", False), ("fixed", True)])
def test_the_contour_teaches_as_it_is_told(tiny_model: MorphableModel, contour: str, teaches: bool) -> None:
    module = make_module(tiny_model, contour=contour, label_sets={}).eval()
    part = marked(2, 2)
    part["landmark_mask"] = torch.zeros(2, 68, dtype=torch.bool).index_fill(1, torch.arange(17), True)
    assert (module.losses({"marked": part})["shape"] > 0) == teaches


def test_marks_on_the_outline_of_the_predicted_face_have_no_loss(tiny_model: MorphableModel) -> None:
    part = marked(1, 2)
    part["landmark_mask"] = torch.zeros(1, 68, dtype=torch.bool).index_fill(1, torch.arange(17), True)
    losses = {}
    for contour in ("slide", "fixed"):
        module = make_module(tiny_model, contour=contour, label_sets={}).eval()
        vertices = module.network(part["image"]).vertices
        region = on_outline(vertices, tiny_model.triangles)[0]
        region &= contour_region(tiny_model.mean, tiny_model.landmarks68)
        marks = vertices[0, region, :2]
        part["landmarks68"][:, :17] = marks[torch.arange(17) % len(marks)]
        losses[contour] = module.losses({"marked": part})["shape"].item()
    assert losses["slide"] == pytest.approx(0, abs=1e-9)
    assert losses["fixed"] > 1e-4


def test_inner_nme_is_in_outer_eye_distances() -> None:
    truth = torch.zeros(2, 68, 2)
    truth[:, 45, 0] = 10.0  # outer eye corners 10 pixels apart
    predicted = truth.clone()
    predicted[0, 17:, 1] += 2.0
    predicted[:, :17] += 50.0  # the contour does not count
    mask = torch.ones(2, 68, dtype=torch.bool)
    metric = InnerNME()
    metric.update(predicted, truth, mask)
    assert metric.compute()["nme_inner_51"] == pytest.approx(0.1)  # 0.2 and 0
    mask[1, 36] = False  # without an eye corner there is no unit
    metric.reset()
    metric.update(predicted, truth, mask)
    assert metric.compute()["nme_inner_51"] == pytest.approx(0.2)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("rms", [False, True])
def test_a_part_weight_adds_the_error_of_that_part_alone(
    rms: bool, part: str, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    """The face with one part of the prediction and the others of the labels; none of a mirrored face."""
    batch = {"w300lp": {key: value.clone() for key, value in mixed_batch["w300lp"].items()}}
    camera = batch["w300lp"]["camera"]
    camera[:4, 0] = torch.tensor([0.0, 0, 0, 63]) - camera[:4, 0]
    plain, weighed = (
        make_module(tiny_model, label_sets={}, part_weights={part: weight}, rms=rms).eval() for weight in (0.0, 2.5)
    )
    decoder = plain.network.shape_decoder
    nn.init.normal_(decoder.regressor.weight, std=0.1)
    weighed.load_state_dict(plain.state_dict())
    true = [batch["w300lp"][key] for key in LABELS]
    predicted = decoder.outputs(plain.network.features(batch["w300lp"]["image"]))
    mixed = [ours if name == part else theirs for name, ours, theirs in zip(PARTS, predicted, true, strict=True)]
    target = decoder.target(*true)
    of_sample = shape_loss(decoder.points(*mixed)[4:], target[4:], decoder.weights)
    expected = (root_mean_square(of_sample) if rms else of_sample).sum() / 8
    added = weighed.losses(batch)["shape"] - plain.losses(batch)["shape"]
    torch.testing.assert_close(added, 2.5 * expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("decoder", "weights", "message"),
    [
        ("position_map", {"identity": 1.0}, "part_weights needs model/shape_decoder=morphable"),
        ("morphable", {"pose": -1.0}, "part_weights.pose=-1.0: must be at least 0"),
        ("morphable", {"nose": 1.0}, "part_weights.nose is unknown; choose from identity, expression, pose"),
    ],
)
def test_part_weights_that_make_no_sense_are_refused(
    decoder: str, weights: dict[str, float], message: str, tiny_model: MorphableModel
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_module(tiny_model, decoder, part_weights=weights)
