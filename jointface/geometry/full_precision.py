"""Which computations stay in float32 whatever precision the network runs in: those of coordinates.

In half precision a crop of 256 pixels has steps of a pixel, in TF32 of an eighth, and a model in micrometres overflows.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

HALF = (torch.float16, torch.bfloat16)
Function = TypeVar("Function", bound=Callable[..., Any])


def full_precision(function: Function) -> Function:
    """Runs a function without autocast and TF32 and casts its half-precision arguments to float32.

    Matrix products of the backward pass may still use TF32, which is accurate enough for gradients.
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
    """`matrices` is as torch.set_float32_matmul_precision names it; `convolutions`: whether they may use TF32."""
    torch.set_float32_matmul_precision(matrices)
    torch.backends.cudnn.allow_tf32 = convolutions
