"""Auxiliary losses on photos of known people: their papers' formulas, and what they teach."""

from itertools import islice
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import SyncBatchNorm

from jointface.command_line import CONF_DIR
from jointface.datamodules.sampling import PeopleStream, Share, groups_of_people
from jointface.errors import ConfigError
from jointface.geometry import MorphableModel
from jointface.modules import FixedWeights, MorphableDecoder, RecognitionLoss, RingLoss, SwapLoss
from jointface.modules.auxiliary import StandardIdentity
from jointface.modules.losses import shape_loss
from tests.networks import Batch, make_module, shape_labels

ARMS = ("shape", "joint", "shuffled", "ring", "recognition", "swap", "prnet")


@pytest.fixture
def decoder(tiny_model: MorphableModel) -> MorphableDecoder:
    return MorphableDecoder((8, 2, 2), tiny_model, 64, hidden=16)


def photos_of(people: int, each: int) -> Tensor:
    return torch.arange(people).repeat_interleave(each)


def ring_formula(b: Tensor, rings: list[tuple[list[int], int]], margin: float) -> float:
    """The paper's sum, written out: each ring is a person's photos and another person's one."""
    total = 0.0
    for photos, other in rings:
        pairs = [
            max(0.0, ((b[j] - b[k]) ** 2).sum() - ((b[j] - b[other]) ** 2).sum() + margin)
            for j in photos
            for k in photos
        ]
        total += float(sum(pairs)) / (len(photos) + 1)
    return total / len(rings)


def test_ring_is_the_formula_of_ringnet(decoder: MorphableDecoder) -> None:
    """In float64, with photos of three people in any order; each ring takes the first photo of the next person."""
    people = torch.tensor([7, 3, 7, 9, 3, 7, 9])
    b = torch.randn(7, 5, dtype=torch.float64)
    loss = RingLoss(decoder, people.unique(), margin=0.5)
    rings = [([1, 4], 0), ([0, 2, 5], 3), ([3, 6], 1)]
    assert loss.rings(b, people).item() == pytest.approx(ring_formula(b, rings, 0.5))


def test_recognition_is_the_cross_entropy_of_a_linear_classifier(decoder: MorphableDecoder) -> None:
    loss = RecognitionLoss(decoder, torch.tensor([3, 7, 9])).eval()
    outputs = shape_labels(decoder.morphable_model, 4)
    b = loss.standard(outputs[0]).double()
    logits = b @ loss.classifier.weight.double().T + loss.classifier.bias.double()
    expected = -logits.log_softmax(1)[torch.arange(4), torch.tensor([2, 0, 1, 2])].mean()
    assert loss(outputs, torch.tensor([9, 3, 7, 9]), {}).item() == pytest.approx(expected.item(), rel=1e-5)


def test_swap_is_the_shape_loss_with_the_identity_of_another_photo(decoder: MorphableDecoder) -> None:
    """Photos of one person that are mirrored alike take each other's identity, in turn; others have no part in it."""
    model = decoder.morphable_model
    labels, outputs = shape_labels(model, 6), [output + 0.01 for output in shape_labels(model, 6)]
    people = torch.tensor([1, 1, 1, 2, 1, 3])  # photos 1, 3 and 5 are mirrored
    swapped = outputs[0][[2, 4, 0]], outputs[1][[0, 2, 4]], outputs[2][[0, 2, 4]]
    target = decoder.target(*(label[[0, 2, 4]] for label in labels))
    expected = shape_loss(decoder.target(*swapped), target, decoder.weights).mean()
    keys = "shape_coefficients", "expression_coefficients", "camera"
    found = SwapLoss(decoder, people.unique())(tuple(outputs), people, dict(zip(keys, labels, strict=True)))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("space", ["coefficients", "vertices"])
