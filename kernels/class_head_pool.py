"""``class_head_pool``: a matrix product whose tiles are rectified and summed where they are, in registers.

Class maps never reach memory. Backward computes them again, twice: a program that owns positions walks over the classes
for the gradient of the features, one that owns classes walks over images and positions for that of the weight. The
incoming gradient is one number per image and class, so it takes the place of the positive values of a map, exactly in
its own dtype; the division by the number of positions comes last. What programs share is summed in a fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import check_dtype, dot_precision, on_device_of

# Two programs on each multiprocessor of a large GPU; below that positions, or images, are split among programs.
_ENOUGH_PROGRAMS = 264
# Channels that tiles of half precision hold at once if these are all, which is the fast case.
_MOST_CHANNELS = 128


class Features(NamedTuple):
    """Maps [N, C, P]."""

    maps: tl.tensor
    stride_n: tl.tensor
    stride_c: tl.tensor
    stride_p: tl.tensor
    channels: tl.tensor
    positions: tl.tensor


class Head(NamedTuple):
    """Weight [K, C] and bias [K] or None."""

    weight: tl.tensor
    bias: tl.tensor
    stride_k: tl.tensor
    stride_c: tl.tensor
    classes: tl.tensor


@triton.jit
def _feature_tile(features, image, c, p):
    pointers = features.maps + image.to(tl.int64) * features.stride_n + c.to(tl.int64)[:, None] * features.stride_c
    mask = (c < features.channels)[:, None] & (p < features.positions)[None, :]
    return tl.load(pointers + p.to(tl.int64)[None, :] * features.stride_p, mask=mask, other=0)


@triton.jit
def _weight_tile(head, channels, k, c):
    pointers = head.weight + k.to(tl.int64)[:, None] * head.stride_k + c.to(tl.int64)[None, :] * head.stride_c
    return tl.load(pointers, mask=(k < head.classes)[:, None] & (c < channels)[None, :], other=0)


@triton.jit
def _class_maps(
    features, head, image, k, p, weight_tile, feature_tile,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Return M[k, p] = sum_c W[k, c] F[c, p] + b[k], from the tiles of all channels if they are given."""
    maps = tl.zeros((BLOCK_K, BLOCK_P), DTYPE)
    if weight_tile is not None:
        maps = tl.dot(weight_tile, feature_tile, maps, input_precision=PRECISION, out_dtype=DTYPE)
    else:
        for first in range(0, features.channels, BLOCK_C):
            c = first + tl.arange(0, BLOCK_C)
            weight = _weight_tile(head, features.channels, k, c)
            maps = tl.dot(
                weight, _feature_tile(features, image, c, p), maps, input_precision=PRECISION, out_dtype=DTYPE
            )
    if head.bias is not None:
        maps += tl.load(head.bias + k, mask=k < head.classes, other=0).to(DTYPE)[:, None]
    return maps


