"""Self-correlation maps of the paper made tile by tile from feature vectors; no matrix of positions is stored."""

import triton
import triton.language as tl
from wsolfast.kernels._self_correlation import _add_members, _scalar, _span


@triton.jit
def self_correlation_map_fwd_streamed_rows_kernel(
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
    """Store the range of the rows of one tile of S S / P, made from vectors, or with FINAL its maps' partial sums."""
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
