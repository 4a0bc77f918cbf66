"""``multiplicative_fusion``: a program walks down the rows of some channels of one image.

Of every coarser branch it holds the two stretched rows between which the walk stands, so each branch is read once.
Backward walks the same way and gathers: what the target rows give to the two source rows stands in registers until the
walk has passed them, then a product with the matrix of the columns' resize shrinks it. No atomics, one fixed order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from wsolfast.kernels._launch import check_dtype, on_device_of

from wsolfast.reference._layout import empty_like_first, layout_of

_MOST_BRANCHES = 4
# Values that a program holds of one row of one branch.
_TILE = 512
# Channels that make a whole line of memory where they are contiguous.
_LINE = 32
# Enough to fill a large GPU with several programs per multiprocessor.
_ENOUGH_PROGRAMS = 1024


class Branch(NamedTuple):
    """Maps and their strides. Height and width are None where the branch has the first's size: it is taken as it is."""

    maps: tl.tensor
    height: tl.tensor
    width: tl.tensor
    stride_n: tl.tensor
    stride_c: tl.tensor
    stride_h: tl.tensor
    stride_w: tl.tensor


class Vectors(NamedTuple):
    """A number for each channel of each branch; ``stride_n`` is 0 where images share it."""

    data: tl.tensor
    stride_b: tl.tensor
    stride_n: tl.tensor
    stride_c: tl.tensor


class Walk(NamedTuple):
    """The path of a program: some channels [BLOCK_C, 1] from the first of an image, all columns [1, BLOCK_W]."""

    image: tl.tensor
    first_channel: tl.tensor
    channels: tl.tensor
    columns: tl.tensor
    has_channel: tl.tensor
    mask: tl.tensor
    height: tl.tensor
    width: tl.tensor


