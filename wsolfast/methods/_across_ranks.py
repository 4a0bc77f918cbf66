"""Values of a whole batch whose images several processes share."""

import torch
from torch import Tensor, distributed
from torch.autograd.function import FunctionCtx
from torch.nn.functional import pad


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: FunctionCtx, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def sum_of_every_process(tensor: Tensor) -> Tensor:
    """Return the sum over a process group; a gradient is the sum of what all processes ask."""
    return _Sum.apply(tensor)


def of_every_process(tensor: Tensor) -> Tensor:
    """Return the rows of all processes in the order of the batch, which is that of their ranks.

    A single process gets ``tensor`` itself.

    Processes may hold different numbers of rows. The gradient of a row is the sum of what all processes ask of it: if
    each one's loss is weighted by its share of the images, and gradients are averaged as DDP does, it is what one
    process would find.
    """
    if not _are_several():
        return tensor
    mine, total = place_in_batch(tensor)
    # Zeros stand for the others' rows: the sum places every row without rounding anything.
    return sum_of_every_process(pad(tensor, [0, 0] * (tensor.dim() - 1) + [mine.start, total - mine.stop]))


def place_in_batch(tensor: Tensor) -> tuple[slice, int]:
    """Return the rows of :func:`of_every_process` that are those of ``tensor``, and how many rows there are."""
    if not _are_several():
        return slice(0, len(tensor)), len(tensor)
    rows = torch.zeros(distributed.get_world_size(), dtype=torch.int64, device=tensor.device)
    rows[distributed.get_rank()] = len(tensor)
    distributed.all_reduce(rows)
    counts = rows.tolist()
    first = sum(counts[: distributed.get_rank()])
    return slice(first, first + len(tensor)), sum(counts)


def _are_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
