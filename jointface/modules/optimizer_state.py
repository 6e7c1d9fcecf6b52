"""Resuming an optimiser: its state comes from the checkpoint, its settings from the config."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from jointface.errors import CheckpointError

KEY = "optimizer"  # where a checkpoint holds the optimiser's class and settings in the config


def describe(make_optimizer: Callable[..., Optimizer]) -> dict[str, Any]:
    """Class and settings of the optimisers that `make_optimizer` makes, in plain containers."""
    example = make_optimizer([{"params": [torch.nn.Parameter(torch.zeros(1))]}])
    return {"class": f"{type(example).__module__}.{type(example).__qualname__}", "settings": dict(example.defaults)}


def adopt_settings(
    checkpoint: dict[str, Any], make_optimizer: Callable[..., Optimizer], scheduled: bool = True
) -> None:
    """Gives the checkpoint's optimiser those settings that have changed in the config since its run.

    A schedule keeps its place and continues in proportion to the new learning rate. A new weight decay is for the first
    group alone, since biases and normalisations have none. Checkpoints without a description stay as they are.

    Args:
        checkpoint: changed in place.
        scheduled: whether the config has a schedule; without one the learning rate becomes the config's.

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
    """The states of schedules, and of the schedules they are composed of."""
    for state in states:
        yield state
        yield from _schedules([part for part in state.get("_schedulers", []) if isinstance(part, dict)])
