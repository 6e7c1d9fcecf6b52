"""An optimiser that goes on from a checkpoint: with the state that it had, and the settings that the config has now."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from jointface.errors import CheckpointError

KEY = "optimizer"  # where a checkpoint keeps what the config said of it
RATES = ("lr", "initial_lr")  # of a parameter group: where the schedule is, and what it starts from


def describe(make_optimizer: Callable[..., Optimizer]) -> dict[str, Any]:
    """Class and settings of what `make_optimizer` makes, in plain containers."""
    example = make_optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    return {"class": f"{type(example).__module__}.{type(example).__qualname__}", "settings": dict(example.defaults)}


def adopt_settings(
    checkpoint: dict[str, Any], make_optimizer: Callable[..., Optimizer], scheduled: bool = True
) -> None:
    """Gives the checkpoint's optimiser the settings in which the config differs from that of its run.

    A schedule goes on where it was, on the way of the new learning rate. A new weight decay is that of the first group,
    since biases and normalisations, which follow, have none. A checkpoint that does not say what its config was keeps
    what it has.

    Args:
        checkpoint: changed in place.
        make_optimizer: makes the config's optimiser from parameter groups.
        scheduled: whether the config has a schedule; without one the rate is the config's, wherever a schedule left it.

    Raises:
        CheckpointError: the checkpoint is of another class of optimiser.
    """
    if KEY not in checkpoint:
        return
    was, now = checkpoint[KEY], describe(make_optimizer)
    if was["class"] != now["class"]:
        raise CheckpointError(
            f"the checkpoint was trained by {was['class']}, the config asks for {now['class']}: repeat model/optimizer "
            "as it was, or train from the start"
        )
    changed = {key: value for key, value in now["settings"].items() if value != was["settings"].get(key)}
    before, rate = was["settings"].get("lr"), changed.pop("lr", None)
    for state in checkpoint["optimizer_states"]:
        for number, group in enumerate(state["param_groups"]):
            group.update({key: value for key, value in changed.items() if key != "weight_decay" or number == 0})
            if not scheduled:
                group["lr"] = now["settings"].get("lr", group["lr"])
            elif rate is not None:
                group.update({key: _rescaled(group[key], before, rate) for key in RATES if key in group})
    if rate is not None:
        for schedule in _schedules(checkpoint["lr_schedulers"]):
            for key in {"_last_lr", "base_lrs"} & {*schedule}:
                schedule[key] = [_rescaled(value, before, rate) for value in schedule[key]]


def _schedules(states: list[Any]) -> Iterator[dict[str, Any]]:
    """States of schedules, and of those that they are made of."""
    for state in states:
        yield state
        yield from _schedules([part for part in state.get("_schedulers", []) if isinstance(part, dict)])


def _rescaled(value: float, before: float, rate: float) -> float:
    return value * (rate / before) if before else rate
