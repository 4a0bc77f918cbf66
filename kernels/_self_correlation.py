"""Kernels of :mod:`wsolfast.kernels.self_correlation_map`.

P positions, padded to a row stride LD; "base" is the similarity matrix of a layer without its diagonal, after what the
variant does before the second order. Its square leaves out k = i and k = j by itself, and being symmetric, its row
stands for its column. The first ``count`` entries of ``order`` are the positions that some class of the image selects;
only their rows are made. Sums over rows are left as one partial per tile of rows and added in the order of the tiles.
"""

from typing import NamedTuple

import triton
import triton.language as tl

NORM_EPS = tl.constexpr(1e-10)
FIRST_ORDER_EPS = tl.constexpr(1e-5)
COLUMN_EPS = tl.constexpr(1e-10)
RANGE_EPS = tl.constexpr(1e-10)


@triton.jit
def _scalar(value, dtype: tl.constexpr):
    """An option in the type of the data, exactly rounded; an operator would compute in the wider type."""
    return tl.full((), value, dtype)


@triton.jit
def _inside(score, delta_h, RELEASED: tl.constexpr):
    return score >= _scalar(delta_h, score.dtype) if RELEASED else score > _scalar(delta_h, score.dtype)


@triton.jit
def _outside(score, delta_l, RELEASED: tl.constexpr):
    return score <= _scalar(delta_l, score.dtype) if RELEASED else score < _scalar(delta_l, score.dtype)


