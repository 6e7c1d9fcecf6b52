"""Coefficients of one morphable model teach a decoder of another one."""

from pathlib import Path

import pytest
import torch

from jointface.geometry import MorphableModel
from jointface.geometry.camera import center_depth
from jointface.geometry.correspondence import correspondence
from jointface.modules import root_mean_square, shape_loss
from jointface.modules.checkpoint import load_model
from jointface.modules.foreign_labels import ForeignLabels
from jointface.modules.shape_supervision import LABELS
from tests.networks import Batch, make_module, shape_labels
from tests.test_correspondence import face

DECODERS = pytest.mark.parametrize("decoder", ["position_map", "morphable"])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for this module, apart from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "foreign_labels"))


@pytest.fixture(scope="module")
def own() -> MorphableModel:
    """The decoder's model."""
    return face()


@DECODERS
@pytest.mark.parametrize("rms", [False, True])
def test_the_loss_is_the_formula_over_the_vertices_with_a_counterpart(
    rms: bool, decoder: str, own: MorphableModel, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    module = make_module(own, decoder, label_models={"w300lp": tiny_model}, rms=rms).eval()
    head, part = module.network.shape_decoder, mixed_batch["w300lp"]
    found = correspondence(own, tiny_model)
    predicted = head.vertices(head(module.network.features(part["image"])))[:, found.mask]
    true = found.carry(tiny_model.project(*(part[key] for key in LABELS)))[:, found.mask]
    weights = own.region_weights(**head.region_weights)
    scaled = weights[found.mask] * weights.mean() / weights[found.mask].mean()
    of_sample = shape_loss(center_depth(predicted) / 64, center_depth(true) / 64, scaled)
    expected = (root_mean_square(of_sample) if rms else of_sample).mean()
    torch.testing.assert_close(module.losses({"w300lp": part})["shape"], expected, rtol=1e-3, atol=0)


def test_landmarks_alone_are_the_landmarks_of_the_labels(own: MorphableModel, tiny_model: MorphableModel) -> None:
    head = make_module(own).network.shape_decoder
    labels = ForeignLabels(tiny_model, head, "landmarks")
    true = shape_labels(tiny_model)[:2], shape_labels(tiny_model)[2]
    faces = tiny_model.project(*true[0], true[1])
    carried = labels.model.project(*true[0], true[1])
    assert set(labels.vertices.tolist()) == set(own.landmarks68.tolist())
    torch.testing.assert_close(carried[:, own.landmarks68], faces[:, tiny_model.landmarks68])


def test_a_decoder_learns_from_them(own: MorphableModel, tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    module, part = make_module(own, label_models={"w300lp": tiny_model}), mixed_batch["w300lp"]
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = module.losses({"w300lp": part})["shape"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_own_and_foreign_labels_add_up(own: MorphableModel, tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    module, part = make_module(own, label_models={"foreign": tiny_model}).eval(), mixed_batch["w300lp"]
    shape, expression, camera = shape_labels(own, 8)
    mine = {"image": part["image"], "shape_coefficients": shape, "expression_coefficients": expression,
            "camera": camera}  # fmt: skip
    alone = [module.losses(batch)["shape"] for batch in ({"foreign": part}, {"own": mine})]
    both = module.losses({"foreign": part, "own": mine})["shape"]
    torch.testing.assert_close(both, torch.stack(alone).mean())


def test_a_checkpoint_holds_nothing_of_the_labels_model(
    own: MorphableModel, tiny_model: MorphableModel, tmp_path: Path
) -> None:
    module, plain = make_module(own, label_models={"w300lp": tiny_model}), make_module(own)
    assert module.state_dict().keys() == plain.state_dict().keys()
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "best.ckpt")
    model = load_model(tmp_path / "best.ckpt").shape_decoder.morphable_model
    assert model.content_hash() == own.content_hash()
    sizes = {tiny_model.basis.numel(), module.label_model("w300lp").basis.numel()}
    assert not sizes & {values.numel() for values in checkpoint["state_dict"].values()}
