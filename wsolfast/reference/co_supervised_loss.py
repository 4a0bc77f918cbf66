"""Reference of :func:`wsolfast.ops.co_supervised_loss`."""

import torch
from torch import Tensor
from torch.linalg import vector_norm


def co_supervised_loss(
    vectors: Tensor, label: Tensor, gamma: float, delta: float, eps: float, reduction: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Return loss [] and its derivatives by distances, over these: between objects [N, N], within images [N, 2].

    The latter are of F to B and of B to K; what belongs to a distance of 0, and the diagonal, is 0.
    """
    foreground, background, confident = vectors.unbind(1)
    to_background = vector_norm(foreground - background, dim=1)
    spread = vector_norm(background - confident, dim=1)
    # The differences themselves: |a|² + |b|² - 2ab has no digits left where two objects nearly agree.
    apart = vector_norm(foreground[:, None] - foreground[None], dim=2)
    same = label[:, None] == label[None]
    once = torch.ones_like(same).triu(1)
    pairs = once | once.T
    apart = apart.where(pairs, 0)
    spreads = gamma * (spread[:, None] + spread[None])
    top = torch.where(same, spreads + apart, spreads)
    bottom = (to_background[:, None] + to_background[None]) / 2 + eps
    bottom = torch.where(same, bottom, bottom + delta * apart)
    weight = _weights(same, once, reduction, vectors)
    share = (top / bottom).where(pairs, 0)
    loss = (weight * share).where(once, 0).sum()

    weight = (weight / bottom).where(pairs, 0)
    of_apart = torch.where(same, weight, -delta * share * weight)
    within = torch.stack(((-share / 2 * weight).sum(1), (gamma * weight).sum(1)), 1)
    distances = torch.stack((to_background, spread), 1)
    return loss, _over(of_apart, apart), _over(within, distances)


def co_supervised_loss_backward(grad: Tensor, vectors: Tensor, pair_slope: Tensor, image_slope: Tensor) -> Tensor:
    """Return the gradient [N, 3, D] with respect to the vectors."""
    foreground, background, confident = vectors.unbind(1)
    between = (pair_slope[:, :, None] * (foreground[:, None] - foreground[None])).sum(1)
    of_object = image_slope[:, :1] * (foreground - background)
    of_spread = image_slope[:, 1:] * (background - confident)
    return grad * torch.stack((between + of_object, of_spread - of_object, -of_spread), 1)


def _weights(same: Tensor, once: Tensor, reduction: str, like: Tensor) -> Tensor:
    """Return the weight of each pair: 1, or one over the number of pairs of its set."""
    if reduction == "sum":
        return like.new_ones(same.shape)
    counts = [(once & pairs).sum().clamp(min=1).to(like) for pairs in (same, ~same)]
    return torch.where(same, 1 / counts[0], 1 / counts[1])


def _over(slope: Tensor, distance: Tensor) -> Tensor:
    return torch.where(distance == 0, 0, slope / distance).contiguous()
