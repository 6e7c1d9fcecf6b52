"""Renders the synthetic faces of the next mini-batch while the GPU is busy with this one."""

from lightning import Callback, LightningModule, Trainer


class DrawAhead(Callback):
    """Lets the data module draw ahead once a backward pass is queued: the GPU has work then, and the host has none.

    Does nothing unless faces are drawn on a GPU.
    """

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.datamodule.draw_ahead()  # type: ignore[attr-defined]
