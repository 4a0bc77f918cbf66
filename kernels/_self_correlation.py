"""Kernels of :mod:`wsolfast.kernels.self_correlation_map` that all its routes launch, and helpers of all.

P positions, padded to a row stride LD; "base" is the similarity matrix of a layer without its diagonal, after what the
variant does before the second order. Its square leaves out k = i and k = j by itself, and being symmetric, its row
stands for its column. The first ``count`` entries of ``order`` are the positions that some class of the image selects;
only their rows are made. Sums over rows are left as one partial per tile of rows and added in the order of the tiles.
"""

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-10)
FIRST_ORDER_EPS = tl.constexpr(1e-5)
COLUMN_EPS = tl.constexpr(1e-10)
RANGE_EPS = tl.constexpr(1e-10)


@triton.jit
def _scalar(value, dtype: tl.constexpr):
    """Return an option in the type of the data, exactly rounded; an operator would compute in the wider type."""
    return tl.full((), value, dtype)


@triton.jit
def _inside(score, delta_h, RELEASED: tl.constexpr):
    return score >= _scalar(delta_h, score.dtype) if RELEASED else score > _scalar(delta_h, score.dtype)


@triton.jit
def _outside(score, delta_l, RELEASED: tl.constexpr):
    return score <= _scalar(delta_l, score.dtype) if RELEASED else score < _scalar(delta_l, score.dtype)


