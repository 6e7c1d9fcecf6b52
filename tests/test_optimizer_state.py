"""Resuming an optimiser: its state comes from the checkpoint, its settings from the config; the default schedule."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, ExponentialLR, OneCycleLR, SequentialLR

from jointface.errors import CheckpointError
from jointface.modules import warmup_cosine
from jointface.modules.optimizer_state import KEY, adopt_settings, describe

COSINE = partial(warmup_cosine, total_steps=20)


def trained(make: Any, steps: int, plan: Any = COSINE) -> tuple[Optimizer, Any, dict[str, Any]]:
    """An optimiser and its schedule, made by `plan`, after some steps, and their part of a checkpoint."""
    weight, bias = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = make([{"params": [weight]}, {"params": [bias], "weight_decay": 0.0}])
    schedule = plan(optimizer)
    for _ in range(steps):
        (weight.square() + bias).sum().backward()
        optimizer.step()
        schedule.step()
    saved = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    return optimizer, schedule, {**copy.deepcopy(saved), KEY: describe(make)}


def adopted(before: Any, after: Any, steps: int = 3, plan: Any = COSINE, **options: Any) -> dict[str, Any]:
    """The checkpoint of an optimiser made by `before`, with the settings of one made by `after`."""
    checkpoint = trained(before, steps, plan)[2]
    adopt_settings(checkpoint, after, **options)
    return checkpoint


def rates(checkpoint: dict[str, Any]) -> list[float]:
    return [group["lr"] for group in checkpoint["optimizer_states"][0]["param_groups"]]


def in_sequence(optimizer: Optimizer) -> SequentialLR:
    return SequentialLR(optimizer, [ConstantLR(optimizer, 0.1, 3), ExponentialLR(optimizer, 0.9)], milestones=[3])


@pytest.mark.parametrize("plan", [COSINE, in_sequence, partial(OneCycleLR, max_lr=0.01, total_steps=20)])
def test_the_same_settings_change_nothing(plan: Any) -> None:
    make = partial(AdamW, lr=1.5e-3, weight_decay=0.05)
    assert str(adopted(make, make, 7, plan)) == str(trained(make, 7, plan)[2])


def test_a_new_rate_reaches_the_parts_of_a_schedule() -> None:
    (schedule,) = adopted(partial(AdamW, lr=1e-3), partial(AdamW, lr=2e-3), 7, in_sequence)["lr_schedulers"]
    assert [part["base_lrs"] for part in schedule["_schedulers"]] == [[2e-3, 2e-3]] * 2


def test_a_new_rate_puts_the_schedule_where_it_would_be() -> None:
    make = partial(AdamW, lr=3e-3)
    checkpoint = adopted(partial(AdamW, lr=1e-3), make, 7)
    (straight, its_schedule, _), (optimizer, schedule, _) = trained(make, 7), trained(make, 0)
    optimizer.load_state_dict(checkpoint["optimizer_states"][0])
    schedule.load_state_dict(checkpoint["lr_schedulers"][0])
    for _ in range(3):
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [group["lr"] for group in straight.param_groups]
        )
        for one in (optimizer, schedule, straight, its_schedule):
            one.step()


@pytest.mark.parametrize("before", [0.05, 0.0])
def test_other_settings_are_those_of_the_config_and_biases_stay_without_decay(before: float) -> None:
    after = partial(AdamW, lr=1e-3, weight_decay=0.2, betas=(0.8, 0.9))
    (state,) = adopted(partial(AdamW, lr=1e-3, weight_decay=before), after)["optimizer_states"]
    assert [(group["weight_decay"], group["betas"]) for group in state["param_groups"]] == [
        (0.2, (0.8, 0.9)), (0.0, (0.8, 0.9)),
    ]  # fmt: skip
    assert state["state"].keys() == {0, 1}


def test_a_rate_of_zero_becomes_the_new_one() -> None:
    checkpoint = adopted(partial(AdamW, lr=0.0), partial(AdamW, lr=1e-3))
    assert checkpoint["lr_schedulers"][0]["base_lrs"] == rates(checkpoint) == [1e-3, 1e-3]


def test_without_a_schedule_the_rate_is_the_configs() -> None:
    """Not the zero at the end of a cosine."""
    make = partial(AdamW, lr=1e-3)
    assert rates(trained(make, 20)[2]) == [0, 0]
    assert rates(adopted(make, make, 20, scheduled=False)) == [1e-3, 1e-3]


def test_another_optimiser_is_refused_in_one_line() -> None:
    message = r"trained by torch\.optim\.adamw\.AdamW, .*torch\.optim\.sgd\.SGD"
    with pytest.raises(CheckpointError, match=message) as error:
        adopted(partial(AdamW, lr=1e-3), partial(SGD, lr=1e-3))
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_a_description_stays_as_it_is() -> None:
    """Those of older versions have none."""
    checkpoint = trained(partial(AdamW, lr=1e-3), 1)[2]
    del checkpoint[KEY]
    before = str(checkpoint)
    adopt_settings(checkpoint, partial(AdamW, lr=2e-3))
    assert str(checkpoint) == before


def test_the_schedule_warms_up_then_falls_to_zero() -> None:
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = warmup_cosine(optimizer, total_steps=100, warmup_fraction=0.1)
    found = []
    for _ in range(101):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found[:10] == pytest.approx([0.2 * step for step in range(1, 11)])
    assert found[55] == pytest.approx(1.0)
    assert found[100] == pytest.approx(0.0)
