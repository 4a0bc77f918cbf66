"""``non_local_attention`` in library calls, a block of weights at a time: P x M weights are never in memory at once.

The score product and the value product are matrix products that the vendor's library runs at its peak; between them
stands one fused softmax over a block that still lies in the cache. Blocks hold whole rows, so the softmax needs neither
rescaling nor a saved log-sum-exp, and backward repeats it. Half precision, which only CUDA gets here, keeps weights in
float32 until they are multiplied with the values.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from wsolfast.ops import _cuda_attention
from wsolfast.reference._layout import layout_of

# Weights in memory at once: a megabyte of float32, which stays in a core's L2; other devices need more to fill them.
_CPU_BLOCK = 2**18
_DEVICE_BLOCK = 2**26


def forward(query: Tensor, key: Tensor, value: Tensor, kind: str) -> Tensor:
    """Same contract as the reference, in bounded memory."""
    out = empty_output(query, key, value, kind)
    flat_query, flat_key, flat_value = (maps.flatten(2) for maps in (query, key, value))
    flat_out = out.flatten(2)
    route = _route(flat_query, flat_key, flat_value, kind)
    if route == "reordered":
        flat_out.copy_(_mixing(flat_key, flat_value) @ flat_query)
    elif route == "flash":
        queries, keys, values = (maps.mT.contiguous()[:, None] for maps in (flat_query, flat_key, flat_value))
        flat_out.copy_(functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)[:, 0].mT)
    elif route == "triton":
        _cuda_attention.by_triton(flat_query, flat_key, flat_value, flat_out)
    elif route == "blocks":
        _fill_by_blocks(flat_out, flat_query, flat_key, flat_value, kind)
    return out


def _fill_by_blocks(out: Tensor, query: Tensor, key: Tensor, value: Tensor, kind: str) -> None:
    weights = _Block(query, key)
    for images, rows in weights.all():
        block = weights.fill(query[images, :, rows], key[images], kind).to(query.dtype)
        if weights.rows == weights.positions:
            out[images] = value[images] @ block.mT
        else:
            # A few rows times many values: this orientation is what matrix libraries do best.
            out[images, :, rows] = (block @ value[images].mT).mT


def backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``query``, ``key`` and ``value``; the weights are computed again, block by block."""
    flat_grad, flat_query, flat_key, flat_value = (maps.flatten(2) for maps in (grad, query, key, value))
    route = _route(flat_query, flat_key, flat_value, kind)
    if route == "reordered":
        grad_mixing = flat_grad @ flat_query.mT / flat_key.shape[2]  # [N, C, D]
        grad_query = _mixing(flat_key, flat_value).mT @ flat_grad
        grad_key = grad_mixing.mT @ flat_value
        grad_value = grad_mixing @ flat_key
    else:
        grad_query = torch.empty(flat_query.shape, dtype=query.dtype, device=query.device)
        grad_key = torch.zeros(flat_key.shape, dtype=key.dtype, device=key.device)
        grad_value = torch.zeros(flat_value.shape, dtype=value.dtype, device=value.device)
        gradients, flat = (grad_query, grad_key, grad_value), (flat_query, flat_key, flat_value)
        if route == "triton":
            _cuda_attention.gradients_by_triton(flat_grad, *flat, gradients)
        else:
            _add_gradients_by_blocks(gradients, flat_grad, *flat, kind)
    return (
        grad_query.unflatten(2, query.shape[2:]),
        grad_key.unflatten(2, key.shape[2:]),
        grad_value.unflatten(2, value.shape[2:]),
    )


def _add_gradients_by_blocks(
    gradients: tuple[Tensor, Tensor, Tensor], grad: Tensor, query: Tensor, key: Tensor, value: Tensor, kind: str
) -> None:
    grad_query, grad_key, grad_value = gradients
    weights, grad_weights = _Block(query, key), _Block(query, key)
    for images, rows in weights.all():
        query_rows, grad_rows = query[images, :, rows], grad[images, :, rows]
        block = weights.fill(query_rows, key[images], kind)
        grad_value[images].baddbmm_(grad_rows, block.to(grad.dtype))
        grad_scores = grad_weights.multiply(grad_rows, value[images])
        if kind == "embedded_gaussian":
            torch._softmax_backward_data(grad_scores, block, -1, block.dtype, grad_input=grad_scores)
        else:
            grad_scores.div_(key.shape[2])
        grad_scores = grad_scores.to(query.dtype)
        grad_query[images, :, rows] = (grad_scores @ key[images].mT).mT
        grad_key[images].baddbmm_(query_rows, grad_scores)


