"""``class_head_pool``: a matrix product whose tiles are rectified and summed where they are, in registers.

Class maps never reach memory, but their signs do, a bit each: all that the gradients need of them, so that each is one
product more. The incoming gradient is one number per image and class, so it takes the place of the positive values of a
map, exactly in its own dtype; the division by the number of positions comes last. What programs share is summed in a
fixed order.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import architecture, check_dtype, dot_precision, on_device_of

# Two programs on each multiprocessor of a large GPU; below that positions, or images, are split among programs.
_ENOUGH_PROGRAMS = 264
# Channels that tiles of half precision hold at once if these are all, which is the fast case.
_MOST_CHANNELS = 128
# Positions whose signs share a word.
_WORD = tl.constexpr(32)
# Elements of a sum over splits, and splits that are read at once.
_SUM_BLOCK, _SUM_SPLITS = 256, 8


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


@triton.jit
def _store_signs(signs, positive, features, head, image, k, first, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr):
    """Store [BLOCK_K, BLOCK_P] truth values from position ``first`` on; ``signs`` is [N, words, K]."""
    words = tl.cdiv(features.positions, _WORD)
    word = first // _WORD + tl.arange(0, BLOCK_P // _WORD)
    bits = tl.reshape(positive.to(tl.int32), (BLOCK_K, BLOCK_P // _WORD, _WORD)) << tl.arange(0, _WORD)[None, None, :]
    pointers = signs + (image.to(tl.int64) * words + word)[None, :] * head.classes + k[:, None]
    tl.store(pointers, tl.xor_sum(bits, 2), mask=(k < head.classes)[:, None] & (word < words)[None, :])


@triton.jit
def _load_signs(signs, image, k, first, positions, classes, BLOCK_P: tl.constexpr):
    """Return the words of BLOCK_P positions from ``first`` on, [BLOCK_P // 32, BLOCK_K]."""
    words = tl.cdiv(positions, _WORD)
    word = first // _WORD + tl.arange(0, BLOCK_P // _WORD)
    pointers = signs + (image.to(tl.int64) * words + word)[:, None] * classes + k[None, :]
    return tl.load(pointers, mask=(k < classes)[None, :] & (word < words)[:, None], other=0)


@triton.jit
def _positive(packed, incoming, BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr):
    """Return G[k] [M[k, p] > 0], the incoming gradient where the class maps are positive: [BLOCK_P, BLOCK_K].

    Classes run along the lanes, so that a thread expands the words of few classes and holds few gradients.
    """
    bits = (packed[:, None, :] >> tl.arange(0, _WORD)[None, :, None]) & 1
    return tl.where(tl.reshape(bits, (BLOCK_P, BLOCK_K)) != 0, incoming[None, :], 0.0).to(incoming.dtype)


@triton.jit
def _count(packed):
    """Return the number of set bits of each word."""
    x = packed.to(tl.uint32, bitcast=True)
    x = x - ((x >> 1) & 0x55555555)
    x = (x & 0x33333333) + ((x >> 2) & 0x33333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F
    x = x + (x >> 8)
    return ((x + (x >> 16)) & 0x3F).to(tl.int32)


@triton.jit(do_not_specialize=["images", "splits"])
def class_head_pool_fwd_kernel(
    out, parts, signs, features, head, images, splits,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Store 1/P sum_p ReLU(M[k, p]) as ``out`` [N, K], or over the positions of each split as ``parts`` [splits, N, K].

    The signs of M are stored where ``signs`` is given; ``out`` may be missing then.
    """
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
        real = (p < features.positions)[None, :]
        if signs is not None:
            _store_signs(signs, (maps > 0) & real, features, head, image, k, begin, BLOCK_K, BLOCK_P)
        if out is not None:
            # A NaN is not below zero, so it stays.
            total += tl.sum(tl.where((maps < 0) | ~real, 0.0, maps), 1)
    if out is not None:
        total /= features.positions
        if splits == 1:
            tl.store(out + image.to(tl.int64) * head.classes + k, total.to(out.dtype.element_ty), mask=k < head.classes)
        else:
            offset = (split * images + image).to(tl.int64) * head.classes
            tl.store(parts + offset + k, total, mask=k < head.classes)


@triton.jit
def class_head_pool_bwd_features_kernel(
    out, grad, signs, head,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Store the gradient of the features: dF[c, p] = 1/P sum_k W[k, c] G[k] [M[k, p] > 0]."""
    program = tl.program_id(0)
    position_blocks = tl.cdiv(out.positions, BLOCK_P)
    channel_blocks = tl.cdiv(out.channels, BLOCK_C)
    first = program % position_blocks * BLOCK_P
    p = first + tl.arange(0, BLOCK_P)
    c = program // position_blocks % channel_blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    image = program // position_blocks // channel_blocks
    total = tl.zeros((BLOCK_C, BLOCK_P), DTYPE)
    for begin in range(0, head.classes, BLOCK_K):
        k = begin + tl.arange(0, BLOCK_K)
        weight_tile = _weight_tile(head, out.channels, k, c)  # [BLOCK_K, BLOCK_C]
        incoming = tl.load(grad + image.to(tl.int64) * head.classes + k, mask=k < head.classes, other=0)
        packed = _load_signs(signs, image, k, first, out.positions, head.classes, BLOCK_P)
        share = _positive(packed, incoming, BLOCK_K, BLOCK_P)
        total = tl.dot(tl.trans(weight_tile), tl.trans(share), total, input_precision=PRECISION, out_dtype=DTYPE)
    pointers = out.maps + image.to(tl.int64) * out.stride_n + c.to(tl.int64)[:, None] * out.stride_c
    mask = (c < out.channels)[:, None] & (p < out.positions)[None, :]
    tl.store(pointers + p.to(tl.int64)[None, :] * out.stride_p, total / out.positions, mask=mask)


@triton.jit(do_not_specialize=["images", "splits"])
def class_head_pool_bwd_weight_kernel(
    parts, grad, signs, features, classes, images, splits,
    PRECISION: tl.constexpr, DTYPE: tl.constexpr,
    BLOCK_K: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Store dW[k, c] = 1/P sum_{n, p} G[k] [M[k, p] > 0] F[c, p] and db[k], the same without F.

    ``parts`` is [splits, K C + K], each over its share of the images' blocks of positions.
    """
    program = tl.program_id(0)
    groups = tl.cdiv(classes, BLOCK_K)
    channel_blocks = tl.cdiv(features.channels, BLOCK_C)
    k = program % groups * BLOCK_K + tl.arange(0, BLOCK_K)
    channel_block = program // groups % channel_blocks
    c = channel_block * BLOCK_C + tl.arange(0, BLOCK_C)
    split = program // groups // channel_blocks
    position_blocks = tl.cdiv(features.positions, BLOCK_P)
    steps = images * position_blocks
    share_of_steps = tl.cdiv(steps, splits)
    total = tl.zeros((BLOCK_C, BLOCK_K), DTYPE)
    total_bias = tl.zeros((BLOCK_K,), DTYPE)
    for step in range(split * share_of_steps, tl.minimum((split + 1) * share_of_steps, steps)):
        image = tl.cast(step // position_blocks, tl.int64)
        first = step % position_blocks * BLOCK_P
        feature_tile = _feature_tile(features, image, c, first + tl.arange(0, BLOCK_P))  # [BLOCK_C, BLOCK_P]
        incoming = tl.load(grad + image * classes + k, mask=k < classes, other=0)
        packed = _load_signs(signs, image, k, first, features.positions, classes, BLOCK_P)
        share = _positive(packed, incoming, BLOCK_K, BLOCK_P)
        # The operand that is made here comes second: as the first it would stay in registers, too many of them.
        total = tl.dot(feature_tile, share, total, input_precision=PRECISION, out_dtype=DTYPE)
        total_bias += incoming.to(DTYPE) * tl.sum(_count(packed), 0).to(DTYPE)
    of_weight = classes * features.channels
    parts += split.to(tl.int64) * (of_weight + classes)
    mask = (k < classes)[:, None] & (c < features.channels)[None, :]
    tl.store(parts + k[:, None] * features.channels + c[None, :], tl.trans(total / features.positions), mask=mask)
    if channel_block == 0:
        tl.store(parts + of_weight + k, total_bias / features.positions, mask=k < classes)


@triton.jit(do_not_specialize=["rows", "splits"])
def class_head_pool_sum_kernel(
    out, other, parts, rows, splits, first_size, size, BLOCK: tl.constexpr, SPLITS: tl.constexpr
):
    """Store sums over ``parts`` [splits, rows, size]: the first of each row as ``out``, the remaining as ``other``."""
    blocks = tl.cdiv(size, BLOCK)
    row = (tl.program_id(0) // blocks).to(tl.int64)
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), parts.dtype.element_ty)
    for begin in range(0, splits, SPLITS):
        split = begin + tl.arange(0, SPLITS).to(tl.int64)
        mask = (split < splits)[:, None] & (at < size)[None, :]
        total += tl.sum(tl.load(parts + (split[:, None] * rows + row) * size + at[None, :], mask=mask, other=0), 0)
    tl.store(out + row * first_size + at, total.to(out.dtype.element_ty), mask=at < first_size)
    if other is not None:
        rest = (at >= first_size) & (at < size)
        tl.store(other + row * (size - first_size) + at - first_size, total.to(out.dtype.element_ty), mask=rest)


def class_head_pool(features: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    """Same contract as the reference; products of half precision are summed in float32 and rounded at the end."""
    check_dtype("class_head_pool", features)
    if relu:
        out = features.new_empty(features.shape[0], weight.shape[0])
        _launch_forward(out, None, features, weight, bias)
        return out
    wide = _accumulator(features)
    logits = features.flatten(2).mean(2, dtype=wide) @ weight.to(wide).mT
    return (logits if bias is None else logits + bias).to(features.dtype)


def class_head_pool_with_signs(features: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Same contract as the reference."""
    check_dtype("class_head_pool", features)
    out, signs = features.new_empty(features.shape[0], weight.shape[0]), _empty_signs(features, weight)
    _launch_forward(out, signs, features, weight, bias)
    return out, signs


def class_head_pool_backward(
    grad: Tensor, features: Tensor, weight: Tensor, bias: Tensor | None, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as the reference; the maps are made again for their signs."""
    check_dtype("class_head_pool", features)
    if relu:
        signs = _empty_signs(features, weight)
        _launch_forward(None, signs, features, weight, bias)
        return class_head_pool_signs_backward(grad, features, weight, signs)
    wide = _accumulator(features)
    flat = features.flatten(2)
    shared = (grad.to(wide) @ weight.to(wide) / flat.shape[2]).to(features.dtype)[:, :, None, None]
    grad_weight = grad.to(wide).mT @ flat.mean(2, dtype=wide)
    grad_bias = grad.sum(0, dtype=wide).to(weight.dtype)
    return shared.expand(features.shape).contiguous(), grad_weight.to(weight.dtype), grad_bias


def class_head_pool_signs_backward(
    grad: Tensor, features: Tensor, weight: Tensor, signs: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Same contract as the reference."""
    flat = features.flatten(2)
    (images, channels, positions), classes = flat.shape, weight.shape[0]
    grad_flat = torch.empty(flat.shape, dtype=features.dtype, device=features.device)
    if images == 0:
        return grad_flat.view(features.shape), torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
    of_features, of_weight = _tile(features, channels, "bwd_features"), _tile(features, channels, "bwd_weight")
    blocks = triton.cdiv(channels, of_features["BLOCK_C"]) * triton.cdiv(positions, of_features["BLOCK_P"])
    programs = triton.cdiv(classes, of_weight["BLOCK_K"]) * triton.cdiv(channels, of_weight["BLOCK_C"])
    steps = images * triton.cdiv(positions, of_weight["BLOCK_P"])
    splits = _splits(steps, programs)
    size = classes * channels + classes
    parts = torch.empty((splits, size), dtype=_accumulator(features), device=weight.device)
    grad_weight = torch.empty((classes, channels), dtype=weight.dtype, device=weight.device)
    grad_bias = torch.empty((classes,), dtype=weight.dtype, device=weight.device)
    given = grad.contiguous(), signs.contiguous()
    with on_device_of(features):
        class_head_pool_bwd_features_kernel[(images * blocks,)](
            _described(grad_flat), *given, _head(weight, None), **of_features
        )
        class_head_pool_bwd_weight_kernel[(programs * splits,)](
            parts, *given, _described(flat), classes, images, splits, **of_weight
        )
        _launch_sum(grad_weight, grad_bias, parts, 1, splits, classes * channels, size)
    return grad_flat.view(features.shape), grad_weight, grad_bias


def _splits(steps: int, programs: int) -> int:
    """Return among how many programs each share of work is split: all at home at once, none without a step."""
    splits = min(steps, max(1, _ENOUGH_PROGRAMS // programs))
    return triton.cdiv(steps, triton.cdiv(steps, splits))


def _empty_signs(features: Tensor, weight: Tensor) -> Tensor:
    words = triton.cdiv(features.shape[2] * features.shape[3], _WORD.value)
    return torch.empty((features.shape[0], words, weight.shape[0]), dtype=torch.int32, device=features.device)


def _launch_forward(
    out: Tensor | None, signs: Tensor | None, features: Tensor, weight: Tensor, bias: Tensor | None
) -> None:
    flat = features.flatten(2)
    (images, channels, positions), classes = flat.shape, weight.shape[0]
    if images == 0:
        return
    tile = _tile(features, channels, "fwd")
    programs = images * triton.cdiv(classes, tile["BLOCK_K"])
    splits = min(triton.cdiv(positions, tile["BLOCK_P"]), triton.cdiv(_ENOUGH_PROGRAMS, programs))
    parts = None
    if out is not None:
        # Given even where it has no elements: another type would be another kernel.
        shape = (splits if splits > 1 else 0, images, classes)
        parts = torch.empty(shape, dtype=_accumulator(features), device=features.device)
    with on_device_of(features):
        class_head_pool_fwd_kernel[(programs * splits,)](
            out, parts, signs, _described(flat), _head(weight, bias), images, splits, **tile
        )
        if out is not None and parts is not None and splits > 1:
            _launch_sum(out, None, parts, images, splits, classes, classes)


def _launch_sum(
    out: Tensor, other: Tensor | None, parts: Tensor, rows: int, splits: int, first_size: int, size: int
) -> None:
    class_head_pool_sum_kernel[(rows * triton.cdiv(size, _SUM_BLOCK),)](
        out, other, parts, rows, splits, first_size, size, BLOCK=_SUM_BLOCK, SPLITS=_SUM_SPLITS
    )


def _described(flat: Tensor) -> Features:
    return Features(flat, *flat.stride(), *flat.shape[1:])


def _head(weight: Tensor, bias: Tensor | None) -> Head:
    stride_k, stride_c = weight.stride()
    return Head(weight, None if bias is None else bias.contiguous(), stride_k, stride_c, weight.shape[0])


def _accumulator(features: Tensor) -> torch.dtype:
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _tile(features: Tensor, channels: int, kernel: str) -> dict:
    """Return tiles without spills on sm_80 and sm_90; float32 takes three products of halved tiles."""
    wide = features.element_size() >= 4
    chunk = 32 if wide else 64
    block_c = max(16, triton.next_power_of_2(channels))
    if block_c > (chunk if wide else _MOST_CHANNELS):
        block_c = chunk
    options = {
        "PRECISION": dot_precision(features.dtype),
        "DTYPE": tl.float64 if features.dtype == torch.float64 else tl.float32,
        "BLOCK_K": 64 if wide else 128,
        "BLOCK_P": 32 if wide else 64,
        "BLOCK_C": block_c,
        "num_warps": 4 if wide else 8,
        "num_stages": 2 if wide else 3,
    }
    if kernel == "fwd":
        return options | {"WHOLE": channels <= block_c}
    if wide:
        return options
    if kernel == "bwd_features":
        # Every program reads all weights: fewer of them do, and of fewer classes at a time.
        return options | {"BLOCK_K": 64, "BLOCK_P": 128}
    if architecture(features) >= 90 and block_c == _MOST_CHANNELS:
        # Half of a processor's registers, so that one program multiplies while another expands signs.
        return options | {"maxnreg": 128}
    return options | {"BLOCK_K": 64, "BLOCK_P": 64 if block_c == _MOST_CHANNELS else 32}