def test_identity_is_measured_in_standard_deviations(decoder: MorphableDecoder, space: str) -> None:
    model, standard = decoder.morphable_model, StandardIdentity(decoder, space)
    coefficients = torch.randn(4000, model.num_shape) * torch.logspace(-2, 2, model.num_shape)
    for part in coefficients.split(1000):
        standard.observe(part)
    b = standard(coefficients)
    assert b.var(0).mean().item() == pytest.approx(1, rel=0.01)
    if space == "vertices":
        moved = torch.einsum("cvk,nk->nvc", model.basis[..., : model.num_shape], coefficients[:20])
        distances = (moved[:10] - moved[10:]).square().sum((1, 2))
        ratio = (b[:10] - b[10:20]).square().sum(1) / distances
        torch.testing.assert_close(ratio, ratio.mean().expand(10), rtol=1e-3, atol=0)
    else:
        torch.testing.assert_close(b.var(0), torch.ones(model.num_shape), rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", [RingLoss, RecognitionLoss])
def test_six_people_are_learned_by_heart(decoder: MorphableDecoder, kind: type[RingLoss | RecognitionLoss]) -> None:
    """Either loss tells the people apart, and leaves expression and pose alone."""
    torch.manual_seed(0)
    people = photos_of(6, 4)
    loss = kind(decoder, people.unique())
    outputs = [output[:1].repeat(24, *[1] * (output.ndim - 1)) for output in shape_labels(decoder.morphable_model)]
    outputs[0] = torch.randn_like(outputs[0])
    loss.observe(outputs[0])
    for output in outputs:
        output.requires_grad_()
    spread = [_within_over_between(outputs[0], people)]
    optimizer = torch.optim.Adam([outputs[0], *loss.parameters()], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        value = loss(tuple(outputs), people, {})
        value.backward()
        optimizer.step()
    assert value < 0.05
    assert outputs[1].grad is None
    assert outputs[2].grad is None
    spread.append(_within_over_between(outputs[0], people))
    assert spread[1] < 0.6 * spread[0]


def _within_over_between(b: Tensor, people: Tensor) -> float:
    means = torch.stack([b[people == person].mean(0) for person in people.unique()])
    return ((b - means[people]).square().mean() / means.var(0).mean()).item()


def test_the_loss_joins_the_tasks_with_its_own_weight(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    """Without a photo of a known person it is zero; the sources whose people are unknown have no part in it."""
    mixed_batch = {**mixed_batch, "w300lp": {**mixed_batch["w300lp"], "identity": photos_of(4, 2)}}
    module = make_module(
        tiny_model, auxiliary=RecognitionLoss, people={"w300lp": torch.arange(4)}, loss=FixedWeights(3.0, 2.0, 0.5)
    )
    losses = module.losses(mixed_batch)
    assert set(losses) == {"shape", "attributes", "auxiliary"}
    expected = 3 * losses["shape"] + 2 * losses["attributes"] + 0.5 * losses["auxiliary"]
    torch.testing.assert_close(module.weighting(losses, losses, 0), expected)
    assert losses["auxiliary"] > 0
    assert module.losses({"celeba": mixed_batch["celeba"]})["auxiliary"] == 0
    assert SyncBatchNorm.convert_sync_batchnorm(module).losses(mixed_batch)["auxiliary"].isfinite()


def test_shuffled_attributes_are_those_of_other_photos(tiny_model: MorphableModel, mixed_batch: Batch) -> None:
    batch = {"celeba": dict(mixed_batch["celeba"])}
    shuffled = make_module(tiny_model, shuffle_attributes=True).eval().losses(batch)["attributes"]
    for key in ("attributes", "attribute_mask"):
        batch["celeba"][key] = batch["celeba"][key].roll(len(batch["celeba"]["image"]) // 2, dims=0)
    torch.testing.assert_close(shuffled, make_module(tiny_model).eval().losses(batch)["attributes"])


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=6), size=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_groups_show_one_person_and_repeat_no_photo(counts: list[int], size: int, seed: int) -> None:
    people = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    groups = groups_of_people(people[torch.randperm(len(people))], size, seed)
    assert len(groups) == sum(count // size for count in counts)
    assert len(groups.unique()) == groups.numel()
    order = people[torch.randperm(len(people))]
    assert all(len(order[group].unique()) == 1 for group in groups_of_people(order, size, seed))


@given(world_size=st.integers(1, 3), first=st.integers(0, 20))
def test_a_stream_of_people_is_a_function_of_the_batch_number(world_size: int, first: int) -> None:
    people = photos_of(7, 5)
    whole = PeopleStream("photos", people, 2, 4 * world_size, 3, first=first)
    parts = [PeopleStream("photos", people, 2, 4, 3, Share(rank, world_size)) for rank in range(world_size)]
    for number, sample in enumerate(islice(whole, 8), start=first):
        assert sample.indices == [index for part in parts for index in part.sample(number).indices]
        assert torch.equal(people[sample.indices][::2], people[sample.indices][1::2])


def test_what_cannot_be_is_one_line(decoder: MorphableDecoder) -> None:
    with pytest.raises(ConfigError, match="batch_size=5 must be a multiple of photos_per_person"):
        PeopleStream("photos", photos_of(3, 4), 2, 5, 0)
    with pytest.raises(ConfigError, match="nobody has photos_per_person=5 photos"):
        PeopleStream("photos", photos_of(3, 4), 5, 5, 0)
    with pytest.raises(ConfigError, match="needs model/shape_decoder=morphable"):
        RingLoss(None, torch.arange(3))
    with pytest.raises(ConfigError, match="set its photos_per_person"):
        RingLoss(decoder, torch.arange(0))
    with pytest.raises(ConfigError, match=r"margin=-1.0: must be at least 0"):
        RingLoss(decoder, torch.arange(3), margin=-1.0)


def test_all_arms_of_the_claim_see_the_same_3d_labels() -> None:
    """The stream of a source depends on the source and the seed alone, so equal configs give equal batches."""
    fitted = []
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for arm in ARMS:
            config = compose("train", overrides=[f"experiment=claim/{arm}", "num_photos=100", "seed=2"])
            settings = config.data.sources.fitted, config.seed, config.image_size, config.data.augmentation
            fitted.append((*settings, config.data.turning, config.trainer.max_steps))
            trained = [name for name, source in config.data.sources.items() if source.splits.get("train")]
            assert trained[0] == "fitted"  # augmentation is random source after source
            tests = {name for name, source in config.data.sources.items() if source.splits.get("test")}
            assert {"fitted", "w300", "aflw2000"} <= tests
    assert all(settings == fitted[0] for settings in fitted)


def test_each_cause_changes_one_thing_of_an_arm() -> None:
    longer = {"trainer.max_steps", "trainer.val_check_interval"}
    changed = {
        "joint_longer": longer,
        "shape_longer": longer,
        "attributes_longer": longer,
        "joint_aligned": {"model.loss._target_", "model.loss.method"},
        "joint_group_norm": {"model.backbone.norm"},
        "joint_stages": {"model.backbone.out_indices"},
        "joint_wider": {
            f"model.backbone.{part}_channels" for part in ("stem", "stage_in", "stage_mid", "stage_out")
        },
    }  # fmt: skip
    sweep = OmegaConf.load(CONF_DIR / "sweep" / "claim_causes.yaml").hydra.sweeper.params
    assert {arm.removeprefix("claim/") for arm in sweep.experiment.replace(" ", "").split(",")} == changed.keys()
    flat: dict[str, dict[str, Any]] = {}
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        for arm in ("joint", "shape", "attributes", *changed):
            config = compose("train", overrides=[f"experiment=claim/{arm}", f"num_photos={sweep.num_photos}"])
            assert config.num_photos is None
            flat[arm] = pd.json_normalize(OmegaConf.to_container(config)).iloc[0].to_dict()
    for arm, keys in changed.items():
        settings, base = flat[arm], flat[arm.split("_")[0]]
        differing = {key for key in settings.keys() | base.keys() if settings.get(key) != base.get(key)}
        assert differing - {"name"} == keys, arm
