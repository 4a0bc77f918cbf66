"""Reference of :func:`wsolfast.ops.pixel_histogram`."""

import torch
from torch import Tensor


def pixel_histogram(maps: Tensor, masks: Tensor, edges: Tensor) -> Tensor:
    """Count maps [N, H, W] by masks uint8 [N, H, W] to int64 [2, bins]."""
    bins = edges.numel() - 1
    values = maps.to(torch.float64)
    # The bin of a value is the last edge that is not above it; the last bin holds its upper edge too.
    index = torch.searchsorted(edges, values.contiguous(), right=True) - 1
    index = torch.where(values == edges[-1], bins - 1, index)
    inside = (values >= edges[0]) & (values <= edges[-1])
    return torch.stack([torch.bincount(index[inside & (masks == kind)], minlength=bins) for kind in (0, 1)])
