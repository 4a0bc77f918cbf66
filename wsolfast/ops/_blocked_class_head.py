"""``class_head_pool`` in library calls, a block of class maps at a time: N x K x h x w values are never in memory.

Rectifying and summing a block happens while it lies in the cache. Backward computes the block again and turns it into
the pattern of its positive values: the incoming gradient is one number per image and class, so it scales the weights
before the product with the pattern, and the product's rows after it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Values of class maps in memory at once: a megabyte of float32, which stays in a core's L2; other devices need more.
_CPU_BLOCK = 2**18
_DEVICE_BLOCK = 2**26


def forward(features: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Same contract as the reference, in bounded memory."""
    flat = features.flatten(2)
    if not relu:
        pooled = flat.mean(2)
        return pooled @ weight.mT if bias is None else torch.addmm(bias, pooled, weight.mT)
    logits = torch.empty(flat.shape[0], weight.shape[0], dtype=features.dtype, device=features.device)
    for images, classes, maps in _blocks_of_maps(flat, weight, bias):
        logits[images, classes] = maps.relu_().mean(2)
    return logits


def backward(
    grad: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients with respect to ``features``, ``weight`` and the bias; the class maps are computed again."""
    flat = features.flatten(2)
    positions = flat.shape[2]
    if not relu:
        shared = (grad @ weight / positions)[:, :, None, None]
        return shared.expand(features.shape).contiguous(), grad.mT @ flat.mean(2), grad.sum(0)
    grad_flat = torch.zeros(flat.shape, dtype=features.dtype, device=features.device)
    grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
    for images, classes, maps in _blocks_of_maps(flat, weight, bias):
        active = torch.gt(maps, 0, out=maps)
        share = (grad[images, classes] / positions)[:, :, None]
        grad_flat[images].baddbmm_((share * weight[classes]).mT, active)
        grad_weight[classes] += (share * (active @ flat[images].mT)).sum(0)
        grad_bias[classes] += (share[:, :, 0] * active.sum(2)).sum(0)
    return grad_flat.unflatten(2, features.shape[2:]), grad_weight, grad_bias


def _blocks_of_maps(flat: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield images, classes and their maps [images, classes, h*w], which the next block overwrites."""
    batch, _, positions = flat.shape
    classes = weight.shape[0]
    held = _CPU_BLOCK if flat.device.type == "cpu" else _DEVICE_BLOCK
    class_step = -(-classes // -(-classes * positions // held)) if classes * positions > held else classes
    image_step = max(1, held // (classes * positions)) if class_step == classes else 1
    memory = torch.empty(image_step, class_step, positions, dtype=flat.dtype, device=flat.device)
    for first_class in range(0, classes, class_step):
        chosen = slice(first_class, min(first_class + class_step, classes))
        rows = weight[chosen]
        for first_image in range(0, batch, image_step):
            images = slice(first_image, min(first_image + image_step, batch))
            maps = memory[: images.stop - images.start, : rows.shape[0]]
            torch.bmm(rows.expand(maps.shape[0], -1, -1), flat[images], out=maps)
            if bias is not None:
                maps += bias[chosen, None]
            yield images, chosen, maps
