"""``multiplicative_fusion``: a program walks down some rows of some channels of one image.

Of every coarser branch it holds the two stretched rows between which the walk stands; rows are copied into shared
memory steps ahead of the walk, as far as copies of 4 bytes and more go. Backward walks the same way and gathers: what
the target rows give to the two source rows stands in registers until the walk has passed them, then each source column
sums the few target columns that it enters. No atomics, one fixed order.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._fusion_gather import collect, finish, widened
from wsolfast.kernels._fusion_walk import (
    Branch,
    Vectors,
    activation,
    advance,
    combined,
    load_row,
    pointers,
    resized,
    start,
    walk_of_program,
)
from wsolfast.kernels._launch import check_dtype, on_device_of

from wsolfast.reference._layout import empty_like_first, layout_of

_MOST_BRANCHES = 4
# Values that a program holds of one row of one branch.
_TILE = 512
# The rows of an image go to several programs where fewer than these have whole ones. A program of the forward pass is
# half a wave's at eight warps; one more in backward means to read the rows again that both of them need.
_ENOUGH_PROGRAMS = 2048
_ENOUGH_BACKWARD = 256
# Registers of a thread of which two programs of eight warps stand on a multiprocessor: more would halve the bytes on
# their way. With four branches they do not suffice.
_BACKWARD_REGISTERS = 128


@triton.jit(do_not_specialize=["chunks"])
def multiplicative_fusion_fwd_kernel(
    out, first, second, third, fourth, scale, shift, height, width, channels, chunks,
    ACTIVATED: tl.constexpr, RELU: tl.constexpr, MULTIPLIES: tl.constexpr, MEAN: tl.constexpr, ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr, INDEX: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Store out = prod_i up(R_i), or the sum, of some rows; with MEAN its mean over all positions.

    R_i = ReLU(a_i x_i + b_i), as far as ACTIVATED and RELU say so.
    """
    walk, chunk = walk_of_program(height, width, channels, chunks, INDEX, BLOCK_C, BLOCK_W)
    rows = tl.cdiv(height, chunks)
    begin = chunk * rows
    act_first, act_second, act_third, act_fourth = None, None, None, None
    if ACTIVATED:
        act_first = activation(scale, shift, walk, 0, RELU, DTYPE)
        act_second = activation(scale, shift, walk, 1, RELU, DTYPE)
        act_third = activation(scale, shift, walk, 2, RELU, DTYPE) if third is not None else None
        act_fourth = activation(scale, shift, walk, 3, RELU, DTYPE) if fourth is not None else None
    at_second = start(second, act_second, walk, begin, ALIGNED, DTYPE)
    if third is not None:
        at_third = start(third, act_third, walk, begin, ALIGNED, DTYPE)
    if fourth is not None:
        at_fourth = start(fourth, act_fourth, walk, begin, ALIGNED, DTYPE)
    if MEAN:
        total = tl.zeros((BLOCK_C, BLOCK_W), DTYPE)
    for y in tl.range(begin, tl.minimum(begin + rows, height), num_stages=STAGES):
        values = load_row(first, act_first, walk, y, DTYPE)  # [BLOCK_C, BLOCK_W]
        at_second = advance(at_second, second, act_second, walk, y, ALIGNED, DTYPE)
        values = combined(values, resized(at_second, second, walk, y, ALIGNED, DTYPE), MULTIPLIES)
        if third is not None:
            at_third = advance(at_third, third, act_third, walk, y, ALIGNED, DTYPE)
            values = combined(values, resized(at_third, third, walk, y, ALIGNED, DTYPE), MULTIPLIES)
        if fourth is not None:
            at_fourth = advance(at_fourth, fourth, act_fourth, walk, y, ALIGNED, DTYPE)
            values = combined(values, resized(at_fourth, fourth, walk, y, ALIGNED, DTYPE), MULTIPLIES)
        if MEAN:
            total += values
        else:
            tl.store(pointers(out, walk, y, walk.columns), values, mask=walk.mask)
    if MEAN:
        mean = tl.sum(tl.where(walk.mask, total, 0.0), 1, keep_dims=True) / (height * width)
        tl.store(pointers(out, walk, 0, 0), mean, mask=walk.has_channel)


@triton.jit
def _times(values, a, b, c, MULTIPLIES: tl.constexpr):
    """Return the gradient with respect to one factor: ``values`` times the others; ``c`` or ``b`` may be missing."""
    if MULTIPLIES:
        values *= a
        if b is not None:
            values *= b
        if c is not None:
            values *= c
    return values