@triton.jit(do_not_specialize=["images", "splits"])
def class_head_pool_fwd_kernel(
    out, features, head, images, splits,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Store out[s, n, k] = 1/P sum_p ReLU(M[k, p]) over the positions of split s; ``out`` is [splits, N, K]."""
    program = tl.program_id(0)
    groups = tl.cdiv(head.classes, BLOCK_K)
    k = program % groups * BLOCK_K + tl.arange(0, BLOCK_K)
    image = program // groups % images
    split = program // groups // images
    length = tl.cdiv(tl.cdiv(features.positions, BLOCK_P), splits) * BLOCK_P
    weight_tile = None
    c = tl.arange(0, BLOCK_C)
    if WHOLE:
        weight_tile = _weight_tile(head, features.channels, k, c)  # [BLOCK_K, BLOCK_C]
    total = tl.zeros((BLOCK_K,), DTYPE)
    for begin in range(split * length, tl.minimum((split + 1) * length, features.positions), BLOCK_P):
        p = begin + tl.arange(0, BLOCK_P)
        feature_tile = _feature_tile(features, image, c, p) if WHOLE else None
        maps = _class_maps(
            features, head, image, k, p, weight_tile, feature_tile, PRECISION, DTYPE, BLOCK_K, BLOCK_P, BLOCK_C
        )
        # A NaN is not below zero, so it stays.
        total += tl.sum(tl.where((maps < 0) | (p >= features.positions)[None, :], 0.0, maps), 1)
    offset = (split * images + image).to(tl.int64) * head.classes
    tl.store(out + offset + k, total / features.positions, mask=k < head.classes)


@triton.jit
def _positive(maps, grad, image, k, classes, stride_n, stride_k):
    """Return G[k] [M[k, p] > 0], the incoming gradient where the class maps are positive: [BLOCK_K, BLOCK_P]."""
    incoming = tl.load(grad + image.to(tl.int64) * stride_n + k.to(tl.int64) * stride_k, mask=k < classes, other=0)
    return tl.where(maps > 0, incoming[:, None], 0.0).to(incoming.dtype)


@triton.jit
def class_head_pool_bwd_features_kernel(
    out, grad, stride_n, stride_k, features, head,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Store the gradient of the features: dF[c, p] = 1/P sum_k W[k, c] G[k] [M[k, p] > 0]."""
    program = tl.program_id(0)
    position_blocks = tl.cdiv(features.positions, BLOCK_P)
    channel_blocks = tl.cdiv(features.channels, BLOCK_C)
    p = program % position_blocks * BLOCK_P + tl.arange(0, BLOCK_P)
    c = program // position_blocks % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    image = program // position_blocks // channel_blocks
    feature_tile = None
    if WHOLE:
        feature_tile = _feature_tile(features, image, c, p)  # [BLOCK_C, BLOCK_P]
    total = tl.zeros((BLOCK_C, BLOCK_P), DTYPE)
    for first in range(0, head.classes, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        weight_tile = _weight_tile(head, features.channels, k, c)  # [BLOCK_K, BLOCK_C]
        held_weight = weight_tile if WHOLE else None
        maps = _class_maps(
            features, head, image, k, p, held_weight, feature_tile, PRECISION, DTYPE, BLOCK_K, BLOCK_P, BLOCK_C
        )
        share = _positive(maps, grad, image, k, head.classes, stride_n, stride_k)  # [BLOCK_K, BLOCK_P]
        total = tl.dot(tl.trans(weight_tile), share, total, input_precision=PRECISION, out_dtype=DTYPE)
    pointers = out.maps + image.to(tl.int64) * out.stride_n + c.to(tl.int64)[:, None] * out.stride_c
    mask = (c < features.channels)[:, None] & (p < features.positions)[None, :]
    tl.store(pointers + p.to(tl.int64)[None, :] * out.stride_p, total / features.positions, mask=mask)


@triton.jit(do_not_specialize=["images", "splits"])
def class_head_pool_bwd_weight_kernel(
    grad_weight, grad_bias, grad, stride_n, stride_k, features, head, images, splits,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Store dW[k, c] = 1/P sum_{n, p} G[k] [M[k, p] > 0] F[c, p] and db[k], the same without F.

    They are [splits, K, C] and [splits, K], each over its share of the images.
    """
    program = tl.program_id(0)
    groups = tl.cdiv(head.classes, BLOCK_K)
    channel_blocks = tl.cdiv(features.channels, BLOCK_C)
    k = program % groups * BLOCK_K + tl.arange(0, BLOCK_K)
    channel_block = program // groups % channel_blocks
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    split = program // groups // channel_blocks
    share_of_images = tl.cdiv(images, splits)
    position_blocks = tl.cdiv(features.positions, BLOCK_P)
    weight_tile = None
    if WHOLE:
        weight_tile = _weight_tile(head, features.channels, k, c)  # [BLOCK_K, BLOCK_C]
    total = tl.zeros((BLOCK_K, BLOCK_C), DTYPE)
    total_bias = tl.zeros((BLOCK_K,), DTYPE)
    begin = split * share_of_images * position_blocks
    end = tl.minimum((split + 1) * share_of_images, images) * position_blocks
    for step in range(begin, end):
        image = tl.cast(step // position_blocks, tl.int64)
        p = step % position_blocks * BLOCK_P + tl.arange(0, BLOCK_P)
        feature_tile = _feature_tile(features, image, c, p)  # [BLOCK_C, BLOCK_P]
        held_features = feature_tile if WHOLE else None
        maps = _class_maps(
            features, head, image, k, p, weight_tile, held_features, PRECISION, DTYPE, BLOCK_K, BLOCK_P, BLOCK_C
        )
        maps = tl.where((p < features.positions)[None, :], maps, 0.0)
        share = _positive(maps, grad, image, k, head.classes, stride_n, stride_k)  # [BLOCK_K, BLOCK_P]
        total = tl.dot(share, tl.trans(feature_tile), total, input_precision=PRECISION, out_dtype=DTYPE)
        total_bias += tl.sum(share.to(DTYPE), 1)
    offset = split.to(tl.int64) * head.classes
    rows = grad_weight + (offset + k)[:, None] * features.channels
    mask = (k < head.classes)[:, None] & (c < features.channels)[None, :]
    tl.store(rows + c[None, :], total / features.positions, mask=mask)
    if channel_block == 0:
        tl.store(grad_bias + offset + k, total_bias / features.positions, mask=k < head.classes)


def class_head_pool(features: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Same contract as the reference; products of half precision are summed in float32 and rounded at the end."""
    check_dtype("class_head_pool", features)
    flat = features.flatten(2)
    images, channels, positions = flat.shape
    wide = _accumulator(features)
    if not relu:
        logits = flat.mean(2, dtype=wide) @ weight.to(wide).mT
        return (logits if bias is None else logits + bias).to(features.dtype)
    tile = _tile(features, channels)
    programs = images * triton.cdiv(weight.shape[0], tile["BLOCK_K"])
    splits = min(triton.cdiv(positions, tile["BLOCK_P"]), triton.cdiv(_ENOUGH_PROGRAMS, max(1, programs)))
    shape = (images, weight.shape[0])
    out = torch.empty(
        (splits, *shape) if splits > 1 else shape, dtype=wide if splits > 1 else features.dtype, device=features.device
    )
    if programs:
        with on_device_of(features):
            class_head_pool_fwd_kernel[(programs * splits,)](
                out, _described(flat), _head(weight, bias), images, splits, **tile
            )
    return out.sum(0).to(features.dtype) if splits > 1 else out


def class_head_pool_backward(
    grad: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as the reference."""
    check_dtype("class_head_pool", features)
    flat = features.flatten(2)
    images, channels, positions = flat.shape
    wide = _accumulator(features)
    if not relu:
        shared = (grad.to(wide) @ weight.to(wide) / positions).to(features.dtype)[:, :, None, None]
        grad_weight = grad.to(wide).mT @ flat.mean(2, dtype=wide)
        grad_bias = grad.sum(0, dtype=wide).to(weight.dtype)
        return shared.expand(features.shape).contiguous(), grad_weight.to(weight.dtype), grad_bias
    grad_flat = torch.empty(flat.shape, dtype=features.dtype, device=features.device)
    if images == 0:
        return grad_flat.view(features.shape), torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
    tile = _tile(features, channels)
    channel_blocks = triton.cdiv(channels, tile["BLOCK_C"])
    position_blocks = triton.cdiv(positions, tile["BLOCK_P"])
    # The sums over positions of a wider tile would spill.
    weight_tile = {**tile, "BLOCK_K": 64}
    programs = triton.cdiv(weight.shape[0], weight_tile["BLOCK_K"]) * channel_blocks
    splits = min(images, triton.cdiv(_ENOUGH_PROGRAMS, programs))
    splits = triton.cdiv(images, triton.cdiv(images, splits))
    grad_weight = torch.empty((splits, *weight.shape), dtype=wide, device=weight.device)
    grad_bias = torch.empty((splits, weight.shape[0]), dtype=wide, device=weight.device)
    given = grad, *grad.stride(), _described(flat), _head(weight, bias)
    with on_device_of(features):
        class_head_pool_bwd_features_kernel[(images * channel_blocks * position_blocks,)](
            _described(grad_flat), *given, **tile
        )
        class_head_pool_bwd_weight_kernel[(programs * splits,)](
            grad_weight, grad_bias, *given, images, splits, **weight_tile
        )
    return (
        grad_flat.view(features.shape),
        grad_weight.sum(0).to(weight.dtype).contiguous(),
        grad_bias.sum(0).to(weight.dtype),
    )


def _described(flat: Tensor) -> Features:
    return Features(flat, *flat.stride(), *flat.shape[1:])


def _head(weight: Tensor, bias: Tensor | None) -> Head:
    stride_k, stride_c = weight.stride()
    return Head(weight, None if bias is None else bias.contiguous(), stride_k, stride_c, weight.shape[0])


def _accumulator(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _tile(features: Tensor, channels: int) -> dict:
    """Return tiles without spills on sm_80 and sm_90; float32 takes three products of halved tiles."""
    wide = features.element_size() >= 4
    chunk = 32 if wide else 64
    block_c = max(16, triton.next_power_of_2(channels))
    if block_c > (chunk if wide else _MOST_CHANNELS):
        block_c = chunk
    return {
        "PRECISION": dot_precision(features.dtype),
        "DTYPE": tl.float64 if features.dtype == torch.float64 else tl.float32,
        "BLOCK_K": 64 if wide else 128,
        "BLOCK_P": 32 if wide else 64,
        "BLOCK_C": block_c,
        "WHOLE": channels <= block_c,
        "num_warps": 4 if wide else 8,
        "num_stages": 2 if wide else 3,
    }
