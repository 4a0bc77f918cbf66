"""Reference of :func:`wsolfast.ops.context_pool_update`."""

import torch
from torch import Tensor

from wsolfast.reference._widest import widest


def context_pool_update(
    maps: Tensor, classes: Tensor, cam: Tensor, rate: float, eps: float, touched_only: bool
) -> Tensor:
    """Return the maps [K, h, w] after a batch."""
    # Double precision hides the order of the sum, and as a matrix product it is deterministic on every device.
    members = classes == torch.arange(len(maps), device=classes.device)[:, None]  # [K, N]
    cam = torch.where(members.any(0)[:, None, None], cam, 0)
    wide = widest(maps.device)
    sums = (members.to(wide) @ cam.flatten(1).to(wide)).view(maps.shape).to(maps.dtype)
    grown = _standardized(maps + rate * _standardized(sums, eps), eps)
    grown = torch.where(members.any(1)[:, None, None], grown, maps) if touched_only else grown
    return grown.contiguous()


def _standardized(maps: Tensor, eps: float) -> Tensor:
    variance, mean = torch.var_mean(maps, dim=(1, 2), correction=0, keepdim=True)
    return (maps - mean) / (variance + eps).sqrt()