@triton.jit(do_not_specialize=["chunks"])
def multiplicative_fusion_bwd_kernel(
    grad, first, second, third, fourth, grad_first, grad_second, grad_third, grad_fourth,
    height, width, channels, chunks,
    MULTIPLIES: tl.constexpr, MEAN: tl.constexpr, ALIGNED: tl.constexpr, DTYPE: tl.constexpr,
    INDEX: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Store the gradients of all branches: dR_i = down_i(grad prod_{j != i} up(R_j)), down the transpose of up.

    Of a sum the product is left out. With MEAN grad is 1/(h w) of the incoming number of the channel. A program owns
    some target rows and their share of each branch's rows, and walks over every target row that those enter.
    """
    walk, chunk = walk_of_program(height, width, channels, chunks, INDEX, BLOCK_C, BLOCK_W)
    rows = tl.cdiv(height, chunks)
    own_begin = chunk * rows
    own_end = tl.minimum(own_begin + rows, height)
    span = widened((own_begin, own_end), second, walk, own_begin, own_end, ALIGNED)
    if third is not None:
        span = widened(span, third, walk, own_begin, own_end, ALIGNED)
    if fourth is not None:
        span = widened(span, fourth, walk, own_begin, own_end, ALIGNED)
    begin, end = span
    zeros = tl.zeros((BLOCK_C, BLOCK_W), DTYPE)
    at_second = start(second, None, walk, begin, ALIGNED, DTYPE)
    to_second = (at_second[0], zeros, zeros)
    if third is not None:
        at_third = start(third, None, walk, begin, ALIGNED, DTYPE)
        to_third = (at_third[0], zeros, zeros)
    if fourth is not None:
        at_fourth = start(fourth, None, walk, begin, ALIGNED, DTYPE)
        to_fourth = (at_fourth[0], zeros, zeros)
    if MEAN:
        shared = tl.load(pointers(grad, walk, 0, 0), mask=walk.has_channel, other=0).to(DTYPE)
        incoming = tl.where(walk.mask, shared / (height * width), 0.0)
    for y in tl.range(begin, end, num_stages=STAGES):
        if not MEAN:
            incoming = load_row(grad, None, walk, y, DTYPE)
        taken = load_row(first, None, walk, y, DTYPE)  # [BLOCK_C, BLOCK_W], as all rows below
        at_second = advance(at_second, second, None, walk, y, ALIGNED, DTYPE)
        resized_second = resized(at_second, second, walk, y, ALIGNED, DTYPE)
        if third is not None:
            at_third = advance(at_third, third, None, walk, y, ALIGNED, DTYPE)
            resized_third = resized(at_third, third, walk, y, ALIGNED, DTYPE)
        else:
            resized_third = None
        if fourth is not None:
            at_fourth = advance(at_fourth, fourth, None, walk, y, ALIGNED, DTYPE)
            resized_fourth = resized(at_fourth, fourth, walk, y, ALIGNED, DTYPE)
        else:
            resized_fourth = None
        values = _times(incoming, resized_second, resized_third, resized_fourth, MULTIPLIES)
        owned = (y >= own_begin) & (y < own_end)
        tl.store(pointers(grad_first, walk, y, walk.columns), values, mask=walk.mask & owned)
        values = _times(incoming, taken, resized_third, resized_fourth, MULTIPLIES)
        to_second = collect(to_second, second, grad_second, walk, y, values, own_begin, own_end, ALIGNED, DTYPE)
        if third is not None:
            values = _times(incoming, taken, resized_second, resized_fourth, MULTIPLIES)
            to_third = collect(to_third, third, grad_third, walk, y, values, own_begin, own_end, ALIGNED, DTYPE)
        if fourth is not None:
            values = _times(incoming, taken, resized_second, resized_third, MULTIPLIES)
            to_fourth = collect(to_fourth, fourth, grad_fourth, walk, y, values, own_begin, own_end, ALIGNED, DTYPE)
    finish(to_second, grad_second, walk, own_begin, own_end, ALIGNED, DTYPE)
    if third is not None:
        finish(to_third, grad_third, walk, own_begin, own_end, ALIGNED, DTYPE)
    if fourth is not None:
        finish(to_fourth, grad_fourth, walk, own_begin, own_end, ALIGNED, DTYPE)


def multiplicative_fusion(
    features: Sequence[Tensor],
    scale: Tensor | None,
    shift: Tensor | None,
    relu: bool,
    align_corners: bool,
    reduce: str,
    mode: str,
) -> Tensor:
    """Same contract as the reference; float32 arithmetic for half precision, one rounding at the end."""
    first = features[0]
    check_dtype("multiplicative_fusion", first)
    images, channels, height, width = first.shape
    pooled = reduce == "mean"
    out = first.new_empty(first.shape[:2]) if pooled else empty_like_first(first, first)
    if out.numel() == 0:
        return out
    tile = _tile(first)
    programs = images * triton.cdiv(channels, tile["BLOCK_C"])
    chunks = 1 if pooled else min(height, triton.cdiv(_ENOUGH_PROGRAMS, programs))
    maps = (out[:, :, None, None] if pooled else out, *_four(features))
    options = _options(maps, tile, align_corners, reduce, mode)
    activated = relu or scale is not None or shift is not None
    with on_device_of(first):
        multiplicative_fusion_fwd_kernel[(programs * chunks,)](
            *(_described(branch, first) for branch in maps), _vectors(scale), _vectors(shift),
            height, width, channels, chunks, ACTIVATED=activated, RELU=relu, **tile, **options,
        )  # fmt: skip
    return out


def multiplicative_fusion_backward(
    grad: Tensor, features: Sequence[Tensor], align_corners: bool, reduce: str, mode: str
) -> list[Tensor]:
    """Same contract as the reference; each gradient has the dtype of its branch."""
    first = features[0]
    check_dtype("multiplicative_fusion", grad)
    images, channels, height, width = first.shape
    gradients = [empty_like_first(branch, first) for branch in features]
    if first.numel() == 0:
        return gradients
    if reduce == "mean":
        grad = grad[:, :, None, None]
    # Of four branches more rows are held at a time.
    few = len(features) < _MOST_BRANCHES
    tile = _tile(first, _TILE if few else _TILE // 2, of_thread=2)
    # Copies of 4 bytes take more addresses, and so registers, than copies of 16.
    tile["STAGES"] = 4 if layout_of(first) == torch.channels_last else 3
    registers = {"maxnreg": _BACKWARD_REGISTERS} if few and first.dtype != torch.float64 else {}
    programs = images * triton.cdiv(channels, tile["BLOCK_C"])
    chunks = min(height, triton.cdiv(_ENOUGH_BACKWARD, programs))
    maps = (grad, *_four(features), *_four(gradients))
    options = _options(maps, tile, align_corners, reduce, mode)
    with on_device_of(first):
        multiplicative_fusion_bwd_kernel[(programs * chunks,)](
            *(_described(tensor, first) for tensor in maps), height, width, channels, chunks,
            **tile, **options, **registers,
        )  # fmt: skip
    return gradients


def _four(branches: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the branches as a kernel takes them, None for those that are missing."""
    return [*branches, *[None] * (_MOST_BRANCHES - len(branches))]


def _vectors(given: Tensor | None) -> Vectors | None:
    if given is None:
        return None
    return Vectors(given, given.stride(0), given.stride(1) if given.dim() == 3 else 0, given.stride(-1))


def _described(maps: Tensor | None, first: Tensor) -> Branch | None:
    if maps is None:
        return None
    size = (None, None) if maps.shape == first.shape else maps.shape[2:]
    return Branch(maps, *size, *maps.stride())


def _tile(first: Tensor, values: int = _TILE, of_thread: int = 4) -> dict[str, int]:
    """Return a tile of all columns, the same for any number of images, with some values of each thread."""
    channels, width = first.shape[1], first.shape[3]
    block_w = max(16, triton.next_power_of_2(width))
    most = max(1, values // block_w) * (2 if layout_of(first) == torch.channels_last else 1)
    block_c = min(most, triton.next_power_of_2(channels))
    warps = max(1, min(8, block_c * block_w // (32 * of_thread)))
    return {"BLOCK_C": block_c, "BLOCK_W": block_w, "STAGES": 4, "num_warps": warps}


def _options(
    maps: tuple[Tensor | None, ...], tile: dict[str, int], align_corners: bool, reduce: str, mode: str
) -> dict:
    given = [tensor for tensor in maps if tensor is not None]
    farthest = max(t.stride(1) * tile["BLOCK_C"] + t.stride(3) * tile["BLOCK_W"] for t in given)
    return {
        "MULTIPLIES": mode == "multiply",
        "MEAN": reduce == "mean",
        "ALIGNED": align_corners,
        "DTYPE": tl.float64 if given[0].dtype == torch.float64 else tl.float32,
        "INDEX": tl.int32 if farthest < 2**31 else tl.int64,
    }
