"""Reference of :func:`wsolfast.ops.class_head_pool`: every class map in memory."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d


def class_head_pool(features: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Pool features [N, C, h, w] with weight [K, C] and bias [K] to logits [N, K]."""
    maps = class_maps(features, weight, bias)
    return (maps.relu() if relu else maps).mean(2).contiguous()


def class_head_pool_backward(
    grad: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``features``, ``weight`` and the bias, which is there even if ``bias`` is not."""
    maps = class_maps(features, weight, bias)
    grad_maps = (grad[:, :, None] / maps.shape[2]).expand_as(maps)
    if relu:
        grad_maps = grad_maps * (maps > 0)
    grad_features = (weight.mT @ grad_maps).unflatten(2, features.shape[2:])
    grad_weight = torch.einsum("nkp,ncp->kc", grad_maps, features.flatten(2))
    return grad_features.contiguous(), grad_weight.contiguous(), grad_maps.sum((0, 2))


def class_maps(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the 1x1 convolution, Tensor[N, K, h*w]."""
    return conv2d(features, weight[:, :, None, None], bias).flatten(2)
