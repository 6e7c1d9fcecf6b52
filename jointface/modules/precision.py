"""The precision that a run asks for: applied where it can be had, refused where it cannot."""

from lightning import Trainer

from jointface.errors import ConfigError
from jointface.geometry.full_precision import set_float32_precision

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
FLOAT32_PRECISIONS = ("highest", "high", "medium")


def apply_precision(trainer: Trainer, precision: str | int, float32_matmul_precision: str) -> None:
    """Takes TF32 for the network's float32 products where the config allows it. Geometry never does, see
    `full_precision`.

    Args:
        trainer: made with `precision`.
        precision: as the config says it, `trainer.precision`.
        float32_matmul_precision: "highest" for float32 in matrix products and convolutions; "high" and "medium", in
            torch.set_float32_matmul_precision's sense, allow TF32 in both.

    Raises:
        ConfigError: the precision would put coordinates into half precision, is not to be had on the device, or has no
            such name.
    """
    if trainer.precision not in PRECISIONS:
        raise ConfigError(
            f"trainer.precision={precision}: coordinates need float32 weights and buffers, set one of "
            f"{', '.join(PRECISIONS)}"
        )
    if str(precision).startswith("16") and trainer.precision != "16-mixed":  # Lightning would go on with another
        raise ConfigError(f"trainer.precision={precision} needs a GPU: set trainer.precision=bf16-mixed or 32-true")
    if float32_matmul_precision not in FLOAT32_PRECISIONS:
        raise ConfigError(
            f"float32_matmul_precision={float32_matmul_precision} is unknown, known are {', '.join(FLOAT32_PRECISIONS)}"
        )
    set_float32_precision(float32_matmul_precision, convolutions=float32_matmul_precision != "highest")
