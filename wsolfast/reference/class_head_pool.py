"""Reference of :func:`wsolfast.ops.class_head_pool`: every class map in memory."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

# Positions whose signs share a word.
_WORD = 32


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
    return _gradients(grad_maps * (maps > 0) if relu else grad_maps, features, weight)


def class_head_pool_with_signs(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return rectified logits [N, K] and the signs of the class maps, all that the gradients need of them.

    A sign is 1 where a map is positive. Words of 32 positions [N, ceil(h w / 32), K], int32, have the first position in
    the lowest bit.
    """
    maps = class_maps(features, weight, bias)
    positions = maps.shape[2]
    words = pad((maps > 0).long(), (0, -positions % _WORD)).unflatten(2, (-(-positions // _WORD), _WORD))
    signs = (words << torch.arange(_WORD, device=maps.device)).sum(3).to(torch.int32)
    return maps.relu().mean(2).contiguous(), signs.mT.contiguous()


def class_head_pool_signs_backward(
    grad: Tensor, features: Tensor, weight: Tensor, signs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients as :func:`class_head_pool_backward` does, from the signs of the maps."""
    positions = features.shape[2] * features.shape[3]
    bits = signs[:, :, None] >> torch.arange(_WORD, device=signs.device)[:, None] & 1
    positive = bits.flatten(1, 2)[:, :positions].mT
    return _gradients(grad[:, :, None] / positions * positive, features, weight)


def class_maps(features: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return the 1x1 convolution, Tensor[N, K, h*w]."""
    return conv2d(features, weight[:, :, None, None], bias).flatten(2)


def _gradients(grad_maps: Tensor, features: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    grad_features = (weight.mT @ grad_maps).unflatten(2, features.shape[2:])
    grad_weight = torch.einsum("nkp,ncp->kc", grad_maps, features.flatten(2))
    return grad_features.contiguous(), grad_weight.contiguous(), grad_maps.sum((0, 2))
