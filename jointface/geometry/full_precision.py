"""Keeps computations on coordinates in float32, whatever precision the network runs in.

At 256 pixels, coordinates in bfloat16 have steps of a pixel and in TF32 of an eighth; micrometres overflow float16.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(function: Function) -> Function:
    """Decorator: runs a function without autocast and TF32, with half-precision arguments cast to float32.

    Matrix products in the backward pass may still use TF32, which is accurate enough for gradients.
    """

    @wraps(function)
    def wrapper(*arguments: Any) -> Any:
        device = next(argument.device for argument in arguments if isinstance(argument, Tensor))
        matrices, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        set_float32_precision("highest", convolutions=False)
        try:
            with torch.autocast(device.type, enabled=False):
                return function(*(a.float() if isinstance(a, Tensor) and a.dtype in HALF else a for a in arguments))
        finally:
            set_float32_precision(matrices, convolutions)

    return wrapper  # type: ignore[return-value]


def set_float32_precision(matrices: str, convolutions: bool) -> None:
    """Sets the float32 precision of matrix products, as torch names it, and whether convolutions may use TF32."""
    torch.set_float32_matmul_precision(matrices)
    torch.backends.cudnn.allow_tf32 = convolutions
