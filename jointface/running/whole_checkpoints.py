"""Writes checkpoints completely or not at all."""

import io
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from jointface.errors import CheckpointError, DataError
from jointface.files import write_atomically


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name in its folder, then replaces the previous one.

    Lightning's own writer uses the system's temporary folder. If that is on another file system, the checkpoint is
    finally copied, and a kill during the copy leaves it incomplete.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises CheckpointError if it cannot be written; the previous checkpoint is then untouched."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        try:
            write_atomically(Path(path), buffer.getbuffer(), durable=True)
        except DataError as error:
            cause, last = error.__cause__, Path(path).with_name("last.ckpt")
            reason = getattr(cause, "strerror", None) or cause
            advice = f"make room there and resume with checkpoint={last}" if last.exists() else "make room there"
            raise CheckpointError(
                f"the checkpoint {Path(path).absolute()} could not be saved ({reason}): {advice}"
            ) from error
