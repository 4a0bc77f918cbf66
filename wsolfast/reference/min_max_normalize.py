"""Reference of :func:`wsolfast.ops.min_max_normalize`."""

import torch
from torch import Tensor


def min_max_normalize(maps: Tensor, eps: float) -> Tensor:
    """Scale each map of Tensor[..., h, w] to [0, 1]."""
    if maps.numel() == 0:
        return maps.new_empty(maps.shape)
    low, span = _low_and_span(maps, eps)
    scaled = (maps - low) / span
    return torch.where(span == 0, torch.zeros_like(scaled), scaled).contiguous()


def min_max_normalize_backward(grad: Tensor, maps: Tensor, output: Tensor, eps: float) -> Tensor:
    """Return the gradient with respect to ``maps``; tied extrema share theirs evenly."""
    if maps.numel() == 0:
        return maps.new_empty(maps.shape)
    low, span = _low_and_span(maps, eps)
    scaled_grad = torch.where(span == 0, torch.zeros_like(grad), grad / span)
    to_high = (scaled_grad * output).sum((-2, -1), keepdim=True)
    to_low = scaled_grad.sum((-2, -1), keepdim=True) - to_high
    is_low = (maps == low).to(maps.dtype)
    is_high = (maps == maps.amax((-2, -1), keepdim=True)).to(maps.dtype)
    share_low = is_low / is_low.sum((-2, -1), keepdim=True)
    share_high = is_high / is_high.sum((-2, -1), keepdim=True)
    return (scaled_grad - to_low * share_low - to_high * share_high).contiguous()


def _low_and_span(maps: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    low = maps.amin((-2, -1), keepdim=True)
    return low, maps.amax((-2, -1), keepdim=True) - low + eps