@triton.jit
def _select_kernel(
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
    """Positions that belong to a set of some class, in ascending order."""
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
def _normalize_kernel(
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
    """Features of any float type to unit vectors with neighbouring channels."""
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
def _similarity_kernel(
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
    """One tile of the upper triangle of base, and its mirror image."""
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
    """Tile of the square of base, for "head" of base D base, D the reciprocal row sums times ``operand_scale``."""
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
    """Tile of the similarities with their diagonal, negatives cut."""
    first = tl.load(base + rows[:, None] * LD + columns[None, :], mask=live[:, None] & (columns < LD)[None, :], other=0)
    first = tl.where(rows[:, None] == columns[None, :], own[:, None], first.to(compute))
    return tl.maximum(first, 0)


@triton.jit
def _scaled_paths(products, total, P, VARIANT: tl.constexpr):
    """Paths of the reference from rows of the square of base, which were multiplied by ``result_scale``."""
    if VARIANT == "head":
        return products / (total + FIRST_ORDER_EPS)[:, None]
    elif VARIANT == "v0":
        return products * P
    else:
        return products


@triton.jit
def _larger(first, paths, low, span, first_sum, threshold, weight, VARIANT: tl.constexpr, MODE: tl.constexpr):
    """Orders of a tile joined, before the column sums of "max"."""
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
    """Denominator of the second order; infinite where the paper's row is constant, which makes it zero."""
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
    """Sums of the rows inside and outside the object, for every class."""
    for k in range(K):
        score = tl.load(cam_ptr + (image * K + k) * P + rows, mask=live, other=float("nan"))
        inside = tl.sum(tl.where(_inside(score, delta_h, RELEASED)[:, None], maps, 0), 0)
        outside = tl.sum(tl.where(_outside(score, delta_l, RELEASED)[:, None], maps, 0), 0)
        partial = partial_ptr + (((image * tiles + tile) * K + k) * 2) * P
        tl.store(partial + columns, inside, mask=columns < P)
        tl.store(partial + P + columns, outside, mask=columns < P)


@triton.jit
def _whole_rows_kernel(
    base_ptr,  # [LAYERS, B, P, LD]
    own_ptr,  # [LAYERS, B, P]
    total_ptr,  # [LAYERS, B, P] row sums of base, read by "head" only
    order_ptr,
    count_ptr,
    cam_ptr,
    partial_ptr,
    B,
    P,
    LD,
    K,
    so_th: tl.float64,
    so_weight: tl.float64,
    eps: tl.float64,
    delta_h: tl.float64,
    delta_l: tl.float64,
    operand_scale: tl.float64,
    result_scale: tl.float64,
    LAYERS: tl.constexpr,
    VARIANT: tl.constexpr,
    MODE: tl.constexpr,
    RELEASED: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """From base to the partial sums of the maps, where a whole row of every layer fits into registers."""
    tiles = tl.cdiv(P, BLOCK_M)
    image = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    count = tl.load(count_ptr + image)
    if tile * BLOCK_M >= count:
        return
    rank = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    live = rank < count
    rows = tl.load(order_ptr + image * P + rank, mask=live, other=0).to(tl.int64)
    columns = tl.arange(0, BLOCK_N)
    real = (columns < P)[None, :]
    compute: tl.constexpr = own_ptr.dtype.element_ty
    maps = tl.zeros((BLOCK_M, BLOCK_N), compute)
    for layer in tl.static_range(LAYERS):
        position = (layer * B + image) * P
        base = base_ptr + position * LD
        own = tl.load(own_ptr + position + rows)
        total = tl.load(total_ptr + position + rows) if VARIANT == "head" else own
        low = tl.zeros((BLOCK_M,), compute)
        span = low
        paths = tl.zeros((BLOCK_M, BLOCK_N), compute)
        if MODE != "first":
            paths = _paths(
                base,
                total_ptr + position,
                rows,
                live,
                columns,
                P,
                LD,
                _scalar(operand_scale, compute),
                VARIANT,
                PRECISION,
                BLOCK_K,
            )
            paths = _scaled_paths(paths * _scalar(result_scale, compute), total, P, VARIANT)
            if VARIANT == "head":
                span = _span(low, low, tl.sum(paths, 1), _scalar(eps, compute), VARIANT)
            else:
                low = tl.min(tl.where(real, paths, float("inf")), 1)
                high = tl.max(tl.where(real, paths, float("-inf")), 1)
                span = _span(low, high, low, _scalar(eps, compute), VARIANT)
        first = _first_order(base, own, rows, live, columns, LD, compute)
        first_sum = total + own + FIRST_ORDER_EPS
        larger = _larger(
            first, paths, low, span, first_sum, _scalar(so_th, compute), _scalar(so_weight, compute), VARIANT, MODE
        )
        if VARIANT != "paper" and MODE == "max":
            larger /= tl.sum(tl.where(real, larger, 0), 1)[:, None] + COLUMN_EPS
        maps += larger
    if RELEASED:
        low = tl.min(tl.where(real, maps, float("inf")), 1)
        high = tl.max(tl.where(real, maps, float("-inf")), 1)
        maps = (maps - low[:, None]) / (high - low + RANGE_EPS)[:, None]
    _add_members(maps, rows, live, columns, cam_ptr, partial_ptr, image, tile, tiles, P, K, delta_h, delta_l, RELEASED)


@triton.jit
def _square_kernel(
    base_ptr,  # [LAYERS, B, P, LD]
    total_ptr,  # [LAYERS, B, P]
    order_ptr,
    count_ptr,
    paths_ptr,  # [LAYERS, B, ROWS, LD]: products of the selected rows begin .. begin + ROWS
    B,
    P,
    LD,
    ROWS,
    begin,
    operand_scale: tl.float64,
    result_scale: tl.float64,
    VARIANT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of the second order's products."""
    column_tiles = tl.cdiv(LD, BLOCK)
    tiles = tl.cdiv(ROWS, BLOCK) * column_tiles
    plane = (tl.program_id(0) // tiles).to(tl.int64)
    image = plane % B
    tile = tl.program_id(0) % tiles
    slot = (tile // column_tiles) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(count_ptr + image)
    if begin + (tile // column_tiles) * BLOCK >= count:
        return
    live = (begin + slot < count) & (slot < ROWS)
    rows = tl.load(order_ptr + image * P + begin + slot, mask=live, other=0).to(tl.int64)
    columns = (tile % column_tiles) * BLOCK + tl.arange(0, BLOCK)
    compute: tl.constexpr = total_ptr.dtype.element_ty
    paths = _paths(
        base_ptr + plane * P * LD,
        total_ptr + plane * P,
        rows,
        live,
        columns,
        P,
        LD,
        _scalar(operand_scale, compute),
        VARIANT,
        PRECISION,
        BLOCK_K,
    )
    paths *= _scalar(result_scale, compute)
    target = paths_ptr + plane * ROWS * LD + slot.to(tl.int64)[:, None] * LD + columns[None, :]
    tl.store(target, paths.to(paths_ptr.dtype.element_ty), mask=live[:, None] & (columns < LD)[None, :])


@triton.jit
def _entry(table, layer, LAYERS: tl.constexpr):
    """Column ``layer`` of a [rows, LAYERS] table."""
    return tl.sum(tl.where((tl.arange(0, LAYERS) == layer)[None, :], table, 0), 1)


@triton.jit
def _with_entry(table, layer, values, LAYERS: tl.constexpr):
    return tl.where((tl.arange(0, LAYERS) == layer)[None, :], values[:, None], table)


class Stored(NamedTuple):
    """A tile of rows, ``slot`` of the products in memory, and all that its maps are joined from."""

    base_ptr: tl.tensor
    own_ptr: tl.tensor
    total_ptr: tl.tensor
    paths_ptr: tl.tensor
    image: tl.tensor
    rows: tl.tensor
    live: tl.tensor
    slot: tl.tensor
    B: tl.tensor
    P: tl.tensor
    LD: tl.tensor
    ROWS: tl.tensor
    so_th: tl.tensor
    so_weight: tl.tensor


@triton.jit
def _tile_of_maps(stored, layer, columns, low, span, VARIANT: tl.constexpr, MODE: tl.constexpr):
    """Joined orders of one layer before the column sums, for a tile of rows."""
    compute: tl.constexpr = stored.own_ptr.dtype.element_ty
    P, LD = stored.P, stored.LD
    plane = layer * stored.B + stored.image
    own = tl.load(stored.own_ptr + plane * P + stored.rows)
    total = tl.load(stored.total_ptr + plane * P + stored.rows) if VARIANT == "head" else own
    base = stored.base_ptr + plane * P * LD
    first = _first_order(base, own, stored.rows, stored.live, columns, LD, compute)
    paths = first
    if MODE != "first":
        paths = _stored_paths(
            stored.paths_ptr, total, plane, stored.live, stored.slot, columns, P, LD, stored.ROWS, VARIANT
        )
    first_sum = total + own + FIRST_ORDER_EPS
    return _larger(first, paths, low, span, first_sum, stored.so_th, stored.so_weight, VARIANT, MODE)


@triton.jit
def _stored_paths(paths_ptr, total, plane, live, slot, columns, P, LD, ROWS, VARIANT: tl.constexpr):
    source = paths_ptr + plane * ROWS * LD + slot.to(tl.int64)[:, None] * LD + columns[None, :]
    paths = tl.load(source, mask=live[:, None] & (columns < LD)[None, :], other=0).to(total.dtype)
    return _scaled_paths(paths, total, P, VARIANT)


@triton.jit
def _stored_rows_kernel(
    base_ptr,  # [LAYERS, B, P, LD]
    own_ptr,  # [LAYERS, B, P]
    total_ptr,  # [LAYERS, B, P]
    paths_ptr,  # [LAYERS, B, ROWS, LD]
    order_ptr,
    count_ptr,
    cam_ptr,
    partial_ptr,
    B,
    P,
    LD,
    ROWS,
    begin,
    K,
    so_th: tl.float64,
    so_weight: tl.float64,
    eps: tl.float64,
    delta_h: tl.float64,
    delta_l: tl.float64,
    LAYERS: tl.constexpr,
    TABLE: tl.constexpr,
    VARIANT: tl.constexpr,
    MODE: tl.constexpr,
    RELEASED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """From base and the products of its rows to the partial sums of the maps, in passes over the columns."""
    tiles = tl.cdiv(P, BLOCK_M)
    chunk_tiles = tl.cdiv(ROWS, BLOCK_M)
    image = (tl.program_id(0) // chunk_tiles).to(tl.int64)
    tile = tl.program_id(0) % chunk_tiles
    count = tl.load(count_ptr + image)
    if begin + tile * BLOCK_M >= count:
        return
    slot = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    live = (begin + slot < count) & (slot < ROWS)
    rows = tl.load(order_ptr + image * P + begin + slot, mask=live, other=0).to(tl.int64)
    compute: tl.constexpr = own_ptr.dtype.element_ty
    stored = Stored(
        base_ptr, own_ptr, total_ptr, paths_ptr, image, rows, live, slot, B, P, LD, ROWS,
        _scalar(so_th, compute), _scalar(so_weight, compute),
    )  # fmt: skip
    lows = tl.zeros((BLOCK_M, TABLE), compute)
    spans = tl.full((BLOCK_M, TABLE), 1, compute)
    sums = tl.full((BLOCK_M, TABLE), 1, compute)
    if MODE != "first":
        for layer in tl.static_range(LAYERS):
            plane = layer * B + image
            total = tl.load((total_ptr if VARIANT == "head" else own_ptr) + plane * P + rows)
            low = tl.full((BLOCK_M,), float("inf"), compute)
            high = tl.full((BLOCK_M,), float("-inf"), compute)
            path_sum = tl.zeros((BLOCK_M,), compute)
            for start in range(0, P, BLOCK_N):
                columns = start + tl.arange(0, BLOCK_N)
                paths = _stored_paths(paths_ptr, total, plane, live, slot, columns, P, LD, ROWS, VARIANT)
                real = (columns < P)[None, :]
                path_sum += tl.sum(paths, 1)
                low = tl.minimum(low, tl.min(tl.where(real, paths, float("inf")), 1))
                high = tl.maximum(high, tl.max(tl.where(real, paths, float("-inf")), 1))
            if VARIANT != "head":
                lows = _with_entry(lows, layer, low, TABLE)
            spans = _with_entry(spans, layer, _span(low, high, path_sum, _scalar(eps, compute), VARIANT), TABLE)
    if VARIANT != "paper" and MODE == "max":
        for layer in tl.static_range(LAYERS):
            larger_sum = tl.zeros((BLOCK_M,), compute)
            for start in range(0, P, BLOCK_N):
                columns = start + tl.arange(0, BLOCK_N)
                larger = _tile_of_maps(
                    stored, layer, columns, _entry(lows, layer, TABLE), _entry(spans, layer, TABLE), VARIANT, MODE
                )
                larger_sum += tl.sum(tl.where((columns < P)[None, :], larger, 0), 1)
            sums = _with_entry(sums, layer, larger_sum + COLUMN_EPS, TABLE)
    low = tl.full((BLOCK_M,), float("inf"), compute)
    high = tl.full((BLOCK_M,), float("-inf"), compute)
    # The released map scales every row by its range, which takes one more pass.
    for final in tl.static_range(0 if RELEASED else 1, 2):
        for start in range(0, P, BLOCK_N):
            columns = start + tl.arange(0, BLOCK_N)
            maps = tl.zeros((BLOCK_M, BLOCK_N), compute)
            for layer in tl.static_range(LAYERS):
                larger = _tile_of_maps(
                    stored, layer, columns, _entry(lows, layer, TABLE), _entry(spans, layer, TABLE), VARIANT, MODE
                )
                maps += larger / _entry(sums, layer, TABLE)[:, None]
            if final == 0:
                real = (columns < P)[None, :]
                low = tl.minimum(low, tl.min(tl.where(real, maps, float("inf")), 1))
                high = tl.maximum(high, tl.max(tl.where(real, maps, float("-inf")), 1))
            else:
                if RELEASED:
                    maps = (maps - low[:, None]) / (high - low + RANGE_EPS)[:, None]
                _add_members(
                    maps,
                    rows,
                    live,
                    columns,
                    cam_ptr,
                    partial_ptr,
                    image,
                    begin // BLOCK_M + tile,
                    tiles,
                    P,
                    K,
                    delta_h,
                    delta_l,
                    RELEASED,
                )


@triton.jit
def _streamed_rows_kernel(
    units_ptr,  # [B, P, LC]
    queries_ptr,  # [B, P, LC]: F F'F / P, F the unit vectors
    own_ptr,  # [B, P]
    order_ptr,
    count_ptr,
    cam_ptr,
    ranges_ptr,  # [B, column tiles, 2, P]: lowest and highest of each selected row; written unless FINAL
    partial_ptr,
    P,
    LC,
    K,
    eps: tl.float64,
    delta_h: tl.float64,
    delta_l: tl.float64,
    FIRST_ONLY: tl.constexpr,
    SECOND_ONLY: tl.constexpr,
    FINAL: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """One tile of the paper's correlation from its vectors: the range of its rows, or with FINAL its partial sums."""
    tiles = tl.cdiv(P, BLOCK)
    image = (tl.program_id(0) // (tiles * tiles)).to(tl.int64)
    row_tile = tl.program_id(0) // tiles % tiles
    column_tile = tl.program_id(0) % tiles
    count = tl.load(count_ptr + image)
    if row_tile * BLOCK >= count:
        return
    rank = row_tile * BLOCK + tl.arange(0, BLOCK)
    live = rank < count
    rows = tl.load(order_ptr + image * P + rank, mask=live, other=0).to(tl.int64)
    columns = column_tile * BLOCK + tl.arange(0, BLOCK)
    real = (columns < P)[None, :]
    compute: tl.constexpr = own_ptr.dtype.element_ty
    units = units_ptr + image * P * LC
    queries = queries_ptr + image * P * LC
    similarity = tl.zeros((BLOCK, BLOCK), compute)
    paths = tl.zeros((BLOCK, BLOCK), compute)
    for start in range(0, LC, BLOCK_K):
        channel = start + tl.arange(0, BLOCK_K)
        right = tl.load(units + columns.to(tl.int64)[None, :] * LC + channel[:, None], mask=real, other=0)
        left = tl.load(units + rows[:, None] * LC + channel[None, :], mask=live[:, None], other=0)
        similarity = tl.dot(left, right, similarity, input_precision=PRECISION, out_dtype=compute)
        if not FIRST_ONLY:
            query = tl.load(queries + rows[:, None] * LC + channel[None, :], mask=live[:, None], other=0)
            paths = tl.dot(query, right, paths, input_precision=PRECISION, out_dtype=compute)
    diagonal = rows[:, None] == columns[None, :]
    own = tl.load(own_ptr + image * P + rows)
    if not FIRST_ONLY:
        # Without k = i and k = j, which on the diagonal are one term.
        own_column = tl.load(own_ptr + image * P + columns, mask=columns < P, other=0)
        through_ends = tl.where(diagonal, (own * own)[:, None], (own[:, None] + own_column[None, :]) * similarity)
        paths -= through_ends / P
    if FINAL:
        maps = tl.maximum(tl.where(diagonal, own[:, None], similarity), 0)
        if not FIRST_ONLY:
            low = tl.full((BLOCK,), float("inf"), compute)
            high = tl.full((BLOCK,), float("-inf"), compute)
            for tile in range(tiles):
                ranges = ranges_ptr + (image * tiles + tile) * 2 * P
                low = tl.minimum(low, tl.load(ranges + rank, mask=live, other=0))
                high = tl.maximum(high, tl.load(ranges + P + rank, mask=live, other=0))
            span = _span(low, high, low, _scalar(eps, compute), "paper")
            second = (paths - low[:, None]) / span[:, None]
            maps = second if SECOND_ONLY else tl.maximum(maps, second)
        _add_members(
            maps, rows, live, columns, cam_ptr, partial_ptr, image, row_tile, tiles, P, K, delta_h, delta_l, False
        )
    else:
        ranges = ranges_ptr + (image * tiles + column_tile) * 2 * P
        tl.store(ranges + rank, tl.min(tl.where(real, paths, float("inf")), 1), mask=live)
        tl.store(ranges + P + rank, tl.max(tl.where(real, paths, float("-inf")), 1), mask=live)


@triton.jit
def _finish_kernel(
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
    """Map of one class from its partial sums, added in the order of the tiles; NaN where an input is not finite."""
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
