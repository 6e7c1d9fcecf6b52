"""Coordinates stay in float32, whatever precision the network runs in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(function: Function) -> Function:
    """Keeps autocast and TF32 out of a function and gives it float32 tensors: in half precision a crop of 256 pixels
    has steps of a pixel, in TF32 of an eighth, and a model in micrometres overflows. (In the backward pass matrix
    products may take TF32: gradients bear it.)"""

    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
        with torch.autocast(device.type, enabled=False), _no_tf32():
            return function(*(_float32(argument) for argument in arguments))

    return wrapper  # type: ignore[return-value]


@contextmanager
def _no_tf32() -> Iterator[None]:
    matrices, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_float32_precision("highest", convolutions=False)
    try:
        yield
    finally:
        set_float32_precision(matrices, convolutions)


def set_float32_precision(matrices: str, convolutions: bool) -> None:
    """Whether float32 products may take TF32 on GPUs that have it: matrix products, as
    `torch.set_float32_matmul_precision` names it, and convolutions."""
    torch.set_float32_matmul_precision(matrices)
    torch.backends.cudnn.allow_tf32 = convolutions


def _float32(argument: Any) -> Any:
    half = isinstance(argument, Tensor) and argument.dtype in (torch.float16, torch.bfloat16)
    return argument.float() if half else argument
