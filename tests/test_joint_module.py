"""The LightningModule: one backbone pass, and each sample trains the heads that it has labels for."""

from unittest.mock import Mock, patch

import pytest
import torch
from lightning import Trainer

from jointface.attributes import CELEBA, LabelSet
from jointface.callbacks.best_checkpoint import BestCheckpoint
from jointface.geometry import MorphableModel
from jointface.metrics.attribute_scores import AttributeMetrics
from jointface.metrics.nme import FaceNME, normalised_mean_error
from jointface.modules import FixedWeights, attribute_loss, root_mean_square, shape_loss
from jointface.modules.source_metrics import true_face
from tests.networks import Batch, make_module, network_config

DECODERS = pytest.mark.parametrize("decoder", ["position_map", "morphable"])


@DECODERS
@pytest.mark.parametrize("rms", [False, True])
def test_losses_are_the_formulas_on_the_labelled_rows(
    rms: bool, decoder: str, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    module = make_module(tiny_model, decoder, rms=rms).eval()
    losses = module.losses(mixed_batch)
    shape, faces = mixed_batch["w300lp"], mixed_batch["celeba"]
    head = module.network.shape_decoder
    target = head.target(shape["shape_coefficients"], shape["expression_coefficients"], shape["camera"])
    predicted = head(module.network.features(shape["image"]))
    of_sample = shape_loss(predicted, target, head.weights)
    torch.testing.assert_close(losses["shape"], (root_mean_square(of_sample) if rms else of_sample).mean())
    logits = module.network(faces["image"]).logits
    expected = attribute_loss(logits, faces["attributes"], faces["attribute_mask"], torch.full((8, 40), 2.0), 8)
    torch.testing.assert_close(losses["attributes"], expected)


def test_the_total_weighs_the_losses(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    module = make_module(tiny_model, loss=FixedWeights(shape=30.0, attributes=0.5)).eval()
    losses = module.losses(mixed_batch)
    expected = 30 * losses["shape"] + 0.5 * losses["attributes"]
    with patch.object(module, "log"), patch.object(module, "log_dict"):
        torch.testing.assert_close(module.training_step(mixed_batch, 0), expected)


def test_the_backbone_runs_once_on_the_mixed_batch(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    module = make_module(tiny_model)
    with patch.object(module.network.backbone, "forward", wraps=module.network.backbone.forward) as forward:
        module.losses(mixed_batch)
    assert forward.call_count == 1
    assert len(forward.call_args.args[0]) == 16


@pytest.mark.parametrize(("source", "absent"), [("w300lp", "attributes"), ("celeba", "shape")])
def test_a_batch_without_one_kind_of_label_trains(
    source: str, absent: str, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    module = make_module(tiny_model)
    losses = module.losses({source: mixed_batch[source]})
    assert {task for task, loss in losses.items() if loss == 0} == {absent}
    (losses["shape"] + losses["attributes"]).backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in module.parameters())


def test_an_empty_batch_is_skipped(tiny_model: MorphableModel) -> None:
    assert make_module(tiny_model).training_step({}, 0) is None


def test_two_label_sets_share_logits_and_keep_their_own_alpha(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    other = LabelSet("other", ("Asian", "Male"))
    alpha = {"celeba": torch.full((40,), 2.0), "other": torch.tensor([5.0, 0.5])}
    module = make_module(tiny_model, label_sets={"celeba": CELEBA, "other": other}, alpha=alpha).eval()
    part = {
        "image": mixed_batch["w300lp"]["image"],
        "attributes": torch.tensor([[1.0, 0.0]]).expand(8, 2),
        "attribute_mask": torch.tensor([[True, False]]).expand(8, 2),
    }
    male, asian = CELEBA.attributes.index("Male"), 40
    assert module.vocabulary.attributes[asian] == "Asian"
    _, mask, spread_alpha = module._in_vocabulary("other", part)
    assert mask[0].nonzero().flatten().tolist() == [asian]
    assert spread_alpha[0, [asian, male]].tolist() == [5.0, 0.5]
    logits = module.network(part["image"]).logits[:, [asian]]
    one = torch.ones(8, 1)
    expected = attribute_loss(logits, one, one.bool(), 5 * one, 8)
    torch.testing.assert_close(module.losses({"other": part})["attributes"], expected)


@DECODERS
def test_eight_faces_are_learned_by_heart(decoder: str, tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    """Overfitting drives the landmark error below 0.01 and the attribute accuracy to 1."""
    config = network_config(decoder)
    config["backbone"]["hidden_sizes"] = [16, 64]
    if decoder == "position_map":
        config["shape_decoder"]["map_size"] = 16
    module = make_module(tiny_model, network=config)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=110)
    for _ in range(110):
        losses = module.losses(mixed_batch)
        optimizer.zero_grad()
        (3000 * losses["shape"] + 20 * losses["attributes"]).backward()
        optimizer.step()
        schedule.step()
    # Batch norm uses the statistics of the mixed batch, so the heads are evaluated in training mode.
    _, features = module._features(mixed_batch)
    head, classifier = module.network.shape_decoder, module.network.attribute_classifier
    landmarks, _ = true_face(tiny_model, mixed_batch["w300lp"])
    predicted = head.vertices(head(features["w300lp"]))[:, tiny_model.landmarks68]
    assert normalised_mean_error(predicted[..., :2], landmarks[..., :2], landmarks).mean() < 0.01
    assert torch.equal(classifier(features["celeba"]) > 0, mixed_batch["celeba"]["attributes"] > 0.5)


@pytest.mark.parametrize(
    ("shape", "classes", "defined"), [(True, 2, True), (True, 1, False), (False, 2, True), (False, 1, False)]
)
def test_the_validation_error_is_undefined_where_one_of_its_parts_is(
    shape: bool, classes: int, defined: bool, tiny_model: MorphableModel, mixed_batch: Batch
) -> None:
    """It would else fall by the part that cannot be measured, as if that were without error."""
    module, logged = make_module(tiny_model), {}
    logger = Mock()
    module.trainer = Mock(loggers=[logger], callback_metrics=logged, sanity_checking=False)
    module.log = lambda name, value, **options: logged.update({name: value})  # type: ignore[method-assign,assignment]
    module.log_dict = lambda values, **options: logged.update(values)  # type: ignore[method-assign,assignment]
    metric = module.source_metrics.metrics["val/celeba/attributes"] = AttributeMetrics(
        CELEBA.attributes, torch.ones(40)
    )
    labels = mixed_batch["celeba"]["attributes"] if classes == 2 else torch.ones(8, 40)
    metric.update(torch.ones(8, 40), labels, torch.ones(8, 40, dtype=torch.bool))
    if shape:
        nme = module.source_metrics.metrics["val/w300lp/shape"] = FaceNME()
        landmarks = torch.rand(2, 68, 3)
        nme.update(landmarks, landmarks + 1, landmarks, landmarks, torch.zeros(2))
    module.on_validation_epoch_end()
    assert logged["val/error"].isfinite() == defined
    assert logged["val/celeba/accuracy/Male"] == logger.log_metrics.call_args.args[0]["val/celeba/accuracy/Male"]
    if defined:
        parts = [1 - logged["val/celeba/balanced_accuracy"], logged.get("val/w300lp/nme_2d_68", torch.zeros(()))]
        torch.testing.assert_close(logged["val/error"], sum(parts, torch.zeros(())))


def test_of_undefined_errors_the_last_state_is_kept_as_the_best() -> None:
    checkpoint = BestCheckpoint("val/error")
    trainer, undefined = Trainer(accelerator="cpu", logger=False, barebones=True), torch.tensor(torch.nan)
    # The kept error (infinite if it was undefined), the new one, and whether that replaces it.
    for kept, new, replaces in [
        (torch.inf, undefined, True),
        (torch.inf, torch.tensor(0.5), True),
        (0.1, undefined, False),
    ]:
        checkpoint.best_model_score = torch.tensor(kept)
        checkpoint.best_k_models, checkpoint.kth_best_model_path = {"best.ckpt": torch.tensor(kept)}, "best.ckpt"
        assert bool(checkpoint.check_monitor_top_k(trainer, new)) == replaces
