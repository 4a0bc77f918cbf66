"""Self-correlation maps whose products of rows lie in memory, a chunk of selected rows at a time."""

from typing import NamedTuple

import triton
import triton.language as tl
from wsolfast.kernels._self_correlation import (
    COLUMN_EPS,
    FIRST_ORDER_EPS,
    RANGE_EPS,
    _add_members,
    _first_order,
    _larger,
    _paths,
    _scalar,
    _scaled_paths,
    _span,
)


@triton.jit
def self_correlation_map_fwd_square_kernel(
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
    """Store one tile of the second order's products, S S or for "head" S D S, of selected rows."""
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
    """Return column ``layer`` of a [rows, LAYERS] table."""
    return tl.sum(tl.where((tl.arange(0, LAYERS) == layer)[None, :], table, 0), 1)


@triton.jit
def _with_entry(table, layer, values, LAYERS: tl.constexpr):
    return tl.where((tl.arange(0, LAYERS) == layer)[None, :], values[:, None], table)


class Stored(NamedTuple):
    """A tile of rows, ``slot`` of the products in memory, and all operands of its maps."""

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
    """Return max(first, w second) of one layer before the column sums, for a tile of rows."""
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
def self_correlation_map_fwd_stored_rows_kernel(
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
    """Store the partial sums of the maps, sum over layers of max(first, w second), in passes over the columns."""
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
