"""Opens the torch device that the user chose by name."""

import torch

from jointface.errors import ConfigError


def open_device(name: str) -> torch.device:
    """The device with this name in torch; "auto" is a GPU if there is one, else the CPU.

    Raises:
        ConfigError: there is no such device.
    """
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises these for unknown and for unavailable devices
        raise ConfigError(f"device={name}: there is no such device here; set auto or cpu") from error
    return device
