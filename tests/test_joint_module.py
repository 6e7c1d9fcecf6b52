"""The LightningModule: one backbone pass, each sample teaching what it is labelled for."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from jointface.attributes import CELEBA, LabelSet
from jointface.datamodules import W300LP, CelebA, CropTransform
from jointface.geometry import MorphableModel
from jointface.metrics.nme import normalised_mean_error
from jointface.modules import FixedWeights, JointFaceModule, attribute_loss, shape_loss
from jointface.modules.joint_module import true_face
from tests.test_modules import network_config

Batch = dict[str, dict[str, Tensor]]


def make_module(model: MorphableModel, decoder: str | None = "morphable", **options: Any) -> JointFaceModule:
    torch.manual_seed(0)
    label_sets = options.pop("label_sets", {"celeba": CELEBA})
    return JointFaceModule(
        network=options.pop("network", network_config(decoder, classifier=bool(label_sets))),
        loss=options.pop("loss", FixedWeights(shape=1000.0, attributes=1.0)),
        optimizer=options.pop("optimizer", partial(torch.optim.AdamW, lr=3e-3)),
        scheduler=None,
        label_sets=label_sets,
        alpha=options.pop("alpha", {name: torch.full((len(labels),), 2.0) for name, labels in label_sets.items()}),
        morphable_model=model,
        **options,
    )


@pytest.fixture(scope="module")
def batch(tiny_data: Path, tiny_model: MorphableModel) -> Batch:
    """Eight faces with attributes and eight others with shape."""
    crop = CropTransform(64)
    celeba = CelebA(tiny_data / "celeba", "train", crop)
    fitted = W300LP(tiny_data / "300W_LP", "train", crop, tiny_model, val_fraction=0)
    collate = torch.utils.data.default_collate
    return {"celeba": collate([celeba[i] for i in range(8)]), "w300lp": collate([fitted[4 * i] for i in range(8)])}


@pytest.mark.parametrize("decoder", ["position_map", "morphable"])
def test_losses_are_the_formulas_on_the_labelled_rows(decoder: str, tiny_model: MorphableModel, batch: Batch) -> None:
    module = make_module(tiny_model, decoder).eval()
    losses = module.losses(batch)
    shape, faces = batch["w300lp"], batch["celeba"]
    head = module.network.shape_decoder
    assert head is not None
    target = head.target(shape["shape_coefficients"], shape["expression_coefficients"], shape["camera"])
    predicted = head(module.network.features(shape["image"]))
    torch.testing.assert_close(losses["shape"], shape_loss(predicted, target, head.weights))
    logits = module.network(faces["image"]).logits
    expected = attribute_loss(logits, faces["attributes"], faces["attribute_mask"], torch.full((8, 40), 2.0))
    torch.testing.assert_close(losses["attributes"], expected)


def test_total_weighs_the_losses(tiny_model: MorphableModel, batch: Batch) -> None:
    module = make_module(tiny_model, loss=FixedWeights(shape=30.0, attributes=0.5)).eval()
    losses = module.losses(batch)
    expected = 30 * losses["shape"] + 0.5 * losses["attributes"]
    with patch.object(module, "log"), patch.object(module, "log_dict"):
        torch.testing.assert_close(module.training_step(batch, 0), expected)


def test_the_backbone_runs_once_on_the_mixed_batch(tiny_model: MorphableModel, batch: Batch) -> None:
    module = make_module(tiny_model)
    with patch.object(module.network.backbone, "forward", wraps=module.network.backbone.forward) as forward:
        module.losses(batch)
    assert forward.call_count == 1
    assert len(forward.call_args.args[0]) == 16


@pytest.mark.parametrize("missing", ["celeba", "w300lp"])
def test_a_batch_without_one_kind_of_label_trains(missing: str, tiny_model: MorphableModel, batch: Batch) -> None:
    module = make_module(tiny_model)
    losses = module.losses({name: part for name, part in batch.items() if name != missing})
    absent, present = ("attributes", "shape") if missing == "celeba" else ("shape", "attributes")
    assert losses[absent].item() == 0
    assert losses[present].item() > 0
    (losses["shape"] + losses["attributes"]).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in module.parameters())


def test_an_empty_batch_is_passed_over(tiny_model: MorphableModel) -> None:
    assert make_module(tiny_model).training_step({}, 0) is None


def test_two_label_sets_share_logits_and_keep_their_own_alpha(tiny_model: MorphableModel, batch: Batch) -> None:
    other = LabelSet("other", ("Asian", "Male"))
    alpha = {"celeba": torch.full((40,), 2.0), "other": torch.tensor([5.0, 0.5])}
    module = make_module(tiny_model, label_sets={"celeba": CELEBA, "other": other}, alpha=alpha).eval()
    second = {
        "image": batch["w300lp"]["image"],
        "attributes": torch.tensor([[1.0, 0.0]]).expand(8, 2),
        "attribute_mask": torch.tensor([[True, False]]).expand(8, 2),
    }
    male, asian = CELEBA.attributes.index("Male"), 40
    assert module.vocabulary.attributes[asian] == "Asian"
    _, mask, spread_alpha = module._in_vocabulary("other", second)
    assert mask[0].nonzero().flatten().tolist() == [asian]
    assert spread_alpha[0, [asian, male]].tolist() == [5.0, 0.5]
    logits = module.network(second["image"]).logits
    assert logits is not None
    expected = attribute_loss(
        logits[:, [asian]], torch.ones(8, 1), torch.ones(8, 1, dtype=torch.bool), torch.full((8, 1), 5.0)
    )
    torch.testing.assert_close(module.losses({"other": second})["attributes"], expected)


@pytest.mark.parametrize("decoder", ["position_map", "morphable"])
def test_eight_faces_are_learned_by_heart(decoder: str, tiny_model: MorphableModel, batch: Batch) -> None:
    """Overfitting drives the landmark error below 0.01 and the attribute accuracy to 1."""
    config = network_config(decoder)
    config["backbone"]["hidden_sizes"] = [16, 64]
    if decoder == "position_map":
        config["shape_decoder"]["map_size"] = 32
    module = make_module(tiny_model, network=config)
    optimizer = torch.optim.AdamW(module.parameters(), lr=4e-3, weight_decay=0)
    steps = 300
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(steps):
        losses = module.losses(batch)
        optimizer.zero_grad()
        (3000 * losses["shape"] + 2 * losses["attributes"]).backward()
        optimizer.step()
        schedule.step()
    # The batch statistics are those of the mixed batch, so the heads are read from it as in training.
    _, features = module._features(batch)
    head, classifier = module.network.shape_decoder, module.network.attribute_classifier
    assert head is not None
    assert classifier is not None
    landmarks, _ = true_face(tiny_model, batch["w300lp"])
    predicted = head.vertices(head(features["w300lp"]))[:, tiny_model.landmarks68]
    assert normalised_mean_error(predicted[..., :2], landmarks[..., :2], landmarks).mean() < 0.01
    right = (classifier(features["celeba"]) > 0) == (batch["celeba"]["attributes"] > 0.5)
    assert right.all()
