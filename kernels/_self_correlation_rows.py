"""Rows of the second order, joined with the first and summed over the sets: what all routes have in common.

Sums over rows are left as one partial per tile of rows and added in the order of the tiles.
"""

import triton
import triton.language as tl
from wsolfast.kernels._self_correlation import _halves, _inside, _outside, _row_stride, _scalar

FIRST_ORDER_EPS = tl.constexpr(1e-5)
COLUMN_EPS = tl.constexpr(1e-10)
RANGE_EPS = tl.constexpr(1e-10)
# The smallest normal float32, whose reciprocal is finite.
SMALLEST = tl.constexpr(2.0**-126)


@triton.jit
def _store_totals(sums_ptr, total_ptr, step_ptr, plane, columns, tiles, P, operand_scale):
    """Store the row sums of base, and their reciprocals times ``operand_scale``."""
    total = tl.zeros((columns.shape[0],), total_ptr.dtype.element_ty)
    for tile in range(tiles):
        total += tl.load(sums_ptr + (plane * tiles + tile) * P + columns, mask=columns < P, other=0)
    step = _scalar(operand_scale, total.dtype) / (total + FIRST_ORDER_EPS)
    tl.store(total_ptr + plane * P + columns, total, mask=columns < P)
    tl.store(step_ptr + plane * P + columns, step, mask=columns < P)


