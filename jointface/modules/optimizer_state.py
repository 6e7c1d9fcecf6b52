"""Resumes an optimiser with its state from the checkpoint and its settings from the config."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from jointface.errors import CheckpointError

KEY = "optimizer"  # key of a checkpoint: the optimiser's class and its settings in the config


def describe(make_optimizer: Callable[..., Optimizer]) -> dict[str, Any]:
    """The class and settings of the optimisers that `make_optimizer` builds, in plain containers."""
    example = make_optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    return {"class": f"{type(example).__module__}.{type(example).__qualname__}", "settings": dict(example.defaults)}


def adopt_settings(
    checkpoint: dict[str, Any], make_optimizer: Callable[..., Optimizer], scheduled: bool = True
) -> None:
    """Gives the checkpoint's optimiser the settings that have changed in the config since its run.

    A schedule continues where it was, scaled to the new learning rate. A new weight decay applies only to the first
    group, since biases and normalisations have none. Checkpoints without a description do not change.

    Args:
        checkpoint: changed in place.
        scheduled: whether the config has a schedule; without one, the learning rate becomes the config's.

    Raises:
        CheckpointError: the checkpoint was trained by another class of optimiser.
    """
    if KEY not in checkpoint:
        return
    was, now = checkpoint[KEY], describe(make_optimizer)
    if was["class"] != now["class"]:
        raise CheckpointError(
            f"the checkpoint was trained by {was['class']}, the config asks for {now['class']}: choose the same "
            "model/optimizer, or train from the start"
        )
    changed = {key: value for key, value in now["settings"].items() if value != was["settings"].get(key)}
    old, new = was["settings"].get("lr"), changed.pop("lr", None)

    def in_proportion(rate: float) -> float:
        return rate if new is None else rate * (new / old) if old else new

    for state in checkpoint["optimizer_states"]:
        for number, group in enumerate(state["param_groups"]):
            group.update({key: value for key, value in changed.items() if key != "weight_decay" or number == 0})
            group.update({key: in_proportion(group[key]) for key in ("lr", "initial_lr") if key in group})
            if not scheduled:
                group["lr"] = now["settings"].get("lr", group["lr"])
    for schedule in _schedules(checkpoint["lr_schedulers"]):
        for key in {"_last_lr", "base_lrs"} & schedule.keys():
            schedule[key] = [in_proportion(rate) for rate in schedule[key]]


def _schedules(states: list[Any]) -> Iterator[dict[str, Any]]:
    """The states of schedules, followed by those of the schedules that they are composed of."""
    for state in states:
        yield state
        yield from _schedules([part for part in state.get("_schedulers", []) if isinstance(part, dict)])
