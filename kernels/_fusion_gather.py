"""The transpose of the walk: what target rows and columns give to the source rows and columns that they come from."""

import triton
import triton.language as tl
from wsolfast.kernels._fusion_walk import place, pointers


@triton.jit
def _reached(s, source, target, ALIGNED: tl.constexpr):
    """Return the first target whose position is behind source ``s`` - 1: the first that source ``s`` enters."""
    if ALIGNED:
        before = tl.maximum((s - 1) * (target - 1), 0) // tl.maximum(source - 1, 1)
    else:
        before = tl.maximum((2 * s - 1) * target - source, 0) // (2 * source)
    return tl.where(s > 0, before + 1, 0)


@triton.jit
def _weight(s, i, source, target, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Return the weight with which source ``s`` enters target ``i``, 0 behind the last target."""
    if ALIGNED:
        numerator = i * (source - 1)
        denominator = tl.maximum(target - 1, 1)
    else:
        denominator = 2 * target
        # Outside of the sources' centres the border's source has all of the weight.
        numerator = tl.minimum(tl.maximum((2 * i + 1) * source - target, 0), (source - 1) * denominator)
    distance = tl.abs(numerator - s * denominator).to(DTYPE) * (tl.full((), 1, DTYPE) / denominator)
    return tl.where(i < target, tl.maximum(1 - distance, 0), 0)


@triton.jit
def _shrink(gradient, walk, y, values, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Store a row of target columns as row ``y`` of the gradient: the transpose of stretching it, gathered."""
    s = walk.columns
    first = _reached(s, gradient.width, walk.width, ALIGNED)
    if ALIGNED:
        most = tl.cdiv(2 * (walk.width - 1), gradient.width - 1) if gradient.width > 1 else walk.width
    else:
        most = tl.cdiv(2 * walk.width, gradient.width)
    shrunk = tl.zeros_like(values)
    for i in range(most):
        weight = _weight(s, first + i, gradient.width, walk.width, ALIGNED, DTYPE)
        x = tl.broadcast_to(tl.minimum(first + i, walk.width - 1).to(tl.int32), values.shape)
        shrunk += weight * tl.gather(values, x, 1)
    tl.store(pointers(gradient, walk, y, s), shrunk, mask=walk.has_channel & (s < gradient.width))


@triton.jit
def _owns(branch, walk, row, begin, end):
    """Return True if the owner of target rows ``begin`` to ``end`` stores source row ``row``, whole and alone."""
    scaled = row * walk.height
    return (scaled >= begin * branch.height) & (scaled < end * branch.height)


@triton.jit
def widened(span, branch, walk, own_begin, own_end, ALIGNED: tl.constexpr):
    """Return the span of target rows with all that the owned source rows of the branch enter."""
    begin, end = span
    if branch.height is not None:
        first = tl.cdiv(own_begin * branch.height, walk.height)
        behind = tl.cdiv(own_end * branch.height, walk.height)
        if first < behind:
            begin = tl.minimum(begin, _reached(first, branch.height, walk.height, ALIGNED))
            left = _reached(behind + 1, branch.height, walk.height, ALIGNED)
            end = tl.maximum(end, tl.where(behind < branch.height, tl.minimum(left, walk.height), walk.height))
    return begin, end


@triton.jit
def collect(sums, branch, gradient, walk, y, values, own_begin, own_end, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Give what reaches target row ``y`` of a branch to its two source rows; store the row that the walk has passed."""
    row, above, below = sums
    if branch.height is None:
        owned = (y >= own_begin) & (y < own_end)
        tl.store(pointers(gradient, walk, y, walk.columns), values, mask=walk.mask & owned)
    else:
        wanted, weight = place(y, branch.height, walk.height, ALIGNED, DTYPE)
        if wanted != row:
            if _owns(branch, walk, row, own_begin, own_end):
                _shrink(gradient, walk, row, above, ALIGNED, DTYPE)
            above = below
            below = tl.zeros_like(below)
            row = wanted
        above += (1 - weight) * values
        below += weight * values
    return row, above, below


@triton.jit
def finish(sums, gradient, walk, own_begin, own_end, ALIGNED: tl.constexpr, DTYPE: tl.constexpr):
    """Store the source row at which the walk ends. Behind the last one there is none: that row was clamped to it."""
    if gradient.height is not None:
        row, above, below = sums
        if _owns(gradient, walk, row, own_begin, own_end):
            _shrink(gradient, walk, row, tl.where(row + 1 < gradient.height, above, above + below), ALIGNED, DTYPE)
