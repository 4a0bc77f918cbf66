"""``non_local_attention`` with a softmax, for queries and values of different width: no weight ever reaches memory.

Forward is the online softmax: a program owns query positions and walks over the keys. Backward has two launches. The
owners of queries walk over the keys twice, for the log-sum-exp and the mean of the weights' gradients, in float32, and
then for the gradient of the queries; where a tile has all keys, once. The owners of keys walk over the queries. Value
channels come in slabs: forward and the values' gradient give each slab to a program of its own, which repeats the
scores (they are the cheap half where values are wide); the others walk over the slabs. No atomics; every sum has one
order.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import architecture, check_dtype, dot_precision, on_device_of


class Maps(NamedTuple):
    """Maps [N, C, P]."""

    data: tl.tensor
    stride_n: tl.tensor
    stride_c: tl.tensor
    stride_p: tl.tensor
    channels: tl.tensor
    positions: tl.tensor
    # A power of 2 that divides strides and positions: as many values are loaded at once. Triton itself finds 16 only.
    step: tl.constexpr
    # Offsets in an image need 64 bits.
    far: tl.constexpr


@triton.jit
def _stepped(multiple, step: tl.constexpr):
    """Return ``multiple`` so that the compiler sees it as one of ``step``."""
    return multiple // step * step


@triton.jit
def _pointers(maps, image, c, p):
    """Return pointers to channels ``c`` and positions ``p``, index tiles [C, 1] and [1, P] or the other way round."""
    plane = maps.data + image.to(tl.int64) * _stepped(maps.stride_n, maps.step)
    index: tl.constexpr = tl.int64 if maps.far else tl.int32
    return plane + (c.to(index) * _stepped(maps.stride_c, maps.step) + p.to(index) * maps.stride_p)


@triton.jit
def _tile(maps, image, c, p):
    """Return values, zero outside; a row per channel if ``c`` is [C, 1], per position if it is [1, C]."""
    here = (c < maps.channels) & (p < _stepped(maps.positions, maps.step))
    return tl.load(_pointers(maps, image, c, p), mask=here, other=0)


@triton.jit
def _exponents(query, key, m, keys, PRECISION: tl.constexpr):
    """Return scores to base 2, log2(e) q k, [BLOCK_P, BLOCK_M]; minus infinity behind the last key."""
    scores = tl.dot(query, key, input_precision=PRECISION) * 1.4426950408889634
    return tl.where(m < keys, scores, float("-inf"))


@triton.jit
def non_local_attention_fwd_kernel(
    out, query, key, value,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Store y[p] = sum_m softmax_m(q[p] k[m]) v[m] of a slab of value channels."""
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


@triton.jit
def _of_queries(statistic, image, p, positions):
    """Return a statistic of the queries ``p``, zero outside."""
    return tl.load(statistic + image.to(tl.int64) * positions + p, mask=p < positions, other=0)


@triton.jit
def _grad_weights(own_tile, own, other, image, i, j, PRECISION: tl.constexpr, BLOCK_C: tl.constexpr):
    """Return own[i] other[j] over all value channels, [BLOCK_I, BLOCK_J]; ``own_tile`` is all of own[i] or None.

    The values of a key are its values, those of a query its incoming gradient.
    """
    c = tl.arange(0, BLOCK_C)
    products = tl.zeros((i.shape[0], j.shape[1]), tl.float32)
    if own_tile is not None:
        products = tl.dot(own_tile, _tile(other, image, c[:, None], j), products, input_precision=PRECISION)
    else:
        for slab in range(0, own.channels, BLOCK_C):
            left, right = _tile(own, image, slab + c[None, :], i), _tile(other, image, slab + c[:, None], j)
            products = tl.dot(left, right, products, input_precision=PRECISION)
    return products


