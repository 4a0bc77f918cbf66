"""``non_local_attention`` in library calls, a block of weights at a time: P x M weights are never in memory at once.

The score product and the value product are matrix products that the vendor's library runs at its peak; between them
stands one fused softmax over a block that still lies in the cache. Blocks hold whole rows, so the softmax needs neither
rescaling nor a saved log-sum-exp, and backward repeats it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

# Weights in memory at once: a megabyte of float32, which stays in a core's L2; other devices need more to fill them.
_CPU_BLOCK = 2**18
_DEVICE_BLOCK = 2**26


def forward(query: Tensor, key: Tensor, value: Tensor, kind: str) -> Tensor:
    """Same contract as the reference, in bounded memory."""
    out = empty_output(query, key, value, kind)
    flat_query, flat_key, flat_value = (maps.flatten(2) for maps in (query, key, value))
    flat_out = out.flatten(2)
    if _reorders(flat_query, flat_key, flat_value, kind):
        flat_out.copy_(_mixing(flat_key, flat_value) @ flat_query)
        return out
    weights = _Block(flat_query, flat_key)
    if kind == "embedded_gaussian" and _flash_serves(flat_query, flat_value, weights):
        rows = (maps.mT.contiguous()[:, None] for maps in (flat_query, flat_key, flat_value))
        flat_out.copy_(functional.scaled_dot_product_attention(*rows, scale=1.0)[:, 0].mT)
        return out
    for images, rows in weights.all():
        block = weights.fill(flat_query[images, :, rows], flat_key[images], kind)
        if weights.rows == weights.positions:
            flat_out[images] = flat_value[images] @ block.mT
        else:
            # A few rows times many values: this orientation is what matrix libraries do best.
            flat_out[images, :, rows] = (block @ flat_value[images].mT).mT
    return out


def backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to ``query``, ``key`` and ``value``; the weights are computed again, block by block."""
    flat_grad, flat_query, flat_key, flat_value = (maps.flatten(2) for maps in (grad, query, key, value))
    if _reorders(flat_query, flat_key, flat_value, kind):
        grad_mixing = flat_grad @ flat_query.mT / flat_key.shape[2]  # [N, C, D]
        grad_query = _mixing(flat_key, flat_value).mT @ flat_grad
        grad_key = grad_mixing.mT @ flat_value
        grad_value = grad_mixing @ flat_key
    else:
        grad_query = torch.empty(flat_query.shape, dtype=query.dtype, device=query.device)
        grad_key = torch.zeros(flat_key.shape, dtype=key.dtype, device=key.device)
        grad_value = torch.zeros(flat_value.shape, dtype=value.dtype, device=value.device)
        weights, grad_weights = _Block(flat_query, flat_key), _Block(flat_query, flat_key)
        for images, rows in weights.all():
            query_rows, grad_rows = flat_query[images, :, rows], flat_grad[images, :, rows]
            block = weights.fill(query_rows, flat_key[images], kind)
            grad_value[images].baddbmm_(grad_rows, block)
            grad_scores = grad_weights.multiply(grad_rows, flat_value[images])
            if kind == "embedded_gaussian":
                torch._softmax_backward_data(grad_scores, block, -1, block.dtype, grad_input=grad_scores)
            else:
                grad_scores.div_(flat_key.shape[2])
            grad_query[images, :, rows] = (grad_scores @ flat_key[images].mT).mT
            grad_key[images].baddbmm_(query_rows, grad_scores)
    return (
        grad_query.unflatten(2, query.shape[2:]),
        grad_key.unflatten(2, key.shape[2:]),
        grad_value.unflatten(2, value.shape[2:]),
    )


def empty_output(query: Tensor, key: Tensor, value: Tensor, kind: str) -> Tensor:
    """The output without its values: channels last if ``value`` is, so that a convolution after it copies nothing."""
    channels_last = value.shape[1] > 1 and value.stride(1) == 1
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (query.shape[0], value.shape[1], *query.shape[2:])
    return torch.empty(shape, dtype=query.dtype, device=query.device, memory_format=layout)


def _reorders(query: Tensor, key: Tensor, value: Tensor, kind: str) -> bool:
    """Whether (V K^T) Q costs less than V (K^T Q); a softmax forbids it."""
    p, m, d, c = query.shape[2], key.shape[2], query.shape[1], value.shape[1]
    return kind == "dot_product" and p * m * (d + c) > (p + m) * d * c


def _flash_serves(query: Tensor, value: Tensor, weights: "_Block") -> bool:
    """Whether torch's own blockwise attention runs, and faster; with D != C it would build the weights."""
    return query.device.type == "cpu" and query.shape[1] == value.shape[1] and weights.rows < query.shape[2]


def _mixing(key: Tensor, value: Tensor) -> Tensor:
    return value @ key.mT / key.shape[2]  # [N, C, D]


class _Block:
    """Memory for the weights [images, rows, M] of some query positions of some images, used again and again."""

    def __init__(self, query: Tensor, key: Tensor):
        batch, p, m = query.shape[0], query.shape[2], key.shape[2]
        held = _CPU_BLOCK if query.device.type == "cpu" else _DEVICE_BLOCK
        self.batch, self.positions = batch, p
        self.rows = max(1, min(p, held // m))
        self.images = max(1, min(batch, held // (self.rows * m))) if self.rows == p else 1
        self.memory = torch.empty(self.images, self.rows, m, dtype=query.dtype, device=query.device)

    def all(self) -> Iterator[tuple[slice, slice]]:
        """The images and positions of each block."""
        for image in range(0, self.batch, self.images):
            for row in range(0, self.positions, self.rows):
                yield slice(image, image + self.images), slice(row, row + self.rows)

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        """The products [images, rows, M] of the columns of ``left`` and those of ``right``."""
        block = self.memory[: left.shape[0], : left.shape[2]]
        return torch.bmm(left.mT, right, out=block)

    def fill(self, query: Tensor, key: Tensor, kind: str) -> Tensor:
        """The weights of ``key`` for ``query``."""
        scores = self.multiply(query, key)
        return torch.softmax(scores, -1, out=scores) if kind == "embedded_gaussian" else scores.div_(key.shape[2])
