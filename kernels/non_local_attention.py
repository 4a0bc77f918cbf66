"""``non_local_attention`` with a softmax, for queries and values of different width: no weight ever reaches memory.

Forward is the online softmax: a program owns query positions and walks over the keys. Backward repeats it for the
log-sum-exp, in float32, and then walks over keys for the gradient of the queries, over queries for those of keys and
values. Value channels come in slabs: forward and the values' gradient give each slab to a program of its own, which
repeats the scores (they are the cheap half where values are wide); the others walk over the slabs. No atomics; every
sum has one order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import check_dtype, dot_precision, on_device_of


class Maps(NamedTuple):
    """Maps [N, C, P]."""

    data: tl.tensor
    stride_n: tl.tensor
    stride_c: tl.tensor
    stride_p: tl.tensor
    channels: tl.tensor
    positions: tl.tensor


@triton.jit
def _pointers(maps, image, c, p):
    """Return pointers to channels ``c`` and positions ``p``, index tiles [C, 1] and [1, P] or the other way round."""
    plane = maps.data + image.to(tl.int64) * maps.stride_n
    return plane + c.to(tl.int64) * maps.stride_c + p.to(tl.int64) * maps.stride_p


@triton.jit
def _tile(maps, image, c, p):
    """Return values, zero outside; a row per channel if ``c`` is [C, 1], per position if it is [1, C]."""
    return tl.load(_pointers(maps, image, c, p), mask=(c < maps.channels) & (p < maps.positions), other=0)


@triton.jit
def _exponents(query, key, m, keys, PRECISION: tl.constexpr):
    """Return scores to base 2, log2(e) q k, [BLOCK_P, BLOCK_M]; minus infinity behind the last key."""
    scores = tl.dot(query, key, input_precision=PRECISION) * 1.4426950408889634
    return tl.where(m < keys, scores, float("-inf"))


@triton.jit
def non_local_attention_fwd_kernel(
    out, lse, query, key, value,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Store y[p] = sum_m softmax_m(q[p] k[m]) v[m] of a slab of value channels; lse[p] = log2 sum_m e^(q[p] k[m])."""
    slab, program = tl.program_id(1), tl.program_id(0)
    blocks = tl.cdiv(query.positions, BLOCK_P)
    image = program // blocks
    p = (program % blocks * BLOCK_P + tl.arange(0, BLOCK_P))[:, None]
    d = tl.arange(0, BLOCK_D)
    c = (slab * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    query_tile = _tile(query, image, d[None, :], p)  # [BLOCK_P, BLOCK_D]
    highest = tl.full((BLOCK_P, 1), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK_P, 1), tl.float32)
    mixed = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for first in range(0, key.positions, BLOCK_M):
        m = first + tl.arange(0, BLOCK_M)
        exponents = _exponents(
            query_tile, _tile(key, image, d[:, None], m[None, :]), m[None, :], key.positions, PRECISION
        )
        now = tl.maximum(highest, tl.max(exponents, 1, keep_dims=True))
        weights = tl.exp2(exponents - now)  # [BLOCK_P, BLOCK_M]
        shrink = tl.exp2(highest - now)
        total = total * shrink + tl.sum(weights, 1, keep_dims=True)
        value_tile = _tile(value, image, c, m[:, None])  # [BLOCK_M, BLOCK_C]
        mixed = tl.dot(weights.to(value_tile.dtype), value_tile, mixed * shrink, input_precision=PRECISION)
        highest = now
    tl.store(_pointers(out, image, c, p), mixed / total, mask=(c < out.channels) & (p < out.positions))
    if lse is not None and slab == 0:
        rows = lse + image.to(tl.int64) * query.positions + p
        tl.store(rows, highest + tl.log2(total), mask=p < query.positions)


@triton.jit
def _of_queries(statistic, image, p, positions):
    """Return a statistic of the queries ``p``, zero outside."""
    return tl.load(statistic + image.to(tl.int64) * positions + p, mask=p < positions, other=0)