@triton.jit
def non_local_attention_bwd_queries_kernel(
    grad_query, lse, delta, query, key, value, grad,
    WHOLE: tl.constexpr, RESIDENT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Store dq[i] = sum_j w[i, j] (g[i, j] - delta[i]) k[j], delta[i] = sum_j w[i, j] g[i, j], and lse of the scores.

    w are the weights, g[i, j] = dy[i] v[j] their gradients, lse[i] = log2 sum_j e^(q[i] k[j]). WHOLE: BLOCK_J has all
    keys.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(query.positions, BLOCK_I)
    image = program // blocks
    i = (program % blocks * BLOCK_I + tl.arange(0, BLOCK_I))[:, None]
    d = tl.arange(0, BLOCK_D)
    query_tile = _tile(query, image, d[None, :], i)  # [BLOCK_I, BLOCK_D]
    if WHOLE:
        j = tl.arange(0, BLOCK_J)[None, :]
        key_tile = _tile(key, image, d[:, None], j)  # [BLOCK_D, BLOCK_J]
        exponents = _exponents(query_tile, key_tile, j, key.positions, PRECISION)
        highest = tl.max(exponents, 1, keep_dims=True)
        weights = tl.exp2(exponents - highest)
        total = tl.sum(weights, 1, keep_dims=True)
        weights = weights / total
        grad_weights = _grad_weights(None, grad, value, image, i, j, PRECISION, BLOCK_C)
        delta_tile = tl.sum(weights * grad_weights, 1, keep_dims=True)
        grad_scores = (weights * (grad_weights - delta_tile)).to(key_tile.dtype)  # [BLOCK_I, BLOCK_J]
        gradient = tl.dot(grad_scores, tl.trans(key_tile), input_precision=PRECISION)
        lse_tile = highest + tl.log2(total)
    else:
        # Not by a function: in Triton 3.6 none returns None.
        grad_tile = _tile(grad, image, tl.arange(0, BLOCK_C)[None, :], i) if RESIDENT else None
        highest = tl.full((BLOCK_I, 1), float("-inf"), tl.float32)
        total = tl.zeros((BLOCK_I, 1), tl.float32)
        mean = tl.zeros((BLOCK_I, 1), tl.float32)
        for first in range(0, key.positions, BLOCK_J):
            j = first + tl.arange(0, BLOCK_J)[None, :]
            key_tile = _tile(key, image, d[:, None], j)
            exponents = _exponents(query_tile, key_tile, j, key.positions, PRECISION)
            now = tl.maximum(highest, tl.max(exponents, 1, keep_dims=True))
            weights = tl.exp2(exponents - now)
            shrink = tl.exp2(highest - now)
            grad_weights = _grad_weights(grad_tile, grad, value, image, i, j, PRECISION, BLOCK_C)
            total = total * shrink + tl.sum(weights, 1, keep_dims=True)
            mean = mean * shrink + tl.sum(weights * grad_weights, 1, keep_dims=True)
            highest = now
        lse_tile, delta_tile = highest + tl.log2(total), mean / total
        gradient = tl.zeros((BLOCK_I, BLOCK_D), tl.float32)
        for first in range(0, key.positions, BLOCK_J):
            j = first + tl.arange(0, BLOCK_J)[None, :]
            key_tile = _tile(key, image, d[:, None], j)
            weights = tl.exp2(_exponents(query_tile, key_tile, j, key.positions, PRECISION) - lse_tile)
            grad_weights = _grad_weights(grad_tile, grad, value, image, i, j, PRECISION, BLOCK_C)
            grad_scores = (weights * (grad_weights - delta_tile)).to(key_tile.dtype)
            gradient = tl.dot(grad_scores, tl.trans(key_tile), gradient, input_precision=PRECISION)
    here = i < query.positions
    tl.store(_pointers(grad_query, image, d[None, :], i), gradient, mask=(d[None, :] < query.channels) & here)
    rows = image.to(tl.int64) * query.positions + i
    tl.store(lse + rows, lse_tile, mask=here)
    tl.store(delta + rows, delta_tile, mask=here)


@triton.jit
def _key_gradient(
    grad_key, query, key, value, grad, lse, delta, image, i,
    RESIDENT: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Store dk[i] = sum_j w[j, i] (g[j, i] - delta[j]) q[j] of keys i: w = 2^(score - lse) are the weights again."""
    d = tl.arange(0, BLOCK_D)
    key_tile = _tile(key, image, d[None, :], i)  # [BLOCK_I, BLOCK_D]
    value_tile = _tile(value, image, tl.arange(0, BLOCK_C)[None, :], i) if RESIDENT else None
    gradient = tl.zeros((BLOCK_I, BLOCK_D), tl.float32)
    for first in range(0, query.positions, BLOCK_J):
        j = first + tl.arange(0, BLOCK_J)[None, :]
        lse_tile = _of_queries(lse, image, j, query.positions)
        delta_tile = _of_queries(delta, image, j, query.positions)
        query_tile = _tile(query, image, d[:, None], j)  # [BLOCK_D, BLOCK_J]
        weights = tl.exp2(_exponents(key_tile, query_tile, j, query.positions, PRECISION) - lse_tile)
        grad_weights = _grad_weights(value_tile, value, grad, image, i, j, PRECISION, BLOCK_C)
        grad_scores = (weights * (grad_weights - delta_tile)).to(query_tile.dtype)  # [BLOCK_I, BLOCK_J]
        gradient = tl.dot(grad_scores, tl.trans(query_tile), gradient, input_precision=PRECISION)
    here = (d[None, :] < key.channels) & (i < key.positions)
    tl.store(_pointers(grad_key, image, d[None, :], i), gradient, mask=here)


@triton.jit
def _value_gradient(
    grad_value, query, key, grad, lse, image, i, slab,
    PRECISION: tl.constexpr,
    BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Store dv[i] = sum_j w[j, i] dy[j] of keys i and a slab of value channels."""
    d = tl.arange(0, BLOCK_D)
    c = (slab * BLOCK_V + tl.arange(0, BLOCK_V))[None, :]
    key_tile = _tile(key, image, d[None, :], i)  # [BLOCK_I, BLOCK_D]
    gradient = tl.zeros((BLOCK_I, BLOCK_V), tl.float32)
    for first in range(0, query.positions, BLOCK_J):
        j = first + tl.arange(0, BLOCK_J)
        lse_tile = _of_queries(lse, image, j[None, :], query.positions)
        query_tile = _tile(query, image, d[:, None], j[None, :])
        weights = tl.exp2(_exponents(key_tile, query_tile, j[None, :], query.positions, PRECISION) - lse_tile)
        grad_tile = _tile(grad, image, c, j[:, None])
        gradient = tl.dot(weights.to(grad_tile.dtype), grad_tile, gradient, input_precision=PRECISION)
    tl.store(_pointers(grad_value, image, c, i), gradient, mask=(c < grad_value.channels) & (i < key.positions))


@triton.jit
def non_local_attention_bwd_keys_kernel(
    grad_key, grad_value, query, key, value, grad, lse, delta,
    RESIDENT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_I: tl.constexpr, BLOCK_J: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Store the gradient of a block of keys, in the first program of each, or a slab of their values' gradient."""
    program, part = tl.program_id(0), tl.program_id(1)
    blocks = tl.cdiv(key.positions, BLOCK_I)
    image = program // blocks
    i = (program % blocks * BLOCK_I + tl.arange(0, BLOCK_I))[:, None]
    if part == 0:
        _key_gradient(
            grad_key, query, key, value, grad, lse, delta, image, i, RESIDENT, PRECISION,
            BLOCK_I, BLOCK_J, BLOCK_D, BLOCK_C,
        )  # fmt: skip
    else:
        _value_gradient(
            grad_value, query, key, grad, lse, image, i, part - 1, PRECISION, BLOCK_I, BLOCK_J, BLOCK_D, BLOCK_V
        )


def forward(query: Tensor, key: Tensor, value: Tensor, out: Tensor) -> None:
    """Store the attention of flat maps [N, D, P], [N, D, M] and [N, C, M] into ``out`` [N, C, P], any strides.

    Products are summed in float32. Wants at least one image, query and key.

    Raises:
        TypeError: if the dtype has no kernel.
    """
    check_dtype("non_local_attention", query, wide=False)
    with on_device_of(query):
        tiles = _tiles_of(query).forward
        block_c = _block(value.shape[1], tiles.slab)
        blocks = query.shape[0] * triton.cdiv(query.shape[2], tiles.queries)
        non_local_attention_fwd_kernel[blocks, triton.cdiv(value.shape[1], block_c)](
            *map(_described, (out, query, key, value)),
            PRECISION=dot_precision(query.dtype), BLOCK_P=tiles.queries, BLOCK_M=tiles.keys,
            BLOCK_D=_block(query.shape[1]), BLOCK_C=block_c, num_warps=tiles.warps, num_stages=tiles.stages,
        )  # fmt: skip


def backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, grad_query: Tensor, grad_key: Tensor, grad_value: Tensor
) -> None:
    """Store the gradients of :func:`forward` in the last three."""
    images, channels, positions = query.shape
    value_channels, keys = value.shape[1:]
    # Two allocations: the second one's address would else depend on the number of images, and compile kernels again.
    lse, delta = (torch.empty(images, positions, dtype=torch.float32, device=query.device) for _ in range(2))
    described = [_described(maps) for maps in (query, key, value, grad)]
    with on_device_of(query):
        table = _tiles_of(query)
        tiles = table.backward
        block_v, block_c = _block(value_channels, tiles.slab), _block(value_channels, table.summed)
        whole, resident = keys <= table.whole, value_channels <= table.resident
        # All value channels of a block of positions stay on chip where they fit; beside all keys they do not.
        in_parts = {"RESIDENT": False, "BLOCK_C": block_c}
        of_keys = {"RESIDENT": True, "BLOCK_C": _block(value_channels)} if resident else in_parts
        of_queries = in_parts if whole else of_keys
        shared = {"PRECISION": dot_precision(query.dtype), "BLOCK_D": _block(channels)}
        shared |= {"num_warps": tiles.warps, "num_stages": tiles.stages}
        # Two programs of eight warps stand on a multiprocessor where copies are wide and take few addresses.
        two = {"maxnreg": 128} if table.whole and not resident and value.stride(1) == 1 else {}
        non_local_attention_bwd_queries_kernel[(images * triton.cdiv(positions, tiles.queries),)](
            _described(grad_query), lse, delta, *described,
            WHOLE=whole, BLOCK_I=tiles.queries, BLOCK_J=_block(keys) if whole else tiles.keys,
            **of_queries, **shared, **({} if whole else two),
        )  # fmt: skip
        parts = 1 + triton.cdiv(value_channels, block_v)
        non_local_attention_bwd_keys_kernel[(images * triton.cdiv(keys, tiles.keys), parts)](
            _described(grad_key), _described(grad_value), *described, lse, delta,
            BLOCK_I=tiles.keys, BLOCK_J=tiles.queries, BLOCK_V=block_v, **of_keys, **shared, **two,
        )  # fmt: skip


def _described(flat: Tensor) -> Maps:
    (stride_n, stride_c, stride_p), (channels, positions) = flat.stride(), flat.shape[1:]
    step = math.gcd(stride_n, stride_c, positions, _MOST_STEP) if stride_p == 1 else 1
    # Of tiles, too, which reach behind the last channel and position.
    far = (channels + _LONGEST) * stride_c + (positions + _LONGEST) * stride_p >= 2**31
    return Maps(flat, stride_n, stride_c, stride_p, channels, positions, tl.constexpr(step), tl.constexpr(far))


class _Tiles(NamedTuple):
    """Positions of a tile, value channels of a slab that is stored, and how a program of them runs."""

    queries: int
    keys: int
    slab: int
    warps: int
    stages: int


class _Plan(NamedTuple):
    """Tiles of both passes. A sum over the value channels goes by ``summed`` of them.

    One tile has all keys of up to ``whole``, and all value channels of up to ``resident`` stay on chip.
    """

    forward: _Tiles
    backward: _Tiles
    summed: int
    whole: int = 0
    resident: int = 0


# The first to multiply by warp groups (wgmma).
_HOPPER = 90
# By the most query channels. None spills on the devices that take it: of half precision those that multiply by warp
# groups, whose operands wait in shared memory; older ones, which hold them in registers; of float32 all.
_HALF = {
    32: _Plan(_Tiles(128, 64, 256, 8, 2), _Tiles(64, 64, 128, 8, 2), 64, whole=256, resident=256),
    128: _Plan(_Tiles(64, 64, 256, 8, 2), _Tiles(64, 64, 128, 8, 2), 64, whole=256, resident=256),
}
_HALF_IN_REGISTERS = {
    32: _Plan(_Tiles(128, 64, 128, 8, 2), _Tiles(64, 64, 128, 8, 2), 128),
    128: _Plan(_Tiles(64, 64, 128, 8, 2), _Tiles(64, 32, 64, 8, 2), 64),
}
_FULL = {
    32: _Plan(_Tiles(64, 32, 64, 8, 2), _Tiles(32, 32, 32, 4, 2), 32),
    64: _Plan(_Tiles(32, 32, 64, 4, 1), _Tiles(32, 32, 32, 8, 2), 32),
    128: _Plan(_Tiles(32, 32, 64, 8, 2), _Tiles(16, 16, 32, 4, 2), 32),
}
# Values of half precision in 16 bytes, and the longest side of a tile.
_MOST_STEP = 8
_LONGEST = 512


def _tiles_of(query: Tensor) -> _Plan:
    older = 0 < architecture(query) < _HOPPER
    plans = _FULL if query.element_size() == 4 else _HALF_IN_REGISTERS if older else _HALF
    # More channels than any are still right, only slow.
    return plans[min((most for most in plans if query.shape[1] <= most), default=128)]


def _block(size: int, most: int | None = None) -> int:
    """Return the length of a tile that holds ``size``, or as much of it as ``most`` allows."""
    block = max(16, triton.next_power_of_2(size))
    return block if most is None else min(most, block)
