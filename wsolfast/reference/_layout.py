"""The memory format of outputs, which follows that of the maps they are made from."""

import torch
from torch import Tensor


def layout_of(maps: Tensor) -> torch.memory_format:
    """Return channels last if the neighbours of a value [N, C, h, w] in memory are other channels of its position."""
    return torch.channels_last if maps.shape[1] > 1 and maps.stride(1) == 1 else torch.contiguous_format


def empty_like_first(branch: Tensor, first: Tensor) -> Tensor:
    """Return memory for a tensor like ``branch`` in the layout of ``first``."""
    return torch.empty(branch.shape, dtype=branch.dtype, device=branch.device, memory_format=layout_of(first))
