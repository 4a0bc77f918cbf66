"""Reference of :func:`wsolfast.ops.confident_segmentation_loss`."""

import torch
from torch import Tensor

from wsolfast.reference.confidence_mask import confidence_mask


def confident_segmentation_loss(late: Tensor, early: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``weight`` times the loss summed over images [], the mask [N, h, w], and the sign of its derivative.

    The sign [N, h, w] is with respect to ``early`` and in its dtype: -1, 0 or 1; NaN where a distance is not finite.
    """
    mask = confidence_mask(late)
    gap = early.to(mask.dtype) - late.to(mask.dtype)
    distance = torch.where(gap.isfinite(), gap.abs() * mask, torch.nan)
    sign = torch.where(gap.isfinite(), gap.sign() * mask, torch.nan)
    return (weight * distance.sum()).to(mask.dtype), mask, sign.to(early.dtype).contiguous()


def confident_segmentation_loss_backward(grad: Tensor, sign: Tensor, weight: float) -> Tensor:
    """Return the gradient [N, h, w] with respect to the early maps; that of the late ones is its negative."""
    return (weight * grad * sign.to(grad.dtype)).to(sign.dtype)