@triton.jit
def self_correlation_map_fwd_select_kernel(
    cam_ptr,  # [B, K, P]
    order_ptr,  # [B, P] int32
    count_ptr,  # [B] int32
    P,
    K,
    delta_h: tl.float64,
    delta_l: tl.float64,
    RELEASED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the positions that belong to a set of some class, in ascending order, and their number."""
    image = tl.program_id(0).to(tl.int64)
    count = tl.zeros((), tl.int32)
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        chosen = tl.zeros((BLOCK,), tl.int32)
        for k in range(K):
            score = tl.load(cam_ptr + (image * K + k) * P + position, mask=position < P, other=float("nan"))
            either = _inside(score, delta_h, RELEASED) | _outside(score, delta_l, RELEASED)
            chosen = chosen | either.to(tl.int32)
        rank = count + tl.cumsum(chosen, 0) - 1
        tl.store(order_ptr + image * P + rank, position, mask=chosen != 0)
        count += tl.sum(chosen, 0)
    tl.store(count_ptr + image, count)


@triton.jit
def self_correlation_map_fwd_normalize_kernel(
    features_ptr,
    units_ptr,  # [B, P, LC], zero behind C
    own_ptr,  # [B, P]: similarity of a position to itself, 1 but for a zero feature
    norm_ptr,  # [B, P]
    P,
    C,
    LC,
    stride_image,
    stride_channel,
    stride_position,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Store u[p, c] = F[c, p] / (|F[:, p]| + 1e-10), unit vectors with neighbouring channels, and the norms."""
    tiles = tl.cdiv(P, BLOCK_P)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    position = (tl.program_id(0) % tiles) * BLOCK_P + tl.arange(0, BLOCK_P)
    real = position < P
    source = features_ptr + image * stride_image + position.to(tl.int64)[:, None] * stride_position
    compute = own_ptr.dtype.element_ty
    squares = tl.zeros((BLOCK_P,), compute)
    for start in range(0, C, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        mask = real[:, None] & (channel < C)[None, :]
        values = tl.load(source + channel.to(tl.int64)[None, :] * stride_channel, mask=mask, other=0).to(compute)
        squares += tl.sum(values * values, 1)
    norm = tl.sqrt(squares)
    own = tl.zeros((BLOCK_P,), compute)
    target = units_ptr + (image * P + position)[:, None] * LC
    for start in range(0, LC, BLOCK_C):
        channel = start + tl.arange(0, BLOCK_C)
        mask = real[:, None] & (channel < C)[None, :]
        values = tl.load(source + channel.to(tl.int64)[None, :] * stride_channel, mask=mask, other=0).to(compute)
        unit = (values / (norm + NORM_EPS)[:, None]).to(units_ptr.dtype.element_ty)
        tl.store(target + channel[None, :], unit, mask=real[:, None] & (channel < LC)[None, :])
        own += tl.sum(unit.to(compute) * unit.to(compute), 1)
    tl.store(own_ptr + image * P + position, own, mask=real)
    tl.store(norm_ptr + image * P + position, norm, mask=real)


@triton.jit
def self_correlation_map_fwd_similarity_kernel(
    units_ptr,  # [B, P, LC]
    base_ptr,  # [B, P, LD], zero behind P
    sums_ptr,  # [B, tiles, P] row sums of base, one partial per tile of columns; written where SUMS
    P,
    LC,
    LD,
    fo_th: tl.float64,
    CUT: tl.constexpr,
    RELU: tl.constexpr,
    SUMS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store one tile of the upper triangle of base, S[i, j] = u[i] u[j] for i != j, and its mirror image."""
    tiles = tl.cdiv(LD, BLOCK)
    pairs = tiles * (tiles + 1) // 2
    image = (tl.program_id(0) // pairs).to(tl.int64)
    pair = tl.program_id(0) % pairs
    column_tile = ((tl.sqrt(8.0 * pair + 1.0) - 1.0) / 2.0).to(tl.int32)
    # The root is rounded: step back or forth to the column whose pairs hold this one.
    column_tile = tl.where(column_tile * (column_tile + 1) // 2 > pair, column_tile - 1, column_tile)
    column_tile = tl.where((column_tile + 1) * (column_tile + 2) // 2 <= pair, column_tile + 1, column_tile)
    row_tile = pair - column_tile * (column_tile + 1) // 2
    row = row_tile * BLOCK + tl.arange(0, BLOCK)
    column = column_tile * BLOCK + tl.arange(0, BLOCK)
    units = units_ptr + image * P * LC
    compute = sums_ptr.dtype.element_ty
    products = tl.zeros((BLOCK, BLOCK), compute)
    for start in range(0, LC, BLOCK_K):
        channel = start + tl.arange(0, BLOCK_K)
        left = tl.load(units + row.to(tl.int64)[:, None] * LC + channel[None, :], mask=(row < P)[:, None], other=0)
        right = tl.load(
            units + column.to(tl.int64)[None, :] * LC + channel[:, None], mask=(column < P)[None, :], other=0
        )
        products = tl.dot(left, right, products, input_precision=PRECISION, out_dtype=compute)
    if RELU:
        products = tl.maximum(products, 0)
    if CUT:
        products = tl.where(products < _scalar(fo_th, compute), 0, products)
    products = tl.where(row[:, None] == column[None, :], 0, products)
    if SUMS:
        sums = sums_ptr + image * tiles * P
        tl.store(sums + column_tile * P + row, tl.sum(products, 1), mask=row < P)
        if row_tile != column_tile:
            tl.store(sums + row_tile * P + column, tl.sum(products, 0), mask=column < P)
    rounded = products.to(base_ptr.dtype.element_ty)
    base = base_ptr + image * P * LD
    tl.store(
        base + row.to(tl.int64)[:, None] * LD + column[None, :],
        rounded,
        mask=(row < P)[:, None] & (column < LD)[None, :],
    )
    if row_tile != column_tile:
        tl.store(
            base + column.to(tl.int64)[:, None] * LD + row[None, :],
            tl.trans(rounded),
            mask=(column < P)[:, None] & (row < LD)[None, :],
        )


@triton.jit
def _paths(
    base,  # one image and layer
    total,  # its row sums, read by "head" only
    rows,
    live,
    columns,
    P,
    LD,
    operand_scale,
    VARIANT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Return a tile of S S, for "head" of S D S, D the reciprocal row sums times ``operand_scale``: [rows, columns]."""
    compute = total.dtype.element_ty
    paths = tl.zeros((rows.shape[0], columns.shape[0]), compute)
    for start in range(0, P, BLOCK_K):
        between = start + tl.arange(0, BLOCK_K)
        left = tl.load(
            base + rows[:, None] * LD + between[None, :], mask=live[:, None] & (between < LD)[None, :], other=0
        )
        if VARIANT == "head":
            sums = tl.load(total + between, mask=between < P, other=1)
            left = (left.to(compute) * (operand_scale / (sums + FIRST_ORDER_EPS))[None, :]).to(left.dtype)
        right = tl.load(
            base + between.to(tl.int64)[:, None] * LD + columns[None, :],
            mask=(between < P)[:, None] & (columns < LD)[None, :],
            other=0,
        )
        paths = tl.dot(left, right, paths, input_precision=PRECISION, out_dtype=compute)
    return paths


@triton.jit
def _first_order(base, own, rows, live, columns, LD, compute: tl.constexpr):
    """Return a tile of ReLU(S) with its diagonal: [rows, columns]."""
    first = tl.load(base + rows[:, None] * LD + columns[None, :], mask=live[:, None] & (columns < LD)[None, :], other=0)
    first = tl.where(rows[:, None] == columns[None, :], own[:, None], first.to(compute))
    return tl.maximum(first, 0)


@triton.jit
def _scaled_paths(products, total, P, VARIANT: tl.constexpr):
    """Return the paths of the reference from rows of the square of base, which were multiplied by ``result_scale``."""
    if VARIANT == "head":
        return products / (total + FIRST_ORDER_EPS)[:, None]
    elif VARIANT == "v0":
        return products * P
    else:
        return products


@triton.jit
def _larger(first, paths, low, span, first_sum, threshold, weight, VARIANT: tl.constexpr, MODE: tl.constexpr):
    """Return max(first, w second) of a tile, before the column sums of "max"; other modes keep one order."""
    if VARIANT == "head":
        first = first / first_sum[:, None]
    if MODE == "first":
        return first
    else:
        second = (paths - low[:, None]) / span[:, None]
        if VARIANT != "paper":
            second = tl.where(second < threshold, 0, second)
        if MODE == "second":
            return second
        else:
            return tl.maximum(first, weight * second)


@triton.jit
def _span(low, high, total, eps, VARIANT: tl.constexpr):
    """Return the second order's denominator, infinite where the paper's row is constant, which makes it zero."""
    if VARIANT == "head":
        return total + COLUMN_EPS
    elif VARIANT == "v0":
        return (high - low) + RANGE_EPS
    else:
        span = (high - low) + eps
        return tl.where(span > 0, span, float("inf"))


@triton.jit
def _add_members(
    maps,  # [rows, columns]
    rows,
    live,
    columns,
    cam_ptr,
    partial_ptr,  # [B, tiles, K, 2, P]
    image,
    tile,
    tiles,
    P,
    K,
    delta_h,
    delta_l,
    RELEASED: tl.constexpr,
):
    """Store the sums of the rows inside and outside the object, for every class."""
    for k in range(K):
        score = tl.load(cam_ptr + (image * K + k) * P + rows, mask=live, other=float("nan"))
        inside = tl.sum(tl.where(_inside(score, delta_h, RELEASED)[:, None], maps, 0), 0)
        outside = tl.sum(tl.where(_outside(score, delta_l, RELEASED)[:, None], maps, 0), 0)
        partial = partial_ptr + (((image * tiles + tile) * K + k) * 2) * P
        tl.store(partial + columns, inside, mask=columns < P)
        tl.store(partial + P + columns, outside, mask=columns < P)


@triton.jit
def self_correlation_map_fwd_finish_kernel(
    partial_ptr,  # [B, tiles, K, 2, P]; the sums replace the first tile's
    norm_ptr,  # [LAYERS, B, P]
    count_ptr,
    cam_ptr,
    maps_ptr,  # [B, K, P]
    B,
    P,
    K,
    delta_h: tl.float64,
    delta_l: tl.float64,
    LAYERS: tl.constexpr,
    RELEASED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the map of one class, ReLU(inside - outside), both sums scaled or, for the paper, divided by their members.

    Partial sums are added in the order of the tiles. NaN where an input is not finite.
    """
    image = (tl.program_id(0) // K).to(tl.int64)
    k = tl.program_id(0) % K
    tiles = tl.cdiv(P, BLOCK_M)
    live = tl.cdiv(tl.load(count_ptr + image), BLOCK_M)
    cam = cam_ptr + (image * K + k) * P
    sums = partial_ptr + ((image * tiles * K + k) * 2) * P
    maps = maps_ptr + (image * K + k) * P
    compute: tl.constexpr = maps_ptr.dtype.element_ty
    members_inside, members_outside, broken = 0, 0, 0
    low_inside = tl.full((), float("inf"), compute)
    high_inside = tl.full((), float("-inf"), compute)
    low_outside, high_outside = low_inside, high_inside
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        real = position < P
        score = tl.load(cam + position, mask=real, other=float("nan"))
        members_inside += tl.sum(_inside(score, delta_h, RELEASED).to(tl.int32), 0)
        members_outside += tl.sum(_outside(score, delta_l, RELEASED).to(tl.int32), 0)
        broken += tl.sum((real & ~(tl.abs(score) < float("inf"))).to(tl.int32), 0)
        for layer in tl.static_range(LAYERS):
            norm = tl.load(norm_ptr + (layer * B + image) * P + position, mask=real, other=0)
            broken += tl.sum((~(norm < float("inf"))).to(tl.int32), 0)
        inside = tl.zeros((BLOCK,), compute)
        outside = tl.zeros((BLOCK,), compute)
        partial = sums + position
        for _ in range(live):
            inside += tl.load(partial, mask=real, other=0)
            outside += tl.load(partial + P, mask=real, other=0)
            partial += K * 2 * P
        low_inside = tl.minimum(low_inside, tl.min(tl.where(real, inside, float("inf")), 0))
        high_inside = tl.maximum(high_inside, tl.max(tl.where(real, inside, float("-inf")), 0))
        low_outside = tl.minimum(low_outside, tl.min(tl.where(real, outside, float("inf")), 0))
        high_outside = tl.maximum(high_outside, tl.max(tl.where(real, outside, float("-inf")), 0))
        tl.store(sums + position, inside, mask=real)
        tl.store(sums + P + position, outside, mask=real)
    tl.debug_barrier()
    lowest = tl.full((), float("inf"), compute)
    highest = tl.full((), float("-inf"), compute)
    for start in range(0, P, BLOCK):
        position = start + tl.arange(0, BLOCK)
        real = position < P
        inside = tl.load(sums + position, mask=real, other=0)
        outside = tl.load(sums + P + position, mask=real, other=0)
        if RELEASED:
            inside = (inside - low_inside) / (high_inside - low_inside + RANGE_EPS)
            outside = (outside - low_outside) / (high_outside - low_outside + RANGE_EPS)
        else:
            inside /= tl.maximum(members_inside, 1).to(compute)
            outside /= tl.maximum(members_outside, 1).to(compute)
        difference = tl.maximum(inside - outside, 0)
        lowest = tl.minimum(lowest, tl.min(tl.where(real, difference, float("inf")), 0))
        highest = tl.maximum(highest, tl.max(tl.where(real, difference, float("-inf")), 0))
        tl.store(maps + position, tl.where(broken > 0, float("nan"), difference), mask=real)
    if RELEASED:
        tl.debug_barrier()
        for start in range(0, P, BLOCK):
            position = start + tl.arange(0, BLOCK)
            difference = tl.load(maps + position, mask=position < P, other=0)
            tl.store(maps + position, (difference - lowest) / (highest - lowest + RANGE_EPS), mask=position < P)
