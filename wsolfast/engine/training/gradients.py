"""Gradients of a batch that several turns and several processes work through, and what these agree on."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wsolfast.engine.assembly.build import memory_format
from wsolfast.engine.assembly.precision import autocast
from wsolfast.engine.run import distributed
from wsolfast.methods import Method
from wsolfast.recipe import RuntimeSpec
from wsolfast.types import Batch, TrainState


class _Losses(nn.Module):
    """A training step as a forward, which is what DDP can wrap."""

    def __init__(self, method: Method):
        super().__init__()
        self.method = method

    def forward(self, batch: Batch, state: TrainState) -> dict[str, Tensor]:
        losses = self.method.training_step(batch, state)
        return {name: loss if name == "loss" else loss.detach() for name, loss in losses.items()}


class GradientAccumulator:
    """Gradients of the mean loss over a batch, accumulated over its parts and averaged over the processes.

    Args:
        method: on ``device``; its parameters get the gradients.
        device: where parts of a batch are moved to.
        runtime: the memory format.
        amp: the precision, ``"bf16"``, ``"fp16"`` or ``"none"``.

    Attributes:
        scaler: scales the losses of float16, and so their gradients; None in other precisions.
    """

    def __init__(self, method: Method, device: torch.device, runtime: RuntimeSpec, amp: str):
        self.device, self.amp = device, amp
        self.layout = memory_format(runtime.channels_last, device)
        self.scaler = torch.amp.GradScaler(device.type) if amp == "fp16" else None
        self.losses: nn.Module = _Losses(method)
        if distributed.world_size() > 1:
            devices = [device] if device.type == "cuda" else None
            # Which parameters a loss reaches may change with the epoch, and with the images.
            self.losses = DistributedDataParallel(self.losses, devices, find_unused_parameters=True)

    def accumulate(self, parts: Sequence[Batch], count: int, state: TrainState) -> dict[str, Tensor]:
        """Add the gradients of the mean loss over a batch to those of the parameters.

        Args:
            parts: this process's images, one part for each turn.
            count: images of the whole batch, over all turns and processes.
            state: where training stands.

        Returns:
            This process's share of each mean loss; the shares of all processes add up to it.
        """
        values: dict[str, Tensor] = {}
        for number, batch in enumerate(parts, 1):
            batch = batch.to(self.device)
            if self.layout is torch.channels_last:
                batch = replace(batch, image=batch.image.to(memory_format=self.layout))
            share = len(batch.image_id) / count
            with self._synchronization(last=number == len(parts)):
                with autocast(self.device, self.amp):
                    losses = self.losses(batch, state)
                # DDP takes the mean over the processes, whose shares add up to one.
                loss = losses["loss"] * (share * distributed.world_size())
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            for name, value in losses.items():
                values[name] = values.get(name, 0) + value.detach() * share
        return values

    def _synchronization(self, *, last: bool) -> AbstractContextManager:
        """Let the processes exchange gradients in the last turn alone."""
        if isinstance(self.losses, DistributedDataParallel) and not last:
            return self.losses.no_sync()
        return nullcontext()


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the 2-norm of all gradients together, a scalar."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return nn.utils.get_total_norm(gradients)


@dataclass(frozen=True)
class StepResult:
    """Outcome of a training step, the same in every process."""

    losses: dict[str, float]  # means over the whole batch
    gradient_norm: float
    stop: bool  # a signal asked one of the processes to stop
    save: bool  # a checkpoint is due

    @property
    def is_finite(self) -> bool:
        """True if all losses and the gradient are finite; otherwise the step is left out."""
        return all(map(math.isfinite, (self.gradient_norm, *self.losses.values())))


def agree(losses: dict[str, Tensor], norm: Tensor, *, stop: bool, save: bool) -> StepResult:
    """Add up what the processes found, in one exchange.

    Args:
        losses: this process's share of each mean loss, scalars.
        norm: of the gradients, which are the same in every process.
        stop: whether a signal asked this process to stop; one is enough for all.
        save: whether this process finds a checkpoint due; one is enough for all.
    """
    shares = [*losses.values(), norm / distributed.world_size()]
    stacked = torch.stack([value.detach().float() for value in shares])
    together = distributed.sum_over_all(torch.cat([stacked, stacked.new_tensor((stop, save))])).tolist()
    *means, total_norm, stops, saves = together
    return StepResult(dict(zip(losses, means, strict=True)), total_norm, bool(stops), bool(saves))
