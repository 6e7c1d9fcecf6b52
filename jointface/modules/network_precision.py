"""Applies the precision that the config asks for to the network, or refuses it. Coordinates stay in float32, see
`full_precision`."""

from lightning import Trainer

from jointface.errors import ConfigError
from jointface.geometry.full_precision import set_float32_precision

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
FLOAT32_PRECISIONS = ("highest", "high", "medium")


def apply_precision(trainer: Trainer, precision: str | int, float32_matmul_precision: str) -> None:
    """Checks the trainer's precision, and sets the precision of float32 products in the network.

    Args:
        trainer: was built with `precision`, the value in the config.
        float32_matmul_precision: a name from torch.set_float32_matmul_precision; "high" and "medium" allow TF32 in
            convolutions too.

    Raises:
        ConfigError: coordinates would be in half precision, the device lacks the precision, or the name is unknown.
    """
    if trainer.precision not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision={precision}: coordinates need float32 weights and buffers, set one of "
            f"{', '.join(PRECISIONS)}"
        )
    if str(precision).startswith("16") and trainer.precision != "16-mixed":  # Lightning would use another precision
        raise ConfigError(f"trainer.precision={precision} needs a GPU: set trainer.precision=bf16-mixed or 32-true")
    if float32_matmul_precision not in FLOAT32_PRECISIONS:
        raise ConfigError(
            f"float32_matmul_precision={float32_matmul_precision} is unknown; choose from "
            f"{', '.join(FLOAT32_PRECISIONS)}"
        )
    set_float32_precision(float32_matmul_precision, convolutions=float32_matmul_precision != "highest")
