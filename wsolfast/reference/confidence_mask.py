"""Reference of :func:`wsolfast.ops.confidence_mask`."""

import torch
from torch import Tensor

from wsolfast.reference._widest import widest


def confidence_mask(maps: Tensor) -> Tensor:
    """Return 0 or 1 [..., h, w] for maps [..., h, w]: 1 where a value deviates from the mean more than the average.

    Nothing is divided, and all counts from the first value: in float64 these sums of float32 values hardly round, so
    equal deviations are equal and those of a constant map are zero.
    """
    count = maps.shape[-2] * maps.shape[-1]
    wide = maps.to(widest(maps.device))
    values = wide - wide[..., :1, :1]
    deviation = (count * values - values.sum((-2, -1), keepdim=True)).abs()
    confident = count * deviation > deviation.sum((-2, -1), keepdim=True)
    return confident.to(torch.promote_types(maps.dtype, torch.float32)).contiguous()
