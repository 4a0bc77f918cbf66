"""Self-correlation maps whose products of rows lie in memory, a chunk of selected rows at a time."""

import triton
import triton.language as tl
from wsolfast.kernels._self_correlation import _row_stride
from wsolfast.kernels._self_correlation_rows import _paths, _store_paths, _store_totals, _sum_rows


@triton.jit(do_not_specialize=["tiles", "P"])
def self_correlation_map_fwd_totals_kernel(
    sums_ptr,  # [LAYERS, B, tiles, P]
    total_ptr,  # [LAYERS, B, P]
    step_ptr,  # [LAYERS, B, P]
    tiles,
    P,
    operand_scale: tl.float64,
    BLOCK: tl.constexpr,
):
    """Store a block of the row sums of base and of their reciprocals."""
    blocks = tl.cdiv(P, BLOCK)
    plane = (tl.program_id(0) // blocks).to(tl.int64)
    columns = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    _store_totals(sums_ptr, total_ptr, step_ptr, plane, columns, tiles, P, operand_scale)


@triton.jit(do_not_specialize=["B", "P", "ROWS", "begin"])
def self_correlation_map_fwd_square_kernel(
    base_ptr,  # [LAYERS, B, P, P padded]
    step_ptr,  # [LAYERS, B, P]
    order_ptr,
    count_ptr,
    paths_ptr,  # [LAYERS, B, ROWS, P padded]: products of the selected rows begin .. begin + ROWS
    B,
    P,
    ROWS,
    begin,
    result_scale: tl.float64,
    VARIANT: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Store one tile of the second order's products, S S or for "head" S D S, of selected rows."""
    LD = _row_stride(P)
    column_tiles = tl.cdiv(LD, BLOCK_N)
    tiles = tl.cdiv(ROWS, BLOCK_M) * column_tiles
    plane = (tl.program_id(0) // tiles).to(tl.int64)
    image = plane % B
    tile = tl.program_id(0) % tiles
    slot = (tile // column_tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    count = tl.load(count_ptr + image)
    if begin + (tile // column_tiles) * BLOCK_M >= count:
        return
    live = (begin + slot < count) & (slot < ROWS)
    rows = tl.load(order_ptr + image * P + begin + slot, mask=live, other=0).to(tl.int64)
    first_column = (tile % column_tiles) * BLOCK_N
    base, steps = base_ptr + plane * P * LD, step_ptr + plane * P
    paths = _paths(base, steps, rows, live, first_column, P, LD, VARIANT, PRECISION, BLOCK_N, BLOCK_K)
    first_row = plane * ROWS + tile // column_tiles * BLOCK_M
    _store_paths(paths_ptr, paths, first_row, live, first_column, LD, result_scale, BLOCK_M, BLOCK_N)


@triton.jit(do_not_specialize=["B", "P", "ROWS", "begin", "K"])
def self_correlation_map_fwd_stored_rows_kernel(
    base_ptr,  # [LAYERS, B, P, P padded]
    own_ptr,  # [LAYERS, B, P]
    total_ptr,  # [LAYERS, B, P] row sums of base, read by "head" only
    paths_ptr,  # [LAYERS, B, ROWS, P padded]
    order_ptr,
    count_ptr,
    cam_ptr,
    partial_ptr,  # [B, tiles, K, 2, P]
    B,
    P,
    ROWS,
    begin,
    K,
    paths_scale: tl.float64,
    so_th: tl.float64,
    so_weight: tl.float64,
    eps: tl.float64,
    delta_h: tl.float64,
    delta_l: tl.float64,
    LAYERS: tl.constexpr,
    VARIANT: tl.constexpr,
    MODE: tl.constexpr,
    RELEASED: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Store the partial sums of TILE rows, sum over layers of max(first, w second), BLOCK_M whole rows at a time."""
    chunk_tiles = tl.cdiv(ROWS, TILE)
    image = (tl.program_id(0) // chunk_tiles).to(tl.int64)
    slot = tl.program_id(0) % chunk_tiles * TILE
    rank = begin + slot
    _sum_rows(
        rank,
        tl.minimum(tl.load(count_ptr + image), rank + TILE),
        slot,
        base_ptr,
        own_ptr,
        total_ptr,
        paths_ptr,
        order_ptr,
        cam_ptr,
        partial_ptr + (image * tl.cdiv(P, TILE) + rank // TILE) * K * 2 * P,
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
        False,
        LAYERS,
        VARIANT,
        MODE,
        RELEASED,
        BLOCK_M,
        BLOCK_N,
    )
