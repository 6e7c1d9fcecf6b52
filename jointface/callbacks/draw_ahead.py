"""Synthetic faces of the next mini-batch are drawn while the GPU is busy with this one."""

from lightning import Callback, LightningModule, Trainer


class DrawAhead(Callback):
    """Has the data module draw ahead when a backward pass is on its way: the GPU has work then, and the host has none.

    Does nothing where no face is drawn on a GPU.
    """

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.datamodule.draw_ahead()  # type: ignore[attr-defined]