@triton.jit
def non_local_attention_bwd_scores_kernel(
    gradient, own, other, own_values, other_values, lse, delta, queries,
    OWN_QUERIES: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Store the gradient of queries or keys, the ``own`` maps: d own[i] = sum_j w[i, j] (g[i, j] - delta) other[j].

    w = 2^(score - lse) are the weights again, g[i, j] = own_values[i] other_values[j] their gradients, delta the sum of
    w g over the keys of a query. The values of a key are its values, those of a query its incoming gradient.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(own.positions, BLOCK_I)
    image = program // blocks
    i = (program % blocks * BLOCK_I + tl.arange(0, BLOCK_I))[:, None]
    d = tl.arange(0, BLOCK_D)
    own_tile = _tile(own, image, d[None, :], i)  # [BLOCK_I, BLOCK_D]
    if OWN_QUERIES:
        lse_tile, delta_tile = _of_queries(lse, image, i, queries), _of_queries(delta, image, i, queries)
    total = tl.zeros((BLOCK_I, BLOCK_D), tl.float32)
    for first in range(0, other.positions, BLOCK_J):
        j = first + tl.arange(0, BLOCK_J)[None, :]
        if not OWN_QUERIES:
            lse_tile, delta_tile = _of_queries(lse, image, j, queries), _of_queries(delta, image, j, queries)
        other_tile = _tile(other, image, d[:, None], j)  # [BLOCK_D, BLOCK_J]
        weights = tl.exp2(_exponents(own_tile, other_tile, j, other.positions, PRECISION) - lse_tile)
        grad_weights = tl.zeros((BLOCK_I, BLOCK_J), tl.float32)
        for slab in range(0, own_values.channels, BLOCK_C):
            c = slab + tl.arange(0, BLOCK_C)
            left, right = _tile(own_values, image, c[None, :], i), _tile(other_values, image, c[:, None], j)
            grad_weights = tl.dot(left, right, grad_weights, input_precision=PRECISION)
        grad_scores = weights * (grad_weights - delta_tile)  # [BLOCK_I, BLOCK_J]
        total = tl.dot(grad_scores.to(other_tile.dtype), tl.trans(other_tile), total, input_precision=PRECISION)
    d = d[None, :]
    tl.store(_pointers(gradient, image, d, i), total, mask=(d < own.channels) & (i < own.positions))


@triton.jit
def non_local_attention_bwd_value_kernel(
    grad_value, grad, query, key, value, lse,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Store dv[m] = sum_p softmax_m(q[p] k[m]) dy[p] of a slab of value channels."""
    slab, program = tl.program_id(1), tl.program_id(0)
    blocks = tl.cdiv(key.positions, BLOCK_M)
    image = program // blocks
    m = (program % blocks * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    d = tl.arange(0, BLOCK_D)
    c = (slab * BLOCK_C + tl.arange(0, BLOCK_C))[None, :]
    key_tile = _tile(key, image, d[None, :], m)  # [BLOCK_M, BLOCK_D]
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for first in range(0, query.positions, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)
        lse_tile = _of_queries(lse, image, p[None, :], query.positions)
        query_tile = _tile(query, image, d[:, None], p[None, :])
        weights = tl.exp2(_exponents(key_tile, query_tile, p[None, :], query.positions, PRECISION) - lse_tile)
        grad_tile = _tile(grad, image, c, p[:, None])
        total = tl.dot(weights.to(grad_tile.dtype), grad_tile, total, input_precision=PRECISION)
    tl.store(_pointers(grad_value, image, c, m), total, mask=(c < value.channels) & (m < key.positions))


def forward(query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor | None = None) -> None:
    """Store the attention of flat maps [N, D, P], [N, D, M] and [N, C, M] into ``out`` [N, C, P], any strides.

    ``lse`` (float32 [N, P], contiguous) takes the logarithm to base 2 of each query's sum of exponentials. Products are
    summed in float32. Wants at least one image, query and key.

    Raises:
        TypeError: if the dtype has no kernel.
    """
    check_dtype("non_local_attention", query, wide=False)
    tile = _tile_sizes("forward", query, value)
    grid = query.shape[0] * triton.cdiv(query.shape[2], tile["BLOCK_P"]), triton.cdiv(value.shape[1], tile["BLOCK_C"])
    with on_device_of(query):
        non_local_attention_fwd_kernel[grid](_described(out), lse, *map(_described, (query, key, value)), **tile)


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor
) -> None:
    """Store the gradients of :func:`forward` in the last three."""
    images, _, positions = query.shape
    lse = torch.empty(images, positions, dtype=torch.float32, device=query.device)
    out = torch.empty(grad.shape, dtype=torch.float32, device=grad.device)
    forward(query, key, value, out, lse)
    delta = out.mul_(grad).sum(1)
    tile = _tile_sizes("backward", query, value)
    to_query, to_key, to_value = map(_described, (grad_query, grad_key, grad_value))
    grads, queries, keys, values = map(_described, (grad, query, key, value))
    shared = {name: size for name, size in tile.items() if name not in ("BLOCK_P", "BLOCK_M")}
    block_p, block_m = tile["BLOCK_P"], tile["BLOCK_M"]
    query_blocks, key_blocks = triton.cdiv(queries.positions, block_p), triton.cdiv(keys.positions, block_m)
    with on_device_of(query):
        non_local_attention_bwd_scores_kernel[(images * query_blocks,)](
            to_query, queries, keys, grads, values, lse, delta, positions,
            OWN_QUERIES=True, BLOCK_I=block_p, BLOCK_J=block_m, **shared,
        )  # fmt: skip
        non_local_attention_bwd_scores_kernel[(images * key_blocks,)](
            to_key, keys, queries, values, grads, lse, delta, positions,
            OWN_QUERIES=False, BLOCK_I=block_m, BLOCK_J=block_p, **shared,
        )  # fmt: skip
        slabs = triton.cdiv(values.channels, tile["BLOCK_C"])
        non_local_attention_bwd_value_kernel[(images * key_blocks, slabs)](
            to_value, grads, queries, keys, values, lse, **tile
        )


def _described(flat: Tensor) -> Maps:
    return Maps(flat, *flat.stride(), *flat.shape[1:])


# By half precision and the most query channels: (BLOCK_P, BLOCK_M, channels of a slab, warps, stages). None spills on
# sm_80 and sm_90.
_TILES = {
    (True, 32): {"forward": (128, 64, 128, 8, 2), "backward": (64, 64, 128, 8, 2)},
    (True, 128): {"forward": (64, 32, 128, 8, 2), "backward": (64, 32, 64, 8, 2)},
    (False, 32): {"forward": (64, 32, 64, 8, 2), "backward": (32, 32, 32, 4, 2)},
    (False, 64): {"forward": (32, 32, 64, 4, 1), "backward": (32, 32, 32, 8, 2)},
    (False, 128): {"forward": (32, 32, 64, 8, 2), "backward": (16, 16, 32, 4, 2)},
}


def _tile_sizes(kernel: str, query: Tensor, value: Tensor) -> dict:
    half, channels = query.element_size() < 4, query.shape[1]
    # More channels than any are still right, only slow.
    fitting = [most for wide, most in _TILES if wide == half and channels <= most]
    block_p, block_m, slab, warps, stages = _TILES[half, min(fitting, default=128)][kernel]
    return {
        "PRECISION": dot_precision(query.dtype),
        "BLOCK_P": block_p,
        "BLOCK_M": block_m,
        "BLOCK_D": max(16, triton.next_power_of_2(query.shape[1])),
        "BLOCK_C": max(16, min(slab, triton.next_power_of_2(value.shape[1]))),
        "num_warps": warps,
        "num_stages": stages,
    }
