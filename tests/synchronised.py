"""Batch norm over all processes on the CPU, where torch's SyncBatchNorm does not work: for distributed tests."""

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class BatchNormOverProcesses(nn.BatchNorm2d):
    """The formula of batch norm, with mean and variance over the batches of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        sums = torch.stack([x.sum((0, 2, 3)), x.square().sum((0, 2, 3)), x.new_full((x.shape[1],), x[:, 0].numel())])
        total, squares, count = all_reduce(sums)
        mean = total / count
        variance = squares / count - mean.square()
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return x * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]


class SynchroniseBatchNorm(Callback):
    """Takes every batch norm of the network over all processes."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for module in pl_module.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = BatchNormOverProcesses