def empty_output(query: Tensor, key: Tensor, value: Tensor, kind: str) -> Tensor:
    """Return memory for the output: channels last if ``value`` is, so that a convolution after it copies nothing."""
    shape = (query.shape[0], value.shape[1], *query.shape[2:])
    return torch.empty(shape, dtype=query.dtype, device=query.device, memory_format=layout_of(value))


def _route(query: Tensor, key: Tensor, value: Tensor, kind: str) -> str:
    """Return the way flat maps are served: "reordered", "flash", "triton" or "blocks"."""
    p, m, d, c = query.shape[2], key.shape[2], query.shape[1], value.shape[1]
    if kind == "dot_product":
        # (V K^T) Q where that costs less than V (K^T Q); a softmax forbids it.
        return "reordered" if p * m * (d + c) > (p + m) * d * c else "blocks"
    if query.is_cuda and query.numel():
        # The libraries are asked before the op, so that their own kernels differentiate them.
        tf32 = torch.get_float32_matmul_precision() != "highest"
        capability = _cuda_attention.capability(query.device)
        return _cuda_attention.cuda_route(
            query.dtype, p, m, d, c, images=query.shape[0], capability=capability, tf32=tf32
        )
    # Where D != C torch's own blockwise attention would build the weights.
    flash = query.device.type == "cpu" and d == c and _Block.rows_of(query, key) < p
    return "flash" if flash else "blocks"


def _mixing(key: Tensor, value: Tensor) -> Tensor:
    return value @ key.mT / key.shape[2]  # [N, C, D]


class _Block:
    """Memory for the weights [images, rows, M] of some query positions of some images, used again and again."""

    def __init__(self, query: Tensor, key: Tensor):
        batch, p, m = query.shape[0], query.shape[2], key.shape[2]
        self.batch, self.positions = batch, p
        self.rows = self.rows_of(query, key)
        self.images = max(1, min(batch, self._held(query) // (self.rows * m))) if self.rows == p else 1
        dtype = torch.float32 if query.element_size() < 4 else query.dtype
        self.memory = torch.empty(self.images, self.rows, m, dtype=dtype, device=query.device)

    @classmethod
    def rows_of(cls, query: Tensor, key: Tensor) -> int:
        """Return the number of query positions of an image that one block has weights for."""
        return max(1, min(query.shape[2], cls._held(query) // key.shape[2]))

    @staticmethod
    def _held(query: Tensor) -> int:
        return _CPU_BLOCK if query.device.type == "cpu" else _DEVICE_BLOCK

    def all(self) -> Iterator[tuple[slice, slice]]:
        """Yield the images and positions of each block."""
        for image in range(0, self.batch, self.images):
            for row in range(0, self.positions, self.rows):
                yield slice(image, image + self.images), slice(row, row + self.rows)

    def multiply(self, left: Tensor, right: Tensor) -> Tensor:
        """Return the products [images, rows, M] of the columns of ``left`` and those of ``right``."""
        block = self.memory[: left.shape[0], : left.shape[2]]
        if left.dtype == block.dtype:
            return torch.bmm(left.mT, right, out=block)
        if left.is_cuda:
            return torch.bmm(left.mT, right, torch.float32, out=block)
        # Products of half precision with a result in float32 are a kernel that other devices have not.
        return torch.bmm(left.mT.float(), right.float(), out=block)

    def fill(self, query: Tensor, key: Tensor, kind: str) -> Tensor:
        """Return the weights of ``key`` for ``query``."""
        scores = self.multiply(query, key)
        return torch.softmax(scores, -1, out=scores) if kind == "embedded_gaussian" else scores.div_(key.shape[2])
