"""The device that a user names."""

import torch

from jointface.errors import ConfigError


def open_device(name: str) -> torch.device:
    """A device by its name in torch; "auto" is a GPU where there is one.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch's errors for an unknown and for an absent device
        raise ConfigError(f"device={name}: there is no such device here; set auto or cpu") from error
    return device
