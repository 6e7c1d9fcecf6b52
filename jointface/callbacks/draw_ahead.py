"""Draws the synthetic faces of the next mini-batch while the GPU works on the current one."""

from lightning import Callback, LightningModule, Trainer


class DrawAhead(Callback):
    """Lets the data module draw ahead after a backward pass is queued, when the GPU is busy and the host is idle.

    Does nothing unless faces are drawn on a GPU.
    """

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.datamodule.draw_ahead()  # type: ignore[attr-defined]
