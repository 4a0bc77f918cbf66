"""Reference of :func:`wsolfast.ops.restricted_activation_loss`."""

import torch
from torch import Tensor

RANGE_EPS = 1e-15


def restricted_activation_loss(
    class_maps: Tensor, label: Tensor, tau: float, sigma: float, statistic: str, normalization: str
) -> tuple[Tensor, Tensor]:
    """Return the mean loss [] and its derivative [N, h, w] with respect to each image's label channel."""
    n, _, h, w = class_maps.shape
    if class_maps.numel() == 0:
        return class_maps.new_zeros(()), class_maps.new_zeros(n, h, w)
    spread = class_spread(class_maps, statistic, normalization)
    background = (spread < tau).to(class_maps.dtype)
    object_ = (spread > tau + sigma).to(class_maps.dtype)
    score = class_maps[torch.arange(n, device=label.device), label].sigmoid()  # [N, h, w]
    finite = class_maps.amax(1).isfinite().flatten(1).all(1).view(-1, 1, 1)
    loss = torch.where(finite, score * background + (1 - score) * object_, torch.nan).mean()
    slope = torch.where(finite, score * (1 - score) * (background - object_), torch.nan) / score.numel()
    return loss, slope.contiguous()


def restricted_activation_loss_backward(grad: Tensor, slope: Tensor, label: Tensor, classes: int) -> Tensor:
    """Return the gradient with respect to the class maps: zero but for the label's channel."""
    n, h, w = slope.shape
    gradient = slope.new_zeros(n, classes, h, w)
    gradient[torch.arange(n, device=label.device), label] = grad * slope
    return gradient


def class_spread(class_maps: Tensor, statistic: str, normalization: str) -> Tensor:
    """Return how unequal the class probabilities of a position are, [N, K, h, w] to [N, h, w]; 0 for equal ones.

    Positions of an image that differ by rounding only are all 0 under ``"minmax"``.
    """
    n, classes, h, w = class_maps.shape
    if classes == 1:
        return class_maps.new_zeros(n, h, w)
    probability = class_maps.softmax(1)
    spread = probability.var(1, unbiased=True) if statistic == "var" else probability.std(1, unbiased=True)
    if normalization == "none":
        return spread
    low, high = spread.amin((1, 2), keepdim=True), spread.amax((1, 2), keepdim=True)
    squares = probability.square().sum(1)
    rounding = 8 * torch.finfo(class_maps.dtype).eps * squares.amax((1, 2), keepdim=True)
    constant = squares.amax((1, 2), keepdim=True) - squares.amin((1, 2), keepdim=True) <= rounding
    return torch.where(constant, torch.zeros_like(spread), (spread - low) / (high - low + RANGE_EPS))
