"""Going on with an optimiser: its state is the checkpoint's, its settings are the config's."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, OneCycleLR, SequentialLR

from jointface.errors import CheckpointError
from jointface.modules.optimizer_state import KEY, adopt_settings, describe
from jointface.modules.schedule import warmup_cosine

COSINE = partial(warmup_cosine, total_steps=20)


def trained(make: Any, steps: int, plan: Any = COSINE) -> tuple[Optimizer, Any, dict[str, Any]]:
    """An optimiser with a schedule, `plan`, after some steps, and their part of a checkpoint."""
    weight, bias = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = make([{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}])
    schedule = plan(optimizer)
    for _ in range(steps):
        (weight.square() + bias).sum().backward()
        optimizer.step()
        schedule.step()
    saved = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    return optimizer, schedule, {**copy.deepcopy(saved), KEY: describe(make)}


def loaded(make: Any, checkpoint: dict[str, Any]) -> tuple[Optimizer, Any]:
    optimizer, schedule, _ = trained(make, 0)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    return optimizer, schedule


def in_sequence(optimizer: Optimizer) -> SequentialLR:
    return SequentialLR(optimizer, [ConstantLR(optimizer, 0.1, 3), ExponentialLR(optimizer, 0.9)], milestones=[3])


@pytest.mark.parametrize("plan", [COSINE, in_sequence, partial(OneCycleLR, max_lr=0.01, total_steps=20)])
def test_the_same_settings_change_nothing(plan: Any) -> None:
    make = partial(AdamW, lr=1.5e-3, weight_decay=0.05)
    _, _, checkpoint = trained(make, 7, plan)
    before = copy.deepcopy(checkpoint)
    adopt_settings(checkpoint, make)
    assert str(checkpoint) == str(before)


def test_a_new_rate_reaches_the_parts_of_a_schedule() -> None:
    _, _, checkpoint = trained(partial(AdamW, lr=1e-3), 7, in_sequence)
    adopt_settings(checkpoint, partial(AdamW, lr=2e-3))
    (schedule,) = checkpoint["lr_schedulers"]
    assert [part["base_lrs"] for part in schedule["_schedulers"]] == [[2e-3, 2e-3]] * 2


def test_a_new_rate_takes_the_schedule_where_it_would_be() -> None:
    _, _, checkpoint = trained(partial(AdamW, lr=1e-3), 7)
    make = partial(AdamW, lr=3e-3)
    adopt_settings(checkpoint, make)
    optimizer, schedule = loaded(make, checkpoint)
    straight, its_schedule, _ = trained(make, 7)
    for _ in range(3):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([group["lr"] for group in straight.param_groups])
        for one, its in ((optimizer, schedule), (straight, its_schedule)):
            one.step()
            its.step()


@pytest.mark.parametrize("before", [0.05, 0.0])
def test_other_settings_are_those_of_the_config_and_biases_stay_without_decay(before: float) -> None:
    _, _, checkpoint = trained(partial(AdamW, lr=1e-3, weight_decay=before), 3)
    adopt_settings(checkpoint, partial(AdamW, lr=1e-3, weight_decay=0.2, betas=(0.8, 0.9)))
    weights, biases = checkpoint["optimizer_states"][0]["param_groups"]
    assert (weights["weight_decay"], biases["weight_decay"]) == (0.2, 0.0)
    assert weights["betas"] == biases["betas"] == (0.8, 0.9)
    assert checkpoint["optimizer_states"][0]["state"].keys() == {0, 1}


def test_a_rate_of_zero_becomes_the_new_one() -> None:
    _, _, checkpoint = trained(partial(AdamW, lr=0.0), 3)
    adopt_settings(checkpoint, partial(AdamW, lr=1e-3))
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == [1e-3, 1e-3]
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-3


def test_another_optimiser_is_refused_in_one_line() -> None:
    _, _, checkpoint = trained(partial(AdamW, lr=1e-3), 1)
    with pytest.raises(
        CheckpointError, match=r"trained by torch\.optim\.adamw\.AdamW, .*torch\.optim\.sgd\.SGD"
    ) as error:
        adopt_settings(checkpoint, partial(SGD, lr=1e-3))
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_does_not_say_what_its_config_was_is_taken_as_it_is() -> None:
    """Those of older versions do not."""
    _, _, checkpoint = trained(partial(AdamW, lr=1e-3), 1)
    del checkpoint[KEY]
    before = copy.deepcopy(checkpoint)
    adopt_settings(checkpoint, partial(AdamW, lr=2e-3))
    assert str(checkpoint) == str(before)


def test_without_a_schedule_the_rate_is_the_configs() -> None:
    """Not the zero that a cosine ended with."""
    make = partial(AdamW, lr=1e-3)
    _, _, checkpoint = trained(make, 20)
    assert checkpoint["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    adopt_settings(checkpoint, make, scheduled=False)
    assert [group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]] == [1e-3, 1e-3]
