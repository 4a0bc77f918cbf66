"""The walk of ``multiplicative_fusion`` down the rows of branches that are stretched to the first one's size.

What a function takes as ``act`` is the activation of the branch, None where it has none.
"""

from typing import NamedTuple

import triton
import triton.language as tl


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
def place(i, source, target, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
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
def pointers(branch, walk, y, x):
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
def activation(scale, shift, walk, b: tl.constexpr, RELU: tl.constexpr, DTYPE: tl.constexpr):
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
def load_row(branch, act, walk, y, DTYPE: tl.constexpr):
    return _values(pointers(branch, walk, y, walk.columns), act, walk, DTYPE)


@triton.jit
def _stretched(branch, act, walk, y, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return source row ``y``, or the last, at the target's columns: (1 - w) x[left] + w x[right]."""
    y = tl.minimum(y, branch.height - 1)
    left, weight = place(walk.columns, branch.width, walk.width, ALIGNED, DTYPE)
    right = tl.minimum(left + 1, branch.width - 1)
    before = _values(pointers(branch, walk, y, left), act, walk, DTYPE)
    after = _values(pointers(branch, walk, y, right), act, walk, DTYPE)
    return (1 - weight) * before + weight * after


@triton.jit
def start(branch, act, walk, y, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return the state of a walk before its first target row: (source row, that row stretched, the next stretched)."""
    if branch.height is None:
        row = y
        above = tl.zeros(walk.mask.shape, DTYPE)
    else:
        row, _ = place(y, branch.height, walk.height, ALIGNED, DTYPE)
        above = _stretched(branch, act, walk, row, ALIGNED, DTYPE)
    return row, above, above


@triton.jit
def advance(state, branch, act, walk, y, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return the state at target row ``y``. No branch is larger than the first, so a step passes one row at most.

    The next source row is loaded at every step, although it changes at few: no load waits for a branch, so they are
    issued steps ahead, and those that are repeated hit the cache.
    """
    row, above, below = state
    if branch.height is None:
        below = load_row(branch, act, walk, y, DTYPE)
    else:
        wanted, _ = place(y, branch.height, walk.height, ALIGNED, DTYPE)
        above = tl.where(wanted == row, above, below)
        below = _stretched(branch, act, walk, wanted + 1, ALIGNED, DTYPE)
        row = wanted
    return row, above, below


@triton.jit
def resized(state, branch, walk, y, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return target row ``y`` of the resized branch, (1 - w) above + w below: [BLOCK_C, BLOCK_W]."""
    if branch.height is None:
        values = state[2]
    else:
        _, weight = place(y, branch.height, walk.height, ALIGNED, DTYPE)
        values = (1 - weight) * state[1] + weight * state[2]
    return values


@triton.jit
def combined(x, y, MULTIPLIES: tl.constexpr):
    return x * y if MULTIPLIES else x + y


@triton.jit
def walk_of_program(height, width, channels, chunks, INDEX: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_W: tl.constexpr):
    """Return the walk of this program, and the number of the part of the rows that it takes."""
    program = tl.program_id(0)
    groups = tl.cdiv(channels, BLOCK_C)
    first = program // chunks % groups * BLOCK_C
    c = tl.arange(0, BLOCK_C)[:, None].to(INDEX)
    x = tl.arange(0, BLOCK_W)[None, :].to(INDEX)
    has_channel = first + c < channels
    mask = has_channel & (x < width)
    return Walk(program // chunks // groups, first, c, x, has_channel, mask, height, width), program % chunks
