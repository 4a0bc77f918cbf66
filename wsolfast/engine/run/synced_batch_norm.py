"""Batch norm over the batches of all processes, on any device."""

import torch
from torch import Tensor, nn

from wsolfast.methods._across_ranks import sum_of_every_process


class SyncedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm [N, C, ...] over the positions of all processes, by two sums: of the values, of their squares."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    @torch.compiler.disable  # traced, the sums of one step are differentiated again in the next
    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        over = [dim for dim in range(x.dim()) if dim != 1]
        column = [-1 if dim == 1 else 1 for dim in range(x.dim())]
        count = x.new_tensor([x.numel() // x.shape[1]])
        *sums, count = sum_of_every_process(torch.cat([x.sum(over), count])).split([x.shape[1], 1])
        mean = sums[0] / count
        x = x - mean.view(column)
        variance = sum_of_every_process(x.square().sum(over)) / count
        if self.track_running_stats:
            self._remember(mean.detach(), variance.detach() * count / (count - 1))
        x = x * (variance + self.eps).rsqrt().view(column)
        if self.affine:
            x = x * self.weight.view(column) + self.bias.view(column)
        return x.to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        count = self.get_buffer("num_batches_tracked").add_(1)
        share = 1 / float(count) if self.momentum is None else self.momentum
        for name, value in (("running_mean", mean), ("running_var", variance)):
            kept = self.get_buffer(name)
            kept.lerp_(value.to(kept.dtype), share)
