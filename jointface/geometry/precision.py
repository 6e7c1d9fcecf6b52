"""Coordinates stay in float32, whatever precision the network runs in."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(function: Function) -> Function:
    """Keeps autocast out of a function and gives it float32 tensors: in half precision a crop of 256 pixels has steps
    of a pixel, and a model in micrometres overflows."""

    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
        with torch.autocast(device.type, enabled=False):
            return function(*(_float32(argument) for argument in arguments))

    return wrapper  # type: ignore[return-value]


def _float32(argument: Any) -> Any:
    half = isinstance(argument, Tensor) and argument.dtype in (torch.float16, torch.bfloat16)
    return argument.float() if half else argument