@triton.jit
def _paths(
    base,  # one image and layer
    steps,  # reciprocals of its row sums, read by "head" only
    rows,
    live,
    first_column,
    P,
    LD,
    VARIANT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Return a tile of S S, for "head" of S D S, D the ``steps``: [rows, BLOCK_N columns]."""
    compute: tl.constexpr = steps.dtype.element_ty
    paths = tl.zeros((rows.shape[0], BLOCK_N), compute)
    column, depth = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    left_tile = rows[:, None] * LD + depth[None, :]
    # Columns are read as the rows that they are: an operand's steps of a product then lie side by side.
    right_base = base + _scalar(first_column, tl.int64) * LD
    right_tile = column[:, None] * LD + depth[None, :]
    for start in range(0, P, BLOCK_K):
        between = start + depth
        left = tl.load(base + start + left_tile, mask=live[:, None] & (between < LD)[None, :], other=0)
        if VARIANT == "head":
            step = tl.load(steps + between, mask=between < P, other=0)
            left = (left.to(compute) * step[None, :]).to(left.dtype)
        real = (first_column + column < P)[:, None] & (between < LD)[None, :]
        right = tl.load(right_base + start + right_tile, mask=real, other=0)
        paths = tl.dot(left, tl.trans(right), paths, input_precision=PRECISION, out_dtype=compute)
    return paths


@triton.jit
def _store_paths(
    paths_ptr, paths, first_row, live, first_column, LD, result_scale, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):
    scale = _scalar(result_scale, paths.dtype)
    rows = first_row + tl.arange(0, BLOCK_M)
    halves = _halves(paths)
    for half in tl.static_range(2):
        columns = first_column + half * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
        target = paths_ptr + rows[:, None] * LD + columns[None, :]
        scaled = (halves[half] * scale).to(paths_ptr.dtype.element_ty)
        tl.store(target, scaled, mask=live[:, None] & (columns < LD)[None, :])


@triton.jit
def _first_order(base, own, rows, live, columns, LD, compute: tl.constexpr):
    """Return a tile of ReLU(S) with its diagonal: [rows, columns]."""
    first = tl.load(base + rows[:, None] * LD + columns[None, :], mask=live[:, None] & (columns < LD)[None, :], other=0)
    first = tl.where(rows[:, None] == columns[None, :], own[:, None], first.to(compute))
    return tl.maximum(first, 0)


@triton.jit
def _second_order(products, scale, real, eps, VARIANT: tl.constexpr):
    """Return low and factor of rows of the square of base, each to be multiplied by ``scale``: (products - low) factor.

    Rows then sum to one ("head") or reach from 0 to 1; the paper's constant row becomes zero.
    """
    if VARIANT == "head":
        total = tl.sum(products, 1)
        return tl.zeros_like(total), scale / (total * scale + COLUMN_EPS)
    else:
        low = tl.min(tl.where(real, products, float("inf")), 1)
        high = tl.max(tl.where(real, products, float("-inf")), 1)
        return low, _reciprocal_span((high - low) * scale, eps, VARIANT) * scale


@triton.jit
def _reciprocal_span(span, eps, VARIANT: tl.constexpr):
    if VARIANT == "v0":
        return 1 / (span + RANGE_EPS)
    else:
        span += eps
        return tl.where(span > 0, 1 / tl.maximum(span, SMALLEST), 0)


@triton.jit
def _layer_maps(
    base,  # one image and layer
    own,
    total,
    rows,
    live,
    products,  # [rows, columns]
    scale,
    P,
    so_th,
    so_weight,
    eps,
    VARIANT: tl.constexpr,
    MODE: tl.constexpr,
):
    """Return whole rows of max(first, w second) of one layer; other modes keep one order."""
    LD = _row_stride(P)
    COLUMNS: tl.constexpr = products.shape[1]
    real = (tl.arange(0, COLUMNS) < P)[None, :]
    first_scale = 1 / (total + own + FIRST_ORDER_EPS)
    low, factor = own, own
    if MODE != "first":
        low, factor = _second_order(products, scale, real, eps, VARIANT)
    columns = tl.arange(0, COLUMNS)
    maps = products
    if MODE != "first":
        maps = (products - low[:, None]) * factor[:, None]
        if VARIANT != "paper":
            maps = tl.where(maps < so_th, 0, maps)
    if MODE != "second":
        first = _first_order(base, own, rows, live, columns, LD, own.dtype)
        if VARIANT == "head":
            first *= first_scale[:, None]
        maps = first if MODE == "first" else tl.maximum(first, so_weight * maps)
    if VARIANT != "paper" and MODE == "max":
        maps *= (1 / (tl.sum(tl.where(real, maps, 0), 1) + COLUMN_EPS))[:, None]
    return maps


@triton.jit
def _stretched(maps, real):
    """Scale whole rows to [0, 1]."""
    low = tl.min(tl.where(real, maps, float("inf")), 1)
    high = tl.max(tl.where(real, maps, float("-inf")), 1)
    return (maps - low[:, None]) * (1 / (high - low + RANGE_EPS))[:, None]


@triton.jit
def _add_members(
    maps,  # [rows, columns]
    rows,
    live,
    columns,
    cam,  # of one image
    partial,  # [K, 2, P]
    P,
    K,
    delta_h,
    delta_l,
    again,
    RELEASED: tl.constexpr,
):
    """Store the sums of the rows inside and outside the object, for every class; add them to what is there if again."""
    for k in range(K):
        score = tl.load(cam + k * P + rows, mask=live, other=float("nan"))
        inside = tl.sum(tl.where(_inside(score, delta_h, RELEASED)[:, None], maps, 0), 0)
        outside = tl.sum(tl.where(_outside(score, delta_l, RELEASED)[:, None], maps, 0), 0)
        target = partial + k * 2 * P + columns
        inside += tl.load(target, mask=(columns < P) & again, other=0)
        outside += tl.load(target + P, mask=(columns < P) & again, other=0)
        # The threads that read a sum are not those that write it.
        tl.debug_barrier()
        tl.store(target, inside, mask=columns < P)
        tl.store(target + P, outside, mask=columns < P)
        tl.debug_barrier()


@triton.jit
def _sum_rows(
    first_rank,
    last_rank,
    first_slot,
    base_ptr,  # [LAYERS, B, P, P padded]
    own_ptr,  # [LAYERS, B, P]
    total_ptr,  # [LAYERS, B, P] row sums of base, read by "head" only
    paths_ptr,  # [LAYERS, B, ROWS, P padded]: rows of the square from ``first_slot`` on, to be multiplied by a scale
    order_ptr,
    cam_ptr,
    partial,
    image,
    B,
    P,
    ROWS,
    K,
    paths_scale,
    so_th,
    so_weight,
    eps,
    delta_h,
    delta_l,
    again,
    LAYERS: tl.constexpr,
    VARIANT: tl.constexpr,
    MODE: tl.constexpr,
    RELEASED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Add selected rows, sum over layers of max(first, w second), to the sums of their sets, BLOCK_M rows at a time."""
    LD = _row_stride(P)
    columns = tl.arange(0, BLOCK_N)
    real = (columns < P)[None, :]
    compute: tl.constexpr = own_ptr.dtype.element_ty
    for part in range(0, last_rank - first_rank, BLOCK_M):
        rank = first_rank + part + tl.arange(0, BLOCK_M)
        live = rank < last_rank
        rows = tl.load(order_ptr + image * P + rank, mask=live, other=0).to(tl.int64)
        maps = tl.zeros((BLOCK_M, BLOCK_N), compute)
        for layer in range(LAYERS):
            plane = layer * B + image
            own = tl.load(own_ptr + plane * P + rows)
            scale = _scalar(paths_scale, compute)
            total = own
            if VARIANT == "head":
                total = tl.load(total_ptr + plane * P + rows)
                scale = 1 / (total + FIRST_ORDER_EPS)
            paths = maps
            if MODE != "first":
                slot = plane * ROWS + first_slot + part + tl.arange(0, BLOCK_M)
                stored = paths_ptr + slot[:, None] * LD + columns[None, :]
                paths = tl.load(stored, mask=live[:, None] & (columns < LD)[None, :], other=0).to(compute)
            maps += _layer_maps(
                base_ptr + plane * P * LD,
                own,
                total,
                rows,
                live,
                paths,
                scale,
                P,
                _scalar(so_th, compute),
                _scalar(so_weight, compute),
                _scalar(eps, compute),
                VARIANT,
                MODE,
            )
        if RELEASED:
            maps = _stretched(maps, real)
        added = again | (part > 0)
        _add_members(
            maps, rows, live, columns, cam_ptr + image * K * P, partial, P, K, delta_h, delta_l, added, RELEASED
        )


@triton.jit
def _finish(
    partial,  # [tiles, K, 2, P] of one image; the sums replace the first tile's
    tiles,  # with sums
    scale_ptr,  # [LAYERS, B, P]
    cam_ptr,
    maps_ptr,  # [B, K, P]
    image,
    k,
    B,
    P,
    K,
    delta_h,
    delta_l,
    LAYERS: tl.constexpr,
    RELEASED: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the map of one class, ReLU(inside - outside), both sums scaled or, for the paper, divided by their members.

    Partial sums are added in the order of the tiles. NaN where an input is not finite.
    """
    cam = cam_ptr + (image * K + k) * P
    sums = partial + k * 2 * P
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
            scale = tl.load(scale_ptr + (layer * B + image) * P + position, mask=real, other=1)
            broken += tl.sum((~(scale > 0)).to(tl.int32), 0)
        inside = tl.zeros((BLOCK,), compute)
        outside = tl.zeros((BLOCK,), compute)
        tile = sums + position
        for _ in range(tiles):
            inside += tl.load(tile, mask=real, other=0)
            outside += tl.load(tile + P, mask=real, other=0)
            tile += K * 2 * P
        low_inside = tl.minimum(low_inside, tl.min(tl.where(real, inside, float("inf")), 0))
        high_inside = tl.maximum(high_inside, tl.max(tl.where(real, inside, float("-inf")), 0))
        low_outside = tl.minimum(low_outside, tl.min(tl.where(real, outside, float("inf")), 0))
        high_outside = tl.maximum(high_outside, tl.max(tl.where(real, outside, float("-inf")), 0))
        tl.debug_barrier()
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


@triton.jit(do_not_specialize=["B", "P", "K"])
def self_correlation_map_fwd_finish_kernel(
    partial_ptr,  # [B, tiles, K, 2, P]
    scale_ptr,
    count_ptr,
    cam_ptr,
    maps_ptr,
    B,
    P,
    K,
    delta_h: tl.float64,
    delta_l: tl.float64,
    LAYERS: tl.constexpr,
    RELEASED: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store the map of one class."""
    image = (tl.program_id(0) // K).to(tl.int64)
    partial = partial_ptr + image * tl.cdiv(P, TILE) * K * 2 * P
    tiles = tl.cdiv(tl.load(count_ptr + image), TILE)
    k = tl.program_id(0) % K
    _finish(partial, tiles, scale_ptr, cam_ptr, maps_ptr, image, k, B, P, K, delta_h, delta_l, LAYERS, RELEASED, BLOCK)