@triton.jit
def _place(i, source, target, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return the source position before target ``i`` and the weight of the next: exact integers and one division."""
    if ALIGNED:
        numerator = i * (source - 1)
        denominator = tl.maximum(target - 1, 1)
    else:
        numerator = tl.maximum((2 * i + 1) * source - target, 0)
        denominator = 2 * target
    before = numerator // denominator
    return before, (numerator - before * denominator).to(DTYPE) / denominator


@triton.jit
def _pointers(branch, walk, y, x):
    """Return pointers [BLOCK_C, *] to columns ``x`` of row ``y``; INDEX holds offsets in a tile, 64 bits all others."""
    plane = walk.image.to(tl.int64) * branch.stride_n + walk.first_channel.to(tl.int64) * branch.stride_c
    row = branch.maps + (plane + tl.cast(y, tl.int64) * branch.stride_h)
    return row + (walk.channels * branch.stride_c + x * branch.stride_w)


@triton.jit
def _vector(vectors, walk, b: tl.constexpr, missing: tl.constexpr, DTYPE: tl.constexpr):
    """Return the vector's numbers [BLOCK_C, 1] for the walk's channels of branch ``b``."""
    if vectors is None:
        found = tl.full(walk.channels.shape, missing, DTYPE)
    else:
        of_image = vectors.data + b * vectors.stride_b + walk.image.to(tl.int64) * vectors.stride_n
        channels = (walk.first_channel + walk.channels).to(tl.int64)
        found = tl.load(of_image + channels * vectors.stride_c, mask=walk.has_channel, other=0).to(DTYPE)
    return found


@triton.jit
def _activation(scale, shift, walk, b: tl.constexpr, RELU: tl.constexpr, DTYPE: tl.constexpr):
    """Return the activation of branch ``b``: (factor [BLOCK_C, 1], summand [BLOCK_C, 1], floor)."""
    floor = tl.full((), 0.0 if RELU else float("-inf"), DTYPE)
    return _vector(scale, walk, b, 1, DTYPE), _vector(shift, walk, b, 0, DTYPE), floor


@triton.jit
def _values(pointers, act, walk, DTYPE: tl.constexpr):
    """Load values x and return max(factor x + summand, floor), or x where ``act`` is None."""
    values = tl.load(pointers, mask=walk.mask, other=0).to(DTYPE)
    if act is not None:
        values = values * act[0] + act[1]
        # A NaN is not below the floor and stays.
        values = tl.where(values < act[2], act[2], values)
    return values


@triton.jit
def _row(branch, act, walk, y, DTYPE: tl.constexpr):
    return _values(_pointers(branch, walk, y, walk.columns), act, walk, DTYPE)


@triton.jit
def _stretched(branch, act, walk, y, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return source row ``y``, or the last, at the target's columns: (1 - w) x[left] + w x[right]."""
    y = tl.minimum(y, branch.height - 1)
    left, weight = _place(walk.columns, branch.width, walk.width, ALIGNED, DTYPE)
    right = tl.minimum(left + 1, branch.width - 1)
    before = _values(_pointers(branch, walk, y, left), act, walk, DTYPE)
    after = _values(_pointers(branch, walk, y, right), act, walk, DTYPE)
    return (1 - weight) * before + weight * after


@triton.jit
def _start(branch, act, walk, y, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return the state of a walk at its first target row: (source row, that row stretched, the next stretched)."""
    if branch.height is None:
        row = y
        above = _row(branch, act, walk, y, DTYPE)
        below = above
    else:
        row, _ = _place(y, branch.height, walk.height, ALIGNED, DTYPE)
        above = _stretched(branch, act, walk, row, ALIGNED, DTYPE)
        below = _stretched(branch, act, walk, row + 1, ALIGNED, DTYPE)
    return row, above, below


@triton.jit
def _advance(state, branch, act, walk, y, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return the state at target row ``y``. No branch is larger than the first, so a step passes one row at most."""
    row, above, below = state
    if branch.height is None:
        above = _row(branch, act, walk, y, DTYPE)
    else:
        wanted, _ = _place(y, branch.height, walk.height, ALIGNED, DTYPE)
        if wanted != row:
            above = below
            below = _stretched(branch, act, walk, wanted + 1, ALIGNED, DTYPE)
            row = wanted
    return row, above, below


@triton.jit
def _resized(state, branch, walk, y, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return target row ``y`` of the resized branch, (1 - w) above + w below: [BLOCK_C, BLOCK_W]."""
    if branch.height is None:
        values = state[1]
    else:
        _, weight = _place(y, branch.height, walk.height, ALIGNED, DTYPE)
        values = (1 - weight) * state[1] + weight * state[2]
    return values


@triton.jit
def _combined(x, y, MULTIPLIES: tl.constexpr):
    return x * y if MULTIPLIES else x + y


@triton.jit
def _walk(height, width, channels, chunks, INDEX: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr):
    """Return the walk of this program, and the number of the part of the rows that it takes."""
    program = tl.program_id(0)
    groups = tl.cdiv(channels, BLOCK_C)
    first = program // chunks % groups * BLOCK_C
    c = tl.arange(0, BLOCK_C)[:, None].to(INDEX)
    x = tl.arange(0, BLOCK_W)[None, :].to(INDEX)
    has_channel = first + c < channels
    mask = has_channel & (x < width)
    return Walk(program // chunks // groups, first, c, x, has_channel, mask, height, width), program % chunks


@triton.jit
def multiplicative_fusion_fwd_kernel(
    out, first, second, third, fourth, scale, shift, height, width, channels, chunks,
    ACTIVATED: tl.constexpr, RELU: tl.constexpr, MULTIPLIES: tl.constexpr, MEAN: tl.constexpr, ALIGNED: tl.constexpr,
    DTYPE: tl.constexpr, INDEX: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    """Store out = prod_i up(R_i), or the sum, of some rows; with MEAN its mean over all positions.

    R_i = ReLU(a_i x_i + b_i), as far as ACTIVATED and RELU say so.
    """
    walk, chunk = _walk(height, width, channels, chunks, INDEX, BLOCK_C, BLOCK_W)
    rows = tl.cdiv(height, chunks)
    begin = chunk * rows
    act_first, act_second, act_third, act_fourth = None, None, None, None
    if ACTIVATED:
        act_first = _activation(scale, shift, walk, 0, RELU, DTYPE)
        act_second = _activation(scale, shift, walk, 1, RELU, DTYPE)
        act_third = _activation(scale, shift, walk, 2, RELU, DTYPE) if third is not None else None
        act_fourth = _activation(scale, shift, walk, 3, RELU, DTYPE) if fourth is not None else None
    at_second = _start(second, act_second, walk, begin, ALIGNED, DTYPE)
    if third is not None:
        at_third = _start(third, act_third, walk, begin, ALIGNED, DTYPE)
    if fourth is not None:
        at_fourth = _start(fourth, act_fourth, walk, begin, ALIGNED, DTYPE)
    if MEAN:
        total = tl.zeros((BLOCK_C, BLOCK_W), DTYPE)
    for y in range(begin, tl.minimum(begin + rows, height)):
        values = _row(first, act_first, walk, y, DTYPE)  # [BLOCK_C, BLOCK_W]
        at_second = _advance(at_second, second, act_second, walk, y, ALIGNED, DTYPE)
        values = _combined(values, _resized(at_second, second, walk, y, ALIGNED, DTYPE), MULTIPLIES)
        if third is not None:
            at_third = _advance(at_third, third, act_third, walk, y, ALIGNED, DTYPE)
            values = _combined(values, _resized(at_third, third, walk, y, ALIGNED, DTYPE), MULTIPLIES)
        if fourth is not None:
            at_fourth = _advance(at_fourth, fourth, act_fourth, walk, y, ALIGNED, DTYPE)
            values = _combined(values, _resized(at_fourth, fourth, walk, y, ALIGNED, DTYPE), MULTIPLIES)
        if MEAN:
            total += values
        else:
            tl.store(_pointers(out, walk, y, walk.columns), values, mask=walk.mask)
    if MEAN:
        mean = tl.sum(tl.where(walk.mask, total, 0.0), 1, keep_dims=True) / (height * width)
        tl.store(_pointers(out, walk, 0, 0), mean, mask=walk.has_channel)


@triton.jit
def _shrink(gradient, walk, y, values, ALIGNED: tl.constexpr, DTYPE: tl.constexpr, BLOCK_S: tl.constexpr):
    """Store a row of target columns as row ``y`` of the gradient: the transpose of stretching it.

    out[c, s] = sum_x values[c, x] A[x, s], A [BLOCK_W, BLOCK_S] the weights with which columns s enter columns x.
    """
    left, weight = _place(tl.trans(walk.columns), gradient.width, walk.width, ALIGNED, DTYPE)
    right = tl.minimum(left + 1, gradient.width - 1)
    for begin in range(0, gradient.width, BLOCK_S):
        s = begin + tl.arange(0, BLOCK_S)[None, :].to(walk.columns.dtype)
        matrix = tl.where(left == s, 1 - weight, 0.0) + tl.where(right == s, weight, 0.0)
        shrunk = tl.dot(values, matrix.to(DTYPE), input_precision="ieee")  # [BLOCK_C, BLOCK_S]
        tl.store(_pointers(gradient, walk, y, s), shrunk, mask=walk.has_channel & (s < gradient.width))


@triton.jit
def _collect(
    sums, branch, gradient, walk, y, values, ALIGNED: tl.constexpr, DTYPE: tl.constexpr, BLOCK_S: tl.constexpr
):
    """Give what reaches target row ``y`` of a branch to its two source rows; store the row that the walk has passed."""
    row, above, below = sums
    if branch.height is None:
        tl.store(_pointers(gradient, walk, y, walk.columns), values, mask=walk.mask)
    else:
        wanted, weight = _place(y, branch.height, walk.height, ALIGNED, DTYPE)
        if wanted != row:
            _shrink(gradient, walk, row, above, ALIGNED, DTYPE, BLOCK_S)
            above = below
            below = tl.zeros_like(below)
            row = wanted
        above += (1 - weight) * values
        below += weight * values
    return row, above, below


@triton.jit
def _finish(sums, gradient, walk, ALIGNED: tl.constexpr, DTYPE: tl.constexpr, BLOCK_S: tl.constexpr):
    """Store the last source row: the last target row has it above, and the row below was clamped to it."""
    if gradient.height is not None:
        _shrink(gradient, walk, sums[0], sums[1] + sums[2], ALIGNED, DTYPE, BLOCK_S)


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


@triton.jit
def multiplicative_fusion_bwd_kernel(
    grad, first, second, third, fourth, grad_first, grad_second, grad_third, grad_fourth, height, width, channels,
    MULTIPLIES: tl.constexpr, MEAN: tl.constexpr, ALIGNED: tl.constexpr, DTYPE: tl.constexpr,
    INDEX: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Store the gradients of all branches: dR_i = down_i(grad prod_{j != i} up(R_j)), down the transpose of up.

    Of a sum the product is left out. With MEAN grad is 1/(h w) of the incoming number of the channel.
    """
    walk, y = _walk(height, width, channels, 1, INDEX, BLOCK_C, BLOCK_W)
    zeros = tl.zeros((BLOCK_C, BLOCK_W), DTYPE)
    at_second = _start(second, None, walk, y, ALIGNED, DTYPE)
    to_second = (y, zeros, zeros)
    if third is not None:
        at_third = _start(third, None, walk, y, ALIGNED, DTYPE)
        to_third = (y, zeros, zeros)
    if fourth is not None:
        at_fourth = _start(fourth, None, walk, y, ALIGNED, DTYPE)
        to_fourth = (y, zeros, zeros)
    if MEAN:
        shared = tl.load(_pointers(grad, walk, 0, 0), mask=walk.has_channel, other=0).to(DTYPE)
        incoming = tl.where(walk.mask, shared / (height * width), 0.0)
    for y in range(height):
        if not MEAN:
            incoming = _row(grad, None, walk, y, DTYPE)
        taken = _row(first, None, walk, y, DTYPE)  # [BLOCK_C, BLOCK_W], as all rows below
        at_second = _advance(at_second, second, None, walk, y, ALIGNED, DTYPE)
        resized_second = _resized(at_second, second, walk, y, ALIGNED, DTYPE)
        if third is not None:
            at_third = _advance(at_third, third, None, walk, y, ALIGNED, DTYPE)
            resized_third = _resized(at_third, third, walk, y, ALIGNED, DTYPE)
        else:
            resized_third = None
        if fourth is not None:
            at_fourth = _advance(at_fourth, fourth, None, walk, y, ALIGNED, DTYPE)
            resized_fourth = _resized(at_fourth, fourth, walk, y, ALIGNED, DTYPE)
        else:
            resized_fourth = None
        values = _times(incoming, resized_second, resized_third, resized_fourth, MULTIPLIES)
        tl.store(_pointers(grad_first, walk, y, walk.columns), values, mask=walk.mask)
        values = _times(incoming, taken, resized_third, resized_fourth, MULTIPLIES)
        to_second = _collect(to_second, second, grad_second, walk, y, values, ALIGNED, DTYPE, BLOCK_S)
        if third is not None:
            values = _times(incoming, taken, resized_second, resized_fourth, MULTIPLIES)
            to_third = _collect(to_third, third, grad_third, walk, y, values, ALIGNED, DTYPE, BLOCK_S)
        if fourth is not None:
            values = _times(incoming, taken, resized_second, resized_third, MULTIPLIES)
            to_fourth = _collect(to_fourth, fourth, grad_fourth, walk, y, values, ALIGNED, DTYPE, BLOCK_S)
    _finish(to_second, grad_second, walk, ALIGNED, DTYPE, BLOCK_S)
    if third is not None:
        _finish(to_third, grad_third, walk, ALIGNED, DTYPE, BLOCK_S)
    if fourth is not None:
        _finish(to_fourth, grad_fourth, walk, ALIGNED, DTYPE, BLOCK_S)


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
    tile = _tile(first, _TILE if len(features) < _MOST_BRANCHES else _TILE // 2)
    maps = (grad, *_four(features), *_four(gradients))
    options = _options(maps, tile, align_corners, reduce, mode)
    with on_device_of(first):
        multiplicative_fusion_bwd_kernel[(images * triton.cdiv(channels, tile["BLOCK_C"]),)](
            *(_described(tensor, first) for tensor in maps), height, width, channels, **tile, **options, BLOCK_S=16
        )
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


def _tile(first: Tensor, values: int = _TILE) -> dict[str, int]:
    """Return a tile of all columns, with fewer channels where there are too few images to keep the device busy."""
    images, channels, _, width = first.shape
    block_w = max(16, triton.next_power_of_2(width))
    contiguous = layout_of(first) == torch.channels_last
    most = max(1, values // block_w) * (2 if contiguous else 1)
    wanted = max(images * channels // _ENOUGH_PROGRAMS, _LINE if contiguous else 1)
    block_c = min(triton.next_power_of_2(wanted), most, triton.next_power_of_2(channels))
    return {"BLOCK_C": block_c, "BLOCK_W": block_w, "num_warps": max(1, min(8, block_c * block_w // 64))}


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
